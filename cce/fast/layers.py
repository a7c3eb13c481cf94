"""Layers of `cce.models` that compute in native code where it takes their input, and in PyTorch elsewhere.

A layer becomes a fast one by taking its class: weights, buffers, hooks and names stay, and so do copies and files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cce.kernels import residual_block, winograd
from cce.kernels.network import WIDTHS, Block, Network
from cce.machine.shared_cache import SharedCache
from cce.models import FoldedConv, ResidualBlock, ResNet


class FastConv2d(nn.Conv2d):
    """A convolution that trains in native code. In evaluation mode, where verdicts are given, it is PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        if self.training and winograd.suits(self) and winograd.fits(x, self.weight):
            return winograd.convolve(x, self.weight, self.bias)
        return super().forward(x)


class FastResidualBlock(ResidualBlock):
    """A residual block that trains in one call of native code where nothing changes size."""

    def forward(self, x: Tensor) -> Tensor:
        """As `ResidualBlock.forward`."""
        if self.training and isinstance(self.shortcut, nn.Identity):
            pairs = ((self.first.conv, self.first.norm), (self.second.conv, self.second.norm))
            if residual_block.fits(x, *pairs):
                return residual_block.forward(x, *pairs)
        return super().forward(x)


class FastFoldedConv(FoldedConv):
    """A folded convolution in native code, from weights transformed once."""

    def repack(self) -> None:
        """The weight has changed."""
        super().repack()
        self._transformed.clear()

    def forward(self, x: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """As `ConvNorm.forward`."""
        if not (winograd.suits(self) and winograd.fits(x, self.weight)):
            return super().forward(x, add, relu)
        packed = self._transformed.get("weight", lambda: winograd.Packed(self.weight))
        return winograd.convolve(x, self.weight, self.bias, add, relu or self.clips, packed)

    def prepare(self) -> None:
        """What the class needs beside a `FoldedConv`'s own."""
        self._transformed: SharedCache[winograd.Packed] = SharedCache()


class FastResNet(ResNet):
    """A folded ResNet computed whole by `network` where that takes the input and is the faster way.

    Looks without a gradient are faster in bfloat16 than in the network's float32.
    """

    network: Network

    def forward(self, x: Tensor) -> Tensor:
        """As `ResNet.forward`."""
        exact = self.head.weight.dtype == torch.float32
        if (exact or x.requires_grad) and self.network.fits(x):
            return self.network(x)
        return super().forward(x)


_FAST: dict[type[nn.Module], Any] = {
    nn.Conv2d: FastConv2d,
    ResidualBlock: FastResidualBlock,
    FoldedConv: FastFoldedConv,
}


def use_kernels(model: nn.Module) -> None:
    """Make the layers of a model fast ones, in place; those that are so already stay."""
    for layer in model.modules():
        if fast := _FAST.get(type(layer)):
            layer.__class__ = fast
            if fast is FastFoldedConv:
                layer.prepare()


def is_whole(member: nn.Module) -> bool:
    """Whether a member can be computed by a `Network`: a ResNet of its widths."""
    return isinstance(member, ResNet) and member.stages == WIDTHS


def network_of(member: ResNet) -> Network:
    """The `Network` of a folded ResNet."""
    blocks = [
        Block(b.first, b.second, None if isinstance(b.shortcut, nn.Identity) else b.shortcut) for b in member.blocks
    ]
    return Network(member.stem, blocks, member.head)


def compute_whole(member: ResNet, network: Network) -> None:
    """Let `network` compute a folded ResNet."""
    member.__class__, member.network = FastResNet, network
