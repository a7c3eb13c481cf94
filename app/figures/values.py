"""Figures as plain values: what the page's own Plotly draws, and the table behind each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go


def to_value(figure: go.Figure, description: str) -> dict[str, Any]:
    """A figure for `Figure`: Plotly's JSON and the sentence that screen readers say.

    Zoom and camera last until `layout.uirevision` changes.
    """
    figure.update_layout(template="none", hoverlabel_namelength=-1)
    return {**json.loads(figure.to_json()), "description": description}


_SHORT = 22
"""Characters that a cell holds on one line, on a phone too."""


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], row_headers: bool = True) -> str:
    """An HTML table; every cell is escaped. The first cell of a row is its header; a short cell stays on one line."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(_row(row, row_headers) for row in rows)
    return framed(caption, head, body)


def framed(caption: str, head: str, body: str, kind: str = "") -> str:
    """A table of these cells (HTML), which scrolls by itself where it is too wide; `kind` is one more class."""
    return (
        f'<div class="studio-scroll"><table class="{f"studio-table {kind}".strip()}">'
        f"<caption><span>{escape(caption)}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[str], row_headers: bool) -> str:
    first = f'<th scope="row">{escape(cells[0])}</th>' if row_headers else f"<td>{escape(cells[0])}</td>"
    return f"<tr>{first}{''.join(_cell(c) for c in cells[1:])}</tr>"


def _cell(text: str) -> str:
    short = ' class="short"' if len(text) <= _SHORT else ""
    return f"<td{short}>{escape(text)}</td>"


def fold(summary: str, content: str) -> str:
    """HTML that opens on a click: the table behind a figure."""
    return f'<details class="studio-fold"><summary>{escape(summary)}</summary>{content}</details>'
