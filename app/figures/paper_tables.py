"""The paper's tables as HTML: printed and measured side by side, and why a number is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from app.figures import dumbbell
from app.figures.values import fold, framed, table
from app.services.models import dataset_title
from app.services.trade import Row, Trade
from cce.paper.cells import AT_RELEASE, MEASURED, NO_CHECKPOINT, NOT_AT_RELEASE, Result
from cce.paper.equal_terms import Comparison, Family
from cce.paper.orders import HOLDS, REVERSED, UNCLEAR, Order
from cce.paper.printed import Item
from cce.reporting.cards import percent

_SHORT = {NO_CHECKPOINT: "no checkpoint", NOT_AT_RELEASE: "not measured"}
_VERDICTS = {HOLDS: "✓ holds", REVERSED: "✗ does not hold", UNCLEAR: "≈ within the margin"}


def item(one: Item, results: Sequence[Result], counted: Mapping[str, int]) -> str:
    """A table of the paper: open where something is measured."""
    measured = [r for r in results if r.status in (MEASURED, AT_RELEASE)]
    said = f"{len(measured)} of {len(results)} cells measured" if measured else "nothing measured"
    words = "; ".join(f"{n} {status}" for status, n in counted.items())
    note = f'<p class="studio-note">{escape(one.note)}</p>' if one.note else ""
    unit = f" ({one.unit})" if one.unit else ""
    picture = dumbbell.picture(results, one.unit)
    grid = f'{_grid(one, results)}<p class="studio-note">{escape(words)}.</p>'
    inside = f"{note}{picture}{fold('The numbers', grid) if picture else grid}{_details(one, measured)}"
    return (
        f'<details class="studio-paper" id="paper-{one.id}"{" open" if measured else ""}><summary>'
        f"<b>{escape(one.name)}</b> {escape(one.title)}{escape(unit)} <span>{escape(said)}</span></summary>"
        f"{inside}</details>"
    )


def overview(items: Sequence[tuple[Item, Sequence[Result]]], found: Sequence[Order]) -> str:
    """A line a table: where it is, how much of it is measured, and how many of its printed orders hold."""
    head = ["table", "shows", "cells measured", *_VERDICTS.values()]
    rows = []
    for one, results in items:
        measured = sum(r.status in (MEASURED, AT_RELEASE) for r in results)
        own = [o for o in found if o.item == one.name]
        said = [sum(o.verdict == verdict for o in own) for verdict in _VERDICTS]
        cells = [one.title, f"{measured} of {len(results)}", *(str(n or "–") for n in said)]
        link = f'<a href="#paper-{one.id}">{escape(one.name)}</a>'
        rows.append(f'<tr><th scope="row">{link}</th>{"".join(f"<td>{escape(c)}</td>" for c in cells)}</tr>')
    titles = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    return framed("Each table, and how many of its printed orders hold", titles, "".join(rows), "overview")


def datasets(one: Item) -> list[str]:
    """Titles of the data sets of a table's cells."""
    return list(dict.fromkeys(dataset_title(c.wanted.dataset) for c in one.cells if c.wanted))


def _grid(one: Item, results: Sequence[Result]) -> str:
    """The paper's own rows and columns, ours below each number."""
    rows = list(dict.fromkeys(r.row for r in results))
    columns = list(dict.fromkeys(r.column for r in results))
    by_place = {(r.row, r.column): r for r in results}
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in columns)
    body = ""
    for row in rows:
        cells = "".join(_cell(by_place.get((row, column))) for column in columns)
        body += f'<tr><th scope="row">{escape(row)}</th>{cells}</tr>'
    note = "First line: printed. Bold: measured by us, with the difference from the printed number."
    return (
        f'<p class="studio-note">{note}</p><div class="studio-scroll"><table class="studio-table printed" '
        f'aria-label="{escape(one.name)}"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(r: Result | None) -> str:
    if r is None:
        return "<td></td>"
    printed = f'<span class="theirs"><span class="sr">printed </span>{_number(r.printed)}</span>'
    if r.measured is None:
        words = _SHORT.get(r.status, r.status)
        why = escape(f"{r.status}{': ' + r.note if r.note else ''}", quote=True)
        return f'<td title="{why}">{printed}<span class="why">{escape(words)}</span></td>'
    sign = "" if r.difference is None else f' <span class="sign">{_signed(r.difference)}</span>'
    return f'<td>{printed}<b class="ours"><span class="sr">measured </span>{_number(r.measured)}</b>{sign}</td>'


def _details(one: Item, measured: Sequence[Result]) -> str:
    """Each measured number with its settings."""
    if not measured:
        return ""
    head = ["cell", "printed", "measured", "difference", "n", "ensemble", "status", "which settings differ"]
    rows = []
    for r in measured:
        shown = _number(r.measured) + (f" ± {r.margin:.1f}" if r.margin is not None else "")
        sign = "" if r.difference is None else _signed(r.difference)
        n = "" if r.n is None else f"{r.n:,}"
        status = f"{r.status}{', ' + r.note if r.note else ''}"
        differs = "; ".join(r.differs) or "none"
        rows.append([f"{r.row}, {r.column}", _number(r.printed), shown, sign, n, r.checkpoint or "", status, differs])
    caption = f"{one.name}: what was measured. ± is the 95% interval from the number of images alone."
    return fold(f"Settings of the {len(rows)} measured cells", table(caption, head, rows))


def _number(value: float | str | None) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:.1f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def order_list(found: Sequence[Order]) -> str:
    """Where the paper prints one ensemble above another, and what was measured."""
    if not found:
        return (
            '<p class="studio-note">No row has two measured ensembles under the same attack yet, so no printed order '
            "can be checked.</p>"
        )
    said = {verdict: sum(o.verdict == verdict for o in found) for verdict in (HOLDS, REVERSED, UNCLEAR)}
    words = (
        f"Pairs measured under the same attack: {len(found)}. The printed order holds in {said[HOLDS]} and does not in "
        f"{said[REVERSED]}; in {said[UNCLEAR]} the difference is too small to tell. The ensembles were not trained as "
        "the paper's were: see which settings differ."
    )
    told, close = ([o for o in found if (o.verdict == UNCLEAR) == unclear] for unclear in (False, True))
    shown = _orders("Percent right under the same attack", told) if told else ""
    few = f"The {len(close)} whose difference is within the margin"
    more = fold(few, _orders("Too close to tell", close)) if close else ""
    return f'<p class="studio-note">{words}</p>{shown}{more}'


def _orders(caption: str, found: Sequence[Order]) -> str:
    head = ["row", "printed above", "verdict", "measured", "margin", "printed", "n"]
    rows = [
        [
            f"{o.item}, {o.row}",
            f"{o.first} over {o.second}",
            _VERDICTS[o.verdict],
            f"{o.measured[0]:.1f}, {o.measured[1]:.1f}",
            f"{o.margin:.1f}",
            f"{o.printed[0]:.1f}, {o.printed[1]:.1f}",
            f"{o.n[0]:,}" if o.n[0] == o.n[1] else f"{o.n[0]:,}, {o.n[1]:,}",
        ]
        for o in found
    ]
    return table(caption, head, rows)


def family(one: Family) -> str:
    """Ensembles that differ in their loss alone, and what is said of CCE-RM beside the others."""
    head = ["ensemble", "loss", "robust accuracy", "S1..1", "natural", "minutes of training"]
    rows = [
        [s.id, s.defense, percent(s.robust), percent(s.all_right), percent(s.natural), s.took] for s in one.standings
    ]
    shown = table(one.describe(), head, rows)
    return shown + (_compared(one.comparisons, one.paired) if one.comparisons else "")


def _compared(comparisons: Sequence[Comparison], paired: bool) -> str:
    head = [f"{comparisons[0].losses[0]} is printed above", "verdict", "measured", "margin"]
    rows = [
        [
            f"{c.losses[1]}, {c.measure}",
            _VERDICTS[c.verdict],
            ", ".join(percent(v) for v in c.values),
            f"{100 * c.margin:.1f}",
        ]
        for c in comparisons
    ]
    how = "image by image" if paired else "as if each had images of its own, which is wider than need be"
    return table(f"What the paper prints (Tables 3 to 5) and what holds here; 95% margins, {how}", head, rows)


def curves(items: Sequence[tuple[Item, Sequence[Result]]]) -> str:
    """The cells of Figures 3 and 4."""
    head = ["figure", "attack", "printed", "measured", "n", "ensemble", "status"]
    rows = [
        [
            one.name,
            r.row,
            _number(r.printed),
            _number(r.measured),
            "" if r.n is None else f"{r.n:,}",
            r.checkpoint or "",
            r.status,
        ]
        for one, results in items
        for r in results
    ]
    return table("AUC x 100; the paper prints one number, the rest are curves", head, rows)


def trade(one: Trade) -> str:
    """Ensembles whose recipes differ, every figure side by side; the best of a row is bold and has a star."""
    common, short = one.short
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in short)
    body, group = "", ""
    for row in one.rows:
        if row.group != group:
            group = row.group
            body += f'<tr class="group"><th scope="rowgroup" colspan="{1 + len(one.names)}">{escape(group)}</th></tr>'
        cells = "".join(_traded(row, i) for i in range(len(row.values)))
        n = " and ".join(f"{n:,}" for n in dict.fromkeys(row.images))
        body += f'<tr><th scope="row">{escape(row.name)} <span class="n">n = {n}</span></th>{cells}</tr>'
    which = f"{common}…, measured" if common else "Measured"
    return framed(f"{which} at release; ★ the best of its row", f"<td></td>{head}", body, "trade")


def _traded(row: Row, i: int) -> str:
    shown = f"{row.values[i]:.4f}" if row.unit == "AUC" else percent(row.values[i])
    return f'<td><b>{shown} <span aria-label="best">★</span></b></td>' if row.best == i else f"<td>{shown}</td>"


_KINDS = {"clean": "clean pictures", "attack": "attack", "adaptive": "detector-aware attack", "benign": "benign change"}


def detection(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """An ensemble's detection, the attacks of the figures beside those that the figures leave out."""
    head = ["kind", "input", "n", "AUC", "AUC, successful", "flagged", "wrong and unflagged"]
    cells = []
    for r in rows:
        numbers = [_three(r.get("auc")), _three(r.get("auc_successful"))]
        numbers += ["–" if r.get(k) is None else percent(r[k]) for k in ("flagged", "wrong_and_unflagged")]
        cells.append([_KINDS.get(r["kind"], r["kind"]), r["name"], f"{r['images']:,}", *numbers])
    caption = f"{name}, measured at release"
    return fold(f"{name}: all {len(cells)} inputs", table(caption, head, cells, row_headers=False))


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def limits(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What the detection figures do not say, each with its measured figure."""
    lines = []
    for name, found in rows.items():
        of = {kind: [r for r in found if r["kind"] == kind] for kind in _KINDS}
        attacks = [r for r in of["attack"] if r.get("auc") is not None]
        aware = [r for r in of["adaptive"] if r.get("wrong_and_unflagged") is not None]
        quiet = [r for r in of["benign"] if r.get("flagged") is not None]
        if not (attacks and aware and quiet):
            continue
        best = max(attacks, key=lambda r: r["auc"])
        worst = max(aware, key=lambda r: r["wrong_and_unflagged"])
        loud = max(quiet, key=lambda r: r["flagged"])
        auc = "" if worst.get("auc") is None else f" (AUC {worst['auc']:.3f})"
        lines.append(
            f"{name}: AUC {best['auc']:.3f} under {best['name']}; under an attacker who knows of the detector "
            f"({worst['name']}) wrong and unflagged on {percent(worst['wrong_and_unflagged'])} of {worst['images']:,} "
            f"pictures{auc}; {loud['name']}, which attacks nothing, is flagged on {percent(loud['flagged'])}."
        )
    return lines
