"""Detection on the page: where a picture stands, the histograms with their threshold, ROC, AUC, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np

from app.figures import entropies
from app.figures.palette import NEUTRAL
from app.figures.panels import on_screen
from app.figures.templates import render
from cce.evaluation.detection import KINDS, DetectionReport
from cce.reporting import figures
from cce.reporting.report import detection_value

HISTOGRAM_HEIGHT = 560
ROC_HEIGHT = 330
STACKED_HEIGHT = 976
"""Of the same figures on a phone, with their three panels below each other."""

TITLES = {"attack": "An attack", "adaptive": "Detector-aware attack", "benign": "Benign change"}
"""The three columns, always in this order."""

_BARS = 24


def standing(before: dict[str, Any], after: dict[str, Any] | None, clean: Sequence[float], called: str) -> dict:
    """The picture's entropy before and after, with the histogram of clean pictures behind it.

    Args:
        before: what `classify` says of the picture.
        after: the same of the changed one, None where nothing was done.
        clean: entropies of clean pictures, nats.
        called: what these are called.
    """
    value = entropies.figure(before, after)
    low, high = value["layout"]["xaxis"]["range"]
    bottom, top = value["layout"]["yaxis"]["range"]
    counts, edges = np.histogram(np.asarray(clean), np.linspace(0, high, _BARS + 1))
    bars = {
        "type": "bar",
        "name": called,
        "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "y": (counts / max(1, counts.max()) * (top - bottom) * 0.9).tolist(),
        "base": bottom,
        "width": float(edges[1] - edges[0]),
        "marker": {"color": NEUTRAL, "opacity": 0.35},
        "customdata": counts.tolist(),
        "hovertemplate": "%{customdata} of " + escape(called) + "<extra></extra>",
    }
    value["data"] = [bars, *value["data"]]
    value["description"] += f" Behind it the histogram of {called}."
    return value


def chosen(report: DetectionReport, names: dict[str, str | None]) -> DetectionReport:
    """The report with one sample of each kind: the named one, or the first where there is no such name."""
    picked = []
    for kind in KINDS:
        of_kind = [s for k, s in report.samples() if k == kind]
        picked.append(next((s for s in of_kind if s.name == names.get(kind)), of_kind[0]))
    attack, adaptive, benign = picked
    return replace(report, attacks=(attack,), adaptive=(adaptive,), benign=(benign,))


def board(report: DetectionReport, names: dict[str, str | None], threshold: float, own: bool, key: str) -> dict:
    """Figure 2 with what the page needs to move its threshold by itself: every score and who is right.

    Args:
        report: with a threshold for its entropies.
        names: which sample of each kind is shown.
        threshold: in nats, where the line begins.
        own: whether it is the model's, not one made from these very pictures.
        key: the report's; a threshold that was dragged stays until it changes.
    """
    shown = chosen(report, names)
    figure = figures.histogram(shown, columns=1, panel_height=150)
    fills = {"fill": "tozeroy", "hoveron": "points"}
    figure["data"] = [t | fills for t in figure["data"] if t["name"] != "threshold"]
    everything = [("clean", report.clean), *report.samples()]
    samples = [
        {
            "kind": kind,
            "name": s.name,
            "right": "".join("01"[int(r)] for r in s.right),
            "values": [round(x, 5) for x in s.scores["entropy"].tolist()],
            "shown": kind == "clean" or any(s.name == t.name for _, t in shown.samples()),
        }
        for kind, s in everything
    ]
    for note, kind in zip(figure["layout"]["annotations"], KINDS, strict=True):
        # At the left, out of the way of the threshold's handle; which one it is stands in the card of the same title.
        note |= {"text": TITLES[kind], "x": 0, "xanchor": "left"}
    value = on_screen(figure, None, _said(shown, threshold), key)
    value["layout"]["margin"] = value["layout"]["margin"] | {"t": 44}
    value["layout"]["height"] += 14
    highest = 1.02 * max(float(s.scores["entropy"].max()) for _, s in everything)
    for axis in ("xaxis", "xaxis2", "xaxis3"):
        value["layout"][axis] |= {"range": [0, highest]} | ({} if axis == "xaxis" else {"matches": "x"})
    return value | {
        "samples": samples,
        "threshold": threshold,
        "own": own,
        "cards": _cards(shown),
        "table": table(report),
        "key": key,
    }


def _said(shown: DetectionReport, threshold: float) -> str:
    rows = shown.rows()
    words = [f"{rows[0]['name']} {detection_value('flagged', rows[0]['flagged'])}"]
    words += [f"{TITLES[r['kind']]}, {r['name']}: {detection_value('flagged', r['flagged'])}" for r in rows[1:]]
    return f"Histograms of the entropy. Flagged above {threshold:.2f} nats: {'; '.join(words)}."


def _cards(shown: DetectionReport) -> str:
    """A card for clean pictures and one for each kind; the page fills in the rates."""
    rows = shown.rows()
    cards = [_card(rows[0], "Clean pictures", "flagged: false positives")]
    for row in rows[1:]:
        benign = row["kind"] == "benign"
        cards.append(_card(row, TITLES[row["kind"]], "flagged, though nobody attacks" if benign else "flagged: caught"))
    return str(render("detection_cards.html", cards=cards))


def _card(row: dict[str, Any], title: str, meaning: str) -> dict[str, str]:
    return {**{k: row[k] for k in ("kind", "name")}, "title": title, "meaning": meaning, "n": f"{row['images']:,}"}


def table(report: DetectionReport) -> str:
    """Every sample with its colour in the figures; the page fills in what depends on the threshold."""
    colours = {s.name: colour for kind in KINDS for _, s, colour in figures.of_kind(report, kind)}
    numbers = {s.name: i + 1 for i, (_, s) in enumerate(s for s in report.samples() if s[0] != "attack")}
    head = ("", "n", "accuracy", "AUC", "AUC, where the attack won", "flagged", "wrong and not flagged")
    rows: list[dict[str, Any]] = []
    last = None
    for row in report.rows():
        begins = "" if row["kind"] in (last, "clean") else TITLES[row["kind"]]
        last = row["kind"]
        colour = colours.get(row["name"], figures.NEUTRAL)
        rows.append({"begins": begins, "colour": colour} | _row(row, numbers.get(row["name"])))
    return str(render("detection_table.html", header=head, rows=rows))


def _row(row: dict[str, Any], number: int | None) -> dict[str, Any]:
    name = row["name"] if row["kind"] != "clean" else "clean pictures"
    values = [f"{row['images']:,}", detection_value("accuracy", row["accuracy"])]
    values += [detection_value(k, row.get(k)) or "–" for k in ("auc", "auc_successful")]
    return {"sample": row["name"], "title": f"{number}. {name}" if number else name, "numbers": values}


def roc(report: DetectionReport, key: str) -> dict[str, Any]:
    """Figure 3 for the page: the ROC of every sample, a panel for each kind."""
    areas = [f"{r['name']} {detection_value('auc', r['auc'])}" for r in report.rows()[1:]]
    words = f"ROC curves of the entropy. Area under each: {'; '.join(areas)}."
    return _titled(figures.roc_curves(report), figures.roc_curves(report, columns=1), words, key)


def auc(report: DetectionReport, key: str) -> dict[str, Any]:
    """Figure 4 for the page: AUC of PGD by epsilon, and of the other two kinds."""
    figure = figures.auc_by_epsilon(report)
    points = next(t for t in figure["data"] if t["type"] == "scatter")
    said = ", ".join(f"{a:.3f} at {e:g}/255" for e, a in zip(points["x"], points["y"], strict=True))
    words = f"AUC of PGD by epsilon: {said}." if said else "AUC of each sample; PGD was not run."
    return _titled(figure, figures.auc_by_epsilon(report, columns=1), words, key)


def _titled(wide: figures.Figure, narrow: figures.Figure, words: str, key: str) -> dict[str, Any]:
    """A figure of three panels, under the page's own words for the three kinds."""
    for given in (wide, narrow):
        for note, kind in zip(given["layout"]["annotations"], KINDS, strict=True):
            note["text"] = TITLES[kind]
    return on_screen(wide, narrow, words, key)
