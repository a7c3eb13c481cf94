"""The paper's tables as HTML: printed and measured side by side, and why a number is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup

from app.figures import dumbbell
from app.figures.templates import render
from app.figures.values import table
from app.services.models import dataset_title
from app.services.paper import Page
from app.services.trade import Row, Trade
from cce.paper.cells import AT_RELEASE, MEASURED, NO_CHECKPOINT, NOT_AT_RELEASE, Result
from cce.paper.equal_terms import Comparison, Family
from cce.paper.orders import HOLDS, REVERSED, UNCLEAR, Order
from cce.paper.printed import Item
from cce.reporting.cards import percent

EVERY_DATASET = "All"
_TRADE = (
    "The paper’s recipe makes a detector that flags every plain attack, and random noise as well; an attacker who "
    "knows of it passes, above all with smooth changes. A hardened recipe trains on smooth attacks and on noisy clean "
    "pictures too. What it gains, and what it costs:"
)
_EQUAL = (
    "The tables are of ensembles of many recipes. These were made by one: the same epochs, attack in training, seed "
    "and number of images; only the loss differs, and with it the time that a step takes. Each was trained "
    "once: another seed may turn a small difference."
)
_SHORT = {NO_CHECKPOINT: "no checkpoint", NOT_AT_RELEASE: "not measured"}
_VERDICTS = {HOLDS: "✓ holds", REVERSED: "✗ does not hold", UNCLEAR: "≈ within the margin"}


def item(one: Item, results: Sequence[Result], counted: Mapping[str, int]) -> Markup:
    """A table of the paper, the printed rows and columns with ours below: open where something is measured."""
    measured = [r for r in results if r.status in (MEASURED, AT_RELEASE)]
    columns = list(dict.fromkeys(r.column for r in results))
    by_place = {(r.row, r.column): r for r in results}
    rows = [(row, [_cell(by_place.get((row, c))) for c in columns]) for row in dict.fromkeys(r.row for r in results)]
    return render(
        "paper_item.html",
        item=one,
        unit=f" ({one.unit})" if one.unit else "",
        said=f"{len(measured)} of {len(results)} cells measured" if measured else "nothing measured",
        picture=dumbbell.picture(results, one.unit),
        columns=columns,
        rows=rows,
        counted=f"{'; '.join(f'{n} {status}' for status, n in counted.items())}.",
        header=["cell", "printed", "measured", "difference", "n", "ensemble", "status", "which settings differ"],
        details=[_details(r) for r in measured],
    )


def _cell(r: Result | None) -> dict[str, str | None] | None:
    """The texts of a cell: what is printed, and what was measured or why not."""
    if r is None:
        return None
    return {
        "printed": _number(r.printed),
        "measured": None if r.measured is None else _number(r.measured),
        "sign": "" if r.difference is None else _signed(r.difference),
        "short": _SHORT.get(r.status, r.status),
        "why": f"{r.status}{': ' + r.note if r.note else ''}",
    }


def _details(r: Result) -> list[str]:
    """A measured number with its settings."""
    shown = _number(r.measured) + (f" ± {r.margin:.1f}" if r.margin is not None else "")
    sign = "" if r.difference is None else _signed(r.difference)
    n = "" if r.n is None else f"{r.n:,}"
    status = f"{r.status}{', ' + r.note if r.note else ''}"
    differs = "; ".join(r.differs) or "none"
    return [f"{r.row}, {r.column}", _number(r.printed), shown, sign, n, r.checkpoint or "", status, differs]


def _number(value: float | str | None) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:.1f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def order_list(found: Sequence[Order]) -> Markup:
    """Where the paper prints one ensemble above another, and what was measured."""
    said = {verdict: sum(o.verdict == verdict for o in found) for verdict in (HOLDS, REVERSED, UNCLEAR)}
    words = (
        f"Pairs measured under the same attack: {len(found)}. The printed order holds in {said[HOLDS]} and does not in "
        f"{said[REVERSED]}; in {said[UNCLEAR]} the difference is too small to tell. The ensembles were not trained as "
        "the paper's were: see which settings differ."
    )
    told, close = ([_order(o) for o in found if (o.verdict == UNCLEAR) == unclear] for unclear in (False, True))
    header = ["row", "printed above", "verdict", "measured", "margin", "printed", "n"]
    return render("paper_orders.html", count=len(found), words=words, header=header, told=told, close=close)


def _order(o: Order) -> list[str]:
    return [
        f"{o.item}, {o.row}",
        f"{o.first} over {o.second}",
        _VERDICTS[o.verdict],
        f"{o.measured[0]:.1f}, {o.measured[1]:.1f}",
        f"{o.margin:.1f}",
        f"{o.printed[0]:.1f}, {o.printed[1]:.1f}",
        f"{o.n[0]:,}" if o.n[0] == o.n[1] else f"{o.n[0]:,}, {o.n[1]:,}",
    ]


def family(one: Family) -> Markup:
    """Ensembles that differ in their loss alone, and what is said of CCE-RM beside the others."""
    head = ["ensemble", "loss", "robust accuracy", "S1..1", "natural", "minutes of training"]
    rows = [
        [s.id, s.defense, percent(s.robust), percent(s.all_right), percent(s.natural), s.took] for s in one.standings
    ]
    shown = table(one.describe(), head, rows)
    return Markup(shown + (_compared(one.comparisons, one.paired) if one.comparisons else ""))


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


def curves(items: Sequence[tuple[Item, Sequence[Result]]]) -> Markup:
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
    return Markup(table("AUC x 100; the paper prints one number, the rest are curves", head, rows))


def trade(one: Trade) -> Markup:
    """Ensembles whose recipes differ, every figure side by side; the best of a row is bold and has a star."""
    common, short = one.short
    which = f"{common}…, measured" if common else "Measured"
    groups = [(name, [_traded(row) for row in rows]) for name, rows in groupby(one.rows, lambda row: row.group)]
    return render("paper_trade.html", caption=f"{which} at release; ★ the best of its row", names=short, groups=groups)


def _traded(row: Row) -> dict[str, Any]:
    shown = [f"{value:.4f}" if row.unit == "AUC" else percent(value) for value in row.values]
    n = " and ".join(f"{n:,}" for n in dict.fromkeys(row.images))
    return {"name": row.name, "n": n, "shown": shown, "best": row.best}


_KINDS = {"clean": "clean pictures", "attack": "attack", "adaptive": "detector-aware attack", "benign": "benign change"}


def detection(name: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """An ensemble's detection, the attacks of the figures beside those that the figures leave out."""
    head = ["kind", "input", "n", "AUC", "AUC, successful", "flagged", "wrong and unflagged"]
    cells = []
    for r in rows:
        numbers = [_three(r.get("auc")), _three(r.get("auc_successful"))]
        numbers += ["–" if r.get(k) is None else percent(r[k]) for k in ("flagged", "wrong_and_unflagged")]
        cells.append([_KINDS.get(r["kind"], r["kind"]), r["name"], f"{r['images']:,}", *numbers])
    return render("paper_detection.html", name=name, header=head, rows=cells)


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


def overview(items: Sequence[tuple[Item, Sequence[Result]]], found: Sequence[Order]) -> Markup:
    """A line a table: where it is, how much of it is measured, and how many of its printed orders hold."""
    rows = []
    for one, results in items:
        measured = sum(r.status in (MEASURED, AT_RELEASE) for r in results)
        own = [o for o in found if o.item == one.name]
        said = [sum(o.verdict == verdict for o in own) for verdict in _VERDICTS]
        rows.append((one, [one.title, f"{measured} of {len(results)}", *(str(n or "–") for n in said)]))
    header = ["table", "shows", "cells measured", *_VERDICTS.values()]
    return render("paper_overview.html", header=header, rows=rows)


def datasets(one: Item) -> list[str]:
    """Titles of the data sets of a table's cells."""
    return list(dict.fromkeys(dataset_title(c.wanted.dataset) for c in one.cells if c.wanted))


def tables_page(
    page: Page, counts: Callable[[Sequence[Result]], Mapping[str, int]], wanted: str = EVERY_DATASET
) -> Markup:
    """What the tab shows of the paper's tables: the verdicts first, then each table.

    Args:
        page: the tables.
        counts: gives how many cells have each status.
        wanted: title of a data set, whose tables alone are shown.
    """
    items = [(one, results) for one, results in page.tables if wanted in (EVERY_DATASET, *datasets(one))]
    order = [o for o in page.orders if o.item in {one.name for one, _ in items}]
    return render(
        "paper_tables.html",
        overview=overview(items, order),
        ensembles=page.ensembles,
        damaged=page.damaged,
        orders=order_list(order),
        families=[family(one) for one in page.families],
        trades=[trade(one) for one in page.trades],
        tables=[item(one, results, counts(results)) for one, results in items],
        equal=_EQUAL,
        trade=_TRADE,
    )


def figures_page(page: Page) -> Markup:
    """What the tab shows of the paper's detection figures."""
    return render(
        "paper_figures.html",
        limits=limits(page.detection),
        curves=curves(page.curves),
        detection=[detection(name, found) for name, found in page.detection.items()],
    )
