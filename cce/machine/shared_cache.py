"""A cache that threads share: each value is made once, under a lock, whoever asks first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class SharedCache(Generic[V]):
    """Values by key. A copy or a pickle of it starts empty.

    >>> cache = SharedCache()
    >>> cache.get("a", lambda: 1), cache.get("a", lambda: 2)
    (1, 1)
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, V] = {}
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of `key`; made by `make` at the first call, while others wait."""
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            return self._values[key]

    def clear(self) -> None:
        """Forget all values. Callers that hold one keep it."""
        with self._lock:
            self._values = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        SharedCache.__init__(self)
