"""APGD (Croce and Hein 2020, arXiv 2003.01690): PGD with momentum whose step halves where the loss stalls.

The procedure and its constants are the paper's (Algorithm 1). Images that are fooled rest at once: the
verdict on them is final, and the rest is faster without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from cce.attacks.ascent import ball, l2_norm, steepest
from cce.attacks.task import Task

LogitLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # logits (B, classes), labels, targets -> (B,)

MOMENTUM = 0.75
ENOUGH_RISES = 0.75  # rho: a step that raises the loss less often than this is too large


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """C(f(x), y), `(B,)`."""
    return F.cross_entropy(logits, labels, reduction="none")


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """The targeted difference of logits ratio: -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2), z sorted downwards.

    With fewer than four classes there is no z_4, and the margin is not divided. A constant added to all
    logits changes nothing, so log f_en is as good as logits.
    """
    assert targets is not None
    margin = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
    if logits.shape[1] < 4:
        return margin[:, 0]
    top = logits.topk(4, dim=1).values
    return margin[:, 0] / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


@dataclass
class _State:
    """What APGD knows of each image still standing; every field has the batch first."""

    x: Tensor
    old: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    loss: Tensor
    step: Tensor
    rises: Tensor
    best_at_check: Tensor
    halved: Tensor

    def keep(self, rows: Tensor) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])


def apgd(task: Task, loss_of_logits: LogitLoss, targets: Tensor | None = None) -> Tensor:
    """APGD from a random point of the ball's surface.

    Args:
        task: the images, the ball and `config.steps`.
        loss_of_logits: what is climbed, of log f_en.
        targets: class of each image for a targeted loss, `(B,)`.

    Returns:
        `(B, C, H, W)`: the iterate that fooled the judge, else the one of highest loss.
    """
    config, steps = task.config, task.config.steps
    interval, shortest, shrink = (max(1, int(part * steps)) for part in (0.22, 0.06, 0.03))
    result, rows = task.x.clone(), torch.arange(len(task.x), device=task.x.device)
    part = task
    x = _surface_start(task)
    loss, gradient, said = _value(part, x, loss_of_logits, targets)
    none = torch.zeros_like(loss)
    step = 2 * config.epsilon * torch.ones_like(loss)
    s = _State(x, x, gradient, x, gradient, loss, loss, step, none, loss, torch.ones_like(loss, dtype=torch.bool))
    since = 0
    for i in range(steps + 1):
        fooled = part.confirmed(s.x, said)
        if fooled.any():
            result[rows[fooled]] = s.x[fooled]
            keep = ~fooled
            rows, part = rows[keep], part.only(keep)
            targets = None if targets is None else targets[keep]
            s.keep(keep)
        if i == steps or not len(rows):
            break
        moved = _step(part, s, MOMENTUM if i else 1.0)
        s.old, s.x = s.x, moved
        loss, s.gradient, said = _value(part, s.x, loss_of_logits, targets)
        s.rises = s.rises + (loss > s.loss)
        s.loss = loss
        higher = loss > s.best_loss
        s.best = _where(higher, s.x, s.best)
        s.best_gradient = _where(higher, s.gradient, s.best_gradient)
        s.best_loss = torch.where(higher, loss, s.best_loss)
        since += 1
        if since == interval:
            _halve(s, since)
            since, interval = 0, max(interval - shrink, shortest)
    result[rows] = s.best
    return result


def _halve(s: _State, since: int) -> None:
    """Halve the step of images whose loss rose too seldom, or stalled at an unhalved step; back to their best."""
    seldom = s.rises <= ENOUGH_RISES * since
    stalled = ~s.halved & (s.best_at_check >= s.best_loss)
    s.halved = seldom | stalled
    s.best_at_check = s.best_loss
    s.step = torch.where(s.halved, s.step / 2, s.step)
    s.x = _where(s.halved, s.best, s.x)
    s.gradient = _where(s.halved, s.best_gradient, s.gradient)
    s.rises = torch.zeros_like(s.rises)


def _step(task: Task, s: _State, share: float) -> Tensor:
    """A step along the gradient, then `share` of it and the rest of the last one, each put back into the ball."""
    project = ball(task.x, task.config.epsilon, task.config.norm)
    along = steepest(task.config.norm)(s.gradient)
    target = project(s.x + s.step[:, None, None, None] * along)
    return project(s.x + share * (target - s.x) + (1 - share) * (s.x - s.old))


def _surface_start(task: Task) -> Tensor:
    """The picture plus noise scaled to the ball's radius, within [0, 1]."""
    shape = task.x.shape[1:]
    if task.config.norm == "linf":
        noise = 2 * task.draw("uniform", *shape) - 1
        noise = noise / noise.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    else:
        noise = task.draw("normal", *shape)
        noise = noise / l2_norm(noise).clamp_min(1e-12)
    return (task.x + task.config.epsilon * noise).clamp(0, 1)


def _value(task: Task, x: Tensor, loss_of_logits: LogitLoss, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, its gradient, and the searched model's label, at `x`."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = task.model(x)
        loss = loss_of_logits(logits, task.labels, targets)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), gradient, logits.detach().argmax(1)


def _where(chosen: Tensor, x: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], x, other)
