"""The 3x3 convolutions in training that Winograd does not suit: of pictures, and of stride 2; float32 on x86 CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cce.native import PANEL, address, check, loaded, takes
from cce.residual import halving, windows


def suits(conv: nn.Conv2d) -> bool:
    """Whether a convolution is of the kind: 3x3, padding 1, outputs by sixteens; stride 2, or a picture's channels."""
    shape = (conv.kernel_size, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    halves = conv.stride == (2, 2) and conv.in_channels % PANEL == 0
    return (
        shape == ((3, 3), (1, 1), (1, 1), 1, "zeros")
        and conv.out_channels % PANEL == 0
        and (halves or (conv.stride == (1, 1) and conv.in_channels <= 8))
    )


def fits(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether a convolution that `suits` can be computed here for this input; of a picture, no gradient is computed."""
    possible = not any(side % 2 for side in x.shape[2:]) if conv.stride == (2, 2) else not x.requires_grad
    return possible and takes(x, conv.weight)


def convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """`conv(x)` for what `suits` and `fits`: `(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`."""
    return _Direct.apply(x, conv.weight, conv.bias, conv.stride[0])


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        (count, inputs, height, width), outputs = x.shape, len(weight)
        y = torch.empty((count, outputs, height // stride, width // stride), memory_format=torch.channels_last)
        ctx.sizes = (count, height, width, inputs, outputs, stride, torch.get_num_threads())
        ready = windows(weight.detach())
        check(loaded().cce_direct_conv(*map(address, (x, ready, bias, y)), *ctx.sizes))
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        needs_x, _, needs_bias, _ = ctx.needs_input_grad
        back, gx = (halving(weight.detach(), None), torch.empty_like(x)) if needs_x else (None, None)
        gw = torch.empty(3, 3, x.shape[1], len(weight))
        check(loaded().cce_direct_gradients(*map(address, (x, g, back, gw, gx)), *ctx.sizes))
        return gx, gw.permute(3, 2, 0, 1), g.sum((0, 2, 3)) if needs_bias else None, None
