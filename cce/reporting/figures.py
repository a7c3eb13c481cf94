"""Figures: what reports and `--out` show, as Plotly's own values (`data` and `layout`), with every range stated.

Plain dictionaries, so that nothing here needs a screen or a browser: `cce.reporting.report` lays them into a page
that draws them, `cce.reporting.drawing` draws the same values into a PNG. A figure of detection takes a
`DetectionReport`, which has its adaptive and its benign columns, and shows all three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cce.evaluation.detection import KINDS, DetectionReport, Sample
from cce.evaluation.detector_curve import Curve, Rates
from cce.evaluation.surfaces import Surface
from cce.evaluation.transferability import BlackBox, Transferability

Figure = dict[str, Any]

NEUTRAL = "#7d838c"
VOICES = ("#1f77c4", "#d9730d", "#0f9d76", "#5aa9dd", "#a07800", "#8a6a4f")
ENSEMBLE = "#b5478f"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a07800", "#56b4e9", "#6b4fa0", "#444444")
RIGHT_LABEL = "#e8eaed"
BLUES = [[0.0, "#f7fbff"], [0.5, "#6baed6"], [1.0, "#08306b"]]
HEAT = [[0.0, "#440154"], [0.25, "#3b528b"], [0.5, "#21918c"], [0.75, "#5ec962"], [1.0, "#fde725"]]
KIND_TITLES = {"attack": "attacks", "adaptive": "detector-aware attacks", "benign": "not attacks"}
WIDTH = 1000
LEGEND_DROP = 52
"""Pixels from the panels' lower edge to the legend: room for ticks and the axis title."""


class Panels:
    """A grid of panels of one size, each with its own axes; `value` is the figure."""

    def __init__(self, title: str, panels: Sequence[str], columns: int, panel_height: int = 300) -> None:
        self.columns, self.rows = columns, math.ceil(len(panels) / columns)
        self.panel_height = panel_height
        self.data: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {
            "title": {"text": title, "font": {"size": 15}, "x": 0.01, "xanchor": "left"},
            "width": WIDTH,
            "margin": {"l": 70, "r": 20, "t": 70, "b": 90},
            "annotations": [],
            "legend": {"orientation": "h", "x": 0, "yanchor": "top"},
            "template": "none",
            "font": {"size": 12},
            "barmode": "group",
        }
        for i, text in enumerate(panels):
            x, y = self._domain(i)
            note = {"text": text, "x": (x[0] + x[1]) / 2, "y": y[1], "xref": "paper", "yref": "paper"}
            style = {"showarrow": False, "xanchor": "center", "yanchor": "bottom", "font": {"size": 13}}
            self.layout["annotations"].append({**note, **style})

    def _domain(self, i: int) -> tuple[list[float], list[float]]:
        row, column = divmod(i, self.columns)
        gap_x, gap_y = (0.07 if self.columns > 1 else 0.0), (0.16 if self.rows > 1 else 0.0)
        w = (1 - gap_x * (self.columns - 1)) / self.columns
        h = (1 - gap_y * (self.rows - 1)) / self.rows
        left, top = column * (w + gap_x), 1 - row * (h + gap_y)
        return [left, left + w], [top - h, top]

    def axes(self, i: int, x: dict[str, Any], y: dict[str, Any]) -> None:
        """Axes of panel i: `title`, `range`, and `ticks` as (value, text) where they are words."""
        suffix = "" if i == 0 else str(i + 1)
        for letter, domain, say, other in zip("xy", self._domain(i), (x, y), "yx", strict=True):
            axis = {"domain": domain, "anchor": f"{other}{suffix}", "range": list(say["range"]), "zeroline": False}
            axis |= {"title": {"text": say.get("title", ""), "standoff": 8}, "gridcolor": "#e2e4e8"}
            if "ticks" in say:
                axis |= {"tickvals": [v for v, _ in say["ticks"]], "ticktext": [t for _, t in say["ticks"]]}
            self.layout[f"{letter}axis{suffix}"] = axis

    def add(self, i: int, trace: dict[str, Any]) -> None:
        """A trace in panel i."""
        suffix = "" if i == 0 else str(i + 1)
        self.data.append({**trace, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})

    def value(self) -> Figure:
        """The figure, with room below for its legend, which Plotly sets in columns as wide as the longest name."""
        named = {t["name"] for t in self.data if t["type"] != "heatmap" and t.get("showlegend", True)}
        margin, width = self.layout["margin"], self.layout["width"]
        across = max(1, int((width - margin["l"] - margin["r"]) / (45 + 6.5 * max((len(n) for n in named), default=0))))
        margin["b"] = 70 + 20 * math.ceil(len(named) / across)
        self.layout["height"] = self.rows * self.panel_height + margin["t"] + margin["b"]
        self.layout["legend"] |= {"y": -LEGEND_DROP / (self.rows * self.panel_height)}
        return {"data": self.data, "layout": self.layout}


def _line(name: str, x: Sequence[float], y: Sequence[float], colour: str, **more: Any) -> dict[str, Any]:
    style = {"color": colour, "width": 2, **more.pop("line", {})}
    base = {"type": "scatter", "mode": "lines", "name": name, "x": list(map(float, x)), "y": list(map(float, y))}
    return {**base, "line": style, **more}


def of_kind(report: DetectionReport, kind: str) -> list[tuple[str, Sample, str]]:
    """Name, sample and colour of each sample of a kind, the same in every figure and in the table beside it."""
    found = [s for k, s in report.samples() if k == kind]
    return [(s.name, s, LINES[i % len(LINES)]) for i, s in enumerate(found)]


def _three(title: str, columns: int, panel_height: int) -> Panels:
    """A panel for each kind: side by side, or one below the other where there is `columns=1`."""
    return Panels(title, [KIND_TITLES[k] for k in KINDS], columns, panel_height)


def histogram(
    report: DetectionReport, score: str = "entropy", title: str = "", columns: int = 3, panel_height: int = 300
) -> Figure:
    """Figure 2: how a score is spread over clean inputs, and over those of each column."""
    edges, shares = report.histogram(score)
    panels = _three(title or f"Histogram of the {score}, n = {len(report.clean)}", columns, panel_height)
    highest = 1.05 * max(s.max() for s in shares.values())
    unit = ", nats" if score != "max probability" else ""
    for i, kind in enumerate(KINDS):
        panels.axes(
            i,
            {"title": ("1 - " if unit == "" else "") + score + unit, "range": [0, edges[-1]]},
            {"title": "share of images" if i % columns == 0 else "", "range": [0, highest]},
        )
        drawn = [("clean", report.clean, NEUTRAL), *of_kind(report, kind)]
        for name, _, colour in drawn:
            y = [*shares[name], shares[name][-1]]
            more = {"line": {"shape": "hv", "color": colour}, "showlegend": name != "clean" or i == 0}
            panels.add(i, _line(name, edges, y, colour, **more))
        if score in report.detectors:
            place = report.detectors[score].threshold
            threshold = {"line": {"dash": "dash", "color": NEUTRAL}, "showlegend": i == 0}
            panels.add(i, _line("threshold", [place, place], [0, highest], NEUTRAL, **threshold))
    return panels.value()


def roc_curves(
    report: DetectionReport, score: str = "entropy", title: str = "", columns: int = 3, panel_height: int = 300
) -> Figure:
    """Figure 3: the ROC of each attack, beside the detector-aware attacks' and the benign corruptions'.

    A detector should be high in the first two panels and on the diagonal in the third.
    """
    panels = _three(title or f"ROC of the {score}, n = {len(report.clean)}", columns, panel_height)
    areas = {row["name"]: row["auc"] for row in report.rows(score)[1:]}
    for i, kind in enumerate(KINDS):
        y = {"title": "flagged" if i % columns == 0 else "", "range": [0, 1.02]}
        panels.axes(i, {"title": "clean images flagged", "range": [-0.02, 1]}, y)
        panels.add(i, _line("chance", [0, 1], [0, 1], NEUTRAL, line={"dash": "dash"}, showlegend=False))
        for name, s, colour in of_kind(report, kind):
            panels.add(i, _line(f"{name} (AUC {areas[name]:.3f}, n = {len(s)})", *report.roc(s, score), colour))
    return panels.value()


def auc_by_epsilon(
    report: DetectionReport, score: str = "entropy", title: str = "", columns: int = 3, panel_height: int = 300
) -> Figure:
    """Figure 4: AUC of PGD by epsilon, beside the AUC of detector-aware attacks and of benign corruptions."""
    rows = {id(s): r for (_, s), r in zip(report.samples(), report.rows(score)[1:], strict=True)}
    panels = _three(title or f"AUC of the {score} by strength, n = {len(report.clean)}", columns, panel_height)
    strengths = [s for s in report.attacks if s.settings.get("name") == "pgd"]
    finest = min((s.settings["step_size"] for s in strengths), default=0)
    points = sorted((255 * s.settings["epsilon"], rows[id(s)]["auc"]) for s in strengths
                    if s.settings["step_size"] == finest)  # fmt: skip
    reach = max([e for e, _ in points], default=1)
    panels.axes(
        0, {"title": "epsilon of PGD, in 1/255", "range": [0, 1.05 * reach]}, {"title": "AUC", "range": [0, 1.05]}
    )
    curve = _line(
        "PGD", [e for e, _ in points], [a for _, a in points], LINES[0], mode="lines+markers", showlegend=False
    )
    panels.add(0, curve)
    before = 0  # one numbering for both panels
    for i, kind in enumerate(KINDS[1:], start=1):
        named = of_kind(report, kind)
        ticks = [(k, str(before + k + 1)) for k in range(len(named))]
        panels.axes(i, {"title": "", "range": [-0.6, len(named) - 0.4], "ticks": ticks}, {"range": [0, 1.05]})
        for k, (name, s, colour) in enumerate(named):
            bar = {"type": "bar", "x": [k], "y": [rows[id(s)]["auc"]], "marker": {"color": colour}, "width": 0.7}
            panels.add(i, {**bar, "name": f"{before + k + 1} {name}"})
        before += len(named)
    return panels.value()


def detector_curves(
    curves: Sequence[tuple[str, Curve]], rate: float | None = None, title: str = "", panel_height: int = 380
) -> Figure:
    """Wrong and unflagged, worst of all attacks that know, against clean pictures flagged: a line a detector.

    Args:
        curves: a name for each line.
        rate: where each line has a marker, as a fraction of clean pictures flagged; None: at its calibrated threshold.
        title: of the figure.
        panel_height: pixels.
    """
    panels = Panels(title or "What passes under the attacker who knows", [""], 1, panel_height)
    highest = 1.02
    panels.axes(
        0,
        {"title": "clean pictures flagged", "range": [-0.01, 1.01]},
        {"title": "wrong and unflagged", "range": [0, highest]},
    )
    for i, (name, one) in enumerate(curves):
        colour = LINES[i % len(LINES)]
        shape = {"shape": "hv", "dash": ("solid", "dash", "dot", "dashdot")[i // len(LINES) % 4]}
        panels.add(0, _line(name, one.clean_flagged[::-1], one.missed[::-1], colour, line=shape))
        point = marked(one, rate)
        if point:
            place = {"x": [point.clean_flagged], "y": [point.missed], "marker": {"color": colour, "size": 10}}
            panels.add(
                0, {"type": "scatter", "mode": "markers", "name": f"{name}, marked", "showlegend": False, **place}
            )
    return panels.value()


def marked(curve: Curve, rate: float | None) -> Rates | None:
    """A curve's figures at `rate` of clean pictures flagged; with None at its calibrated threshold, if it has one."""
    if rate is not None:
        return curve.at_rate(rate)
    return curve.at(curve.detector.threshold) if curve.detector else None


def _grid(
    z: Sequence[Sequence[float]], x: Sequence[float], y: Sequence[float], low: float, high: float, **more: Any
) -> dict[str, Any]:
    base = {"type": "heatmap", "x": list(x), "y": list(y), "z": [list(row) for row in z]}
    return {**base, "zmin": low, "zmax": high, "colorscale": HEAT, "showscale": False, **more}


def matrix(a: Sequence[Sequence[float]], names: Sequence[str], title: str, x: str, y: str) -> Figure:
    """A square of accuracies (fractions), each written in its place in percent; rows from the top."""
    n = len(names)
    panels = Panels(title, [""], columns=1, panel_height=60 * n + 80)
    panels.layout |= {"width": max(720, 320 + 90 * n), "margin": {"l": 200, "r": 20, "t": 70}}
    places = list(enumerate(names))
    panels.axes(
        0,
        {"title": x, "range": [-0.5, n - 0.5], "ticks": places},
        {"title": "", "range": [n - 0.5, -0.5], "ticks": places},
    )
    panels.layout["yaxis"]["title"] = {"text": y, "standoff": 10}
    text = [[f"{100 * v:.1f}" for v in row] for row in a]
    shades = {
        "colorscale": BLUES,
        "text": text,
        "texttemplate": "%{text}",
        "hovertemplate": "%{y} attacks %{x}: %{z:.3f}",
    }
    panels.add(0, _grid(a, range(n), range(n), 0, 1, **shades))
    return panels.value()


def transfer(t: Transferability, title: str = "") -> Figure:
    """Table 6's a(i,j) as a square."""
    said = title or f"Robust accuracy in percent, {t.attack.describe()}, n = {t.images}"
    return matrix(t.a, t.names, said, "seen by", "examples that attack")


def black_box(b: BlackBox, title: str = "") -> Figure:
    """Tables 12 and 13 as a square."""
    said = title or f"Robust accuracy in percent, {b.attack.describe()}, n = {b.images}"
    return matrix(b.a, b.names, said, "attacked ensemble", "source of the examples")


def subsets(t: Transferability, title: str = "") -> Figure:
    """Table 1's subsets on the examples that attack the ensemble."""
    names, shares = list(t.subsets), list(t.subsets.values())
    panels = Panels(title or f"Who is right on the examples that attack the ensemble, n = {t.images}", [""], 1, 240)
    ticks = list(enumerate(names))
    panels.axes(
        0, {"range": [-0.6, len(names) - 0.4], "ticks": ticks}, {"title": "share of images", "range": [0, 1.05]}
    )
    bars = {
        "type": "bar",
        "x": list(range(len(names))),
        "y": shares,
        "marker": {"color": LINES[0]},
        "showlegend": False,
    }
    panels.add(0, {**bars, "name": "share", "width": 0.7})
    return panels.value()


def surface(s: Surface, classes: Sequence[str], title: str = "") -> Figure:
    """Figures 6 to 8: for each view, above the loss, below the predicted labels."""
    n = len(s.views)
    extent = 255 * s.offsets[-1].item()
    said = title or f"Loss and label around the picture ({classes[s.label]}); axes in 1/255, extent {extent:g}"
    panels = Panels(
        said, [f"{v}: loss" for v in s.views] + [f"{v}: label" for v in s.views], columns=n, panel_height=290
    )
    offsets = [round(255 * x, 4) for x in s.offsets.tolist()]
    low, high = s.loss.min().item(), s.loss.max().item()
    colours = label_colours(s)
    for i in range(2 * n):
        rows = {"title": "v" if i % n == 0 else "", "range": [-extent, extent]}
        panels.axes(i, {"title": "u" if i >= n else "", "range": [-extent, extent]}, rows)
        if i < n:
            bar = {"showscale": i == n - 1, "colorbar": {"title": {"text": "nats"}, "len": 0.45, "y": 0.78}}
            hover = {"hovertemplate": "u %{x}, v %{y}: %{z:.3f} nats<extra></extra>"}
            panels.add(i, _grid(s.loss[i].tolist(), offsets, offsets, low, high, **bar, **hover))
        else:
            panels.add(i, label_map(s, i - n, classes, colours))
    for c, colour in colours.items():
        name = f"{classes[c]} (right)" if c == s.label else classes[c]
        key = {"type": "scatter", "mode": "markers", "name": name, "x": [None], "y": [None]}
        panels.add(n, {**key, "marker": {"symbol": "square", "size": 12, "color": colour}})
    return panels.value()


def label_colours(s: Surface) -> dict[int, str]:
    """A colour for each class that is predicted somewhere, in their order; the right one is the pale one."""
    seen = sorted(set(s.labels.flatten().tolist()) | {s.label})
    wrong = [c for c in seen if c != s.label]
    return {c: RIGHT_LABEL if c == s.label else LINES[wrong.index(c) % len(LINES)] for c in seen}


def label_map(s: Surface, view: int, classes: Sequence[str], colours: dict[int, str]) -> dict[str, Any]:
    """The predicted labels of a view as a heatmap, whose hover names label and loss."""
    seen, offsets = list(colours), [round(255 * x, 4) for x in s.offsets.tolist()]
    codes = [[seen.index(c) for c in row] for row in s.labels[view].tolist()]
    steps = [[(k + e) / len(seen), colours[c]] for k, c in enumerate(seen) for e in (0, 1)]
    names = label_and_loss(s, view, classes)
    hover = {"customdata": names, "hovertemplate": "u %{x}, v %{y}: %{customdata}<extra></extra>"}
    return _grid(codes, offsets, offsets, -0.5, len(seen) - 0.5, **hover) | {"colorscale": steps}


def label_and_loss(s: Surface, view: int, classes: Sequence[str]) -> list[list[str]]:
    """Label and loss of every point of a view, in words."""
    pairs = zip(s.labels[view].tolist(), s.loss[view].tolist(), strict=True)
    return [[f"{classes[c]}, {loss:.3f} nats" for c, loss in zip(*row, strict=True)] for row in pairs]


def predictions(result: dict[str, Any], title: str = "") -> Figure:
    """Figures 1 and 5: every member's and the ensemble's probabilities, before and after (see `attack_picture`)."""
    columns = [*(f"f{i + 1}" for i in range(len(result["benign"]["members"]))), "en"]
    classes = result["benign"]["classes"]
    rows = {when: [*result[when]["members"], result[when]["ensemble"]] for when in ("benign", "adversarial")}
    strength = [max(r[k] for part in rows.values() for r in part) for k in range(len(classes))]
    shown = sorted(sorted(range(len(classes)), key=lambda k: -strength[k])[:10])
    said = title or f"Prediction example: {result['label']}, before and after"
    names = [f"{v}, {when}" for when in rows for v in columns]
    panels = Panels(said, names, columns=len(columns), panel_height=260)
    ticks = [(k, classes[c]) for k, c in enumerate(shown)]
    values = [row for part in rows.values() for row in part]
    for i, row in enumerate(values):
        side = {
            "range": [len(shown) - 0.4, -0.6],
            "ticks": ticks if i % len(columns) == 0 else [(k, "") for k, _ in ticks],
        }
        panels.axes(i, {"title": "probability" if i >= len(columns) else "", "range": [0, 1.02]}, side)
        last = i % len(columns) == len(columns) - 1
        colours = [ENSEMBLE if last else VOICES[i % len(columns) % len(VOICES)]] * len(shown)
        bars = {"type": "bar", "orientation": "h", "x": [row[c] for c in shown], "y": list(range(len(shown)))}
        more = {"marker": {"color": colours[0]}, "showlegend": False, "name": names[i]}
        panels.add(i, {**bars, **more, "width": 0.7, "text": [f"{row[c]:.2f}" for c in shown], "textposition": "none"})
    return panels.value()


def printed_and_measured(rows: Sequence[tuple[str, float | None, float]], title: str, unit: str) -> Figure:
    """Bars of what is printed beside what was measured: (name, printed, measured) each, in `unit`."""
    panels = Panels(title, [""], columns=1, panel_height=260)
    top = max([*(m for _, _, m in rows), *(p for _, p, _ in rows if p is not None), 1e-9])
    low = min([0.0, *(m for _, _, m in rows)])
    ticks = [(i, name) for i, (name, _, _) in enumerate(rows)]
    panels.axes(0, {"range": [-0.6, len(rows) - 0.4], "ticks": ticks}, {"title": unit, "range": [low, 1.08 * top]})
    for name, offset, colour, values in (
        ("printed", -0.2, NEUTRAL, [p for _, p, _ in rows]),
        ("measured", 0.2, LINES[0], [m for _, _, m in rows]),
    ):
        places = [i + offset for i in range(len(rows))]
        bars = {"type": "bar", "name": name, "x": places, "y": values, "marker": {"color": colour}, "width": 0.36}
        panels.add(0, bars)
    panels.layout["barmode"] = "overlay"
    return panels.value()
