"""Adversarial weight perturbation (AWP): the gradient is taken where the weights are worst nearby.

Wu et al. 2020 (arXiv 2004.05884): w <- w - rate * gradient of L at (w + v), where v raises the loss of the batch's own
examples and is, layer by layer, of length gamma ||w||.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_TINY = 1e-20
"""Added to a gradient's norm: a layer without a gradient is left alone."""


@contextmanager
def perturbed(model: nn.Module, gamma: float) -> Iterator[None]:
    """The model at w + v, v = gamma ||w|| g / ||g|| of each layer, g its weight's present gradient (Eqs. 8-10).

    Convolution and linear weights are perturbed; biases and batch norm's scales are not, as in the authors' code. At
    the end weights and buffers are bit for bit what they were: batch norm's running statistics stay those of w.
    Nothing here waits for the device, so that it can be recorded as part of a CUDA graph.

    Args:
        model: with gradients.
        gamma: length of the perturbation, as a fraction of each layer's norm.
    """
    layers = [p for p in model.parameters() if p.dim() > 1 and p.grad is not None]
    held = [(t, t.detach().clone()) for t in (*layers, *model.buffers())]
    with torch.no_grad():
        for weight in layers:
            length = gamma * weight.norm() / (weight.grad.norm() + _TINY)
            weight.add_(weight.grad * length)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in held:
                tensor.copy_(value)
