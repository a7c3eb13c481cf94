"""Reports: figures and tables as one HTML file that opens without a network, Plotly's own script inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from cce.config import check
from cce.machine.files import write_atomically
from cce.paper.cells import AT_RELEASE, MEASURED, ItemResult, Result
from cce.paper.equal_terms import Family
from cce.paper.orders import Order
from cce.reporting import drawing
from cce.reporting.cards import percent
from cce.reporting.figures import KIND_TITLES, Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22252a; background: #fff; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #d9dce1; padding-top: 1rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: 13px; margin: 1rem 0 }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #e2e4e8; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums } tr.none td { color: #666c75 }
.note { color: #4a4f57 } figure { margin: 1rem 0; overflow-x: auto } nav a { margin-right: .8rem }
"""  # noqa: E501

_FULL_NAMES = {"images": "n", "auc": "AUC", "auc_successful": "AUC, successful only"}


def write(figure: Figure, path: Path, title: str, body: str = "") -> None:
    """A figure as HTML or PNG, by the ending of `path`; `body` is HTML that only the page shows.

    Raises:
        ConfigError: another ending.
    """
    kind = path.suffix.lower()
    check(kind in (".html", ".png"), f"--out is {str(path)!r}; it must end in .html or .png")
    if kind == ".png":
        path.write_bytes(drawing.to_png(figure))
    else:
        write_atomically(path, page(title, [_figure(figure, 0), body]))


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML page; the figures in `parts` are drawn by the script inside it."""
    from plotly.offline import get_plotlyjs

    script = (
        "for (const place of document.querySelectorAll('figure[data-figure]')) {"
        " const value = JSON.parse(document.getElementById(place.dataset.figure).textContent);"
        " Plotly.newPlot(place, value.data, value.layout, {displaylogo: false, responsive: false}); }"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{''.join(parts)}\n<script>{script}</script></body></html>\n"
    )


def _figure(figure: Figure, number: int | str) -> str:
    """A place for a figure and its values; `</` cannot end the script."""
    values = json.dumps(figure, allow_nan=False).replace("</", "<\\/")
    said = escape(figure["layout"]["title"]["text"], quote=True)
    return (
        f'<script type="application/json" id="figure-{number}">{values}</script>'
        f'<figure data-figure="figure-{number}" role="img" aria-label="{said}"></figure>\n'
    )


def reproduction(result: dict[str, Any]) -> str:
    """The page of `python -m cce reproduce`."""
    settings, counts = result["settings"], {k: v for k, v in result["counts"].items() if v}
    used = ", ".join(result["checkpoints"]) or "none"
    steps = f"no attack takes more than {settings['steps']} steps" if settings["steps"] else "steps as in the paper"
    head = (
        "<p>Printed numbers are those of Bui et al., <i>Improving Ensemble Robustness by Collaboratively Promoting "
        "and Demoting Adversarial Robustness</i>, AAAI 2021 (arXiv 2009.09612). They stand beside ours for "
        "comparison; they are not ours, and not the truth to be matched. ± is the 95% interval from the number of "
        "images alone.</p>"
        f"<p>Ensembles: {escape(used)}. At most {settings['n']} images; {steps}; seed {settings['seed']}; "
        f"{escape(settings['device'])}; cce {settings['cce']}, torch {settings['torch']}.</p>"
        f"<p>{sum(counts.values())} cells: {'; '.join(f'{v} {escape(k)}' for k, v in counts.items())}.</p>"
    )
    head += "".join(f"<p>{escape(line)}.</p>" for line in result["left_out"])
    everything = [*result["items"], *result["others"]]
    links = "".join(f'<a href="#{escape(i.id)}">{escape(i.name)}</a>' for i in everything)
    parts = [head, f"<nav>{links}</nav>", _orders(result["orders"]), _families(result["families"])]
    for k, item in enumerate(everything):
        parts.append(_item(item, k))
    return page("The paper's tables and figures, beside our own measurement", parts)


def _orders(found: Sequence[Order]) -> str:
    """Where the paper prints one ensemble above another, and whether that holds here."""
    if not found:
        return ""
    lines = "".join(f"<li>{escape(order.describe())}</li>" for order in found)
    return f'<section id="orders"><h2>Does the printed order hold?</h2><ul>{lines}</ul></section>\n'


def _families(found: Sequence[Family]) -> str:
    """Ensembles that one recipe made, the loss apart."""
    if not found:
        return ""
    parts = []
    for family in found:
        rows = [
            f"<th scope='row'>{escape(s.id)}</th><td>{escape(s.defense)}</td>"
            + "".join(f'<td class="number">{percent(v)}</td>' for v in (s.natural, s.robust, s.all_right))
            + f'<td class="number">{s.took}</td>'
            for s in family.standings
        ]
        heads = ["ensemble", "loss", "natural", "robust accuracy", "S1..1", "minutes of training"]
        lines = "".join(f"<li>{escape(one.describe())}</li>" for one in family.comparisons)
        parts.append(
            f"<p>{escape(family.describe())}</p>{_table(heads, [f'<tr>{r}</tr>' for r in rows])}<ul>{lines}</ul>"
        )
    note = '<p class="note">One recipe, the same seed and as many images; only the loss differs.</p>'
    return f'<section id="equal-terms"><h2>On equal terms</h2>{note}{"".join(parts)}</section>\n'


def _item(item: ItemResult, k: int) -> str:
    note = f'<p class="note">{escape(item.note)}</p>' if item.note else ""
    drawn = "".join(_figure(f, f"{k}-{i}") for i, f in enumerate(item.figures))
    return (
        f'<section id="{escape(item.id)}"><h2>{escape(item.name)}: {escape(item.title)}</h2>{note}'
        f"{drawn}{_cells(item)}{detection_table(item.detection)}</section>\n"
    )


def _cells(item: ItemResult) -> str:
    if not item.cells:
        return ""
    heads = ["row", "column", f"printed ({item.unit})" if item.unit else "printed", "measured", "difference", "n"]
    rows = [_cell(c) for c in item.cells]
    return _table([*heads, "status", "ensemble", "which settings differ"], rows)


def _cell(c: Result) -> str:
    shown = f"{_value(c.measured)} ± {c.margin:.1f}" if c.margin is not None else _value(c.measured)
    sign = "" if c.difference is None else f"{c.difference:+.1f}"
    numbers = [_value(c.printed), shown, sign, "" if c.n is None else f"{c.n:,}"]
    status = c.status + (f": {c.note}" if c.note else "")
    cells = [f"<th scope='row'>{escape(c.row)}</th><td>{escape(c.column)}</td>"]
    cells += [f'<td class="number">{escape(v)}</td>' for v in numbers]
    cells += [f"<td>{escape(v)}</td>" for v in (status, c.checkpoint or "", "; ".join(c.differs))]
    kind = "" if c.status in (MEASURED, AT_RELEASE) else ' class="none"'
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _value(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.1f}"


def detection_table(rows: Sequence[dict[str, Any]]) -> str:
    """Detection rows as HTML, with all three kinds or not at all."""
    if not rows:
        return ""
    kinds = {r["kind"] for r in rows}
    check(
        kinds >= set(KIND_TITLES),
        f"a detection table needs {', '.join(KIND_TITLES)}; it has {', '.join(sorted(kinds))}",
    )
    keys = [k for k in ("images", "accuracy", "auc", "auc_successful", "flagged", "wrong_and_unflagged")]
    heads = ["kind", "input", *(_FULL_NAMES.get(k, k.replace("_", " ")) for k in keys)]
    lines = []
    for r in rows:
        cells = [KIND_TITLES.get(r["kind"], r["kind"]), r["name"]]
        cells += [detection_value(k, r.get(k)) for k in keys]
        lines.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>")
    return _table(heads, lines)


def detection_value(key: str, value: float | None) -> str:
    """One figure of a detection row for the eye.

    >>> detection_value("auc", 0.5), detection_value("flagged", 0.5), detection_value("auc", None)
    ('0.5000', '50.0 %', '')
    """
    if value is None:
        return ""
    return f"{value:.4f}" if key.startswith("auc") else str(value) if key == "images" else percent(value)


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
