"""The state of a run as named tensors: weights, the optimizer's moments, and scalars that no logged line tells yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Scalars = dict[str, Tensor]
"""What a training step says of itself."""

AVERAGE = "average/"
"""Before the names of averaged weights."""


@dataclass(frozen=True)
class Start:
    """What a run starts from where its config has `init`: weights, as of `Ensemble.state_dict`, and whose they are.

    `record` has the `id` of the checkpoint, its `defense` and the `images_seen` in its training.
    """

    weights: dict[str, Tensor]
    record: dict[str, Any]


def pack(
    model: nn.Module, optimizer: torch.optim.Optimizer, pending: list[Scalars], average: nn.Module | None = None
) -> dict[str, Tensor]:
    """The state as tensors named `model/*`, `average/*`, `optimizer/INDEX/*` and `pending/*`.

    `pending` has a row a step; `average` is the model of averaged weights, where there is one.
    """
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"{AVERAGE}{k}": v for k, v in average.state_dict().items()} if average else {}
    for index, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            if value is not None:
                tensors[f"optimizer/{index}/{name}"] = torch.as_tensor(value)
    for name in pending[0] if pending else ():
        tensors[f"pending/{name}"] = torch.stack([scalars[name] for scalars in pending])
    return tensors


def unpack(
    tensors: dict[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None = None,
) -> list[Scalars]:
    """Put what `pack` made into a model, its optimizer and average; returns the pending scalars, on the model's device.

    Raises:
        RuntimeError, KeyError, ValueError: tensors of another model or optimizer.
    """
    model.load_state_dict(under("model/", tensors))
    if average:
        average.load_state_dict(under(AVERAGE, tensors))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in under("optimizer/", tensors).items():
        index, name = key.split("/")
        slots.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():  # a fused step pairs elements by their place in memory
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
    device = next(model.parameters()).device
    pending = {name: column.to(device).unbind() for name, column in under("pending/", tensors).items()}
    return [dict(zip(pending, row, strict=True)) for row in zip(*pending.values(), strict=True)]


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by what follows it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
