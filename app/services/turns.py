"""Turns: a short look goes before long work, which waits a moment at its next step while somebody looks."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

MOST_SECONDS = 0.25
"""That a step of long work waits for looks; a stream of them makes it slower, and never stops it."""

F = TypeVar("F", bound=Callable[..., Any])

_none_looks = threading.Condition()
_looks = 0
_looks_here: ContextVar[bool] = ContextVar("this is a look", default=False)


def looking(listener: F) -> F:
    """A listener that others give way to while it runs."""
    if inspect.isgeneratorfunction(listener):
        return listener

    @functools.wraps(listener)
    def looks(*args: Any, **kwargs: Any) -> Any:
        global _looks
        with _none_looks:
            _looks += 1
        before = _looks_here.set(True)
        try:
            return listener(*args, **kwargs)
        finally:
            _looks_here.reset(before)
            with _none_looks:
                _looks -= 1
                if not _looks:
                    _none_looks.notify_all()

    return looks  # type: ignore[return-value]


def give_way(seconds: float = MOST_SECONDS) -> None:
    """Wait until nobody looks, for so many seconds at most; long work calls it at each step. A look itself goes on."""
    if _looks and not _looks_here.get():
        with _none_looks:
            _none_looks.wait_for(lambda: not _looks, timeout=seconds)
