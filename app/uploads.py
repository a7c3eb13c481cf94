"""Uploads: how much of them is taken, from each visitor and from all, and when it goes again."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from pathlib import Path

MOST_REQUEST = 25_000_000
"""Bytes of the files of one upload together; the form around them counts too."""

MOST_VISITOR, WINDOW_SECONDS = 250_000_000, 3600.0
"""Bytes that a visitor may upload within the window."""

MOST_ALL = 2_000_000_000
"""Bytes of all temporary files."""

KEPT_SECONDS = 6 * 3600.0
"""Older files go."""

_SPARED_SECONDS = 60.0
_VISITORS = 1000


class NoRoomError(Exception):
    """An upload that is not taken; the message is for people, `status` for their program."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Uploads:
    """The temporary files of a Studio.

    Args:
        folder: where they lie.
        kept: gives the files that stay: what the page itself shows.
        most_request, most_visitor, most_all: bytes; see the constants.
    """

    def __init__(
        self,
        folder: Path,
        kept: Callable[[], Iterable[str]] = tuple,
        most_request: int = MOST_REQUEST,
        most_visitor: int = MOST_VISITOR,
        most_all: int = MOST_ALL,
    ) -> None:
        self.folder, self.kept = folder, kept
        self.most_request, self.most_visitor, self.most_all = most_request, most_visitor, most_all
        self._lock = threading.Lock()
        self._visitors: OrderedDict[str, deque[tuple[float, int]]] = OrderedDict()

    def admit(self, visitor: str, size: int) -> None:
        """Count an upload before it is read.

        Args:
            visitor: who uploads.
            size: bytes, 0 where it was not said; then the most that can come.

        Raises:
            NoRoomError: too large, too much of this visitor, or no room for more of anybody.
        """
        if size > self.most_request:
            raise NoRoomError(self.too_large(), 413)
        size = size or self.most_request
        with self._lock:
            self._count(visitor, size)
            left = self.sweep(self.most_all - size)
        if left + size > self.most_all:
            raise NoRoomError("The Studio has no room for more uploads at the moment. Try again in a few minutes.", 507)

    def too_large(self) -> str:
        """What is said of an upload that is too large."""
        return (
            f"An upload has at most {self.most_request / 1e6:.0f} MB, all its files together. "
            "Make the picture smaller and try again."
        )

    def _count(self, visitor: str, size: int) -> None:
        now = time.monotonic()
        mine = self._visitors.setdefault(visitor, deque())
        self._visitors.move_to_end(visitor)
        while len(self._visitors) > _VISITORS:
            self._visitors.popitem(last=False)
        while mine and now - mine[0][0] > WINDOW_SECONDS:
            mine.popleft()
        if sum(amount for _, amount in mine) + size > self.most_visitor:
            minutes = (WINDOW_SECONDS - (now - mine[0][0])) / 60 if mine else WINDOW_SECONDS / 60
            raise NoRoomError(
                f"You have uploaded {self.most_visitor / 1e6:.0f} MB within an hour, which is the most that is taken. "
                f"Try again in {max(1, round(minutes))} minutes.",
                429,
            )
        mine.append((now, size))

    def sweep(self, most: int | None = None) -> int:
        """Remove old files, and the oldest where all take more than `most` bytes; returns the bytes that are left."""
        kept, now = {os.path.realpath(path) for path in self.kept()}, time.time()
        files = sorted(_files(self.folder))
        total = sum(size for _, size, _ in files)
        for changed, size, path in files:
            old = now - changed > KEPT_SECONDS
            crowded = total > (self.most_all if most is None else most) and now - changed > _SPARED_SECONDS
            if (old or crowded) and os.path.realpath(path) not in kept:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                    total -= size
                    os.rmdir(os.path.dirname(path))  # where it was the last one
        return total


def _files(folder: Path) -> Iterable[tuple[float, int, str]]:
    """When each file was changed, its bytes, its path."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with contextlib.suppress(OSError):
                info = os.lstat(path)
                yield info.st_mtime, info.st_size, path


def private_folder(base: str | None = None) -> str:
    """A folder for this process's temporary files, which others on this machine cannot look into.

    Those of processes that are gone are removed.

    Args:
        base: where it is made; None: in a folder of this user beside the system's other temporary files.
    """
    place = Path(base) if base else Path(tempfile.gettempdir()) / f"cce-studio-{_user()}"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = place.lstat()
        if not stat.S_ISDIR(info.st_mode) or (hasattr(os, "getuid") and info.st_uid != os.getuid()):
            return tempfile.mkdtemp(prefix="cce-studio-")  # somebody else was there first
        place.chmod(0o700)
        for old in place.iterdir():
            if old.name.startswith(_OF_PROCESS) and not _is_running(old.name.removeprefix(_OF_PROCESS)):
                shutil.rmtree(old, ignore_errors=True)
        own = place / f"{_OF_PROCESS}{os.getpid()}"
        own.mkdir(mode=0o700, exist_ok=True)
        return str(own)
    except OSError:
        return tempfile.mkdtemp(prefix="cce-studio-")


_OF_PROCESS = "process-"


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True  # somebody else's
    return True


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"
