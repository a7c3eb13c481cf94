"""Table 6's figures as cards, each with its one-line definition."""

from __future__ import annotations

from app.figures.templates import render
from cce.evaluation.transferability import Transferability

_DEFINITIONS = (
    ("T", "transferability", "Sum over members i ≠ j of a(i, j) − a(i, i). Small: examples of one fool the others."),
    (
        "nT",
        "not transferable",
        "1 − a(en, en) − |S0…0|: the ensemble is wrong though some member is right. Below zero where members that are "
        "all wrong are right together.",
    ),
    ("a_single", "", "a(en, en) − |S1…1|: the ensemble is right though some member is wrong. Never below zero."),
)


def metric_cards(found: Transferability | None) -> str:
    """T, nT and a_single in percent; dashes where nothing was measured."""
    values = (found.transferability, found.not_transferable, found.single) if found else (None, None, None)
    cards = [
        {"sign": sign, "name": name, "definition": definition, "number": _percent(value)}
        for (sign, name, definition), value in zip(_DEFINITIONS, values, strict=True)
    ]
    return str(render("metrics.html", cards=cards))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{round(100 * value, 1) + 0.0:.1f} %"
