"""Whether the native code computes what PyTorch computes, on noise: a compiler or processor may be at odds with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cce.kernels import residual_block, winograd
from cce.kernels.library import Functions
from cce.kernels.network import WIDTHS, Block, Network
from cce.kernels.seam import using

_IMAGES, _SIDE, _CLASSES = 5, 20, 10


def agrees(functions: Functions) -> bool:
    """Whether outputs and gradients of every function are PyTorch's, within rounding."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        torch.manual_seed(0)
        with using(functions):
            pairs = [*_convolution_results(), *_block_results(), *_network_results()]
    # An activation that is all but zero may be kept by one and clipped by the other.
    return all((one - two).norm() <= 0.01 * two.norm() + 1e-6 for one, two in pairs)


def _convolution_results() -> list[tuple[Tensor, Tensor]]:
    """A convolution with a sum and a ReLU: native and PyTorch's outputs and gradients."""
    conv = nn.Conv2d(16, 32, 3, padding=1)
    x, add = torch.rand(_IMAGES, 16, _SIDE, _SIDE), torch.rand(_IMAGES, 32, _SIDE, _SIDE)
    leaves = (x.requires_grad_(), add.requires_grad_(), *conv.parameters())
    native = winograd.convolve(x, conv.weight, conv.bias, add, True)
    return _compared(native, F.relu(conv(x) + add), leaves)


def _block_results() -> list[tuple[Tensor, Tensor]]:
    """A residual block in training."""
    convs = [nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(2)]
    norms = [nn.BatchNorm2d(16) for _ in range(2)]
    x = torch.rand(_IMAGES, 16, _SIDE, _SIDE, requires_grad=True)
    leaves = (x, *(c.weight for c in convs), *(p for n in norms for p in n.parameters()))
    native = residual_block.forward(x, (convs[0], norms[0]), (convs[1], norms[1]))
    plain = F.relu(norms[1](convs[1](F.relu(norms[0](convs[0](x))))) + x)
    return _compared(native, plain, leaves)


def _network_results() -> list[tuple[Tensor, Tensor]]:
    """A residual network of a block a stage, with respect to its pixels."""
    stem, head = nn.Conv2d(3, WIDTHS[0], 3, padding=1), nn.Linear(WIDTHS[-1], _CLASSES)
    blocks, width = [], WIDTHS[0]
    for outputs in WIDTHS:
        stride = 1 if outputs == width else 2
        shortcut = None if stride == 1 else nn.Conv2d(width, outputs, 1, stride)
        first, second = nn.Conv2d(width, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, padding=1)
        blocks.append(Block(first, second, shortcut))
        width = outputs
    x = torch.rand(_IMAGES, 3, _SIDE, _SIDE, requires_grad=True)
    y = F.relu(stem((x - 0.5) / 0.25))
    for block in blocks:
        y = F.relu(block.second(F.relu(block.first(y))) + (block.shortcut(y) if block.shortcut else y))
    return _compared(Network(stem, blocks, head)(x), head(y.mean((2, 3))), (x,))


def _compared(native: Tensor, plain: Tensor, leaves: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """Outputs, and the gradients of the leaves from one random gradient of the outputs."""
    g = torch.randn_like(plain)
    gradients = (torch.autograd.grad(y, leaves, g) for y in (native, plain))
    return [(native, plain), *zip(*gradients, strict=True)]
