"""Multi-targeted attacks: PGD, BIM or MIM towards every wrong class; any success counts (section 5.1)."""

from __future__ import annotations

from torch import Tensor

from cce.attacks.ascent import ascend, loss_of
from cce.attacks.task import Task


def run(task: Task) -> Tensor:
    """The attack towards each wrong class, the likeliest first; an image rests once one has fooled the judge."""
    return task.towards_each(towards, task.model.config.classes - 1)


def towards(task: Task, targets: Tensor) -> Tensor:
    """The named attack, climbing -C(f_en(x), t) for each image's own target t `(B,)`."""
    c = task.config
    return ascend(
        loss_of(task.model, task.labels, c.target_member, c.objective, targets),
        task.random_start() if c.name.endswith("pgd") else task.x,
        step_size=c.step_size,
        steps=c.steps,
        direction=task.direction(),
        project=task.project(),
    )
