"""A residual block in training whole, in float32: what lies between its convolutions stays in the cache.

Layer by layer, batch norm reads and writes a batch's activations several times over; two cores wait for their memory
then. The block goes through memory with little more than its convolutions' outputs, about half as much.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cce.kernels import winograd
from cce.kernels.seam import call, channels_last

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


def fits(x: Tensor, first: Pair, second: Pair) -> bool:
    """Whether a block of two convolutions with batch norm, of one size, can be computed here.

    Both norms train, on this process's images alone.
    """
    return all(
        winograd.suits(conv) and winograd.fits(x, conv.weight) and type(norm) is nn.BatchNorm2d and norm.training
        for conv, norm in (first, second)
    )


def forward(x: Tensor, first: Pair, second: Pair) -> Tensor:
    """`relu(norm2(conv2(relu(norm1(conv1(x))))) + x)` for what `fits`; differentiable once.

    Moves the running statistics.

    Args:
        x: `(B, C, H, W)` float32.
        first: the first convolution, without a bias, and its batch norm.
        second: the second.

    Returns:
        `(B, C, H, W)`, channels last.
    """
    given = [t for conv, norm in (first, second) for t in (conv.weight, norm.weight, norm.bias)]
    near = [norm.running_mean for _, norm in (first, second)]
    out, statistics = _Block.apply(x, *given, near, (first[1].eps, second[1].eps))
    for (_, norm), (mean, variance) in zip((first, second), statistics.view(2, 2, -1), strict=True):
        _move_running(norm, mean, variance, x.numel() // x.shape[1])
    return out


@torch.no_grad()
def _move_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics towards a batch's mean and biased variance over `count` numbers."""
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / max(1, count - 1)), norm.momentum)


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
        x = channels_last(x)
        y1, y2, out = (torch.empty_like(x) for _ in range(3))
        signs, statistics = torch.empty(x.numel() // 8, dtype=torch.uint8), torch.empty(4, x.shape[1])
        packed = winograd.Packed(w1), winograd.Packed(w2)
        count, channels, height, width = x.shape
        ctx.sizes = (count, height, width, channels, *eps, torch.get_num_threads())
        weights = [packed[0].get(False), by1, plus1, near[0], packed[1].get(False), by2, plus2, near[1]]
        call("block_forward", x, weights, y1, y2, out, signs, statistics, *ctx.sizes)
        ctx.packed = packed
        ctx.save_for_backward(x, y1, y2, signs, statistics, by1, plus1, by2, plus2)
        ctx.mark_non_differentiable(statistics)
        return out, statistics

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, y1, y2, signs, statistics, by1, plus1, by2, plus2 = ctx.saved_tensors
        g, gx = channels_last(g), torch.empty_like(x)
        dw1, dw2 = torch.empty(2, x.shape[1], x.shape[1], 3, 3)
        norms = torch.empty(4, x.shape[1])
        weights = [ctx.packed[0].get(True), by1, plus1, ctx.packed[1].get(True), by2]
        call("block_backward", g, x, y1, y2, signs, statistics, weights, gx, dw1, dw2, norms, *ctx.sizes)
        return gx, dw1, norms[0], norms[1], dw2, norms[2], norms[3], None, None
