"""The figures of `cce.reporting.figures` on the page: its width, its colours, light and dark, phone and desk."""

from __future__ import annotations

from typing import Any

from cce.reporting.figures import Figure

_MARGIN = {"l": 56, "r": 12, "t": 30, "b": 46}


def on_screen(wide: Figure, narrow: Figure | None, description: str, key: str) -> dict[str, Any]:
    """A figure for `app.components.figure`: no title (the page has one) and no legend (the table has the colours).

    Args:
        wide: as built for the command line.
        narrow: the same panels below each other, for a phone; its `layout` alone is used. None: `wide` serves.
        description: the sentence that screen readers say.
        key: zoom lasts until it changes.
    """
    value = {"data": wide["data"], "layout": _layout(wide["layout"], key), "description": description}
    if narrow is not None:
        value["narrow"] = _layout(narrow["layout"], key)
    return value


def _layout(given: dict[str, Any], key: str) -> dict[str, Any]:
    """Without what is fixed for a page of its own: width, title, legend, and the light page's grid."""
    height = given["height"] - given["margin"]["t"] - given["margin"]["b"]
    kept = {k: v for k, v in given.items() if k not in ("width", "title", "legend", "template")}
    for name, axis in kept.items():
        if name[1:].startswith("axis"):
            kept[name] = {k: v for k, v in axis.items() if k != "gridcolor"}
    own = {"margin": _MARGIN, "showlegend": False, "uirevision": key}
    return kept | own | {"height": height + _MARGIN["t"] + _MARGIN["b"]}
