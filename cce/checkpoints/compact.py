"""Compact weights: an ensemble rounded so that its file takes half the bytes, or a quarter, and loads as it was.

What is rounded is the ensemble itself, before anything is measured on it: figures are of what is in the file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cce.config import ConfigError
from cce.models import Ensemble

SCALE = ".scale"
"""What follows a weight's name in the name of its rows' scales."""
_MOST = 127


@torch.no_grad()
def halve(model: Ensemble) -> None:
    """Round the weights to float16's, in place; they are still computed with in float32 or bfloat16.

    Raises:
        ConfigError: a weight beyond float16's range.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            rounded = tensor.half()
            if not rounded.isfinite().all():
                raise ConfigError(f"{name} holds values beyond float16's 65504; save in single precision")
            tensor.copy_(rounded)


@torch.no_grad()
def quarter(model: Ensemble) -> None:
    """Round the weights of convolutions and products to int8, each row with a scale, the rest to float16's, in place.

    A row, the weights of one output, becomes whole numbers times a 127th of its largest magnitude, about: an error of
    at most half a percent of the largest.

    Raises:
        ConfigError: a weight beyond float16's range.
    """
    halve(model)
    for tensor in model.state_dict().values():
        if _has_rows(tensor):
            # Eight bits of a scale: times 127 it is exact in float32, so that `_rows` finds it again.
            scale = (_largest(tensor) / _MOST).bfloat16().float()
            tensor.copy_(torch.round(tensor / scale.where(scale > 0, 1)) * scale)


def kept_as(model: Ensemble) -> str:
    """The type that holds the weights exactly in the fewest bytes: `int8`, `float16` or `float32`."""
    kinds = {t.dtype for t in pack(model.state_dict()).values()}
    return next(name for name in ("int8", "float16", "float32") if getattr(torch, name) in kinds)


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the fewest bytes that hold them exactly; `unpack` gives them back."""
    rest = {k: v for k, v in state.items() if v.is_floating_point()}
    rows = {k: _rows(v) for k, v in rest.items() if _has_rows(v)}
    packed = {k: v for k, v in state.items() if k not in rest}
    if rows and all(found is not None for found in rows.values()):
        for name, found in rows.items():
            packed[name], packed[name + SCALE] = found
        rest = {k: v for k, v in rest.items() if k not in rows}
    if all(torch.equal(v.half().to(v.dtype), v) for v in rest.values()):
        rest = {k: v.half() for k, v in rest.items()}
    return packed | rest


def unpack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file, int8 rows multiplied by their scales."""
    return {
        name: tensor.float() * _beside(tensor, tensors[name + SCALE]) if name + SCALE in tensors else tensor
        for name, tensor in tensors.items()
        if not name.endswith(SCALE)
    }


def _has_rows(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 1


def _largest(weight: Tensor) -> Tensor:
    """The largest magnitude of each row, shaped to be multiplied with it."""
    return _beside(weight, weight.flatten(1).abs().amax(1))


def _beside(weight: Tensor, values: Tensor) -> Tensor:
    """A value for each row, shaped to be multiplied with it."""
    return values.view(-1, *[1] * (weight.dim() - 1))


def _rows(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """The weight as int8 and its rows' scales, None where these do not give it exactly."""
    scale = _largest(weight) / _MOST
    whole = torch.round(weight / scale.where(scale > 0, 1))
    if not torch.equal(whole * scale, weight):
        return None
    return whole.to(torch.int8), scale.flatten()
