"""Auto-Attack's standard version (Croce and Hein 2020, arXiv 2003.01690), its four parts, and the authors' package.

APGD on the cross-entropy, APGD on the targeted difference of logits ratio, targeted FAB, Square: each
gets the images that those before it left standing. log f_en stands for logits: cross-entropy and
differences of logits are the same on both, so nothing is softmaxed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cce.attacks.apgd import apgd, cross_entropy, targeted_dlr
from cce.attacks.fab import fab
from cce.attacks.square import square
from cce.attacks.task import Task
from cce.config import AttackConfig, ConfigError, check
from cce.machine import shards
from cce.models import Ensemble

TARGETS = 9
"""Wrong classes that the targeted parts try, likeliest first."""

STEPS = 100
"""Of APGD and FAB, for each target."""

QUERIES = 5000
"""Of Square."""


def run(task: Task) -> Tensor:
    """`apgd-ce`, `apgd-dlr`, `fab`, `square`, all four as `autoattack`, or the package's."""
    name = task.config.name
    if name == "square":
        return square(task)
    if name == "autoattack-package":
        return _package(task)
    if name != "autoattack":
        return _part(task)
    parts: list[Callable[[Task], Tensor]] = [lambda part: part.x]
    for own in ("apgd-ce", "apgd-dlr", "fab"):
        parts.append(lambda part, own=own: _part(part.named(own, STEPS)))
    parts.append(lambda part: square(part.named("square", QUERIES)))
    return task.until_fooled(parts)


def _part(task: Task) -> Tensor:
    """APGD-CE, or APGD-DLR or FAB towards each target."""
    if task.config.name == "apgd-ce":
        return apgd(task, cross_entropy)
    if task.config.name == "fab":
        return task.towards_each(fab, TARGETS)
    return task.towards_each(lambda pairs, targets: apgd(pairs, targeted_dlr, targets), TARGETS)


def package(model: Ensemble, config: AttackConfig, seed: int, device: torch.device | str = "cpu") -> Any:
    """The authors' `AutoAttack` with the standard version's parts, as far as there are classes for them.

    Raises:
        ConfigError: pyautoattack is not installed.
    """
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise ConfigError("autoattack-package needs pyautoattack: pip install pyautoattack==0.2.0") from error
    classes = model.config.classes
    few = {"version": "custom", "attacks": ["apgd-ce", "square"]} if classes < 4 else {"version": "standard"}
    norm = "Linf" if config.norm == "linf" else "L2"
    made = AutoAttack(model, norm=norm, eps=config.epsilon, seed=seed, device=device, **few)
    made.apgd_targeted.n_target_classes = made.fab.n_target_classes = min(TARGETS, classes - 1)
    made.apgd.n_iter = made.apgd_targeted.n_iter = made.fab.n_iter = STEPS
    made.square.n_queries = QUERIES
    return made


def _package(task: Task) -> Tensor:
    """The authors' code, one image at a time: it draws from one global generator for the whole batch."""
    config, found = task.config, []
    height = task.x.shape[2]
    check(config.norm == "linf" or height >= 5, f"pictures are {height} pixels high; the package's L2 Square needs 5")
    for i, generator in enumerate(task.generators):
        seed = int(torch.randint(2**31, (1,), generator=generator))
        x, label = task.x[i : i + 1], task.labels[i : i + 1]
        devices = [x.device] if x.device.type == "cuda" else []
        with shards.alone, torch.random.fork_rng(devices=devices):
            adversary = package(task.model, config, seed, x.device)
            found.append(adversary.run_standard_evaluation(x, label, batch_size=1)[0])
        task.tick((i + 1) / len(task.x))
    return task.project()(torch.cat(found))
