"""Attacks: `attack` runs any of `ATTACKS` by name; FGSM, PGD, BIM and MIM are here.

Each is the loop of `cce.attacks.ascent` with other settings. Images are `(B, C, H, W)` float32 in [0, 1];
epsilon and step_size are in pixel units.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cce.attacks.adaptive import agreeing_attack, smooth_perturbation
from cce.attacks.ascent import (
    Momentum,
    Objective,
    Watcher,
    agreement_on,
    ascend,
    linf_ball,
    loss_of,
    momentum,
    pgd_sign,
    uniform_start,
)
from cce.attacks.start_noise import StartNoise
from cce.attacks.task import Task, check_batch, check_weights, generators_for, to_grid
from cce.config import AttackConfig, check
from cce.models import Ensemble, evaluating

__all__ = [
    "Objective",
    "Watcher",
    "agreeing_attack",
    "agreement_on",
    "ascend",
    "attack",
    "check_batch",
    "check_weights",
    "linf_ball",
    "loss_of",
    "momentum",
    "pgd_sign",
    "run",
    "smooth_perturbation",
    "to_grid",
    "uniform_start",
]


def attack(
    model: Ensemble,
    x: Tensor,
    labels: Tensor,
    config: AttackConfig,
    *,
    seed: int = 0,
    batch_size: int = 256,
    watch: Watcher | None = None,
    progress: Callable[[int, int], None] | None = None,
    judge: Ensemble | None = None,
    threshold: float | None = None,
    numbers: Sequence[int] | None = None,
    early: bool = False,
    on_grid: bool = False,
) -> Tensor:
    """Adversarial examples of `x` against the ensemble or one of its members.

    The models are used in evaluation mode; their mode and `requires_grad` come back as they were.
    Random numbers are each image's own, and the global generator is left alone.

    Args:
        model: the ensemble that is searched; log f_en from `forward`. A `SearchCopy`'s model will do.
        x: `(B, C, H, W)` float32 in [0, 1].
        labels: true labels `(B,)` int64.
        config: the attack.
        seed: of everything random; what image i gets depends on `seed` and its number alone.
        batch_size: images attacked at a time; the result does not depend on it.
        watch: see `cce.attacks.ascent.ascend`; only with one batch. Attacks that are not of PGD's kind show
            the start and the end.
        progress: called as `progress(done, total)`, in images, at least after each batch.
        judge: the float32 model that says what is fooled, where `model` is a fast copy of it
            (default: `model`). Attacks that leave fooled images alone, or choose among candidates, ask it.
        threshold: entropy in nats above which the detector flags, for attacks that are `aware`;
            None: the lower the entropy, the better.
        numbers: the number of each image, where `x` is a part of a larger set (default: 0 to B - 1).
        early: an image rests at the first iterate that fools `judge`. The verdict is at least as
            strong as the last iterate's, entropies are not comparable. FGSM, PGD, BIM and MIM.
        on_grid: what fools is judged after `to_grid`, so that an image does not rest where rounding
            would undo it. What comes back is not rounded.

    Returns:
        `(B, C, H, W)` float32, inside the ball and [0, 1].

    Raises:
        ConfigError: images outside [0, 1] or not 4-D, labels that do not fit, a member or class that
            is not there, NaN weights, a package that is not installed.
    """
    check_batch(model, x, labels)
    check_weights(model)
    judge = model if judge is None else judge
    member, classes = config.target_member, model.config.classes
    there = member is None or member < len(model.members)
    check(there, f"target is {config.target!r}; this ensemble has {len(model.members)} members")
    toward = config.toward
    check(toward is None or toward < classes, f"toward is {toward}; it is a class from 0 to {classes - 1}")
    check(batch_size >= 1, f"batch_size is {batch_size}; it must be at least 1")
    numbers = range(len(x)) if numbers is None else numbers
    check(len(numbers) == len(x), f"numbers has {len(numbers)} entries; there are {len(x)} images")
    if not len(x):
        return x.clone()
    result = x.clone()
    with evaluating(model), evaluating(judge):
        for again in range(config.restarts):
            for i in range(0, len(x), batch_size):
                rows = slice(i, i + batch_size)
                size = len(x[rows])

                def tick(fraction: float, first: int = again * len(x) + i, size: int = size) -> None:
                    if progress:
                        progress(int((first + fraction * size) / config.restarts), len(x))

                task = Task(
                    model=model,
                    judge=judge,
                    x=x[rows],
                    labels=labels[rows],
                    config=config,
                    generators=generators_for(seed, numbers[rows], again),
                    noise=StartNoise(seed + 1_000_003 * again, tuple(numbers[rows])),
                    threshold=threshold,
                    early=early,
                    on_grid=on_grid,
                    watch=watch,
                    tick=tick,
                )
                result[rows] = _again(task, result[rows]) if again else _run(task)
                tick(1)
    return result


def _run(task: Task) -> Tensor:
    """The named attack on one batch."""
    info = task.config.info
    if info.module == __name__:
        return run(task)
    if task.watch:
        task.watch(0, task.x)
    found = task.x.clone() if task.config.epsilon == 0 else importlib.import_module(info.module).run(task)
    if task.watch:
        task.watch(1, found)
    return found.detach()


def _again(task: Task, before: Tensor) -> Tensor:
    """`before`, with the result of another start where the first fooled nothing and this one is worse for the model."""
    left = ~task.fooled(before)
    result = before.clone()
    if not left.any():
        return result
    part = task.only(left)
    found, kept = _run(part), before[left]
    with torch.no_grad():
        loss = loss_of(task.judge, part.labels, toward=task.config.toward)
        better = part.fooled(found) | (loss(found) > loss(kept))
    result[left] = torch.where(better[:, None, None, None], found, kept)
    return result


def run(task: Task) -> Tensor:
    """FGSM, PGD, BIM and MIM on one batch.

    FGSM takes one step of epsilon from x; BIM starts at x; MIM starts at x with momentum; PGD starts
    at a uniform point of the ball (Table 3's attacks).
    """
    config = task.config
    single = config.name == "fgsm"
    climb = _ascend_until_fooled if task.early else _ascend_plainly
    return climb(
        task,
        task.random_start() if config.name.endswith("pgd") else task.x,
        config.epsilon if single else config.step_size,
        1 if single else config.steps,
    )


def _ascend_plainly(task: Task, start: Tensor, step_size: float, steps: int) -> Tensor:
    return ascend(
        task.objective(),
        start,
        step_size=step_size,
        steps=steps,
        direction=task.direction(),
        project=task.project(),
        watch=task.watch,
    )


def _ascend_until_fooled(task: Task, start: Tensor, step_size: float, steps: int) -> Tensor:
    """`ascend`, a step at a time, on the images that the judge does not yet call fooled."""
    result, rows = start.clone(), torch.arange(len(start), device=start.device)
    part, x, direction = task, start, task.direction()
    if task.watch:
        task.watch(0, result)
    for i in range(steps):
        objective = part.objective()
        moved = ascend(objective, x, step_size=step_size, steps=1, direction=direction, project=part.project())
        fooled = part.confirmed(x, objective.said)
        rest = fooled[:, None, None, None]
        result[rows] = torch.where(rest, x, moved)
        if task.watch:
            task.watch(i + 1, result)
        if fooled.any():
            rows, x, part = rows[~fooled], moved[~fooled], part.only(~fooled)
            if isinstance(direction, Momentum):
                direction.keep(~fooled)
        else:
            x = moved
        task.tick((i + 1) / steps)
        if not len(rows):
            break
    return result
