"""Memory of this process that is free, given back to the system."""

from __future__ import annotations

import contextlib
import ctypes

EVERY_SECONDS = 30.0
"""How often a served Studio gives back what it does not use."""


def give_back() -> None:
    """Give the system what was freed: the C library keeps it, and a process stays as large as it once was.

    Without glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
