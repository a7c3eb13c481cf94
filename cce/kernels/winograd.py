"""Winograd: 3x3 convolutions in float32 with a quarter of the multiplications (arXiv 1509.09308).

One core of an EPYC (AVX2) takes 0.3 to 0.6 of oneDNN's time, for the gradient of the weights as well; a rounding error
is some 1e-5 of the largest output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cce.kernels.seam import PANEL, POINTS, call, channels_last, takes
from cce.machine.shared_cache import SharedCache


def suits(conv: nn.Conv2d) -> bool:
    """Whether a convolution is of the kind that is computed here: 3x3, stride 1, padding 1, channels by sixteens."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    wanted = ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
    return shape == wanted and conv.in_channels % PANEL == 0 and conv.out_channels % PANEL == 0


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution that `suits` can be computed here for this input."""
    return min(x.shape[2:]) >= 4 and takes(x, weight)


class Packed:
    """A weight `(outputs, inputs, 3, 3)` transformed, for the convolution and for the gradient of its input.

    Threads may share it: each direction is transformed once, under a lock.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach().contiguous()
        self._ready: SharedCache[Tensor] = SharedCache()

    def get(self, flipped: bool) -> Tensor:
        """The transformed weight; `flipped` takes a gradient of the outputs to one of the inputs."""
        return self._ready.get(flipped, lambda: self._transform(flipped))

    def _transform(self, flipped: bool) -> Tensor:
        outputs, inputs = self._weight.shape[:2]
        ready = torch.empty(POINTS * inputs * outputs)
        call("winograd_weights", self._weight, ready, inputs, outputs, int(flipped))
        return ready


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    add: Tensor | None = None,
    relu: bool = False,
    packed: Packed | None = None,
) -> Tensor:
    """`conv2d(x, weight, bias, padding=1) + add`, and ReLU of it, for what `suits` and `fits`; differentiable once.

    Args:
        x: `(B, inputs, H, W)` float32.
        weight: `(outputs, inputs, 3, 3)`.
        bias: `(outputs,)`.
        add: `(B, outputs, H, W)`.
        relu: whether to clip at zero.
        packed: the same weight transformed, where many calls share it.

    Returns:
        `(B, outputs, H, W)`, channels last.
    """
    return _Convolution.apply(x, weight, bias, add, relu, packed or Packed(weight))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None, relu: bool, packed: Packed
    ) -> Tensor:
        x = channels_last(x)
        y = _run(x, packed.get(False), weight.shape[0], bias, add, relu)
        ctx.packed, ctx.inputs = packed, weight.shape[1]
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, y if relu else None)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        g = channels_last(g)
        if y is not None:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        gx = gw = gb = None
        if ctx.needs_input_grad[1]:
            gx, gw = _gradients(x, g, ctx.packed.get(True) if ctx.needs_input_grad[0] else None)
        elif ctx.needs_input_grad[0]:
            gx = _run(g, ctx.packed.get(True), ctx.inputs)
        if ctx.needs_input_grad[2]:
            gb = g.sum((0, 2, 3))
        return gx, gw, gb, g if ctx.needs_input_grad[3] else None, None, None


def _run(
    x: Tensor, ready: Tensor, outputs: int, bias: Tensor | None = None, add: Tensor | None = None, relu: bool = False
) -> Tensor:
    count, inputs, height, width = x.shape
    y = torch.empty((count, outputs, height, width), memory_format=torch.channels_last)
    add = None if add is None else channels_last(add)
    sizes = (count, height, width, inputs, outputs, int(relu), torch.get_num_threads())
    call("winograd_conv", x, ready, bias, add, y, *sizes)
    return y


def _gradients(x: Tensor, g: Tensor, flipped: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Of the input, where the weight is given for that, and of the weight."""
    (count, inputs, height, width), outputs = x.shape, g.shape[1]
    gx, gw = None if flipped is None else torch.empty_like(x), torch.empty((outputs, inputs, 3, 3))
    sizes = (count, height, width, inputs, outputs, torch.get_num_threads())
    call("winograd_gradients", x, g, flipped, gw, gx, *sizes)
    return gx, gw
