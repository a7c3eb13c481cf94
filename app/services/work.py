"""Work: a long computation that says how far it is, and stops when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from app.services import turns
from cce.config import check

MOST_STEPS = 200_000
"""Steps of an attack on one picture that one call may take: some minutes on two cores, in which others wait."""


def check_work(steps: float, made_of: str) -> None:
    """Refuse more work than one call may take.

    Args:
        steps: of an attack on one picture, over all attacks, pictures and sizes.
        made_of: what they are multiplied from, for people.

    Raises:
        ConfigError: more than `MOST_STEPS`.
    """
    check(
        steps <= MOST_STEPS,
        f"This is too much work for one call: {steps:,.0f} steps ({made_of}); at most {MOST_STEPS:,} are taken. "
        "Choose fewer pictures, attacks, steps or epsilons.",
    )


class CancelledWork(Exception):
    """The work was told to stop; raised inside it, where it reports how far it is."""


class Work:
    """One long computation, shared by the thread that computes and the page that watches.

    Args:
        clock: seconds, for the time left.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self.fraction = "", 0.0
        self._clock, self._begun = clock, clock()
        self._cancelled = threading.Event()
        self.running = False

    @property
    def cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self._cancelled.is_set()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._clock() - self._begun

    def begin(self) -> None:
        """The computation begins now: until here it waited in line."""
        self._begun, self.running = self._clock(), True

    def end(self) -> None:
        """The computation has ended, however it did."""
        self.running = False

    def cancel(self) -> None:
        """Tell it to stop: the next `tell` raises."""
        self._cancelled.set()

    def tell(self, what: str, fraction: float) -> None:
        """Say how far it is; the computation calls this often, once a step of an attack.

        Args:
            what: is being done, for people.
            fraction: done of all, from 0 to 1.

        Raises:
            CancelledWork: it was told to stop.
        """
        if self.cancelled:
            raise CancelledWork
        turns.give_way()
        self.what, self.fraction = what, min(1.0, max(0.0, fraction))

    def left(self) -> str:
        """Time left in words; empty where too little is done to say."""
        if self.fraction < 0.02 or self.seconds < 0.5:
            return ""
        return f"about {short_time(self.seconds * (1 - self.fraction) / self.fraction)} left"


def short_time(seconds: float) -> str:
    """Seconds in words.

    >>> short_time(3.2), short_time(89), short_time(5400)
    ('3 s', '1 min 29 s', '1 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def done_in(seconds: float) -> str:
    """How long finished work took, in words.

    >>> done_in(0.2), done_in(3.2)
    ('under a second', '3 s')
    """
    return "under a second" if seconds < 1 else short_time(seconds)
