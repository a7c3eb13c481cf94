"""Batch norm in training with the sum and the ReLU that follow it, in float32 on x86 CPUs, in half the passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cce.native import PANEL, address, check, loaded, takes


def fits(y: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether `normalize` can be computed here: in training, of this process's images alone, channels by sixteens."""
    alone = type(norm) is nn.BatchNorm2d
    return alone and norm.training and y.shape[1] % PANEL == 0 and y.numel() > y.shape[1] and takes(y, norm.weight)


def normalize(y: Tensor, norm: nn.BatchNorm2d, add: Tensor | None = None, relu: bool = False) -> Tensor:
    """`norm(y) + add`, and ReLU of it, for what `fits`; moves the running statistics; differentiable once.

    Args:
        y: `(B, C, H, W)` float32.
        norm: in training.
        add: of the same shape.
        relu: whether to clip at zero.

    Returns:
        `(B, C, H, W)`, channels last.
    """
    out, mean, variance = _Norm.apply(y, norm.weight, norm.bias, add, relu, norm.eps)
    move_running(norm, mean, variance, y.numel() // y.shape[1])
    return out


@torch.no_grad()
def move_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics towards a batch's mean and biased variance over `count` numbers."""
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / max(1, count - 1)), norm.momentum)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None, relu: bool, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = y.contiguous(memory_format=torch.channels_last)
        if add is not None:
            add = add.contiguous(memory_format=torch.channels_last)
        out, (mean, variance) = torch.empty_like(y), torch.empty(2, y.shape[1])
        marks = torch.empty(y.numel() // 8, dtype=torch.uint8) if relu else None
        ctx.sizes = (y.numel() // y.shape[1], y.shape[1], eps)
        given = (y, add, weight, bias, out, marks, mean, variance)
        check(loaded().cce_norm_forward(*map(address, given), *ctx.sizes, torch.get_num_threads()))
        ctx.save_for_backward(y, marks, weight, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        y, marks, weight, mean, variance = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        apart = ctx.needs_input_grad[3] and marks is not None
        gy, g_add = torch.empty_like(y), torch.empty_like(y) if apart else None
        gw, gb = torch.empty(2, y.shape[1])
        given = (g, y, marks, weight, mean, variance, g_add, gy, gw, gb)
        check(loaded().cce_norm_backward(*map(address, given), *ctx.sizes, torch.get_num_threads()))
        ga = (g_add if apart else g) if ctx.needs_input_grad[3] else None
        return gy, gw, gb, ga, None, None
