"""The paper's eight figures on the page, each as the paper draws it, with its limit under it."""

from __future__ import annotations

from html import escape
from typing import Any

from app.figures import surfaces
from app.figures.panels import on_screen
from app.services.paper_figures import Shown, surface_of
from cce.evaluation.detection import KINDS, DetectionReport
from cce.reporting import figures
from cce.reporting.figures import Figure

MARGINS = 76
"""Above and below the panels on the page."""

_DETECTION = {"figure2": figures.histogram, "figure3": figures.roc_curves, "figure4": figures.auc_by_epsilon}
_PREDICTIONS, _SURFACES = 2 * 260, 2 * 290
_LOW = 2 * 180
"""Height of the panels of predictions and surfaces on a phone, where they are narrow."""


def heights(name: str) -> tuple[int, int]:
    """Of a figure in CSS pixels, and on a phone."""
    if name in _DETECTION:
        return 300 + MARGINS, 3 * 300 + MARGINS
    wide = _PREDICTIONS if name in ("figure1", "figure5") else _SURFACES
    return wide + MARGINS, _LOW + MARGINS


def drawn(shown: Shown) -> list[dict[str, Any]]:
    """The figure's values, one for each of its parts; none where nothing can be drawn."""
    if shown.report is not None:
        draw = _DETECTION[shown.id]
        return [on_screen(draw(shown.report), draw(shown.report, columns=1), _words(shown), shown.model)]
    made = []
    for panel in shown.panels:
        if "surface" in panel:
            figure = figures.surface(surface_of(panel), panel["classes"])
        else:
            figure = figures.predictions(dict(panel))
        key = f"{shown.id}:{panel['model']}"
        value = on_screen(figure, _lower(figure), f"{_words(shown)} {panel['defense']}.", key)
        for layout in (value["layout"], value["narrow"]):
            layout["margin"] = layout["margin"] | {"l": 76}  # for names of classes
        made.append(value)
    return made


def _lower(figure: Figure) -> Figure:
    """The same, with lower panels and smaller words above them."""
    layout = dict(figure["layout"])
    layout["height"] = _LOW + layout["margin"]["t"] + layout["margin"]["b"]
    layout["annotations"] = [note | {"font": {"size": 9}} for note in layout["annotations"]]
    few = {name: axis | {"nticks": 3, "tickangle": 0} for name, axis in layout.items() if name.startswith("xaxis")}
    return {**figure, "layout": layout | few}


def _words(shown: Shown) -> str:
    return f"{shown.title}. {shown.printed} {shown.limit}"


def captions(shown: Shown) -> list[str]:
    """What stands above each of its parts."""
    if shown.report is not None:
        return [_keys(shown.report, numbered=shown.id == "figure4")]
    return [f'<p class="studio-note"><b>{escape(p["defense"])}</b>: {_answer(p)}</p>' for p in shown.panels]


def _keys(report: DetectionReport, numbered: bool) -> str:
    """Which colour is which input, for each of the three panels; the bars of Figure 4 have numbers too."""
    lines, number = [], 0
    for kind in KINDS:
        items = []
        for name, _, colour in figures.of_kind(report, kind):
            if kind != KINDS[0]:
                number += 1
            before = f"{number}. " if numbered and kind != KINDS[0] else ""
            items.append(f'<span><i style="background:{colour}"></i>{before}{escape(name)}</span>')
        shown = items if not numbered or kind != KINDS[0] else ["<span>PGD at each epsilon</span>"]
        lines.append(f'<p class="studio-legend"><b>{figures.KIND_TITLES[kind]}:</b> {"".join(shown)}</p>')
    return "".join(lines)


def _answer(panel: Any) -> str:
    if "surface" in panel:
        s = surface_of(panel)
        return f"above the loss, below the labels. {surfaces.legend(s, panel['classes'])}"
    before, after = panel["benign"], panel["adversarial"]
    parts = [f"{said['label']} {max(said['ensemble']):.2f}" for said in (before, after)]
    flagged = ""
    if panel["defense"] == "CCE-DM" and after["flagged"] is not None:
        flagged = " and flagged" if after["flagged"] else " and not flagged"
    return f"true class {escape(panel['label'])}; before {escape(parts[0])}, after {escape(parts[1])}{flagged}"


def head(shown: Shown) -> str:
    """Title and what the paper says of it."""
    return f"<h3>{escape(shown.title)}</h3><p>{escape(shown.printed)}</p>"


def foot(shown: Shown) -> str:
    """The limit, where the numbers are from, and the ways to the live view and the command line."""
    if shown.missing:
        return f'<p class="studio-note">{escape(shown.missing)}</p>'
    model = f'<p class="studio-note">Measured on {escape(shown.model)}{_settings(shown)}.</p>'
    live = f'<button type="button" class="studio-go" data-tab="{shown.tab}">Open the {shown.tab} tab</button>'
    if shown.link:
        live = f'<a class="studio-go" href="{escape(shown.link, quote=True)}">Try it: the same attack, live</a>'
    command = f"<code>python -m cce {escape(shown.command)}</code>"
    return (
        f'<p class="studio-limit"><b>What it does not say:</b> {escape(shown.limit)}</p>{model}'
        f'<p class="studio-note">{live} · {command}</p>'
    )


def _settings(shown: Shown) -> str:
    if shown.report is not None:
        return f", {len(shown.report.clean):,} test pictures"
    first = shown.panels[0]
    return f", {escape(first['picture'])}, {escape(first['attack'].removesuffix(', on the ensemble'))}"
