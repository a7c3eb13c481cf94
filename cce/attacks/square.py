"""Square (Andriushchenko et al. 2020, arXiv 1912.00049): random search by squares, from outputs alone.

Sizes and their schedule are the paper's. Each image draws its own squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cce.attacks.ascent import l2_norm, wrong_margin
from cce.attacks.task import Task

FIRST_SHARE = 0.8  # of the pixels that the first squares cover
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries, as published
AHEAD = 100  # queries whose random numbers are drawn at once
ROWS = 32
"""Most candidates looked at together, where there are fewer images."""


def square(task: Task) -> Tensor:
    """Square attack with `config.steps` queries after the first.

    Most candidates are turned down, and those after such a one are the same whether it was looked at before
    them or with them. So where few images stand, each looks at several of its next queries in one batch, takes
    the first that helps, and goes on from the query after it: the search is query for query the same as one at
    a time.

    Returns:
        `(B, C, H, W)`: the iterate that fooled the judge, else the last one kept.
    """
    l2, steps = task.config.norm == "l2", task.config.steps
    result, rows = task.x.clone(), torch.arange(len(task.x), device=task.x.device)
    start = _tiles(task) if l2 else _stripes(task)
    walk = _Walk(task, start, _margin(task, start))
    walk.rest(torch.ones_like(rows, dtype=torch.bool))
    for begin in range(0, steps, AHEAD):
        result[rows] = walk.x
        rows = rows[walk.standing]
        if not len(rows):
            return result
        walk = walk.only_standing()
        drawn = walk.task.draw("uniform", AHEAD, 6 + start.shape[1])
        for end, side in _runs(begin, min(begin + AHEAD, steps), start.shape, smallest=3 if l2 else 1):
            while bool((left := walk.standing & (walk.query < end)).any()):
                walk.advance(left, end, _l2_candidate if l2 else _linf_candidate, side, drawn)
        task.tick(begin / steps)
    result[rows] = walk.x
    return result


class _Walk:
    """Images on their way, each at a query of its own.

    `x` and `margin` are what each has reached, `query` the next one of each, `standing` whom the judge does not
    call fooled; `taken` of `looked` candidates helped of late, which says how many are worth looking at together.
    """

    def __init__(self, task: Task, x: Tensor, margin: Tensor) -> None:
        self.task, self.x, self.margin = task, x, margin
        self.query = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.standing = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self.taken = self.looked = 1.0

    def only_standing(self) -> _Walk:
        """The walk of the images that stand."""
        if bool(self.standing.all()):
            return self
        walk = _Walk(self.task.only(self.standing), self.x[self.standing], self.margin[self.standing])
        walk.query, walk.taken, walk.looked = self.query[self.standing], self.taken, self.looked
        return walk

    def rest(self, changed: Tensor) -> None:
        """Let those of the `changed` images rest, `(B,)` bool, that the judge calls fooled."""
        said = torch.where((self.margin < 0) & changed, -1, self.task.labels)
        self.standing = self.standing & ~self.task.confirmed(self.x, said)

    def advance(self, left: Tensor, end: int, candidate: Callable[..., Tensor], side: int, drawn: Tensor) -> None:
        """Look at the next queries before `end` of the images `left`, `(B,)` bool, as far as they need no other."""
        count = int(left.sum())
        width = max(1, min(ROWS // count, AHEAD, round(self.looked / max(self.taken, 1e-3))))
        queries = self.query[left][:, None] + torch.arange(width, device=left.device)
        there = queries < end
        image = left.nonzero().expand(-1, width)[there]
        tried = self.task.only(image)
        points = candidate(tried, self.x[image], side, drawn[image, queries[there] % AHEAD])
        margins = _margin(tried, points)
        better = torch.zeros_like(there).masked_scatter(there, margins < self.margin[image])
        helped, first = better.any(1), better.int().argmax(1)
        seen = torch.where(helped, first + 1, there.sum(1))
        row = (there.sum(1).cumsum(0) - there.sum(1) + first)[helped]  # of `points`
        self.query[left] += seen
        changed = torch.zeros_like(left)
        changed[image[row]] = True
        self.x[image[row]], self.margin[image[row]] = points[row], margins[row]
        self.looked = 0.9 * self.looked + int(seen.sum())
        self.taken = 0.9 * self.taken + int(helped.sum())
        if bool((self.margin[changed] < 0).any()):
            self.rest(changed)


def _runs(begin: int, end: int, shape: torch.Size, smallest: int) -> Iterator[tuple[int, int]]:
    """The queries from `begin` to `end` in runs of one side: the end of each run, and its side in pixels."""
    sides = [_side(i, shape, smallest) for i in range(begin, end)]
    for i in range(begin, end):
        if i + 1 == end or sides[i + 1 - begin] != sides[i - begin]:
            yield i + 1, sides[i - begin]


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
