"""The one thread that computes.

PyTorch computes on a CPU with OpenMP, which keeps a team of helpers for every thread that ever computed. As long as
all teams together are no more than the processor's cores, helpers wait for their next piece of work awake; with more
they sleep and have to be woken, a few thousand times in an attack on one picture. On two cores a second thread that
has computed makes such an attack 3.5 times as slow, and a loss surface 1.6 times.
"""

from __future__ import annotations

import contextvars
import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_NAME = "compute"

F = TypeVar("F", bound=Callable[..., Any])

_lock = threading.Lock()
_line: queue.SimpleQueue[Callable[[], None]] | None = None


def submit(function: Callable[..., Any], *given: Any, **named: Any) -> Future[Any]:
    """Let the thread run it when all that came before is done."""
    done: Future[Any] = Future()
    _running().put(_kept(done, function, given, named))
    return done


def run(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Run it in the thread, and wait; at once where this is the thread."""
    if threading.current_thread().name == _NAME:
        return function(*given, **named)
    return submit(function, *given, **named).result()


def computing(function: F) -> F:
    """The function, run in the thread that computes."""

    @functools.wraps(function)
    def there(*given: Any, **named: Any) -> Any:
        return run(function, *given, **named)

    return there  # type: ignore[return-value]


def briefly(function: Callable[..., Any], *given: Any) -> Any:
    """Run it in a thread of its own, whose helpers end with it: for what must not wait in line."""
    if threading.current_thread().name == _NAME:
        return function(*given)
    done: Future[Any] = Future()
    threading.Thread(target=_kept(done, function, given, {}), name="brief", daemon=True).start()
    return done.result()


def _kept(
    done: Future[Any], function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]
) -> Callable[[], None]:
    """What a thread runs for its outcome to be in `done`."""
    context = contextvars.copy_context()  # whose page it is: ZeroGPU asks

    def work() -> None:
        try:
            done.set_result(context.run(function, *given, **named))
        except BaseException as error:
            done.set_exception(error)

    return work


def _running() -> queue.SimpleQueue[Callable[[], None]]:
    global _line
    with _lock:
        if _line is None:
            _line = queue.SimpleQueue()
            threading.Thread(target=_keep_on, args=(_line,), name=_NAME, daemon=True).start()
        return _line


def _keep_on(line: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        line.get()()
