"""Callers: whether who asked for a computation still waits for it, so that work that nobody wants ends."""

from __future__ import annotations

import time
from typing import Any

from gradio.context import LocalContext

from app.services.work import Work

UNREAD_SECONDS = 30.0
"""A caller who has read nothing for so long is not there: it asked, and never listened."""


class CalledWork(Work):
    """Work for a call that came through the queue: it stops once its caller has gone.

    Made in the listener itself, which knows the call. Gradio marks a call as dead when the stream of its answers is
    closed; a call whose stream was never opened is told by what lies unread in it. Outside a call nothing stops it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._queue, self._event = _call()
        self._unread_since: float | None = None

    def tell(self, what: str, fraction: float) -> None:
        """Say how far it is.

        Raises:
            CancelledWork: the caller has gone.
        """
        if not self._awaited():
            self.cancel()
        super().tell(what, fraction)

    def _awaited(self) -> bool:
        if self._event is None:
            return True
        messages = self._queue.pending_messages_per_session.get(self._event.session_hash)
        if not self._event.alive or messages is None:
            return False
        if messages.qsize() == 0:
            self._unread_since = None
            return True
        self._unread_since = self._unread_since or time.monotonic()
        return time.monotonic() - self._unread_since < UNREAD_SECONDS


def _call() -> tuple[Any, Any]:
    """Gradio's queue and the event of the present call; None for both outside of one."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or event_id is None:
        return None, None
    event = blocks._queue.event_ids_to_events.get(event_id)
    return (blocks._queue, event) if event is not None else (None, None)
