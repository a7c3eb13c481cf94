"""Winograd: 3x3 convolutions in float32 on x86 CPUs, with a quarter of the multiplications (arXiv 1509.09308).

`winograd.cpp` beside this file is compiled once, in a second or two, and kept in `CCE_STUDIO_HOME/native` or
`~/.cache/cce-studio/native`. Where there is no C++ compiler, or its result differs from PyTorch's own, nothing here
`fits` and PyTorch convolves. One core of an EPYC (AVX2) takes 0.35 to 0.7 of oneDNN's time, and 0.3 to 0.6 for the
gradient of the weights; a rounding error is some 1e-5 of the largest output. `CCE_STUDIO_NATIVE=0` turns it off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SOURCE = Path(__file__).with_name("winograd.cpp")
_FLAGS = tuple("-O3 -march=native -fno-math-errno -ffp-contract=fast -std=gnu++17 -shared -fPIC -pthread".split())
_PANEL, _POINTS = 16, 36  # as in winograd.cpp
_lock = threading.Lock()
_here = threading.local()


@contextmanager
def turned_off() -> Iterator[None]:
    """PyTorch convolves, in this thread: for what this is compared with."""
    before = getattr(_here, "off", False)
    _here.off = True
    try:
        yield
    finally:
        _here.off = before


def suits(conv: nn.Conv2d) -> bool:
    """Whether a convolution is of the kind that is computed here: 3x3, stride 1, padding 1, channels by sixteens."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    wanted = ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
    return shape == wanted and conv.in_channels % _PANEL == 0 and conv.out_channels % _PANEL == 0


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution that `suits` can be computed here for this input."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and len(x) > 0
        and min(x.shape[2:]) >= 4
        and not torch.compiler.is_compiling()
        and not getattr(_here, "off", False)
        and not torch.is_autocast_enabled("cpu")
        and library() is not None
    )


class Packed:
    """A weight `(outputs, inputs, 3, 3)` made ready, for the convolution and for the gradient of its input."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach().contiguous()
        self._ready: dict[bool, Tensor] = {}

    def get(self, flipped: bool) -> Tensor:
        """The transformed weight; `flipped` takes a gradient of the outputs to one of the inputs."""
        if flipped not in self._ready:
            outputs, inputs = self._weight.shape[:2]
            ready = torch.empty(_POINTS * inputs * outputs)
            _library().cce_winograd_weights(_at(self._weight), _at(ready), inputs, outputs, int(flipped))
            self._ready[flipped] = ready
        return self._ready[flipped]


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    add: Tensor | None = None,
    relu: bool = False,
    packed: Packed | None = None,
) -> Tensor:
    """`conv2d(x, weight, bias, padding=1) + add`, and ReLU of it, for what `suits` and `fits`; differentiable once.

    Args:
        x: `(B, inputs, H, W)` float32.
        weight: `(outputs, inputs, 3, 3)`.
        bias: `(outputs,)`.
        add: `(B, outputs, H, W)`.
        relu: whether to clip at zero.
        packed: the same weight made ready, where many calls share it.

    Returns:
        `(B, outputs, H, W)`, channels last.
    """
    return _Convolution.apply(x, weight, bias, add, relu, packed or Packed(weight))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None, relu: bool, packed: Packed
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = _run(x, packed.get(False), weight.shape[0], bias, add, relu)
        ctx.packed, ctx.inputs = packed, weight.shape[1]
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, y if relu else None)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        if y is not None:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        gx = gw = gb = None
        if ctx.needs_input_grad[0]:
            gx = _run(g, ctx.packed.get(True), ctx.inputs)
        if ctx.needs_input_grad[1]:
            gw = _weight_gradient(x, g)
        if ctx.needs_input_grad[2]:
            gb = g.sum((0, 2, 3))
        return gx, gw, gb, g if ctx.needs_input_grad[3] else None, None, None


def _run(
    x: Tensor, ready: Tensor, outputs: int, bias: Tensor | None = None, add: Tensor | None = None, relu: bool = False
) -> Tensor:
    count, inputs, height, width = x.shape
    y = torch.empty((count, outputs, height, width), memory_format=torch.channels_last)
    if add is not None:
        add = add.contiguous(memory_format=torch.channels_last)
    sizes = (count, height, width, inputs, outputs, int(relu), torch.get_num_threads())
    _check(_library().cce_winograd_conv(_at(x), _at(ready), _at(bias), _at(add), _at(y), *sizes))
    return y


def _weight_gradient(x: Tensor, g: Tensor) -> Tensor:
    (count, inputs, height, width), outputs = x.shape, g.shape[1]
    gw = torch.empty((outputs, inputs, 3, 3))
    sizes = (count, height, width, inputs, outputs, torch.get_num_threads())
    _check(_library().cce_winograd_weight_gradient(_at(x), _at(g), _at(gw), *sizes))
    return gw


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _check(status: int) -> None:
    if status:
        raise MemoryError("not enough memory for a convolution; try fewer images at a time")


# The library


def library() -> ctypes.CDLL | None:
    """The compiled functions; None where there are none. The first call may compile."""
    with _lock:
        return _load()


def _library() -> ctypes.CDLL:
    found = library()
    assert found is not None, "fits() was not asked"
    return found


@functools.cache
def _load() -> ctypes.CDLL | None:
    if os.environ.get("CCE_STUDIO_NATIVE") == "0" or "AVX" not in torch.backends.cpu.get_cpu_capability():
        return None
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        return None
    try:
        found = ctypes.CDLL(str(_compiled(compiler)))
        return _declared(found) if _agrees(_declared(found)) else None
    except (OSError, subprocess.SubprocessError, AttributeError):  # no place, no compiler that works
        return None


def _compiled(compiler: str, flags: tuple[str, ...] = _FLAGS) -> Path:
    """The shared library for this processor; compiled where it is not kept yet, written whole or not at all."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=20, check=True).stdout
    key = hashlib.sha256(b"\0".join([_SOURCE.read_bytes(), version, " ".join(flags).encode(), _processor()]))
    home = Path(os.environ.get("CCE_STUDIO_HOME") or "~/.cache/cce-studio").expanduser() / "native"
    target = home / f"winograd-{key.hexdigest()[:16]}.so"
    if not target.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as place:
            made = Path(place) / target.name
            command = [compiler, *flags, "-o", str(made), str(_SOURCE)]
            subprocess.run(command, capture_output=True, timeout=120, check=True)
            os.replace(made, target)
    return target


def _processor() -> bytes:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name"))} or lines)).encode()


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    """Its functions with their types."""
    pointer, number = ctypes.c_void_p, ctypes.c_long
    found.cce_winograd_weights.argtypes = [pointer] * 2 + [number] * 2 + [ctypes.c_int]
    found.cce_winograd_weights.restype = None
    found.cce_winograd_conv.argtypes = [pointer] * 5 + [number] * 5 + [ctypes.c_int, number]
    found.cce_winograd_weight_gradient.argtypes = [pointer] * 3 + [number] * 6
    return found


def _agrees(found: ctypes.CDLL) -> bool:
    """Whether it computes what PyTorch computes, on noise: a compiler or processor may be at odds with it."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator) for shape in ((2, 5, 7, 16), (32, 16, 3, 3)))
    ready, y = torch.empty(_POINTS * 16 * 32), torch.empty(2, 5, 7, 32)
    found.cce_winograd_weights(_at(w), _at(ready), 16, 32, 0)
    if found.cce_winograd_conv(_at(x), _at(ready), None, None, _at(y), 2, 5, 7, 16, 32, 0, 2):
        return False
    return torch.allclose(y.permute(0, 3, 1, 2), F.conv2d(x.permute(0, 3, 1, 2), w, padding=1), atol=1e-3)
