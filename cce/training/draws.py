"""Draws: a training step's uniform numbers, all from the step's one generator, made where they are used."""

from __future__ import annotations

import torch
from torch import Tensor

_SEEDS = 2**62


def uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Numbers in [0, 1), float32, of `shape` on `device`.

    For a CPU they are the generator's own. Elsewhere it gives a seed, and the device makes them: the step need
    not wait for their copy. Either way they depend on the generator's state alone.
    """
    if device.type == generator.device.type:
        return torch.rand(shape, generator=generator, device=device)
    seed = int(torch.randint(_SEEDS, (), generator=generator, device=generator.device))
    return torch.rand(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
