"""Doors: which requests the Studio answers at all, before Gradio sees them.

On this machine alone it answers only to its own names: a page of another site whose name was made to point here (DNS
rebinding) would else reach every listener. Nor does it take what another site's page sends: browsers let any page
post. Uploads are counted before they are read.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from app.uploads import NoRoomError, Uploads

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive, Send = Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]

_READING = ("GET", "HEAD", "OPTIONS")
_UPLOAD = "/upload"


def own_names(host: str, more: Iterable[str] = ()) -> frozenset[str] | None:
    """The names that a Studio on an address answers to; None where it is served to others, who may call it anything.

    Args:
        host: the address it is served on.
        more: further names, for a proxy on this machine.

    >>> sorted(own_names("127.0.0.1"))
    ['127.0.0.1', '::1', 'localhost']
    >>> own_names("0.0.0.0") is None
    True
    """
    if not _is_loopback(host):
        return None
    return frozenset({"localhost", "127.0.0.1", "::1", host.lower(), *(name.lower() for name in more)})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class _TooLargeError(Exception):
    """More of a request came than an upload may have."""


class Doors:
    """ASGI middleware in front of the whole Studio.

    Args:
        app: what is behind it.
        names: the names it answers to, without port; None: any.
        uploads: counts what is uploaded.
        on_space: on a Hugging Face Space pages of other sites are let through, as Gradio's clients there are.
    """

    def __init__(self, app: Any, names: frozenset[str] | None, uploads: Uploads, on_space: bool | None = None) -> None:
        self.app, self.names, self.uploads = app, names, uploads
        self.on_space = bool(os.environ.get("SPACE_ID")) if on_space is None else on_space

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Refuse in words, or pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        changes = scope["type"] == "websocket" or scope["method"] not in _READING
        if self.names is not None and _hostname(headers.get("host", "")) not in self.names:
            refusal = PlainTextResponse(
                "This Studio is for the machine it runs on and does not answer to this name. Open it as "
                "http://127.0.0.1, or start it with --allow-host NAME.\n",
                421,
            )
        elif changes and not self.on_space and is_foreign(headers):
            refusal = PlainTextResponse("This Studio takes nothing from the pages of other sites.\n", 403)
        elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith(_UPLOAD):
            await self._upload(scope, headers, receive, send)
            return
        else:
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)

    async def _upload(self, scope: MutableMapping[str, Any], headers: Headers, receive: Receive, send: Send) -> None:
        """Pass an upload on, as long as there is room for it."""
        length = headers.get("content-length", "")
        claimed = int(length) if length.isdecimal() and len(length) < 16 else 0
        try:
            await to_thread.run_sync(self.uploads.admit, _visitor(scope, headers, self.on_space), claimed)
        except NoRoomError as error:
            await PlainTextResponse(f"{error}\n", error.status)(scope, receive, send)
            return
        came, answered = 0, False

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.uploads.most_request:
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except _TooLargeError:
            if not answered:
                await PlainTextResponse(f"{self.uploads.too_large()}\n", 413)(scope, receive, send)


def is_foreign(headers: Headers) -> bool:
    """Whether a page of another site sends this; programs say nothing of a site."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("cross-site", "same-site")
    origin = headers.get("origin")
    if origin is None:
        return False
    ours = {_hostname(headers.get("host", "")), *map(_hostname, headers.get("x-forwarded-host", "").split(","))}
    return _hostname(urlsplit(origin).netloc) not in ours - {""}


def _hostname(netloc: str) -> str:
    """A host without its port.

    >>> _hostname("Localhost:7860"), _hostname("[::1]:7860"), _hostname("127.0.0.1")
    ('localhost', '::1', '127.0.0.1')
    """
    netloc = netloc.strip().lower().rpartition("@")[2]
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0]
    return netloc.partition(":")[0] if netloc.count(":") == 1 else netloc


def _visitor(scope: MutableMapping[str, Any], headers: Headers, on_space: bool) -> str:
    """Who uploads: the address; on a Space that of the one behind its proxy."""
    forwarded = headers.get("x-forwarded-for", "") if on_space else ""
    client = scope.get("client")
    return forwarded.partition(",")[0].strip() or (client[0] if client else "")
