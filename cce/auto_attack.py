"""Auto-Attack's standard version (Croce and Hein 2020, arXiv 2003.01690), its four parts, and the authors' package.

APGD on the cross-entropy, APGD on the targeted difference of logits ratio, targeted FAB, Square: each
gets the images that those before it left standing. log f_en stands for logits: cross-entropy and
differences of logits are the same on both, so nothing is softmaxed twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cce.apgd import apgd, cross_entropy, targeted_dlr
from cce.attack_task import Task
from cce.config import ConfigError, check
from cce.fab import fab
from cce.square import square

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


def _package(task: Task) -> Tensor:
    """The authors' code, one image at a time: it draws from one global generator for the whole batch."""
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise ConfigError("autoattack-package needs pyautoattack: pip install pyautoattack==0.2.0") from error
    config, classes, found = task.config, task.model.config.classes, []
    height = task.x.shape[2]
    check(config.norm == "linf" or height >= 5, f"pictures are {height} pixels high; the package's L2 Square needs 5")
    for i, generator in enumerate(task.generators):
        seed = int(torch.randint(2**31, (1,), generator=generator))
        x, label = task.x[i : i + 1], task.labels[i : i + 1]
        few = {"version": "custom", "attacks": ["apgd-ce", "square"]} if classes < 4 else {"version": "standard"}
        norm = "Linf" if config.norm == "linf" else "L2"
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            adversary = AutoAttack(task.model, norm=norm, eps=config.epsilon, seed=seed, device=x.device, **few)
            adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(TARGETS, classes - 1)
            adversary.apgd.n_iter = adversary.apgd_targeted.n_iter = adversary.fab.n_iter = STEPS
            adversary.square.n_queries = QUERIES
            found.append(adversary.run_standard_evaluation(x, label, batch_size=1)[0])
        task.tick((i + 1) / len(task.x))
    return task.project()(torch.cat(found))
