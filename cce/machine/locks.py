"""The system's lock on an open file or folder; it ends with its process, however that ends."""

from __future__ import annotations

try:
    import fcntl
except ImportError:  # Windows, where folders have no such lock
    fcntl = None  # type: ignore[assignment]

AVAILABLE = fcntl is not None


def lock(descriptor: int, wait: bool = True) -> None:
    """Keep every other process out until the descriptor is closed; does nothing where the system has no such lock.

    Args:
        descriptor: of an open file or folder.
        wait: for a process that holds it.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
        OSError: the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
