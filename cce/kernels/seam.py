"""The seam between PyTorch and the native code: the only place where the address of a tensor is taken.

**The rule of ownership.** C++ gets an address only inside `call`, and only of a tensor that `call` holds until the C++
has returned. Callers pass tensors, never addresses; they keep no address and get none back. So no tensor can be freed
while native code reads or writes it, whatever other threads do to the caches it came from.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from cce.kernels.library import Functions, available, library

PANEL, POINTS = 16, 36
"""Channels that are computed together, and products that make a tile: as in common.h."""

_this_thread = threading.local()

Argument = Tensor | Sequence[Tensor | None] | int | float | None


def call(function: str, *arguments: Argument) -> int:
    """Call a native function and hold every tensor until it has returned.

    Args:
        function: its name without `cce_`.
        arguments: tensors (dense, on the CPU), sequences of tensors, for `const float* const*`, None for a null
            pointer, and numbers.

    Returns:
        What the function returned.

    Raises:
        MemoryError: it could not get the memory that it needs.
        ValueError: a tensor that is not dense or not on the CPU.
    """
    native = _functions()
    values = [_value(argument) for argument in arguments]  # `arguments` holds the tensors until this function returns
    result = getattr(native.library, f"cce_{function}")(*values)
    if function in native.fallible and result:
        raise MemoryError("not enough memory for a convolution; try fewer images at a time")
    return result or 0


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether native code computes this layer for this input: float32 on this CPU, at least one image."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and len(x) > 0
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and (getattr(_this_thread, "functions", None) or available())
    )


@contextmanager
def using(functions: Functions) -> Iterator[None]:
    """This thread uses these functions, whatever `library()` is: to check a library before it is used."""
    _this_thread.functions = functions
    try:
        yield
    finally:
        del _this_thread.functions


def channels_last(x: Tensor) -> Tensor:
    """`x` `(B, C, H, W)` as the native code reads it."""
    return x.contiguous(memory_format=torch.channels_last)


def _functions() -> Functions:
    found = getattr(_this_thread, "functions", None) or library()
    if found is None:
        raise RuntimeError("there is no native code here; ask `takes` before `call`")
    return found


def _value(argument: Argument) -> object:
    """What ctypes takes for an argument."""
    if argument is None or isinstance(argument, int | float):
        return argument
    if isinstance(argument, Tensor):
        return _address(argument)
    return (ctypes.c_void_p * len(argument))(*(None if t is None else _address(t) for t in argument))


def _address(tensor: Tensor) -> int:
    dense = tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
    if not dense or tensor.device.type != "cpu":
        raise ValueError(f"native code takes dense tensors on the CPU, not {tuple(tensor.shape)} on {tensor.device}")
    return tensor.data_ptr()
