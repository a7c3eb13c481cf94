"""Drawing: a figure of `cce.reporting.figures` as a PNG, with Pillow, which is here anyway.

Plotly's own PNG needs kaleido and a Chrome; matplotlib would be six more packages and every figure
written twice. The figures here use lines, bars and grids only, with every range stated: little enough to draw.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageFont

from cce.reporting.figures import LEGEND_DROP, LINES, Figure

SCALE = 2
"""Pixels of the PNG to one of the figure."""

_INK, _FRAME = "#2a2d33", "#9aa0a8"


@dataclass
class _Panel:
    """One pair of axes: where it lies in pixels, and the ranges that are shown."""

    box: tuple[float, float, float, float]
    x: dict[str, Any]
    y: dict[str, Any]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixel of a point."""
        left, top, right, bottom = self.box
        (x0, x1), (y0, y1) = self.x["range"], self.y["range"]
        return left + (x - x0) / (x1 - x0) * (right - left), bottom - (y - y0) / (y1 - y0) * (bottom - top)


def to_png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    layout = figure["layout"]
    keys = _keys(figure)
    rows = _key_rows(keys, layout["width"])
    canvas = Image.new("RGB", (layout["width"] * SCALE, layout["height"] * SCALE), "white")
    draw = ImageDraw.Draw(canvas)
    panels = {k: _panel(layout, k) for k in ({t["xaxis"][1:] for t in figure["data"]} or {""})}
    for trace in figure["data"]:
        _DRAWERS[trace["type"]](draw, canvas, panels[trace["xaxis"][1:]], trace)
    for panel in panels.values():
        _axes(draw, panel)
    _words(draw, layout["title"]["text"], (10 * SCALE, 14 * SCALE), 15)
    for note in layout["annotations"]:
        x, y = _paper(layout, note["x"], note["y"])
        _words(draw, note["text"], (x, y - 5 * SCALE), 12, anchor="ms")
    _legend(draw, rows, layout["height"] - layout["margin"]["b"] + LEGEND_DROP)
    content = io.BytesIO()
    canvas.save(content, format="PNG")
    return content.getvalue()


def _paper(layout: dict[str, Any], x: float, y: float) -> tuple[float, float]:
    m = layout["margin"]
    width, height = layout["width"] - m["l"] - m["r"], layout["height"] - m["t"] - m["b"]
    return (m["l"] + x * width) * SCALE, (m["t"] + (1 - y) * height) * SCALE


def _panel(layout: dict[str, Any], suffix: str) -> _Panel:
    x, y = layout[f"xaxis{suffix}"], layout[f"yaxis{suffix}"]
    left, bottom = _paper(layout, x["domain"][0], y["domain"][0])
    right, top = _paper(layout, x["domain"][1], y["domain"][1])
    return _Panel((left, top, right, bottom), x, y)


def _words(draw: ImageDraw.ImageDraw, text: str, at: tuple[float, float], size: int, anchor: str = "lm") -> None:
    draw.text(at, text, fill=_INK, font=ImageFont.load_default(size * SCALE), anchor=anchor)


def _ticks(axis: dict[str, Any]) -> list[tuple[float, str]]:
    """Where an axis is marked: where it says, else at about five round numbers."""
    if "tickvals" in axis:
        return list(zip(axis["tickvals"], axis["ticktext"], strict=True))
    low, high = sorted(axis["range"])
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(k * step, f"{k * step:.6g}") for k in range(first, last + 1)]


def _axes(draw: ImageDraw.ImageDraw, panel: _Panel) -> None:
    left, top, right, bottom = panel.box
    draw.rectangle(panel.box, outline=_FRAME, width=SCALE)
    for value, text in _ticks(panel.x):
        x, _ = panel.place(value, panel.y["range"][0])
        draw.line([(x, bottom), (x, bottom + 4 * SCALE)], fill=_FRAME, width=SCALE)
        _words(draw, text, (x, bottom + 6 * SCALE), 11, "ma")
    for value, text in _ticks(panel.y):
        _, y = panel.place(panel.x["range"][0], value)
        draw.line([(left - 4 * SCALE, y), (left, y)], fill=_FRAME, width=SCALE)
        _words(draw, text, (left - 7 * SCALE, y), 11, "rm")
    _words(draw, panel.x["title"]["text"], ((left + right) / 2, bottom + 22 * SCALE), 11, "ma")
    _words(draw, panel.y["title"]["text"], (left, top - 4 * SCALE), 11, "ls")


def _scatter(draw: ImageDraw.ImageDraw, canvas: Image.Image, panel: _Panel, trace: dict[str, Any]) -> None:
    known = [(x, y) for x, y in zip(trace["x"], trace["y"], strict=True) if x is not None and y is not None]
    points = [panel.place(x, y) for x, y in known]
    line = trace.get("line", {})
    if line.get("shape") == "hv":
        points = [q for a, b in zip(points, points[1:], strict=False) for q in (a, (b[0], a[1]))] + points[-1:]
    colour = line.get("color", LINES[0])
    if "lines" in trace["mode"]:
        pairs = _dashes(points) if line.get("dash") == "dash" else list(zip(points, points[1:], strict=False))
        for a, b in pairs:
            draw.line([a, b], fill=colour, width=2 * SCALE)
    if "markers" in trace["mode"]:
        fill = trace.get("marker", {}).get("color", colour)
        for x, y in points:
            draw.ellipse([x - 4 * SCALE, y - 4 * SCALE, x + 4 * SCALE, y + 4 * SCALE], fill=fill)


def _dashes(points: list[tuple[float, float]]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Every other stretch of each segment."""
    pairs = []
    for (ax, ay), (bx, by) in zip(points, points[1:], strict=False):
        count = max(1, int(math.hypot(bx - ax, by - ay) / (6 * SCALE)))
        cuts = [(ax + (bx - ax) * k / count, ay + (by - ay) * k / count) for k in range(count + 1)]
        pairs += list(zip(cuts, cuts[1:], strict=False))[::2]
    return pairs


def _bar(draw: ImageDraw.ImageDraw, canvas: Image.Image, panel: _Panel, trace: dict[str, Any]) -> None:
    flat = trace.get("orientation") == "h"
    half = trace["width"] / 2
    for x, y in zip(trace["x"], trace["y"], strict=True):
        if x is None or y is None:
            continue
        corners = [(0, y - half), (x, y + half)] if flat else [(x - half, 0), (x + half, y)]
        (x0, y0), (x1, y1) = (panel.place(*c) for c in corners)
        draw.rectangle([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], fill=trace["marker"]["color"])


def _heatmap(draw: ImageDraw.ImageDraw, canvas: Image.Image, panel: _Panel, trace: dict[str, Any]) -> None:
    z, low, high = trace["z"], trace["zmin"], trace["zmax"]
    shade = _shader(trace["colorscale"])
    span = (high - low) or 1.0
    grid = Image.new("RGB", (len(z[0]), len(z)))
    grid.putdata([shade((v - low) / span) for row in z for v in row])
    left, top, right, bottom = (round(v) for v in panel.box)
    if panel.y["range"][0] < panel.y["range"][1]:  # the first row is the lowest
        grid = grid.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    canvas.paste(grid.resize((right - left, bottom - top), Image.Resampling.NEAREST), (left, top))
    for j, row in enumerate(trace.get("text", [])):
        for i, text in enumerate(row):
            ink = "white" if z[j][i] > low + 0.55 * span else _INK
            at = panel.place(trace["x"][i], trace["y"][j])
            draw.text(at, text, fill=ink, font=ImageFont.load_default(13 * SCALE), anchor="mm")


def _shader(scale: list[list[Any]]) -> Callable[[float], tuple[int, ...]]:
    stops = [(place, ImageColor.getrgb(colour)) for place, colour in scale]

    def shade(value: float) -> tuple[int, ...]:
        value = min(1.0, max(0.0, value))
        for (a, low), (b, high) in zip(stops, stops[1:], strict=False):
            if value <= b:
                t = 0.0 if b == a else (value - a) / (b - a)
                return tuple(round(p + t * (q - p)) for p, q in zip(low, high, strict=True))
        return stops[-1][1]

    return shade


_DRAWERS = {"scatter": _scatter, "bar": _bar, "heatmap": _heatmap}


def _keys(figure: Figure) -> list[tuple[str, str]]:
    """Name and colour of each entry of the legend."""
    traces = [t for t in figure["data"] if t["type"] != "heatmap" and t.get("showlegend", True)]
    colour = [t.get("line", {}).get("color") or t.get("marker", {}).get("color") or LINES[0] for t in traces]
    return [(t["name"], c) for t, c in zip(traces, colour, strict=True)]


def _key_rows(keys: list[tuple[str, str]], width: int) -> list[list[tuple[float, str, str]]]:
    """The legend broken into rows: left edge in figure pixels, name, colour."""
    font, rows, x = ImageFont.load_default(11), [], math.inf
    for name, colour in keys:
        long = 34 + font.getlength(name)
        if x + long > width - 10:
            rows.append([])
            x = 14.0
        rows[-1].append((x, name, colour))
        x += long
    return rows


def _legend(draw: ImageDraw.ImageDraw, rows: list[list[tuple[float, str, str]]], top: float) -> None:
    for k, row in enumerate(rows):
        y = (top + 20 * k) * SCALE
        for x, name, colour in row:
            draw.rectangle([x * SCALE, y - 5 * SCALE, (x + 12) * SCALE, y + 5 * SCALE], fill=colour, outline=_FRAME)
            _words(draw, name, ((x + 17) * SCALE, y), 11)
