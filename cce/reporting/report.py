"""Reports: figures and tables as one HTML file that opens without a network, Plotly's own script inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cce.config import check
from cce.machine.files import write_atomically
from cce.paper.cells import AT_RELEASE, MEASURED, ItemResult, Result
from cce.reporting import drawing
from cce.reporting.cards import percent
from cce.reporting.figures import KIND_TITLES, Figure
from cce.reporting.templates import render

_FULL_NAMES = {"images": "n", "auc": "AUC", "auc_successful": "AUC, successful only"}


def write(figure: Figure, path: Path, title: str, body: Markup | str = "") -> None:
    """A figure as HTML or PNG, by the ending of `path`; `body` only the page shows.

    Raises:
        ConfigError: another ending.
    """
    kind = path.suffix.lower()
    check(kind in (".html", ".png"), f"--out is {str(path)!r}; it must end in .html or .png")
    if kind == ".png":
        path.write_bytes(drawing.to_png(figure))
    else:
        write_atomically(path, page(title, [_figure(figure, 0), body]))


def page(title: str, parts: Sequence[Markup]) -> Markup:
    """A whole HTML page; the figures in `parts` are drawn by the script inside it."""
    from plotly.offline import get_plotlyjs

    return render("page.html", title=title, parts=parts, plotly=Markup(get_plotlyjs()))


def _figure(figure: Figure, number: int | str) -> Markup:
    """A place for a figure and its values; `</` cannot end the script."""
    values = Markup(json.dumps(figure, allow_nan=False).replace("</", "<\\/"))
    return render("figure.html", number=number, values=values, description=figure["layout"]["title"]["text"])


def reproduction(result: dict[str, Any]) -> Markup:
    """The page of `python -m cce reproduce`."""
    settings = result["settings"]
    everything = [*result["items"], *result["others"]]
    head = render(
        "reproduction.html",
        **{k: result[k] for k in ("orders", "families", "left_out")},
        settings=settings,
        everything=everything,
        ensembles=", ".join(result["checkpoints"]) or "none",
        steps=f"no attack takes more than {settings['steps']} steps" if settings["steps"] else "steps as in the paper",
        counts={k: v for k, v in result["counts"].items() if v},
        percent=percent,
    )
    items = [_item(item, k) for k, item in enumerate(everything)]
    return page("The paper's tables and figures, beside our own measurement", [head, *items])


def _item(item: ItemResult, k: int) -> Markup:
    heads = ["row", "column", f"printed ({item.unit})" if item.unit else "printed", "measured", "difference", "n"]
    return render(
        "item.html",
        item=item,
        figures=[_figure(f, f"{k}-{i}") for i, f in enumerate(item.figures)],
        heads=[*heads, "status", "ensemble", "which settings differ"],
        cells=[_cell(c) for c in item.cells],
        detection=detection_table(item.detection),
    )


def _cell(c: Result) -> dict[str, Any]:
    """The texts of a row of a table."""
    shown = f"{_value(c.measured)} ± {c.margin:.1f}" if c.margin is not None else _value(c.measured)
    sign = "" if c.difference is None else f"{c.difference:+.1f}"
    return {
        "measured": c.status in (MEASURED, AT_RELEASE),
        "row": c.row,
        "column": c.column,
        "numbers": [_value(c.printed), shown, sign, "" if c.n is None else f"{c.n:,}"],
        "words": [c.status + (f": {c.note}" if c.note else ""), c.checkpoint or "", "; ".join(c.differs)],
    }


def _value(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.1f}"


def detection_table(rows: Sequence[dict[str, Any]]) -> Markup:
    """Detection rows as HTML, with all three kinds or not at all."""
    if not rows:
        return Markup()
    kinds = {r["kind"] for r in rows}
    check(
        kinds >= set(KIND_TITLES),
        f"a detection table needs {', '.join(KIND_TITLES)}; it has {', '.join(sorted(kinds))}",
    )
    keys = [k for k in ("images", "accuracy", "auc", "auc_successful", "flagged", "wrong_and_unflagged")]
    heads = ["kind", "input", *(_FULL_NAMES.get(k, k.replace("_", " ")) for k in keys)]
    cells = [
        [KIND_TITLES.get(r["kind"], r["kind"]), r["name"], *(detection_value(k, r.get(k)) for k in keys)] for r in rows
    ]
    return render("detection.html", heads=heads, rows=cells)


def detection_value(key: str, value: float | None) -> str:
    """One figure of a detection row for the eye.

    >>> detection_value("auc", 0.5), detection_value("flagged", 0.5), detection_value("auc", None)
    ('0.5000', '50.0 %', '')
    """
    if value is None:
        return ""
    return f"{value:.4f}" if key.startswith("auc") else str(value) if key == "images" else percent(value)
