"""Probe: how long a run will take on this machine and how much memory, from two seconds of its own steps.

On pixels of noise, so that no data set is needed; with fewer images a step where steps are slow.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cce.config import Phase, TrainConfig
from cce.data import class_folders
from cce.data.datasets import Dataset, Split
from cce.training.run_folder import RunFolder
from cce.training.step import train_step
from cce.training.trainer import Trainer

TRAINING_IMAGES = {"mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000, "digits": 1_257}
"""Training images of each named data set."""

_TEST_IMAGES = 10_000
_LOOK_IMAGES = 16  # of one look at the monitored images
_SLOW_STEP = 0.4  # seconds; a step that takes longer is probed with fewer images


def estimate(config: TrainConfig, device: torch.device, seconds: float = 2.0) -> dict[str, Any]:
    """Time and memory of a run.

    Args:
        config: what will be trained.
        device: where.
        seconds: how long to measure, once everything is warm.

    Returns:
        `seconds` of the whole run, `images_per_second` in training, `memory_bytes` at its highest,
        `steps`, and `measured_seconds`.
    """
    began = time.perf_counter()
    images = probed_images(config, device)
    trainer = probe_trainer(config, images, device)
    before = _memory(device)
    share = seconds / (len(config.phases) + 1)
    each = [_seconds_of(_stepping(trainer, phase), share, device) for phase in map(fixed_attack, config.phases)]
    look = _seconds_of(trainer.monitor, share, device)
    after = _memory(device)

    images_there = training_images(config)
    count = min(config.train_images or images_there, images_there)
    steps_per_epoch = max(1, count // config.batch_size)
    steps = [max(1, round(p.epochs * steps_per_epoch)) for p in config.phases]
    scale = config.batch_size / images
    training = sum(n * s * scale for n, s in zip(steps, each, strict=True))
    looks = 1 + sum(steps) // max(1, round(config.evaluate_every * steps_per_epoch))
    pixels = config.model.input_shape[0] * config.model.input_shape[1] * config.model.input_shape[2]
    held = 2 * pixels * (images_there + _TEST_IMAGES) if config.dataset != "digits" else 0
    return {
        "seconds": training + looks * look * config.evaluate_images / _LOOK_IMAGES,
        "images_per_second": sum(steps) * config.batch_size / training,
        "memory_bytes": int(before + (after - before) * scale + held),
        "steps": sum(steps),
        "measured_seconds": time.perf_counter() - began,
    }


def training_images(config: TrainConfig) -> int:
    """Training images of a config's data set; those of class folders are counted.

    Raises:
        DataError: class folders that cannot be used.
    """
    if not config.data_dir:
        return TRAINING_IMAGES[config.dataset]
    return class_folders.read_layout(config.data_dir).training_count


def fixed_attack(phase: Phase) -> Phase:
    """The phase with the mean number of attack steps, so that one batch stands for all."""
    low, high = phase.attack.steps
    middle = round((low + high) / 2)
    return replace(phase, attack=replace(phase.attack, steps=(middle, middle)))


def probe_trainer(config: TrainConfig, images: int, device: torch.device) -> Trainer:
    """A trainer of `config` on noise, `images` a batch; it writes nothing."""
    generator = torch.Generator().manual_seed(0)
    classes = config.model.classes

    def noise(count: int, start: int = 0) -> Split:
        shape = (count, *config.model.input_shape)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return Split(pixels, torch.arange(count) % classes, start)

    names = tuple(str(label) for label in range(classes))
    dataset = Dataset(config.dataset, names, noise(images), noise(1, 2 * _LOOK_IMAGES), noise(2 * _LOOK_IMAGES))
    small = replace(config, batch_size=images, train_images=0, evaluate_images=_LOOK_IMAGES, compile=False)
    return Trainer(small, dataset, RunFolder(Path("nowhere")), device)


def probed_images(config: TrainConfig, device: torch.device) -> int:
    """How many images to probe a step with: the batch, or fewer where that would take long."""
    few = min(8, config.batch_size)
    if few == config.batch_size or device.type == "cuda":
        return config.batch_size
    trainer = probe_trainer(config, few, device)
    slowest = max((fixed_attack(p) for p in config.phases), key=lambda p: _passes(p))
    step = _seconds_of(_stepping(trainer, slowest), 0.0, device)
    return max(few, min(config.batch_size, int(few * _SLOW_STEP / step)))


def _passes(phase: Phase) -> int:
    return 0 if phase.defense.method == "nat" else 1 + phase.attack.steps[1]


def _stepping(trainer: Trainer, phase: Phase) -> Callable[[], object]:
    """One training step of a phase, always on the first batch."""

    def step() -> object:
        generator = torch.Generator().manual_seed(0)
        trainer.model.train()
        x, labels = trainer.batch(0, generator)
        settings = trainer.settings(trainer.total_steps)
        return train_step(trainer.forwards, trainer.search, trainer.optimizer, x, labels, phase, generator, **settings)

    return step


def _seconds_of(work: Callable[[], object], share: float, device: torch.device) -> float:
    """Seconds of one `work()`, the first call left out, over `share` seconds but at least once."""
    work()
    _wait(device)
    began, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < share:
        work()
        _wait(device)
        calls += 1
    return (time.perf_counter() - began) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device) -> int:
    """Most memory used so far, in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
