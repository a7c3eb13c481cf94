"""Square (Andriushchenko et al. 2020, arXiv 1912.00049): random search by squares, from outputs alone.

Sizes and their schedule are the paper's. Each image draws its own squares.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cce.ascent import l2_norm, wrong_margin
from cce.attack_task import Task

FIRST_SHARE = 0.8  # of the pixels that the first squares cover
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries, as published
AHEAD = 100  # queries whose random numbers are drawn at once


def square(task: Task) -> Tensor:
    """Square attack with `config.steps` queries after the first.

    Returns:
        `(B, C, H, W)`: the iterate that fooled the judge, else the last one kept.
    """
    l2 = task.config.norm == "l2"
    result, rows, part = task.x.clone(), torch.arange(len(task.x), device=task.x.device), task
    x = _tiles(part) if l2 else _stripes(part)
    margin = _margin(part, x)
    drawn = part.draw("uniform", 0, 8)
    for i in range(task.config.steps + 1):
        fooled = part.confirmed(x, torch.where(margin < 0, -1, part.labels))
        if fooled.any():
            result[rows[fooled]] = x[fooled]
            keep = ~fooled
            rows, part, x, margin, drawn = rows[keep], part.only(keep), x[keep], margin[keep], drawn[keep]
        if i == task.config.steps or not len(rows):
            break
        if i % AHEAD == 0:
            drawn = part.draw("uniform", AHEAD, 6 + x.shape[1])
        side = _side(i, x.shape, smallest=3 if l2 else 1)
        candidate = (_l2_candidate if l2 else _linf_candidate)(part, x, side, drawn[:, i % AHEAD])
        new = _margin(part, candidate)
        better = new < margin
        x = torch.where(better[:, None, None, None], candidate, x)
        margin = torch.where(better, new, margin)
        if i % AHEAD == 0:
            task.tick(i / task.config.steps)
    result[rows] = x
    return result


@torch.no_grad()
def _margin(task: Task, x: Tensor) -> Tensor:
    """Log f_en_y minus the highest other, `(B,)`: below zero where the searched model is wrong."""
    return -wrong_margin(task.model(x), task.labels)


def _side(query: int, shape: torch.Size, smallest: int) -> int:
    """Side of the squares at a query, pixels; odd in L2."""
    share = FIRST_SHARE / 2 ** sum(query > limit for limit in HALVINGS)
    side = max(round(math.sqrt(share * shape[2] * shape[3])), smallest)
    if smallest > 1:
        side += 1 - side % 2
    return min(side, shape[2], shape[3])


def _stripes(task: Task) -> Tensor:
    """The L-infinity start: vertical stripes of one pixel, plus or minus epsilon."""
    _, channels, _, width = task.x.shape
    return (task.x + task.config.epsilon * task.draw("signs", channels, 1, width)).clamp(0, 1)


def _corner(uniform: Tensor, size: int, side: int) -> Tensor:
    """First row or column of squares, from numbers in [0, 1)."""
    return (uniform * (size - side + 1)).long().clamp(max=size - side)


def _linf_candidate(task: Task, x: Tensor, side: int, drawn: Tensor) -> Tensor:
    """One square of each image moved by 2 epsilon in each channel, up or down."""
    epsilon, (height, width) = task.config.epsilon, x.shape[2:]
    top, left = _corner(drawn[:, 0], height, side), _corner(drawn[:, 1], width, side)
    row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    in_rows = (row >= top[:, None]) & (row < top[:, None] + side)
    in_columns = (column >= left[:, None]) & (column < left[:, None] + side)
    inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    signs = torch.where(drawn[:, 6:] < 0.5, -1.0, 1.0)[:, :, None, None]
    return task.project()(x + 2 * epsilon * signs * inside)


def _bump(side: int, like: Tensor) -> Tensor:
    """The paper's window of L2 norm one: a peak in one half, a trough in the other, `(side, side)`."""
    window = like.new_zeros((side, side))
    half = side // 2
    window[:half] = _peak(half, side, like)
    window[half:] = -_peak(side - half, side, like)
    return window / window.norm().clamp_min(1e-12)


def _peak(height: int, width: int, like: Tensor) -> Tensor:
    """Sums of centred rectangles, the larger the lighter: 1 / k^2."""
    peak = like.new_zeros((height, width))
    top, left = height // 2, width // 2
    for k in range(max(height // 2 + 1, width // 2 + 1)):
        rows = slice(max(top - k, 0), min(top + k + 1, height))
        columns = slice(max(left - k, 0), min(left + k + 1, width))
        peak[rows, columns] += 1 / (k + 1) ** 2
    return peak / peak.norm().clamp_min(1e-12)


def _tiles(task: Task) -> Tensor:
    """The L2 start: the picture tiled with windows of random sign, on epsilon's sphere."""
    count, channels, height, width = task.x.shape
    side = max(height // 5, 1)
    bump = _bump(side, task.x)
    down, across = height // side, width // side
    signs = task.draw("signs", channels, down, across)
    turned = task.draw("uniform", down, across)[:, None] < 0.5
    tiles = torch.where(turned[..., None, None], bump.T, bump) * signs[..., None, None]
    tiles = tiles.permute(0, 1, 2, 4, 3, 5).reshape(count, channels, down * side, across * side)
    delta = torch.zeros_like(task.x)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    delta[:, :, top : top + down * side, left : left + across * side] = tiles
    return _on_sphere(task, delta)


def _on_sphere(task: Task, delta: Tensor) -> Tensor:
    return (task.x + task.config.epsilon * delta / l2_norm(delta).clamp_min(1e-12)).clamp(0, 1)


def _l2_candidate(task: Task, x: Tensor, side: int, drawn: Tensor) -> Tensor:
    """The mass of one window moved into another, where a new bump joins what was there."""
    epsilon, (height, width) = task.config.epsilon, x.shape[2:]
    delta = x - task.x
    into = _window(drawn[:, 0], drawn[:, 1], side, height, width)
    out_of = _window(drawn[:, 2], drawn[:, 3], side, height, width)
    b = torch.arange(len(x), device=x.device)[:, None, None]
    touched = torch.zeros_like(x[:, :1], dtype=torch.bool)
    touched[b, 0, into[0], into[1]] = True
    touched[b, 0, out_of[0], out_of[1]] = True
    mass = (delta * touched).square().sum((2, 3), keepdim=True)  # (B, C, 1, 1)
    unused = (epsilon**2 - l2_norm(delta) ** 2).clamp_min(0) / x.shape[1]
    there = delta.permute(0, 2, 3, 1)[b, into[0], into[1]].permute(0, 3, 1, 2)  # (B, C, side, side)
    bump = _bump(side, x)
    bumps = torch.where((drawn[:, 4] < 0.5)[:, None, None], bump.T, bump)[:, None]
    signs = torch.where(drawn[:, 6:] < 0.5, -1.0, 1.0)[:, :, None, None]
    new = bumps * signs + there / there.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    new = new / new.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12) * (unused + mass).sqrt()
    moved = delta.permute(0, 2, 3, 1).contiguous()
    moved[b, out_of[0], out_of[1]] = 0
    moved[b, into[0], into[1]] = new.permute(0, 2, 3, 1)
    return _on_sphere(task, moved.permute(0, 3, 1, 2).contiguous())


def _window(down: Tensor, across: Tensor, side: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column indices `(B, side, 1)` and `(B, 1, side)` of a window of each image."""
    steps = torch.arange(side, device=down.device)
    rows = _corner(down, height, side)[:, None, None] + steps[:, None]
    columns = _corner(across, width, side)[:, None, None] + steps[None, :]
    return rows, columns
