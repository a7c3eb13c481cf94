"""Figures as plain values: what the page's own Plotly draws, and the table behind each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from app.figures.templates import render


def to_value(figure: go.Figure, description: str) -> dict[str, Any]:
    """A figure for `Figure`: Plotly's JSON and the sentence that screen readers say.

    Zoom and camera last until `layout.uirevision` changes.
    """
    figure.update_layout(template="none", hoverlabel_namelength=-1)
    return {**json.loads(figure.to_json()), "description": description}


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], row_headers: bool = True) -> str:
    """An HTML table; every cell is escaped. The first cell of a row is its header; a short cell stays on one line."""
    return str(render("table.html", caption=caption, header=header, rows=rows, row_headers=row_headers))


def framed(caption: str, head: str, body: str, kind: str = "") -> str:
    """A table of these cells (HTML), which scrolls by itself where it is too wide; `kind` is one more class."""
    return str(render("framed.html", caption=caption, head=Markup(head), body=Markup(body), kind=kind))


def fold(summary: str, content: str) -> str:
    """HTML that opens on a click: the table behind a figure; `content` is HTML."""
    return str(render("fold.html", summary=summary, content=Markup(content)))
