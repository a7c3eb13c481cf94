"""Shards: independent parts of a computation, each in a thread of its own that computes with one core.

PyTorch's own way, a team of threads inside every operation, is no faster for networks as small as these, and is at
the mercy of other work: each operation waits for the slowest of the team. On two cores beside one busy process, an
attack on one picture took 0.24 s with one thread and more than 30 with a team of two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

P = TypeVar("P")
R = TypeVar("R")

alone = threading.RLock()
"""Held by what draws from a generator that all threads share: NumPy's or PyTorch's own."""

_here = threading.local()
_wanted: int | None = None


class Left(Exception):
    """The part is not needed any more; raised in its thread alone."""


def use(threads: int | None) -> None:
    """Share parts among that many threads, in this process; None: as many as PyTorch computes with."""
    global _wanted
    _wanted = threads


def threads(device: torch.device) -> int:
    """How many threads share parts on a device; one where this is such a thread itself, or the device no CPU."""
    if device.type != "cpu" or getattr(_here, "inside", False):
        return 1
    return _wanted or torch.get_num_threads()


def each(function: Callable[[P], R], parts: Sequence[P], device: torch.device) -> list[R]:
    """`function` of each part, in their order; on a CPU the parts are shared among threads.

    Gradients are on in a new thread, as in every new one: `function` turns off what it does not need. What context
    variables are set to holds there, too.

    Raises:
        Exception: that of the first part that failed; the others are told at their next `go_on`.
    """
    count = min(threads(device), len(parts))
    if count <= 1:
        return [function(part) for part in parts]
    own, left = torch.get_num_threads(), threading.Event()
    pool = ThreadPoolExecutor(count, "shard", initializer=_begin, initargs=(left,))
    try:
        shared = [(copy_context(), part) for part in parts]
        return list(pool.map(lambda one: one[0].run(function, one[1]), shared))
    finally:
        left.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(own)  # what a thread sets for itself is also the start of every new one


def parts(count: int, most: int, threads: int) -> list[tuple[int, int]]:
    """First and last (not included) of the parts of so many images: as many for each thread, none above `most`.

    >>> parts(200, 128, 1), parts(200, 128, 2)
    ([(0, 128), (128, 200)], [(0, 100), (100, 200)])
    """
    rounds = max(1, -(-count // (most * threads)))
    size = most if threads == 1 else max(1, -(-count // (rounds * threads)))
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def go_on() -> None:
    """To be called now and then in long parts.

    Raises:
        Left: another part has failed, or nobody waits any more.
    """
    left = getattr(_here, "left", None)
    if left and left.is_set():
        raise Left


def _begin(left: threading.Event) -> None:
    _here.inside, _here.left = True, left
    torch.set_num_threads(1)
