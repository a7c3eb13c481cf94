"""The state of a run as named tensors: weights, the optimizer's moments, and scalars that no logged line tells yet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Scalars = dict[str, Tensor]
"""What a training step says of itself."""


def pack(model: nn.Module, optimizer: torch.optim.Optimizer, pending: list[Scalars]) -> dict[str, Tensor]:
    """The state as tensors named `model/*`, `optimizer/INDEX/*` and `pending/*`; `pending` has a row a step."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            if value is not None:
                tensors[f"optimizer/{index}/{name}"] = torch.as_tensor(value)
    for name in pending[0] if pending else ():
        tensors[f"pending/{name}"] = torch.stack([scalars[name] for scalars in pending])
    return tensors


def unpack(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Scalars]:
    """Put what `pack` made into a model and its optimizer; returns the pending scalars, on the model's device.

    Raises:
        RuntimeError, KeyError, ValueError: tensors of another model or optimizer.
    """
    model.load_state_dict(_under("model/", tensors))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer/", tensors).items():
        index, name = key.split("/")
        slots.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():  # a fused step pairs elements by their place in memory
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
    device = next(model.parameters()).device
    pending = {name: column.to(device).unbind() for name, column in _under("pending/", tensors).items()}
    return [dict(zip(pending, row, strict=True)) for row in zip(*pending.values(), strict=True)]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by what follows it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
