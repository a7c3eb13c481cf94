"""B&B (Brendel et al. 2019, arXiv 1907.01003) through foolbox, from our own PGD examples.

foolbox looks for the nearest misclassified point; an image counts as attacked where that is inside the
ball. It takes log f_en for logits and looks at differences of them only.

Its steps are as long as a batch has values (`rate_normalization` in its source), so that what an image becomes would
depend on how many are beside it. Here the rate is that of one image whatever the batch.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from cce.attacks.ascent import ascend, ball, loss_of, size_of, steepest
from cce.attacks.task import Task
from cce.config import check
from cce.models import IN_CACHE

START_STEPS = 20
"""Of the PGD that finds the start: the paper's PGD1 (k=20, step epsilon / 4)."""

LOOKS = 11
"""How often foolbox asks the ensemble beside its steps: whether the start is misclassified, then to halve the way."""


def run(task: Task) -> Tensor:
    """B&B, on a CPU a few images at a time: what an image becomes does not depend on those beside it."""
    kind = _kind(task.config.norm)
    found, width = task.x.clone(), IN_CACHE if task.x.device.type == "cpu" else sys.maxsize
    task = replace(task, on_grid=False)  # foolbox goes between the values that a picture can hold
    left = (~task.fooled(task.x)).nonzero().flatten()
    parts = left.split(min(width, len(left))) if len(left) else ()
    for i, rows in enumerate(parts):
        found[rows] = _near(task.only(rows), kind, lambda fraction, i=i: task.tick((i + fraction) / len(parts)))
    return found


def _kind(norm: str) -> type:
    """The attack of foolbox, which needs numba.

    Raises:
        ConfigError: numba is not installed.
    """
    from foolbox.attacks import brendel_bethge

    missing = brendel_bethge.NUMBA_IMPORT_ERROR is not None
    check(not missing, "bb needs numba, which foolbox compiles its steps with: pip install numba==0.68.1")
    # Of foolbox's own arrays, which nobody writes to.
    warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
    return brendel_bethge.LinfinityBrendelBethgeAttack if norm == "linf" else brendel_bethge.L2BrendelBethgeAttack


def _near(task: Task, kind: type, tick: Callable[[float], None]) -> Tensor:
    """The nearest misclassified point if it is in the ball, else the image moved that way as far as the ball goes."""
    start, there = _start(task)
    found = task.x.clone()
    # foolbox insists on what the ensemble says of just these, and a batch more or less may turn a tie.
    while there.any() and not (still := task.only(there).fooled(start[there])).all():
        there[there.clone()] = still
    if not there.any():
        return found
    part, start = task.only(there), start[there]
    near = _nearest(part, kind, start, tick)
    closer = size_of(near - part.x, task.config.norm) < size_of(start - part.x, task.config.norm)
    found[there] = part.project()(torch.where(closer[:, None, None, None], near, start))
    return found


def _nearest(task: Task, kind: type, start: Tensor, tick: Callable[[float], None]) -> Tensor:
    """What foolbox finds from misclassified points `start`, `(B, C, H, W)`."""
    from foolbox import Misclassification, PyTorchModel

    attack = kind(steps=task.config.steps)
    attack.lr /= len(task.x)
    asked = _Asked(task.judge, task.config.steps + LOOKS, tick).eval()
    wrapped = PyTorchModel(asked, bounds=(0, 1), device=task.x.device)
    return attack.run(wrapped, task.x, Misclassification(task.labels), starting_points=start)


class _Asked(nn.Module):
    """The ensemble, telling after each look how many of `looks` are done."""

    def __init__(self, judge: nn.Module, looks: int, tick: Callable[[float], None]) -> None:
        super().__init__()
        self.judge, self.looks, self.tick, self.done = judge, looks, tick, 0

    def forward(self, x: Tensor) -> Tensor:
        found = self.judge(x)
        self.done += 1
        self.tick(min(1.0, self.done / self.looks))
        return found


def _start(task: Task) -> tuple[Tensor, Tensor]:
    """Misclassified points and where there is one, `(B,)`: PGD in the ball, else in balls twice as large each time."""
    c, epsilon = task.config, task.config.epsilon
    largest = 1.0 if c.norm == "linf" else float(task.x[0].numel()) ** 0.5
    noise = task.random_start() - task.x
    start, there = task.x.clone(), torch.zeros(len(task.x), dtype=torch.bool, device=task.x.device)
    while True:
        left = task.only(~there)
        found = ascend(
            loss_of(task.model, left.labels),
            (left.x + noise[~there] * (epsilon / c.epsilon)).clamp(0, 1),
            step_size=epsilon / 4,
            steps=START_STEPS,
            direction=steepest(c.norm),
            project=ball(left.x, epsilon, c.norm),
        )
        fooled = left.fooled(found)
        start[~there] = found
        there[~there] = fooled
        if there.all() or epsilon >= largest:
            return start, there
        epsilon = min(2 * epsilon, largest)
