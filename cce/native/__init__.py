"""Our own code for x86 CPUs: the C++ beside this file, compiled at first use and called through ctypes.

It is compiled once, in some ten seconds, and kept in `CCE_STUDIO_HOME/native` or `~/.cache/cce-studio/native`: in the
first that is set, found in either. Where there is no C++ compiler, or its result differs from PyTorch's own, there is
no `library` and PyTorch computes. `CCE_STUDIO_NATIVE=0` turns it off.
"""

from __future__ import annotations

import ctypes
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

import torch
from torch import Tensor

_PLACE = Path(__file__).parent
_FLAGS = tuple("-O3 -march=native -fno-math-errno -ffp-contract=fast -std=gnu++17 -fPIC -pthread".split())
PANEL, POINTS = 16, 36
"""Channels that are computed together, and products that make a tile: as in common.h."""
_lock = threading.Lock()
_known: list[ctypes.CDLL | None] = []  # what came of looking for the library, once it has been looked for
_here = threading.local()


@contextmanager
def turned_off() -> Iterator[None]:
    """PyTorch computes, in this thread: for what this is compared with."""
    before = getattr(_here, "off", False)
    _here.off = True
    try:
        yield
    finally:
        _here.off = before


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer with this weight can be computed here for this input: float32 on this CPU."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and len(x) > 0
        and not torch.compiler.is_compiling()
        and not getattr(_here, "off", False)
        and not torch.is_autocast_enabled("cpu")
        and library() is not None
    )


def address(tensor: Tensor | None) -> int | None:
    """Where its numbers lie."""
    return None if tensor is None else tensor.data_ptr()


def addresses(*tensors: Tensor | None) -> ctypes.Array[ctypes.c_void_p]:
    """Where those of each lie, as one more thing to pass."""
    return (ctypes.c_void_p * len(tensors))(*map(address, tensors))


def check(status: int) -> None:
    """Raise where a function of the library could not do its work."""
    if status:
        raise MemoryError("not enough memory for a convolution; try fewer images at a time")


def library() -> ctypes.CDLL | None:
    """The compiled functions; None where there are none or another thread compiles. The first call may compile."""
    if own := getattr(_here, "library", ()):
        return own[0]
    if not _known and _lock.acquire(blocking=False):
        try:
            if not _known:
                _known.append(_load())
        finally:
            _lock.release()
    return _known[0] if _known else None


def prepare() -> None:
    """Begin to compile, in a thread of its own, so that the first to need it need not wait."""
    threading.Thread(target=library, daemon=True).start()


def loaded() -> ctypes.CDLL:
    """The same, where `takes` has said that it is there."""
    found = library()
    assert found is not None, "takes() was not asked"
    return found


def _load() -> ctypes.CDLL | None:
    if os.environ.get("CCE_STUDIO_NATIVE") == "0" or "AVX" not in torch.backends.cpu.get_cpu_capability():
        return None
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        return None
    try:
        found = declared(ctypes.CDLL(str(compiled(compiler))))
        found.cce_threads(openmp())
        return found if agrees(found) else None
    except (OSError, subprocess.SubprocessError, AttributeError, RuntimeError):  # no place, no compiler that works
        return None


def openmp() -> int | None:
    """Where PyTorch's OpenMP starts its threads (`GOMP_parallel`), so that ours are the same; None if not found."""
    try:  # looked for in this library, then in those that it needs
        start = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    return ctypes.cast(start, ctypes.c_void_p).value


def compiled(compiler: str, *more: str) -> Path:
    """The shared library for this processor; compiled where it is not kept yet, written whole or not at all."""
    flags = (*_FLAGS, *more)
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=20, check=True).stdout
    texts = [file.read_bytes() for pattern in ("*.h", "*.cpp") for file in sorted(_PLACE.glob(pattern))]
    key = hashlib.sha256(b"\0".join([*texts, version, " ".join(flags).encode(), _processor()]))
    usual = Path("~/.cache/cce-studio").expanduser()
    home = Path(os.environ.get("CCE_STUDIO_HOME") or usual).expanduser() / "native"
    name = f"cce-{key.hexdigest()[:16]}.so"
    target = next((place / name for place in (home, usual / "native") if (place / name).exists()), home / name)
    if not target.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as place:
            objects = {str(Path(place) / f"{source.stem}.o"): source for source in sorted(_PLACE.glob("*.cpp"))}
            commands = [[compiler, *flags, "-c", "-o", to, str(source)] for to, source in objects.items()]
            made = Path(place) / target.name
            _run(*commands)
            _run([compiler, *flags, "-shared", "-o", str(made), *objects])
            os.replace(made, target)
    return target


def _run(*commands: list[str]) -> None:
    """Run them side by side; all must succeed."""
    running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
    try:
        for process in running:
            if process.wait(timeout=300):
                raise subprocess.CalledProcessError(process.returncode, process.args)
    finally:
        for process in running:
            process.kill()
            process.wait()


def _processor() -> bytes:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name"))} or lines)).encode()


def declared(found: ctypes.CDLL) -> ctypes.CDLL:
    """Its functions with their types."""
    pointer, number = ctypes.c_void_p, ctypes.c_long
    found.cce_threads.argtypes, found.cce_threads.restype = [pointer], None
    found.cce_winograd_weights.argtypes = [pointer] * 2 + [number] * 2 + [ctypes.c_int]
    found.cce_winograd_weights.restype = None
    found.cce_winograd_conv.argtypes = [pointer] * 5 + [number] * 5 + [ctypes.c_int, number]
    found.cce_winograd_gradients.argtypes = [pointer] * 5 + [number] * 6
    found.cce_residual_lanes.restype = number
    found.cce_residual_marks.argtypes, found.cce_residual_marks.restype = [number] * 3, number
    for function in (found.cce_residual_logits, found.cce_residual_gradient):
        function.argtypes = [pointer] * 4 + [number] * 8
    found.cce_direct_conv.argtypes = [pointer] * 4 + [number] * 7
    found.cce_direct_gradients.argtypes = [pointer] * 5 + [number] * 7
    found.cce_norm_forward.argtypes = [pointer] * 8 + [number] * 2 + [ctypes.c_double, number]
    found.cce_norm_backward.argtypes = [pointer] * 10 + [number] * 2 + [ctypes.c_double, number]
    found.cce_block_forward.argtypes = [pointer] * 7 + [number] * 4 + [ctypes.c_double] * 2 + [number]
    found.cce_block_backward.argtypes = [pointer] * 11 + [number] * 4 + [ctypes.c_double] * 2 + [number]
    return found


def agrees(found: ctypes.CDLL) -> bool:
    """Whether it computes what PyTorch computes, on noise: a compiler or processor may be at odds with it.

    A network in training and as it is searched on, with the gradients of its weights and of its pixels.
    """
    from cce.config import ModelConfig
    from cce.models import Ensemble, SearchCopy

    def results() -> Iterator[Tensor]:
        model = Ensemble(ModelConfig("resnet8", 1, 10, (3, 20, 20))).train()
        yield (logits := model(x.detach()))
        yield from torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        yield (logits := SearchCopy(model, torch.float32).model(x))
        yield from torch.autograd.grad(logits[:, 0].sum(), x)

    with torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        sets = []
        for library in (found, None):
            torch.manual_seed(0)
            x = torch.rand(5, 3, 20, 20, requires_grad=True)
            with _using(library):
                sets.append(list(results()))
    # An activation that is all but zero may be kept by the one and clipped by the other.
    return all((one - two).norm() <= 0.01 * two.norm() + 1e-6 for one, two in zip(*sets, strict=True))


@contextmanager
def _using(found: ctypes.CDLL | None) -> Iterator[None]:
    """This library in this thread, whatever is known."""
    _here.library = (found,)
    try:
        yield
    finally:
        del _here.library
