"""How long an epoch of a preset takes here, and how far that is from the least that the machine allows.

`python -m benchmarks.epoch --device cuda`: the CIFAR-10 CNN's CCE-RM by the paper's preset, the trainer's own
steps from images to optimizer, on noise of the data set's shape and size, so that no data set is needed. The paper
reports 356 s for an epoch of ResNet-20 on an RTX Titan. The floor is explained in `benchmarks.roofline`.

`--rounds 3` also times a step three ways in turn: plain float32 (the members as they are, in evaluation mode, for the
search too), the library way (PyTorch alone, with all else that the trainer does) and with native code.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks import roofline
from benchmarks.reporting import Timing, arguments, report, side_by_side
from cce import kernels
from cce.config import ConfigError, Phase, TrainConfig
from cce.data.datasets import CLASS_NAMES, Dataset, Split
from cce.evaluation.presets import preset
from cce.models import Ensemble, resolve_device
from cce.training.run_folder import RunFolder
from cce.training.step import make_optimizer, train_step
from cce.training.trainer import Trainer

PAPER_EPOCHS = 180
TRAINING_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "mnist": 60_000}


def main(words: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    options = parser().parse_args(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        device = resolve_device(options.device)
        config = chosen(options)
    except ConfigError as error:
        print(f"benchmarks.epoch: {error}", file=sys.stderr)
        return 2
    images = TRAINING_IMAGES.get(config.dataset, 1257)
    trainer, place = trainer_on_noise(config, images if options.whole else 4 * config.batch_size, device)
    with place:
        step, median = time_steps(trainer, options.steps, options.seconds)
    ways = ways_of_a_step(config, images, device, options) if options.rounds else {}
    steps = images // config.batch_size
    dtype = torch.bfloat16 if trainer.autocast else torch.float32
    rates = roofline.measure_rates(device, dtype)
    least = roofline.floor(works_of(trainer), rates, dtype.itemsize)
    rows: list[dict[str, Any]] = [
        {"what": "step of the trainer", "seconds": step, "median": median, "images/s": config.batch_size / step},
        {"what": f"epoch, {steps} steps", "seconds": step * steps},
        {"what": f"{PAPER_EPOCHS} epochs", "seconds": step * steps * PAPER_EPOCHS},
        {"what": "floor of a step, arithmetic", "seconds": least.arithmetic, "rate": f"{rates.arithmetic:.3g} flop/s"},
        {"what": "floor of a step, bytes", "seconds": least.copying, "rate": f"{rates.copying:.3g} B/s"},
        {"what": "floor of a step, both", "seconds": least.both, "rate": f"{least.operations:.3g} flop"},
        {"what": "floor of an epoch", "seconds": least.both * steps},
    ]
    ratios = {"epoch.floor_over_step": least.both / step}
    seconds = {way: timing.seconds(options.clock) for way, timing in ways.items()}
    rows += [{"what": f"step, {way}", "seconds": s, "images/s": config.batch_size / s} for way, s in seconds.items()]
    if native := seconds.get("with native code"):
        ratios["epoch.native_vs_library"] = seconds["library way"] / native
    if seconds:
        ratios["epoch.vs_float32"] = seconds["plain float32"] / min(seconds.values())
    print(f"{options.preset}, batch {config.batch_size}, {dtype}{', compiled' if config.compile else ''}")
    report(ratios, rows, options.json, device=device)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = arguments(__doc__ or "")
    p.add_argument("--preset", default="cifar10-cnn2-cce-rm", help="whose last phase is timed")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda")
    p.add_argument("--steps", type=int, default=40, help="steps to time, at most")
    p.add_argument("--budget", dest="seconds", type=float, default=120.0, help="seconds after which no step begins")
    p.add_argument("--rounds", type=int, default=0, help="times that a step is timed each way (default: 0, left out)")
    p.add_argument("--compile", action="store_true", help="with torch.compile")
    p.add_argument("--whole", action="store_true", help="keep a whole training set of noise on the device")
    return p


def chosen(options: argparse.Namespace) -> TrainConfig:
    """The preset with its last phase alone: where the attacks are."""
    config = preset(options.preset)
    return replace(config, phases=config.phases[-1:], compile=options.compile or config.compile, seed=options.seed)


def trainer_on_noise(
    config: TrainConfig, images: int, device: torch.device
) -> tuple[Trainer, tempfile.TemporaryDirectory[str]]:
    """A trainer on noise, and the folder that it needs while it lives."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, *config.model.input_shape), generator=generator, dtype=torch.uint8)
    split = Split(pixels, torch.arange(images) % config.model.classes)
    dataset = Dataset(config.dataset, CLASS_NAMES[config.dataset], split, split.first(10), split.first(20))
    place = tempfile.TemporaryDirectory()
    folder = RunFolder(place.name)
    folder.create({})
    return Trainer(config, dataset, folder, device), place


def time_steps(trainer: Trainer, most: int, seconds: float) -> tuple[float, float]:
    """Seconds of a step of the trainer, the mean over all after the first two, and the median of single ones.

    The mean lets steps overlap on a device that computes on its own, as in training.
    """

    def wait() -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)

    for _ in range(2):  # compiles, and fills caches
        trainer.advance()
    wait()
    began, marks = time.perf_counter(), [time.perf_counter()]
    while len(marks) <= most and (len(marks) < 3 or time.perf_counter() - began < seconds):
        trainer.advance()
        trainer.step = 0  # noise has but few batches
        marks.append(time.perf_counter())
    wait()
    mean = (time.perf_counter() - began) / (len(marks) - 1)
    return mean, statistics.median(b - a for a, b in zip(marks, marks[1:], strict=False))


def ways_of_a_step(
    config: TrainConfig, images: int, device: torch.device, options: argparse.Namespace
) -> dict[str, Timing]:
    """A step's seconds by way: plain float32, the library way, and with native code where there is some."""

    def step(trainer: Trainer) -> None:
        trainer.advance()
        trainer.step = 0  # noise has but few batches

    with contextlib.ExitStack() as stack:

        def trainer(config: TrainConfig) -> Trainer:
            made, place = trainer_on_noise(config, 4 * config.batch_size, device)
            stack.enter_context(place)
            return made

        with kernels.turned_off():
            plain = trainer(replace(config, precision="float32", compile=False))
            plain.model.to(memory_format=torch.contiguous_format)
            plain.search = PlainCopy(plain.model, follow=True)  # type: ignore[assignment]
            library = trainer(config)
        works = {
            "plain float32": kernels.turned_off()(lambda: step(plain)),
            "library way": kernels.turned_off()(lambda: step(library)),
        }
        if device.type == "cpu" and kernels.available():
            native = trainer(config)
            works["with native code"] = lambda: step(native)
        wait = torch.cuda.synchronize if device.type == "cuda" else None
        return side_by_side(works, rounds=options.rounds, seconds=options.seconds, wait=wait)


class PlainCopy:
    """Stands for `SearchCopy`: the ensemble itself, nothing folded or packed; with `follow`, its present weights."""

    search_rows = step_rows = sys.maxsize
    graphs = None

    def __init__(self, model: Ensemble, follow: bool = False) -> None:
        self.source, self.follow = model, follow
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.apart = not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())

    def refresh(self) -> Ensemble:
        """The copy."""
        if self.follow:
            self.model.load_state_dict(self.source.state_dict())
        return self.model


def works_of(trainer: Trainer) -> list[roofline.Work]:
    """The convolutions and products of one step, counted on the same mathematics in float32, uncompiled."""
    phase: Phase = trainer.config.phases[0]
    model = copy.deepcopy(trainer.model).train()
    generator = torch.Generator().manual_seed(0)
    x, labels = trainer.batch(0, generator)
    optimizer = make_optimizer(model, trainer.config)
    with roofline.Recorded() as recorded, kernels.turned_off():
        train_step(list(model.members), PlainCopy(model), optimizer, x, labels, phase, generator)  # type: ignore[arg-type]
    return recorded.works


if __name__ == "__main__":
    sys.exit(main())
