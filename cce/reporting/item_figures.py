"""Figures of the paper's items, drawn from what was measured of their cells."""

from __future__ import annotations

from typing import Any

from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig, ConfigError
from cce.evaluation.one_picture import attack_picture
from cce.evaluation.surfaces import surface
from cce.paper import printed as paper
from cce.paper.bench import Bench
from cce.paper.cells import AT_RELEASE, FIGURE_ATTACKS, MEASURED, NO_DIRECTION, ItemResult, Result
from cce.paper.printed import Item, Wanted
from cce.reporting import figures
from cce.reporting.figures import Figure


def with_figures(item: Item, cells: list[Result], bench: Bench) -> ItemResult:
    """The item with figures of what was measured."""
    made = ItemResult(item.id, item.name, item.title, item.unit, item.note, cells)
    kind = item.cells[0].measure
    if kind == "black-box":
        made.figures = _black_box_figures(item, cells)
    elif kind in ("auc", "histogram"):
        _add_detection(made, item, bench)
    elif kind in ("predictions", "surface"):
        for cell, result in zip(item.cells, cells, strict=True):
            if result.status == MEASURED:
                add_picture(made, cell.wanted, bench, cell.attack, kind, result)
    elif kind != "layers":
        made.figures = _bars(item, cells)
    return made


def _bars(item: Item, cells: list[Result]) -> list[Figure]:
    """Printed beside measured, for each ensemble that something was measured of."""
    found: dict[str, list[tuple[str, float | None, float]]] = {}
    by_row = item.id in ("table6", "table7", "table9")
    for c in cells:
        if isinstance(c.measured, float):
            group, name = (c.row, c.column) if by_row else (c.column, c.row)
            found.setdefault(group, []).append((name, c.printed if isinstance(c.printed, float) else None, c.measured))
    return [figures.printed_and_measured(rows, f"{item.name}, {group}", item.unit) for group, rows in found.items()]


def _black_box_figures(item: Item, cells: list[Result]) -> list[Figure]:
    values = {(c.row, c.column): c.measured for c in cells if isinstance(c.measured, float)}
    names = [n for n in dict.fromkeys(c.row for c in cells) if (n, n) in values]
    if len(names) < 2:
        return []
    square = [[float(values[i, j]) / 100 for j in names] for i in names]  # type: ignore[arg-type]
    return [figures.matrix(square, names, f"{item.name}, measured: robust accuracy in percent", "attacked", "source")]


def _add_detection(made: ItemResult, item: Item, bench: Bench) -> None:
    c = paper.find(item.cells[0].wanted, bench.checkpoints)
    if c is None or all(r.status not in (MEASURED, AT_RELEASE) for r in made.cells):
        return
    found = bench.detection(c, list(dict.fromkeys(FIGURE_ATTACKS)), 8 / 255)
    if found is None:
        made.detection = released_detection(c)
        return
    made.detection = found.rows()
    drawn = {"figure2": figures.histogram, "figure3": figures.roc_curves, "figure4": figures.auc_by_epsilon}[item.id]
    made.figures.append(drawn(found, title=f"{item.name}: {c.id}, n = {len(found.clean)}"))


def released_detection(c: Checkpoint) -> list[dict[str, Any]]:
    """Detection rows of `metrics.json`, in the form of `DetectionReport.rows`."""
    parts = [("attack", "attacks"), ("adaptive", "adaptive"), ("benign", "benign_corruptions")]
    if not all(c.metrics.get(name) for _, name in parts):
        return []
    wanted = ("accuracy", "auc", "auc_successful", "flagged", "wrong_and_unflagged")
    rows = []
    for kind, name in parts:
        for row in [*c.metrics[name], *(c.metrics.get("slow", []) if kind == "attack" else [])]:
            config = AttackConfig.of(row) if kind == "attack" and "attack" not in row else None
            said = {k: row[k] for k in wanted if k in row}
            images = row.get("images") or c.metrics.get("images", 0)
            rows.append({"kind": kind, "name": config.describe() if config else row["name"], "images": images, **said})
    return rows


def add_picture(
    made: ItemResult, wanted: Wanted | Checkpoint, bench: Bench, config: AttackConfig | None, kind: str, result: Result
) -> None:
    """Add Figures 1 and 5, or 6 to 8, of one ensemble."""
    c = wanted if isinstance(wanted, Checkpoint) else paper.find(wanted, bench.checkpoints)
    assert c is not None and config is not None
    x, label, which = bench.example(c)
    used = bench.capped(config)
    x_adv, said = attack_picture(c, x, label, used, bench.seed)
    title = f"{c.id}, {which}; {used.describe()}"
    if kind == "predictions":
        made.figures.append(figures.predictions(said, title=f"{said['label']}: {title}"))
        return
    try:
        extent = min(1.0, 2 * config.epsilon)
        found = surface(c.model, x_adv, label, extent=extent, seed=bench.seed)
    except ConfigError as error:
        result.status, result.note = NO_DIRECTION, str(error)
        return
    words = f"{c.classes[label]}, extent {255 * extent:.4g}/255: {title}"
    made.figures.append(figures.surface(found, c.classes, title=words))
