"""Figures 6 to 8 for the page: of every member and the ensemble, the loss in 3D and below it the map of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from app.figures.palette import voices
from app.figures.values import fold, table
from cce.evaluation.surfaces import Surface
from cce.reporting import figures
from cce.reporting.cards import percent

HEIGHT = 640
_TOP, _SCENE, _MAP, _GAP, _BOTTOM = 30, 300, 230, 36, 46  # CSS pixels, from the title of a view to the next
_MOST_COLUMNS = 3
_CAMERA = {"eye": {"x": 1.9, "y": -1.9, "z": 1.08}, "center": {"x": 0, "y": 0, "z": -0.1}}


def stacked_height(members: int) -> int:
    """The height where the views are below each other, in CSS pixels."""
    return (members + 1) * (_TOP + _SCENE + _GAP + _MAP + _BOTTOM)


def figure(s: Surface, classes: Sequence[str], key: str) -> dict[str, Any]:
    """All views in one figure with one camera; `narrow` has them below each other.

    Args:
        s: the surface.
        classes: names by label.
        key: camera and zoom last until it changes.
    """
    offsets = [round(255 * x, 4) for x in s.offsets.tolist()]
    low, high = s.loss.min().item(), s.loss.max().item()
    colours = figures.label_colours(s)
    data = []
    for i in range(len(s.views)):
        n = "" if i == 0 else str(i + 1)
        loss = [[round(v, 4) for v in row] for row in s.loss[i].tolist()]
        data += [
            {
                "type": "surface",
                "scene": f"scene{n}",
                "x": offsets,
                "y": offsets,
                "z": loss,
                "cmin": low,
                "cmax": high,
                "colorscale": figures.HEAT,
                "showscale": False,
                "text": figures.label_and_loss(s, i, classes),
                "hovertemplate": "u %{x}, v %{y}: %{text}<extra></extra>",
            },
            {**figures.label_map(s, i, classes, colours), "xaxis": f"x{n}", "yaxis": f"y{n}"},
            {**_middle(s, i, classes), "xaxis": f"x{n}", "yaxis": f"y{n}"},
        ]
    columns = min(len(s.views), _MOST_COLUMNS)
    value = {"data": data, "description": describe(s, classes)}
    span = (low, high) if high - low > 1e-6 else (low - 0.5, high + 0.5)
    return value | {k: _layout(s, n, span, key) for k, n in (("layout", columns), ("narrow", 1))}


def _middle(s: Surface, view: int, classes: Sequence[str]) -> dict[str, Any]:
    """A cross where the picture is."""
    middle = len(s.offsets) // 2
    said = f"{classes[int(s.labels[view, middle, middle])]}, {float(s.loss[view, middle, middle]):.3f} nats"
    mark = {"symbol": "x-thin", "size": 10, "line": {"width": 2, "color": "#22252a"}}
    hover = {"hovertemplate": f"the picture: {escape(said)}<extra></extra>", "showlegend": False}
    return {"type": "scatter", "mode": "markers", "x": [0], "y": [0], "marker": mark, **hover}


def _layout(s: Surface, columns: int, span: tuple[float, float], key: str) -> dict[str, Any]:
    n = len(s.views)
    rows = math.ceil(n / columns)
    block = _TOP + _SCENE + _GAP + _MAP + _BOTTOM
    height, gap = rows * block, 0.05 if columns > 1 else 0.0
    width = (1 - gap * (columns - 1)) / columns
    extent = 255 * s.offsets[-1].item()
    layout: dict[str, Any] = {
        "height": height,
        "margin": {"l": 44, "r": 8, "t": 0, "b": 0},
        "showlegend": False,
        "font": {"size": 12},
        "uirevision": key,
        "annotations": [],
    }
    for i, (name, colour) in enumerate(voices(n - 1)):
        row, column = divmod(i, columns)
        suffix = "" if i == 0 else str(i + 1)
        x = [column * (width + gap), column * (width + gap) + width]
        top = row * block + _TOP
        scene = [1 - (top + _SCENE) / height, 1 - top / height]
        below = [1 - (top + _SCENE + _GAP + _MAP) / height, 1 - (top + _SCENE + _GAP) / height]
        title = {"text": f"<b>{name}</b>: loss, nats", "font": {"color": colour, "size": 14}, "showarrow": False}
        place = {"x": sum(x) / 2, "y": 1 - (top - 4) / height, "xref": "paper", "yref": "paper"}
        place |= {"xanchor": "center", "yanchor": "top"}
        layout["annotations"].append(title | place)
        axis = {"title": {"text": "", "font": {"size": 12}}, "tickfont": {"size": 10}, "nticks": 5}
        layout[f"scene{suffix}"] = {
            "domain": {"x": x, "y": scene},
            "xaxis": axis | {"title": {"text": "u"}},
            "yaxis": axis | {"title": {"text": "v"}},
            "zaxis": axis | {"range": list(span)},
            "aspectmode": "cube",
            "camera": _CAMERA,
        }
        side = {"range": [-extent, extent], "zeroline": False, "showgrid": False, "tickfont": {"size": 10}}
        layout[f"xaxis{suffix}"] = side | {
            "domain": x, "anchor": f"y{suffix}", "title": {"text": "u, in 1/255", "standoff": 4}
        }  # fmt: skip
        layout[f"yaxis{suffix}"] = side | {
            "domain": below,
            "anchor": f"x{suffix}",
            "title": {"text": "v" if column == 0 else "", "standoff": 4},
        }
    return layout


def describe(s: Surface, classes: Sequence[str]) -> str:
    """The figure in a sentence, for those who cannot see it."""
    said = []
    for i, (name, _) in enumerate(voices(len(s.views) - 1)):
        low, high, right = _span(s, i)
        said.append(f"{name}: loss from {low:.2f} to {high:.2f} nats, {classes[s.label]} on {right} of the points")
    return f"Loss surfaces and maps of labels around the picture. {'; '.join(said)}."


def _span(s: Surface, view: int) -> tuple[float, float, str]:
    right = (s.labels[view] == s.label).float().mean().item()
    return s.loss[view].min().item(), s.loss[view].max().item(), percent(right)


def legend(s: Surface, classes: Sequence[str], right: str = "the label") -> str:
    """Which colour of the map is which class."""
    items = [
        f'<span><i style="background:{colour}"></i>{escape(classes[c])}{f" ({right})" if c == s.label else ""}</span>'
        for c, colour in figures.label_colours(s).items()
    ]
    return f'<p class="studio-legend">{"".join(items)}</p>'


def numbers(s: Surface, classes: Sequence[str]) -> str:
    """The table behind the figure, folded."""
    middle = len(s.offsets) // 2
    header = ["", "lowest loss", "highest", "at the picture", f"says {classes[s.label]}", "says there"]
    rows = []
    for i, (name, _) in enumerate(voices(len(s.views) - 1)):
        low, high, right = _span(s, i)
        here = s.loss[i, middle, middle].item()
        there = classes[int(s.labels[i, middle, middle])]
        rows.append([name, f"{low:.3f}", f"{high:.3f}", f"{here:.3f}", right, there])
    return fold("The numbers", table("Loss in nats, and the share of points with the label", header, rows))
