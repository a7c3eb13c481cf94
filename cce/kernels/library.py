"""The compiled library: found or compiled at first use, verified, and checked against PyTorch before it is used.

It is compiled once, in some ten seconds, and kept in `CCE_STUDIO_HOME/native`, or `~/.cache/cce-studio/native`: in the
first that is set, found in either. Where that cannot be done there is no library, one line in the log says why, and
PyTorch computes: no compiler, a folder that cannot be written, a folder that another user could write to, or results
that differ from PyTorch's.
`CCE_STUDIO_NATIVE=0` turns it off.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch

SOURCE = Path(__file__).parent / "source"
FLAGS = tuple("-O3 -march=native -fno-math-errno -ffp-contract=fast -std=gnu++17 -fPIC -pthread".split())
_CHECKSUM = 32  # bytes of SHA-256 at the end of a kept library
_lock = threading.Lock()
_found: list[Functions | None] = []  # the result of the search, once there is one
_off: ContextVar[bool] = ContextVar("native code is turned off", default=False)
checks: list[Callable[[Functions], bool]] = []
"""What a library must pass before it is used: see `cce.kernels.agreement`."""
log = logging.getLogger(__name__)


class Unusable(Exception):
    """Why there is no native code here, in words."""


@dataclass(frozen=True)
class Functions:
    """A loaded library, its functions declared; those in `fallible` return 1 where memory ran out."""

    library: ctypes.CDLL
    fallible: frozenset[str]


def available() -> bool:
    """Whether there is native code here, and it is not turned off. The first call may compile it."""
    return not _off.get() and library() is not None


@contextmanager
def turned_off() -> Iterator[None]:
    """PyTorch computes, here and in the threads that share this one's work (`cce.machine.shards`): for comparisons."""
    before = _off.set(True)
    try:
        yield
    finally:
        _off.reset(before)


def library() -> Functions | None:
    """The functions; None where there are none. The first call may compile them; others wait for it.

    They wait because a result may not depend on which thread came first: native and PyTorch's sums round differently.
    """
    if not _found:
        with _lock:
            if not _found:
                _found.append(_load())
    return _found[0]


def prepare() -> None:
    """Begin to compile in a thread of its own, so that the first call waits less."""
    threading.Thread(target=library, name="compile native code", daemon=True).start()


def _load() -> Functions | None:
    if os.environ.get("CCE_STUDIO_NATIVE") == "0":
        return None
    try:
        if "AVX" not in torch.backends.cpu.get_cpu_capability():
            raise Unusable("this processor has no AVX")
        found = load(compiled(compiler()))
        if not all(check(found) for check in checks):
            raise Unusable("its results differ from PyTorch's on this machine")
        return found
    except Unusable as reason:
        log.warning("Native code is not used: %s. PyTorch computes instead.", reason)
    except (OSError, subprocess.SubprocessError, AttributeError, RuntimeError) as error:
        log.warning("Native code is not used: %s. PyTorch computes instead.", str(error).splitlines()[0])
    return None


def compiler() -> str:
    """The C++ compiler.

    Raises:
        Unusable: there is none.
    """
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if path := shutil.which(name):
            return path
    raise Unusable("no C++ compiler was found (c++, g++, clang++ or CXX)")


def openmp() -> int | None:
    """Address of PyTorch's own OpenMP entry point (`GOMP_parallel`), so that threads are shared; None if not found."""
    try:  # looked for in this library, then in those that it needs
        start = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    return ctypes.cast(start, ctypes.c_void_p).value


def load(path: Path) -> Functions:
    """The library in a file, its functions declared."""
    library = ctypes.CDLL(str(path))
    pointer, number, real = ctypes.c_void_p, ctypes.c_long, ctypes.c_double
    fallible = {
        "winograd_conv": [pointer] * 5 + [number] * 5 + [ctypes.c_int, number],
        "winograd_gradients": [pointer] * 5 + [number] * 6,
        "residual_logits": [pointer] * 4 + [number] * 8,
        "residual_gradient": [pointer] * 4 + [number] * 8,
        "block_forward": [pointer] * 7 + [number] * 4 + [real] * 2 + [number],
        "block_backward": [pointer] * 11 + [number] * 4 + [real] * 2 + [number],
    }
    for name, arguments in fallible.items():
        function = getattr(library, f"cce_{name}")
        function.argtypes, function.restype = arguments, ctypes.c_int
    library.cce_threads.argtypes, library.cce_threads.restype = [pointer], None
    library.cce_winograd_weights.argtypes = [pointer] * 2 + [number] * 2 + [ctypes.c_int]
    library.cce_winograd_weights.restype = None
    library.cce_residual_lanes.restype = number
    library.cce_residual_marks.argtypes, library.cce_residual_marks.restype = [number] * 3, number
    library.cce_threads(None if os.environ.get("CCE_STUDIO_NATIVE_THREADS") == "own" else openmp())
    return Functions(library, frozenset(fallible))


def compiled(compiler: str, *more: str) -> Path:
    """The shared library for this processor, compiled where no whole one is kept; written whole or not at all.

    Args:
        compiler: path of the C++ compiler.
        more: further flags.

    Returns:
        A file in a folder that only this user (or root) can write to, its checksum verified.

    Raises:
        Unusable: the folder could be written to by another user.
        OSError, subprocess.SubprocessError: it cannot be written, or the compiler fails.
    """
    flags = (*FLAGS, *more, *os.environ.get("CCE_STUDIO_NATIVE_FLAGS", "").split())
    usual = Path("~/.cache/cce-studio").expanduser()
    home = Path(os.environ.get("CCE_STUDIO_HOME") or usual).expanduser()
    name = f"cce-{_key(compiler, flags)}.so"
    for kept in (home / "native" / name, usual / "native" / name):
        if is_whole(kept):
            check_private(kept.parent)
            return kept
    folder = home / "native"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(folder)
    target = folder / name
    with tempfile.TemporaryDirectory(dir=folder) as place:
        objects = {str(Path(place) / f"{source.stem}.o"): source for source in sorted(SOURCE.glob("*.cpp"))}
        made = Path(place) / target.name
        _run(*([compiler, *flags, "-c", "-o", to, str(source)] for to, source in objects.items()))
        _run([compiler, *flags, "-shared", "-o", str(made), *objects])
        with made.open("r+b") as file:  # a loader reads nothing behind the last section
            file.write(hashlib.sha256(file.read()).digest())
            file.flush()
            os.fsync(file.fileno())
        made.chmod(0o600)
        os.replace(made, target)
    return target


def is_whole(path: Path) -> bool:
    """Whether a kept library is a regular file of this user with the checksum that it was written with."""
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
            return False
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > _CHECKSUM and hashlib.sha256(content[:-_CHECKSUM]).digest() == content[-_CHECKSUM:]


def check_private(folder: Path) -> None:
    """Refuse a folder that another user could write to, or exchange: each folder above it counts too.

    Raises:
        Unusable: naming the folder and the way out.
    """
    own = (0, os.geteuid())
    whole = folder.resolve()
    for place in (whole, *whole.parents):
        facts = place.stat()
        exchangeable = facts.st_mode & 0o022 and (place == whole or not facts.st_mode & stat.S_ISVTX)
        if facts.st_uid not in own or exchangeable:
            raise Unusable(f"other users could write to {place}; `chmod go-w {place}`, or set CCE_STUDIO_HOME")


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    """A hash of all that the compiled code depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=20, check=True).stdout
    texts = [file.read_bytes() for pattern in ("*.h", "*.cpp") for file in sorted(SOURCE.glob(pattern))]
    return hashlib.sha256(b"\0".join([*texts, version, " ".join(flags).encode(), _processor()])).hexdigest()[:16]


def _run(*commands: list[str]) -> None:
    """Run them side by side; all must succeed."""
    running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
    try:
        for process in running:
            if process.wait(timeout=300):
                raise Unusable(f"the C++ compiler {process.args[0]} failed (exit status {process.returncode})")
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
