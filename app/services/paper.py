"""Paper service: the printed numbers beside those that were measured when the ensembles were released."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.services.trade import Trade, trades
from app.studio import Studio
from cce.checkpoints.folder import Checkpoint, CheckpointError
from cce.checkpoints.measurements import MEASUREMENTS
from cce.config import ConfigError, check
from cce.paper import printed as paper
from cce.paper.bench import Bench
from cce.paper.cells import MEASURED, NOT_RECORDED, STATUSES, Result, measure
from cce.paper.equal_terms import Family, families, family_of
from cce.paper.orders import HOLDS, REVERSED, Order, orders
from cce.paper.printed import Item
from cce.reporting.item_figures import released_detection

log = logging.getLogger(__name__)

TABLES = ("table3", "table4", "table5", "table6", "table7", "table9", "table10", "table11", "table12", "table13")
"""Those with measurements; Table 8 is a definition, and `python -m cce reproduce table8` compares it."""

_CURVES = ("figure3", "figure4")

_lock = threading.Lock()
_kept: list[Any] = [None, None, None]  # what the last page was made from, the page, and its ensembles


@dataclass(frozen=True)
class Page:
    """All that the tab shows.

    `detection` has the rows of each ensemble in detection mode, `curves` the cells of Figures 3 and 4, `families` the
    ensembles that differ in their loss alone, `trades` the recipes for detection side by side, `damaged` the ensembles
    that cannot be read.
    """

    tables: list[tuple[Item, list[Result]]]
    curves: list[tuple[Item, list[Result]]]
    orders: list[Order]
    detection: dict[str, list[dict[str, Any]]]
    families: list[Family]
    trades: list[Trade]
    ensembles: list[str]
    damaged: list[str]


def page(studio: Studio) -> Page:
    """The paper's cells from what ships with the ensembles; no attack is run.

    An ensemble that cannot be read is left out and named in `damaged`.
    """
    made, damaged = _ensembles(studio)
    key = (tuple((c.id, id(c), _changed(c)) for c in made), tuple(damaged))
    with _lock:
        if _kept[0] != key:
            _kept[:] = [
                key,
                _read(studio, made, damaged),
                made,
            ]  # the ensembles too: while they live, their ids are theirs
        return _kept[1]


def _changed(c: Checkpoint) -> tuple[tuple[str, int], ...]:
    """What changes when something in the checkpoint's folder of measurements does."""
    paths = sorted((c.folder / MEASUREMENTS).glob("*.json")) if c.folder else []
    return tuple((p.name, p.stat().st_mtime_ns) for p in paths)


def _read(studio: Studio, made: list[Checkpoint], damaged: list[str]) -> Page:
    bench = Bench(made, studio.data_root, n=0, steps=0, adaptive=1, seed=0)
    tables = [(item, _results(item, bench)) for item in paper.choose(TABLES)]
    curves = [(item, _results(item, bench)) for item in paper.choose(_CURVES)]
    rows = {c.id: released_detection(c) for c in made if c.defense.detects}
    found = orders(tables)
    found.sort(key=lambda order: (order.verdict != REVERSED, order.verdict != HOLDS))
    detection = {k: v for k, v in rows.items() if v}
    used = [c.id for c in bench.checkpoints]
    return Page(tables, curves, found, detection, _families(bench.checkpoints), trades(made), used, damaged)


def _families(made: Sequence[Checkpoint]) -> list[Family]:
    try:
        return families(_comparable(made))
    except ConfigError as error:
        log.warning("ensembles are not compared: %s", error)
        return []


def counts(results: Sequence[Result]) -> dict[str, int]:
    """Cells by status, those that there are."""
    found = {status: sum(r.status == status for r in results) for status in STATUSES}
    return {status: n for status, n in found.items() if n}


def _ensembles(studio: Studio) -> tuple[list[Checkpoint], list[str]]:
    """The released ensembles, then those that runs have made; none of strangers on the Hub."""
    made, damaged = [], []
    for entry in sorted((e for e in studio.registry.entries() if not e.on_hub), key=lambda e: e.run):
        try:
            checkpoint = studio.registry.described(entry.id)
            check(checkpoint.id not in {c.id for c in made}, f"another ensemble is called {checkpoint.id} too")
            made.append(checkpoint)
        except (CheckpointError, ConfigError) as error:
            log.warning("%s is left out: %s", entry.id, error)
            damaged.append(entry.id)
    return made, damaged


def _comparable(made: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those whose comparison on equal terms can be read, or that have none."""
    kept = []
    for c in made:
        try:
            family_of(c)
            kept.append(c)
        except ConfigError as error:
            log.warning("%s", error)
    return kept


def _results(item: Item, bench: Bench) -> list[Result]:
    results = []
    for cell in item.cells:
        try:
            results.append(measure(cell, bench))
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            log.warning("%s: %s", cell.id, error)
            note = "what ships with the ensemble cannot be read"
            results.append(Result(cell.id, cell.row, cell.column, cell.printed, NOT_RECORDED, note=note))
    assert all(r.status != MEASURED for r in results)  # nothing was run
    return results
