"""A residual block in training whole, in float32 on x86 CPUs: what lies between its convolutions stays in the cache.

Layer by layer, batch norm reads and writes a batch's activations several times over; two cores wait for their memory
then. The block goes through memory with little more than its convolutions' outputs, about half as much.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cce import batch_norm, winograd
from cce.native import address, addresses, check, loaded


def fits(x: Tensor, block: Any) -> bool:
    """Whether a block of `cce.models` can be computed here for this input: nothing changes size, both norms train."""
    same = block.training and isinstance(block.shortcut, nn.Identity)  # a folded block is in evaluation mode
    return same and all(
        winograd.suits(pair.conv) and winograd.fits(x, pair.conv.weight) and batch_norm.fits(x, pair.norm)
        for pair in (block.first, block.second)
    )


def forward(x: Tensor, block: Any) -> Tensor:
    """The block's output for what `fits`, `(B, C, H, W)` channels last; differentiable once.

    Moves the running statistics.
    """
    first, second = block.first, block.second
    given = [t for pair in (first, second) for t in (pair.conv.weight, pair.norm.weight, pair.norm.bias)]
    near = [pair.norm.running_mean for pair in (first, second)]
    out, statistics = _Block.apply(x, *given, near, (first.norm.eps, second.norm.eps))
    for pair, (mean, variance) in zip((first, second), statistics.view(2, 2, -1), strict=True):
        batch_norm.move_running(pair.norm, mean, variance, x.numel() // x.shape[1])
    return out


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        by1: Tensor,
        plus1: Tensor,
        w2: Tensor,
        by2: Tensor,
        plus2: Tensor,
        near: list[Tensor],
        eps: tuple[float, float],
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        y1, y2, out = (torch.empty_like(x) for _ in range(3))
        marks, statistics = torch.empty(x.numel() // 8, dtype=torch.uint8), torch.empty(4, x.shape[1])
        packed = winograd.Packed(w1), winograd.Packed(w2)
        count, channels, height, width = x.shape
        ctx.sizes = (count, height, width, channels, *eps, torch.get_num_threads())
        parts = addresses(packed[0].get(False), by1, plus1, near[0], packed[1].get(False), by2, plus2, near[1])
        found = map(address, (y1, y2, out, marks, statistics))
        check(loaded().cce_block_forward(address(x), parts, *found, *ctx.sizes))
        ctx.packed = packed
        ctx.save_for_backward(x, y1, y2, marks, statistics, by1, plus1, by2, plus2)
        ctx.mark_non_differentiable(statistics)
        return out, statistics

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, y1, y2, marks, statistics, by1, plus1, by2, plus2 = ctx.saved_tensors
        g, gx = g.contiguous(memory_format=torch.channels_last), torch.empty_like(x)
        dw1, dw2 = torch.empty(2, x.shape[1], x.shape[1], 3, 3)
        norms = torch.empty(4, x.shape[1])
        parts = addresses(ctx.packed[0].get(True), by1, plus1, ctx.packed[1].get(True), by2)
        given, found = map(address, (g, x, y1, y2, marks, statistics)), map(address, (gx, dw1, dw2, norms))
        check(loaded().cce_block_backward(*given, parts, *found, *ctx.sizes))
        return gx, dw1, norms[0], norms[1], dw2, norms[2], norms[3], None, None
