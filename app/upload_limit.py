"""The upload limit: how large a picture may be, and words for one that is larger, whoever sends it."""

from __future__ import annotations

from typing import Any

MEGABYTES = 25
"""Most megabytes of one uploaded file."""

MOST_BYTES = MEGABYTES * 1_000_000 - 1000
"""A larger file is told on the page before it is sent; the form around it takes the rest."""

WORDS = (
    f"This file is larger than {MEGABYTES} MB, the most that can be uploaded. Make the picture smaller, for instance "
    "2000 pixels across, save it as JPEG, and upload that."
)


class TellTooLarge:
    """Middleware (ASGI) that answers an upload over the limit in words: Gradio gives the limit in bytes alone."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass everything on, but the body of a 413."""
        if scope["type"] != "http" or scope.get("method") != "POST":
            await self.app(scope, receive, send)
            return
        too_large = False

        async def tells(message: dict[str, Any]) -> None:
            nonlocal too_large
            if message["type"] == "http.response.start" and message["status"] == 413:
                too_large = True
                kept = [h for h in message["headers"] if h[0].lower() not in (b"content-length", b"content-type")]
                length = str(len(WORDS.encode())).encode()
                own = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", length)]
                message = {**message, "headers": [*kept, *own]}
            elif too_large and message["type"] == "http.response.body":
                last = not message.get("more_body", False)
                message = {**message, "body": WORDS.encode() if last else b""}
            await send(message)

        await self.app(scope, receive, tells)
