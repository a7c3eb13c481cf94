"""One CCE-RM2 training step against a plain float32 one of the same maths, side by side.

`python -m benchmarks.training`: ResNet-20 x 2, PGD k=10, batch 128, pixels and labels of noise. The plain step
is what one would write first: float32, contiguous NCHW, the members as they are, an unfused Adam. The fast step
is the trainer's: bfloat16 in channels-last where the processor has it, examples searched on a copy with batch norm
folded in. It is timed the library way (PyTorch alone), compiled where a compiler is there, and with native code.
Examples differ by rounding, so gradients are compared on the plain step's examples: those of the weights, and those
of the pixels that the search climbs.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.reporting import arguments, report, side_by_side
from cce import kernels
from cce.config import CCE_RM, ConfigError, ModelConfig, Phase, TrainConfig, TrainingAttack
from cce.fast import SearchCopy, use_kernels
from cce.models import Ensemble, fast_dtype, resolve_device
from cce.training.losses import loss_terms
from cce.training.step import make_optimizer, train_step

EPSILON, STEP_SIZE = 8 / 255, 2 / 255


def main(words: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    options = parser().parse_args(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        device = resolve_device(options.device)
    except ConfigError as error:
        print(f"benchmarks.training: {error}", file=sys.stderr)
        return 2
    torch.manual_seed(options.seed)
    config = ModelConfig(options.architecture, 2, 10, (3, 32, 32))
    model = Ensemble(config).to(device)
    x, labels = torch.rand(options.batch, 3, 32, 32, device=device), torch.arange(options.batch, device=device) % 10

    works: dict[str, Callable[[], object]] = {"plain float32": plain_stepping(model, x, labels, options.steps)}
    works["library way"] = fast_stepping(model, x, labels, options.steps, native=False)
    if not options.no_compile:
        works["library way, compiled"] = fast_stepping(model, x, labels, options.steps, compiled=True, native=False)
    if device.type == "cpu" and kernels.available():
        works["with native code"] = fast_stepping(model, x, labels, options.steps)
    wait = torch.cuda.synchronize if device.type == "cuda" else None
    times = side_by_side(works, rounds=options.rounds, seconds=options.seconds, wait=wait)

    plain = times["plain float32"].seconds(options.clock)
    rows = [
        {
            "step": name,
            "seconds": one.wall,
            "median": one.median,
            "cpu seconds": one.cpu,
            "images/s": options.batch / one.wall,
            "rounds": one.rounds,
            "ratio": plain / one.seconds(options.clock),
        }
        for name, one in times.items()
    ]
    ratios = {"training.vs_float32": max(row["ratio"] for row in rows[1:])}
    if "with native code" in times:
        library = min(one.seconds(options.clock) for name, one in times.items() if name.startswith("library"))
        ratios["training.native_vs_library"] = library / times["with native code"].seconds(options.clock)
    rows += gradient_rows(model, x, labels)
    if options.accuracy:
        rows += accuracy_rows(options, device)
    report(ratios, rows, options.json, device=device)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = arguments(__doc__ or "")
    p.add_argument("--architecture", default="resnet20", help="of both members")
    p.add_argument("--batch", type=int, default=128, help="images in a step")
    p.add_argument("--steps", type=int, default=10, help="steps of PGD")
    p.add_argument("--rounds", type=int, default=5, help="times each step is timed, at most")
    p.add_argument("--budget", dest="seconds", type=float, default=100.0, help="seconds after which no round begins")
    p.add_argument("--device", default="cpu", help="auto, cpu, cuda")
    p.add_argument("--no-compile", action="store_true", help="leave the compiled step out")
    p.add_argument(
        "--accuracy", type=int, default=0, metavar="RUNS", help="also train digits so often both ways, and compare"
    )
    return p


def plain_examples(model: Ensemble, x: Tensor, labels: Tensor, steps: int, noise: Tensor) -> list[Tensor]:
    """PGD on each member in turn, float32, on the model itself in evaluation mode."""
    model.eval()
    found = []
    for member in model.members:
        x_adv = (x + EPSILON * (2 * noise - 1)).clamp(0, 1)
        for _ in range(steps):
            x_adv.requires_grad_(True)
            loss = F.cross_entropy(member(x_adv), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x_adv)
            x_adv = x_adv.detach() + STEP_SIZE * gradient.sign()
            x_adv = torch.minimum(torch.maximum(x_adv, x - EPSILON), x + EPSILON).clamp(0, 1)
        found.append(x_adv)
    return found


def plain_loss(model: Ensemble, x: Tensor, labels: Tensor, examples: list[Tensor]) -> Tensor:
    """Eq. 5 for two members with lambda_pm = lambda_dm = 1, written out."""
    model.train()
    total = x.new_zeros(())
    for n, member in enumerate(model.members):
        clean, *attacked = member(torch.cat([x, *examples])).split(len(x))
        p = attacked[1 - n].softmax(-1)
        weight = p.gather(1, labels[:, None])[:, 0].detach()
        promoting = weight * F.cross_entropy(attacked[1 - n], labels, reduction="none")
        demoting = (1 - weight) * -(p * attacked[1 - n].log_softmax(-1)).sum(-1)
        total = total + F.cross_entropy(clean, labels) + F.cross_entropy(attacked[n], labels)
        total = total + (promoting - demoting).mean()
    return total


def plain_stepping(source: Ensemble, x: Tensor, labels: Tensor, steps: int) -> Callable[[], None]:
    """The plain step as a call."""
    model = copy.deepcopy(source).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, foreach=False)
    noise = torch.rand_like(x)

    @kernels.turned_off()
    def step() -> None:
        optimizer.zero_grad()
        examples = plain_examples(model, x, labels, steps, noise)
        plain_loss(model, x, labels, examples).backward()
        optimizer.step()

    return step


def fast_stepping(
    source: Ensemble, x: Tensor, labels: Tensor, steps: int, compiled: bool = False, native: bool = True
) -> Callable[[], object]:
    """The trainer's step as a call."""
    model = copy.deepcopy(source).to(memory_format=torch.channels_last)
    if native:
        use_kernels(model)
    reach = STEP_SIZE * steps / EPSILON
    phase = Phase("CCE-RM", 1, CCE_RM, TrainingAttack((steps, steps), (EPSILON, EPSILON), (reach, reach)))
    config = TrainConfig("cifar10", model.config, (phase,), batch_size=len(x))
    optimizer = make_optimizer(model, config)
    dtype = fast_dtype(x.device)
    search = SearchCopy(model, dtype, compile=compiled, native=native)
    forwards: list[Any] = list(model.members)
    if compiled:
        forwards = [torch.compile(member, dynamic=False) for member in forwards]
    x = x.contiguous(memory_format=torch.channels_last)

    def step() -> object:
        model.train()
        generator = torch.Generator().manual_seed(0)
        autocast = dtype == torch.bfloat16
        return train_step(forwards, search, optimizer, x, labels, phase, generator, autocast=autocast)

    return step


def gradient_rows(source: Ensemble, x: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """How far the fast gradient is from the plain one, on the same examples: cosine, and relative distance."""
    examples = plain_examples(copy.deepcopy(source), x, labels, 2, torch.rand_like(x))
    source = copy.deepcopy(source)
    for dropout in (m for m in source.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0  # the two would drop different activations
    plain, fast = copy.deepcopy(source), copy.deepcopy(source).to(memory_format=torch.channels_last).train()
    use_kernels(fast)
    with kernels.turned_off():
        plain_loss(plain, x, labels, examples).backward()
    inputs = torch.cat([x, *examples]).contiguous(memory_format=torch.channels_last)
    for n, member in enumerate(fast.members):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=fast_dtype(x.device) == torch.bfloat16):
            logits = member(inputs).float()
        loss_terms([n], logits.view(1, 3, len(x), -1), labels, CCE_RM).total(CCE_RM).backward()
    wanted, found = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (plain, fast))
    search = SearchCopy(source, fast_dtype(x.device))
    climbed = [pixel_gradient(model, examples[0], labels) for model in (copy.deepcopy(source).eval(), search.model)]
    return [
        apart("gradient of the step", wanted, found),
        apart(f"gradient of the search ({search.precision})", *climbed),
    ]


def pixel_gradient(model: Ensemble, x: Tensor, labels: Tensor) -> Tensor:
    """What PGD on the ensemble climbs by, flat."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.nll_loss(model(x), labels, reduction="sum"), x)[0].flatten()


def apart(name: str, wanted: Tensor, found: Tensor) -> dict[str, Any]:
    """How far a gradient is from the plain one: cosine, and relative distance."""
    cosine = F.cosine_similarity(wanted, found, dim=0).item()
    return {"step": name, "cosine": cosine, "distance": ((found - wanted).norm() / wanted.norm()).item()}


def accuracy_rows(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Final accuracies of short runs on digits, with plain float32 and with what is fast here: means over seeds.

    One run's accuracy moves by more than a point with the seed alone, so that one pair would show nothing.
    """
    from cce.data import datasets as data
    from cce.evaluation import presets
    from cce.training.run_folder import RunFolder
    from cce.training.trainer import Trainer

    dataset, rows = data.load("digits"), []
    for name, precision, plainly in (
        ("plain float32", "float32", kernels.turned_off),
        ("fast", "auto", contextlib.nullcontext),
    ):
        found: list[dict[str, float]] = []
        for seed in range(options.seed, options.seed + options.accuracy):
            config = dataclasses.replace(
                presets.preset("digits-quick"), precision=precision, evaluate_images=360, seed=seed
            )
            with tempfile.TemporaryDirectory() as place, plainly():
                folder = RunFolder(place)
                folder.create({})
                trainer = Trainer(config, dataset, folder, device)
                trainer.fit(quiet=True)
                found.append(trainer.monitor())
        means = {k: statistics.fmean(one[k] for one in found) for k in ("natural_accuracy", "robust_accuracy")}
        rows.append({"step": f"digits-quick, {name}", **means, "runs": options.accuracy})
    return rows


if __name__ == "__main__":
    sys.exit(main())
