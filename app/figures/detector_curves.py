"""Detector curves on the page: the figure, and the table of each detector where its marker stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.figures.panels import on_screen
from app.figures.values import table as html_table
from cce.evaluation.detector_curve import Curve
from cce.reporting import figures
from cce.reporting.cards import percent

HEIGHT = 400


def figure(lines: Sequence[tuple[str, Curve]], rate: float, key: str) -> dict[str, Any]:
    """The curves, each marked where it flags `rate` of the clean pictures (a fraction)."""
    drawn = figures.detector_curves(lines, rate, panel_height=HEIGHT - 76)
    said = [f"{name} {percent(one.at_rate(rate).missed)}" for name, one in lines]
    words = f"Wrong and unflagged where at most {percent(rate)} of clean pictures are flagged: {'; '.join(said)}."
    value = on_screen(drawn, None, words, key)
    value["layout"] |= {"showlegend": True, "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}}
    value["layout"]["margin"] = value["layout"]["margin"] | {"t": 24 + 19 * len(lines)}  # the legend, as on a phone
    value["layout"]["height"] = HEIGHT + 19 * max(0, len(lines) - 3)
    return value


def table(lines: Sequence[tuple[str, Curve]], rate: float) -> str:
    """Every figure of every detector at its marker."""
    points = [(name, one, one.at_rate(rate)) for name, one in lines]
    changes = list(dict.fromkeys(k for _, _, point in points for k in point.benign))
    header = ["", *(name for name, _, _ in points)]
    rows = [
        ["wrong and unflagged", *(percent(p.missed) for _, _, p in points)],
        ["pictures attacked", *(f"{one.images:,}" for _, one, _ in points)],
        ["threshold", *(f"{p.threshold:.3f}" for _, _, p in points)],
        ["clean pictures flagged", *(percent(p.clean_flagged) for _, _, p in points)],
        ["accuracy of the accepted", *(percent(p.accepted_accuracy) for _, _, p in points)],
        *([f"flagged: {name}", *(percent(p.benign.get(name)) for _, _, p in points)] for name in changes),
    ]
    worst = {next(iter(one.worst), "none").split(" k=")[0]: None for _, one in lines}
    caption = f"Where at most {percent(rate)} of clean pictures are flagged. Worst most often: {', '.join(worst)}."
    return html_table(caption, header, rows)
