"""Printed beside measured as a picture: a hollow dot (printed), a full one (measured), and a line between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from app.figures.templates import render
from cce.paper.cells import Result
from cce.reporting.figures import LINES


def picture(results: Sequence[Result], unit: str) -> Markup:
    """The measured rows of a table, a line a number; empty where nothing is measured beside a printed number.

    Args:
        results: the table's cells.
        unit: of the numbers; percent are drawn from 0 to 100, others from 0 to the highest.
    """
    both = [r for r in results if isinstance(r.printed, float) and isinstance(r.measured, float)]
    if not both:
        return Markup("")
    highest = 100.0 if unit == "percent" else 1.05 * max(max(_pair(r)) for r in both)
    columns = list(dict.fromkeys(r.column for r in both))
    colours = {name: LINES[i % len(LINES)] for i, name in enumerate(columns)}
    groups = [
        (row, [_line(r, highest, colours[r.column]) for r in both if r.row == row])
        for row in dict.fromkeys(r.row for r in both)
    ]
    return render("dumbbells.html", groups=groups, unit=unit, highest=f"{highest:.0f}")


def _pair(r: Result) -> tuple[float, float]:
    assert isinstance(r.printed, float) and isinstance(r.measured, float)
    return r.printed, r.measured


def _line(r: Result, highest: float, colour: str) -> dict[str, Any]:
    """A line's texts and places; places and widths are percent of the track's width."""
    printed, measured = _pair(r)
    n = "" if r.n is None else f", n = {r.n:,}"
    margin = None if r.margin is None else _span(measured - r.margin, measured + r.margin, highest)
    return {
        "name": r.column,
        "colour": colour,
        "said": f"{r.column}: printed {printed:.1f}, measured {measured:.1f}{n}",
        "margin": margin,
        "bar": _span(min(printed, measured), max(printed, measured), highest),
        "printed": f"{_place(printed, highest):.2f}",
        "measured": f"{_place(measured, highest):.2f}",
        "difference": f"{measured - printed:+.1f}".replace("-", "−"),
    }


def _span(low: float, high: float, highest: float) -> tuple[str, str]:
    left, right = _place(low, highest), _place(high, highest)
    return f"{left:.2f}", f"{right - left:.2f}"


def _place(value: float, highest: float) -> float:
    return 100 * min(1.0, max(0.0, value / highest))
