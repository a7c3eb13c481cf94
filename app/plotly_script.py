"""Plotly's own script, from the installed package, so served that a page is soon ready to be used."""

from __future__ import annotations

import functools
import gzip
import re
from importlib.metadata import version
from pathlib import Path

import plotly
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

VERSION = version("plotly")
_SCRIPT = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_REGISTERED = re.compile(r"([\w$]+)\.register\(\[((?:[\w$]+\(\),?){20,})\]\)")
_AT_ONCE = (0, 2)
"""Places of `bar` and `heatmap` in Plotly's list of kinds of traces (its `lib/index.js`); `scatter` is always there."""


def route() -> Route:
    """Where the page gets it; the version is in the address that `app/static/studio.js` asks for."""
    return Route("/studio/plotly.min.js", _serve)


def _serve(request: Request) -> Response:
    """The script, compressed once: else the server would do it for every page anew."""
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    packed = _packed()
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
    else:
        packed = gzip.decompress(packed)
    return Response(packed, media_type="text/javascript", headers=headers)


@functools.cache
def _packed() -> bytes:
    return gzip.compress(unhurried(_SCRIPT.read_text(encoding="utf-8")).encode(), compresslevel=6, mtime=0)


def unhurried(script: str) -> str:
    """Plotly's script with most kinds of traces made when they are asked for: `Plotly.registerRest()`.

    It makes all 47 as it is loaded, maps and WebGL among them, which keeps the browser busy four times as long as
    what the first page draws. A script that looks otherwise is left as it is.

    >>> script = f"R.register([{','.join(f't{i}()' for i in range(20))}]);"
    >>> unhurried(script)[:57]
    'R.register([t0(),t2()]),R.registerRest=()=>R.register([t1'
    """
    found = _REGISTERED.search(script)
    if found is None:
        return script
    plotly_, kinds = found[1], found[2].rstrip(",").split(",")
    first = ",".join(kinds[i] for i in _AT_ONCE)
    rest = ",".join(kind for i, kind in enumerate(kinds) if i not in _AT_ONCE)
    instead = f"{plotly_}.register([{first}]),{plotly_}.registerRest=()=>{plotly_}.register([{rest}])"
    return script[: found.start()] + instead + script[found.end() :]
