"""Background: trainers as processes of their own, behind everything else, and work done every so often."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cce.training.run_folder import process_start

log = logging.getLogger(__name__)

_NICENESS = 10
_children: list[subprocess.Popen[bytes]] = []


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spawn(command: Sequence[str], log: Path) -> int:
    """Start a process that outlives this one, and return its id: no shell, no pipe, a session of its own, low priority.

    Args:
        command: the program and its arguments.
        log: what it says is appended here.

    Raises:
        OSError: it cannot be started.
    """
    with log.open("ab") as said:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    _children.append(child)
    put_behind(child.pid)
    return child.pid


def put_behind(pid: int) -> None:
    """Let everything else go before a process that leads a session.

    Linux shares the CPU between sessions first (`sched_autogroup_enabled`), and only then by niceness within
    one: without the second line, a busy trainer gets as much as the whole Studio.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, max(os.getpriority(os.PRIO_PROCESS, 0), _NICENESS))
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(_NICENESS))


def reap() -> None:
    """Take note of the processes started here that have ended, so that none stays as a zombie."""
    _children[:] = [child for child in _children if child.poll() is None]


def alive(pid: int | None, start: float | None) -> bool:
    """Whether a process is there and is the one that was meant, not a later one with its id."""
    if not pid:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return not Path("/proc/self/stat").exists() and _answers(pid)
    ended = stat.rpartition(")")[2].split()[0] in "ZX"
    return not ended and process_start(pid) == start


def _answers(pid: int) -> bool:
    """Whether a process of that id is there, where the system tells no more."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def send(pid: int, number: signal.Signals, session: bool) -> None:
    """A signal to a process, or to all of the session that it leads; one that is gone is passed over."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if session:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def repeat(work: Callable[[], None], seconds: float, name: str) -> threading.Thread:
    """Do `work` again and again, for as long as this process lives, in a thread that does not keep it alive.

    Whatever it raises is logged, once as long as it stays the same, and it is tried again the next time.

    Args:
        work: what is done.
        seconds: between two times.
        name: of the thread.
    """

    def keep_on() -> None:
        last = ""
        while True:
            try:
                work()
                last = ""
            except Exception as error:
                words = f"{type(error).__name__}: {error}"
                if words != last:
                    log.exception("%s: %s; it goes on", name, words)
                last = words
            time.sleep(seconds)

    thread = threading.Thread(target=keep_on, name=name, daemon=True)
    thread.start()
    return thread
