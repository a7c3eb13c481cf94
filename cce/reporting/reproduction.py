"""Reproduction: the paper's tables and figures, cell by cell, on the checkpoints there are.

A number is either measured now, or was measured when the checkpoint was released, or is not given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cce.checkpoints.folder import machine_name, version_of_cce
from cce.data.datasets import DATASETS
from cce.paper.bench import Bench, device_of
from cce.paper.cells import STATUSES, measure
from cce.paper.equal_terms import families
from cce.paper.orders import orders
from cce.paper.printed import Item
from cce.reporting.item_figures import with_figures
from cce.reporting.other_ensembles import others


def reproduce(
    chosen: Sequence[Item], bench: Bench, report: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Every cell of the items, and the same measures on the checkpoints that the paper has no cell for.

    Args:
        chosen: see `cce.paper.printed.choose`.
        bench: the checkpoints, and how to measure.
        report: called as `report(what, fraction)`.

    Returns:
        `items` (`ItemResult`s), `others` (the same for ensembles that are not in the paper), `orders`
        (see `cce.paper.orders`), `families` (ensembles on equal terms, see `cce.paper.equal_terms`), `counts` (cells by
        status), `settings`, `checkpoints` (the ids of those measured), `left_out` (a line for each of the others).
    """
    tell = report or (lambda what, fraction: None)
    done, total = 0, sum(len(i.cells) for i in chosen) + 1
    results = []
    for item in chosen:
        cells = []
        for cell in item.cells:
            tell(cell.id, done / total)
            cells.append(measure(cell, bench))
            done += 1
        results.append(with_figures(item, cells, bench))
    tell("ensembles that the paper does not have", done / total)
    beside = others(chosen, bench)
    tell("done", 1.0)
    counts = {s: sum(c.status == s for r in results for c in r.cells) for s in STATUSES}
    settings = {"n": bench.n, "steps": bench.steps, "adaptive": bench.adaptive, "seed": bench.seed}
    devices = sorted({machine_name(device_of(c)) for c in bench.checkpoints})
    settings |= {"device": ", ".join(devices), "cce": version_of_cce(), "torch": torch.__version__}
    return {
        "items": results,
        "others": beside,
        "orders": orders(zip(chosen, (r.cells for r in results), strict=True)),
        "families": families(bench.checkpoints),
        "counts": counts,
        "settings": settings,
        "checkpoints": [c.id for c in bench.checkpoints],
        "left_out": left_out(bench),
    }


def left_out(bench: Bench) -> list[str]:
    """For each checkpoint that is not measured, why, and what measures it."""
    return [
        f"{c.id} is left out: its data set {c.dataset!r} is none of {', '.join(DATASETS)}, so the paper has nothing "
        "to compare it with; `python -m cce evaluate CHECKPOINT --data-dir FOLDER` measures it"
        for c in bench.left_out
    ]
