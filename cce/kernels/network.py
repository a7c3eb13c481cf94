"""A residual network whole, in float32: one call for its logits, one for the gradient of its pixels.

A few images at a time pass all layers while they are in the cache, where layer by layer everything a batch has computed
goes out to memory and comes back. The weights are fixed, batch norm is folded into them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cce.kernels.seam import PANEL, call, channels_last, takes
from cce.kernels.winograd import Packed
from cce.machine.shared_cache import SharedCache

WIDTHS = (16, 32, 64)
"""Channels of the three stages: the only widths that this code computes."""
_MOST = 24  # images together, where the weights of the last stage are fetched less often


@dataclass(frozen=True)
class Block:
    """Two 3x3 convolutions and the shortcut's 1x1 one, None where the shortcut is the identity."""

    first: nn.Conv2d
    second: nn.Conv2d
    shortcut: nn.Conv2d | None


class Network:
    """A residual network of `WIDTHS`, called in the place of its modules; it shares their weights.

    `repack` says that the weights have changed. Threads may share it.
    """

    def __init__(self, stem: nn.Conv2d, blocks: Sequence[Block], head: nn.Linear) -> None:
        self._stem, self._blocks, self._head = stem, blocks, head
        self._ready: SharedCache[list[Tensor | None]] = SharedCache()

    def fits(self, x: Tensor) -> bool:
        """Whether logits of `x` `(B, C, H, W)` can be computed here: sides multiples of 4, at most 8 channels."""
        return x.shape[1] <= 8 and not any(side % 4 for side in x.shape[2:]) and takes(x, self._head.weight)

    def repack(self) -> None:
        """The weights have changed."""
        self._ready.clear()

    def __call__(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)` of `x` `(B, C, H, W)` in [0, 1], for what `fits`; differentiable once, in `x`."""
        return _Residual.apply(x, self)

    def weights(self, back: bool) -> list[Tensor | None]:
        """Every weight and bias in the order and layouts of residual.cpp, for the logits or for the gradient."""
        return self._ready.get(back, lambda: self._pack(back))

    @torch.no_grad()
    def _pack(self, back: bool) -> list[Tensor | None]:
        stem = self._stem
        found = [_narrow(stem.weight) if back else windows(stem.weight), stem.bias]
        for block in self._blocks:
            first, second, shortcut = block.first, block.second, block.shortcut
            if shortcut is None:
                found.append(Packed(first.weight).get(back))
            else:
                found.append(halving(first.weight, shortcut.weight) if back else windows(first.weight))
            found += [first.bias, Packed(second.weight).get(back), second.bias]
            found += [None, None] if shortcut is None else [windows(shortcut.weight), shortcut.bias]
        found += [self._head.weight, self._head.bias]
        return [None if part is None else part.detach().contiguous() for part in found]

    def sizes(self, shape: torch.Size) -> tuple[int, ...]:
        """What the functions ask about images of this shape: the last two are images at a time and threads."""
        threads = torch.get_num_threads()
        groups = threads * math.ceil(shape[0] / threads / _MOST)
        group = math.ceil(shape[0] / groups)
        return (*shape, self._head.out_features, len(self._blocks) // 3, group, threads)

    def signs(self, shape: torch.Size) -> Tensor:
        """Room for the signs of all activations, a bit each."""
        count, _, height, width = shape
        return torch.empty(count * call("residual_marks", height, width, len(self._blocks) // 3), dtype=torch.uint8)


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, network: Network) -> Tensor:
        x = channels_last(x)
        sizes = network.sizes(x.shape)
        logits = torch.empty(len(x), network._head.out_features)
        signs = network.signs(x.shape) if ctx.needs_input_grad[0] else None
        call("residual_logits", x, network.weights(False), logits, signs, *sizes)
        ctx.network, ctx.shape, ctx.sizes = network, x.shape, sizes
        ctx.save_for_backward(signs)
        return logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (signs,) = ctx.saved_tensors
        gx = torch.empty(ctx.shape, memory_format=torch.channels_last)
        call("residual_gradient", g.contiguous(), ctx.network.weights(True), gx, signs, *ctx.sizes)
        return gx, None


def panels(w: Tensor) -> Tensor:
    """Weights `(depth, outputs)` as `[panel][depth][PANEL]`, flat."""
    return w.reshape(len(w), -1, PANEL).transpose(0, 1).flatten()


def windows(w: Tensor) -> Tensor:
    """Weights of a convolution `(outputs, inputs, side, side)`, in the order of a window of channels-last pixels."""
    return panels(w.permute(2, 3, 1, 0).flatten(0, 2))


def _narrow(w: Tensor) -> Tensor:
    """Weights for the gradient of the stem's input: windows flipped, the image's channels padded to one vector."""
    w = w.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
    return nn.functional.pad(w, (0, call("residual_lanes") - w.shape[1]))


def halving(w: Tensor, shortcut: Tensor) -> Tensor:
    """Weights for the gradient of a halving block's input: `w` `(outputs, inputs, 3, 3)`, the shortcut's 1x1.

    A pixel in an even row is under the window's middle row alone, one in an odd row under the last of the window above
    and the first of the one below; columns alike.
    """
    under = ((1,), (2, 0))
    parts = []
    for rows in under:
        for columns in under:
            runs = [w[:, :, i, j] for i in rows for j in columns]
            if rows == columns == (1,):
                runs.append(shortcut[:, :, 0, 0])
            parts.append(panels(torch.cat(runs)))
    return torch.cat(parts)
