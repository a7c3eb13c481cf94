"""A residual network whole, in float32 on x86 CPUs: one call for its logits, one for the gradient of its pixels.

A few images at a time pass all layers while they are in the cache, where layer by layer everything a batch has computed
goes out to memory and comes back. For `SearchCopy`: the weights are fixed, batch norm is folded in.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from cce import winograd
from cce.native import PANEL, address, addresses, check, loaded, takes

_MOST = 24  # images together, where the weights of the last stage are fetched less often


class Program:
    """A folded `ResNet` of `cce.models` made ready; call it in the place of the network.

    It shares the network's weights. `repack` says that they have changed.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._ready: dict[bool, _Parts] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For copies: addresses are this one's own."""
        return vars(self) | {"_ready": {}}

    def fits(self, x: Tensor) -> bool:
        """Whether logits of `x` `(B, C, H, W)` can be computed here: sides multiples of 4, at most 8 channels."""
        return x.shape[1] <= 8 and not any(side % 4 for side in x.shape[2:]) and takes(x, self._network.head.weight)

    def repack(self) -> None:
        """The weights have changed."""
        self._ready.clear()

    def __call__(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)` of `x` `(B, C, H, W)` in [0, 1], for what `fits`; differentiable once, in `x`."""
        return _Residual.apply(x, self)

    def parts(self, back: bool) -> _Parts:
        """The weights as the functions take them, for the logits or for the gradient."""
        if back not in self._ready:
            self._ready[back] = _Parts(self._network, back)
        return self._ready[back]

    def run(self, back: bool, given: Tensor, result: Tensor, marks: Tensor | None, sizes: tuple[int, ...]) -> None:
        """The logits, or the gradient."""
        function = loaded().cce_residual_gradient if back else loaded().cce_residual_logits
        check(function(address(given), self.parts(back).addresses, address(result), address(marks), *sizes))

    def sizes(self, shape: torch.Size) -> tuple[int, ...]:
        """What the functions ask about images of this shape: the last two are images at a time and threads."""
        network, threads = self._network, torch.get_num_threads()
        groups = threads * math.ceil(shape[0] / threads / _MOST)
        group = math.ceil(shape[0] / groups)
        return (*shape, network.head.out_features, len(network.blocks) // 3, group, threads)

    def marks(self, shape: torch.Size) -> Tensor:
        """Room for the signs of all activations, a bit each."""
        count, _, height, width = shape
        size = loaded().cce_residual_marks(height, width, len(self._network.blocks) // 3)
        return torch.empty(count * size, dtype=torch.uint8)


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, program: Program) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        logits = torch.empty(len(x), program._network.head.out_features)
        marks = program.marks(x.shape) if ctx.needs_input_grad[0] else None
        ctx.program, ctx.shape, ctx.sizes = program, x.shape, program.sizes(x.shape)
        program.run(False, x, logits, marks, ctx.sizes)
        ctx.save_for_backward(marks)
        return logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (marks,) = ctx.saved_tensors
        gx = torch.empty(ctx.shape, memory_format=torch.channels_last)
        ctx.program.run(True, g.contiguous(), gx, marks, ctx.sizes)
        return gx, None


class _Parts:
    """Every weight and bias of a network, in the order and layouts of residual.cpp, and their addresses."""

    def __init__(self, network: Any, back: bool) -> None:
        with torch.no_grad():
            stem = network.stem
            own = [_narrow(stem.weight) if back else windows(stem.weight), stem.bias]
            for block in network.blocks:
                first, second, shortcut = block.first, block.second, block.shortcut
                straight = isinstance(shortcut, nn.Identity)
                if straight:
                    own.append(winograd.Packed(first.weight).get(back))
                else:
                    own.append(halving(first.weight, shortcut.weight) if back else windows(first.weight))
                own += [first.bias, winograd.Packed(second.weight).get(back), second.bias]
                own += [None, None] if straight else [windows(shortcut.weight), shortcut.bias]
            own += [network.head.weight, network.head.bias]
            self._own = [None if part is None else part.detach().contiguous() for part in own]
        self.addresses = addresses(*self._own)


def panels(w: Tensor) -> Tensor:
    """Weights `(depth, outputs)` as `[panel][depth][PANEL]`, flat."""
    return w.reshape(len(w), -1, PANEL).transpose(0, 1).flatten()


def windows(w: Tensor) -> Tensor:
    """Of a convolution `(outputs, inputs, side, side)`, in the order in which a window of channels-last pixels lies."""
    return panels(w.permute(2, 3, 1, 0).flatten(0, 2))


def _narrow(w: Tensor) -> Tensor:
    """Of the gradient of the stem's input: windows flipped, the image's channels filled up to one vector."""
    w = w.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
    return nn.functional.pad(w, (0, loaded().cce_residual_lanes() - w.shape[1]))


def halving(w: Tensor, shortcut: Tensor | None) -> Tensor:
    """Of the gradient of a halving block's input, from `w` `(outputs, inputs, 3, 3)` and its shortcut's, if any.

    A pixel in an even row is under the window's middle row alone, one in an odd row under the last of the window above
    and the first of the one below; columns alike.
    """
    under = ((1,), (2, 0))
    made = []
    for rows in under:
        for columns in under:
            runs = [w[:, :, i, j] for i in rows for j in columns]
            if shortcut is not None and rows == columns == (1,):
                runs.append(shortcut[:, :, 0, 0])
            made.append(panels(torch.cat(runs)))
    return torch.cat(made)
