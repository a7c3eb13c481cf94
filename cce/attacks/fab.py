"""Targeted FAB (Croce and Hein 2020, arXiv 1907.02044): walks along the boundary towards the picture.

The boundary between y and t is taken as the plane that the gradient gives; each step mixes the
projections of the iterate and of the picture on it. Constants are the paper's. Here an image rests
once an example inside the ball fools the judge: how much nearer one could get is not asked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cce.attacks.ascent import size_of
from cce.attacks.task import Task

LARGEST_SHARE = 0.1  # alpha_max, of the picture's projection
OVERSHOOT = 1.05  # eta
BACKWARD = 0.9  # beta, towards the picture once the boundary is crossed


def fab(task: Task, targets: Tensor) -> Tensor:
    """FAB towards each image's own target class, from the image itself.

    Args:
        task: the images, the ball and `config.steps`.
        targets: `(B,)` int64, not the label.

    Returns:
        `(B, C, H, W)`: an example in the ball that fools the judge, else the image.
    """
    result, rows, part = task.x.clone(), torch.arange(len(task.x), device=task.x.device), task
    x = task.x
    for i in range(task.config.steps + 1):
        said = _said(part, x)
        crossed = said != part.labels
        if crossed.any():
            fooled = part.inside(x) & part.confirmed(x, said)
            result[rows[fooled]] = x[fooled]
            keep = ~fooled
            rows, part, x, targets, crossed = rows[keep], part.only(keep), x[keep], targets[keep], crossed[keep]
            x = torch.where(crossed[:, None, None, None], part.x + BACKWARD * (x - part.x), x)
        if i == task.config.steps or not len(rows):
            break
        # The plane is found after the step back: nearly every step crosses, and a gradient is dearer than a look.
        x = _move(part, x, *_gap(part, x, targets))
    return result


@torch.no_grad()
def _said(task: Task, x: Tensor) -> Tensor:
    """The searched model's label of each point, `(B,)`."""
    return task.model(x).argmax(1)


def _move(task: Task, x: Tensor, gap: Tensor, normal: Tensor) -> Tensor:
    """One step: the mean of both projections, each overshot, weighted by how far each had to go."""
    norm, count = task.config.norm, len(x)
    from_picture = gap + (normal * (task.x - x)).sum((1, 2, 3))  # the plane's equation at the picture
    points, normals = torch.cat([x, task.x]), torch.cat([normal, normal])
    shift = to_plane(points, normals, torch.cat([gap, from_picture]), norm)
    far = size_of(shift, norm).clamp_min(1e-8)
    share = (far[:count] / (far[:count] + far[count:])).clamp(max=LARGEST_SHARE)[:, None, None, None]
    moved = (1 - share) * (x + OVERSHOOT * shift[:count]) + share * (task.x + OVERSHOOT * shift[count:])
    return moved.clamp(0, 1)


def to_plane(x: Tensor, normal: Tensor, gap: Tensor, norm: str, rounds: int = 12) -> Tensor:
    """The smallest `d` with `normal . d = -gap` and `x + d` in [0, 1]; the box's nearest corner where there is none.

    Every pixel moves the way that helps, in L-infinity by the same length and in L2 in proportion to its
    weight, until it meets the wall. What is covered is concave and piecewise linear in that length, so
    Newton's method from below finds it, in a few rounds.

    Args:
        x: `(B, C, H, W)` in [0, 1].
        normal: `(B, C, H, W)`.
        gap: value of the plane's equation at x, `(B,)`.
        norm: `linf` or `l2`.
        rounds: of Newton's method.
    """
    way = -normal.sign() * gap.sign()[:, None, None, None]
    room = torch.where(way > 0, 1 - x, x)
    weight = normal.abs()
    speed = torch.ones_like(weight) if norm == "linf" else weight
    wanted = gap.abs()
    length = wanted / (weight * speed).sum((1, 2, 3)).clamp_min(1e-30)
    for _ in range(rounds):
        free = speed * length[:, None, None, None] < room
        at_wall = torch.where(free, 0, weight * room).sum((1, 2, 3))
        rate = torch.where(free, weight * speed, 0).sum((1, 2, 3))
        new = torch.where(rate > 0, (wanted - at_wall) / rate.clamp_min(1e-30), length)
        new = torch.maximum(new, length)
        if torch.equal(new, length):
            break
        length = new
    all_the_way = wanted > (weight * room).sum((1, 2, 3))
    moved = torch.minimum(speed * length[:, None, None, None], room)
    return way * torch.where(all_the_way[:, None, None, None], room, moved)


def _gap(task: Task, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The plane's value log f_en_t - log f_en_y and its gradient, at `x`."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        log_p = task.model(x)
        gap = (log_p.gather(1, targets[:, None]) - log_p.gather(1, task.labels[:, None]))[:, 0]
    (normal,) = torch.autograd.grad(gap.sum(), x)
    return gap.detach(), normal
