"""Printed beside measured as a picture: a hollow dot (printed), a full one (measured), and a line between them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cce.paper.cells import Result
from cce.reporting.figures import LINES


def picture(results: Sequence[Result], unit: str) -> str:
    """The measured rows of a table, a line a number; empty where nothing is measured beside a printed number.

    Args:
        results: the table's cells.
        unit: of the numbers; percent are drawn from 0 to 100, others from 0 to the highest.
    """
    both = [r for r in results if isinstance(r.printed, float) and isinstance(r.measured, float)]
    if not both:
        return ""
    highest = 100.0 if unit == "percent" else 1.05 * max(max(_pair(r)) for r in both)
    columns = list(dict.fromkeys(r.column for r in both))
    colours = {name: LINES[i % len(LINES)] for i, name in enumerate(columns)}
    groups = []
    for row in dict.fromkeys(r.row for r in both):
        lines = "".join(_line(r, highest, colours[r.column]) for r in both if r.row == row)
        groups.append(f'<div class="group"><h5>{escape(row)}</h5>{lines}</div>')
    key = (
        '<p class="studio-legend"><span><i class="ring"></i>printed</span><span><i class="dot"></i>measured by us, its '
        f"95 % interval as a band</span><span>from 0 to {highest:.0f} {escape(unit)}</span></p>"
    )
    return f'<div class="studio-dumbbells">{key}{"".join(groups)}</div>'


def _pair(r: Result) -> tuple[float, float]:
    assert isinstance(r.printed, float) and isinstance(r.measured, float)
    return r.printed, r.measured


def _line(r: Result, highest: float, colour: str) -> str:
    printed, measured = _pair(r)
    low, high = sorted(_place(v, highest) for v in (printed, measured))
    margin = ""
    if r.margin is not None:
        left, right = _place(measured - r.margin, highest), _place(measured + r.margin, highest)
        margin = f'<i class="margin" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
    n = "" if r.n is None else f", n = {r.n:,}"
    difference = f"{measured - printed:+.1f}".replace("-", "−")
    said = f"{r.column}: printed {printed:.1f}, measured {measured:.1f}{n}"
    return (
        f'<div class="dumbbell" style="--own:{colour}" title="{escape(said, quote=True)}">'
        f'<span class="who">{escape(r.column)}</span><span class="track" role="img" '
        f'aria-label="{escape(said, quote=True)}">{margin}<i class="bar" style="left:{low:.2f}%;'
        f'width:{high - low:.2f}%"></i><i class="ring" style="left:{_place(printed, highest):.2f}%"></i>'
        f'<i class="dot" style="left:{_place(measured, highest):.2f}%"></i></span>'
        f'<span class="difference">{difference}</span></div>'
    )


def _place(value: float, highest: float) -> float:
    """Percent of the track's width."""
    return 100 * min(1.0, max(0.0, value / highest))
