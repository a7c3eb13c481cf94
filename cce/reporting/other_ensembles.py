"""Ensembles that the paper does not have: the same measures, with nothing printed beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig, default_attack
from cce.evaluation.transferability import Transferability
from cce.paper import printed as paper
from cce.paper.bench import Bench
from cce.paper.cells import MEASURED, NEEDS_TEST_SET, ItemResult, Result, measure_on, number, table6
from cce.paper.printed import Cell, Item, Wanted
from cce.reporting import figures
from cce.reporting.item_figures import add_picture, released_detection


def _kind(cell: Cell) -> str:
    """Natural and robust accuracy are one kind of measure."""
    return "accuracy" if cell.measure in ("natural", "attack") else cell.measure


def others(chosen: Sequence[Item], bench: Bench) -> list[ItemResult]:
    """The measures of the items, on each checkpoint that fits no cell of theirs."""
    kinds: dict[str, list[Checkpoint | None]] = {}
    for cell in (cell for item in chosen for cell in item.cells):
        fitting = [paper.find(w, bench.checkpoints) for w in (cell.wanted, cell.source) if w]
        kinds.setdefault(_kind(cell), []).extend(fitting)
    results, left = [], []
    for c in bench.checkpoints:
        wanted = {kind for kind, fitting in kinds.items() if not any(f is c for f in fitting)}
        left += [c] if "black-box" in wanted else []
        if wanted := wanted - {"layers", "seconds", "black-box"}:
            results.append(_other(c, wanted, bench))
    return results + _other_black_boxes(left, bench)


def _other_black_boxes(left: Sequence[Checkpoint], bench: Bench) -> list[ItemResult]:
    """Tables 12 and 13's measure between the ensembles of a data set."""
    groups: dict[tuple[str, tuple[int, ...]], list[Checkpoint]] = {}
    for c in left:
        groups.setdefault((c.dataset, c.model.config.input_shape), []).append(c)
    results = []
    for (dataset, _), group in groups.items():
        if len(group) < 2 or bench.images(group[0]) is None:
            continue
        used = bench.capped(default_attack(dataset))
        title, note = f"black-box transfer on {dataset}, {used.describe()}", "The paper has no such ensembles."
        made = ItemResult(f"other/black-box/{dataset}", "Black box", title, "percent", note, [])
        square = []
        for source in group:
            seen = [bench.outcome(judge, source, used) for judge in group]
            n = len(seen[0].labels)
            square.append([o.accuracy for o in seen])
            for judge, o in zip(group, seen, strict=True):
                cell = Cell(made.id, source.id, judge.id, None, _wanted(judge), "black-box", used, images=n)
                blank = Result(cell.id, source.id, judge.id, None, MEASURED, checkpoint=judge.id)
                made.cells.append(number(blank, o.accuracy, n, cell, used))
        names = [c.id for c in group]
        made.figures = [figures.matrix(square, names, f"Robust accuracy in percent, n = {n}", "attacked", "source")]
        results.append(made)
    return results


def _wanted(c: Checkpoint) -> Wanted:
    """What a checkpoint itself is."""
    return Wanted(c.dataset, c.model.config.architecture, c.model.config.members, c.defense_name)


def _other(c: Checkpoint, kinds: set[str], bench: Bench) -> ItemResult:
    """One ensemble under its data set's usual attacks; nothing is printed for it."""
    base = default_attack(c.dataset)
    title = f"{c.defense_name}, {c.model.config.members} x {c.model.config.architecture} on {c.dataset}"
    note = "The paper has no such ensemble: nothing is printed. The attacks are those that its data set is shown under."
    made = ItemResult(f"other/{c.id}", c.id, title, "percent", note, [])

    def add(row: str, column: str, kind: str, attack: AttackConfig | None = None, **more: Any) -> Result:
        images = bench.images(c)
        n = len(images[1]) if images else c.metrics.get("images", 0)
        if kind in ("predictions", "surface"):
            n = 1
        cell = Cell(made.id, row, column, None, _wanted(c), kind, attack, images=n, **more)
        result = Result(cell.id, row, column, None, NEEDS_TEST_SET, checkpoint=c.id)
        made.cells.append(measure_on(cell, result, c, c, bench))
        return made.cells[-1]

    if "accuracy" in kinds:
        add("natural", "accuracy", "natural")
        for name in ("pgd", "bim", "mim"):
            used = bench.capped(replace(base, name=name))
            add(used.describe(), "accuracy", "attack", used)
    if "transfer" in kinds:
        for key in table6(_empty_transfer(c)):
            add(f"Table 6: {key}", "percent", "transfer", bench.capped(base), key=key)
        if bench.images(c):
            t = bench.transfer(c, bench.capped(base))
            made.figures += [figures.transfer(t, f"{c.id}: a(i,j), n = {t.images}"), figures.subsets(t)]
    if kinds & {"auc", "histogram"}:
        _other_detection(made, c, bench, base)
    for kind in ("predictions", "surface"):
        if kind in kinds:
            result = add(kind, "figure", kind, bench.capped(base))
            add_picture(made, c, bench, base, kind, result)
    return made


def _empty_transfer(c: Checkpoint) -> Transferability:
    """For the names of Table 6's columns alone."""
    n = c.model.config.members
    row = (0.0,) * (n + 1)
    names = {f"S{k:0{n}b}": 0.0 for k in reversed(range(2**n))}
    return Transferability(n, 0, default_attack(c.dataset), row, (row,) * (n + 1), names)


def _other_detection(made: ItemResult, c: Checkpoint, bench: Bench, base: AttackConfig) -> None:
    """Figures 2 to 4's measures: three attacks, and PGD in the same multiples of the usual epsilon."""
    fine = replace(base, step_size=base.step_size / 2)
    plan = [replace(fine, name=name) for name in ("pgd", "bim", "mim")]
    plan += [replace(fine, epsilon=base.epsilon * k / 8) for k in (1, 2, 4)]
    found = bench.detection(c, plan, base.epsilon)
    if found is None:
        made.detection = released_detection(c)
        return
    made.detection = found.rows()
    for drawn in (figures.histogram, figures.roc_curves, figures.auc_by_epsilon):
        made.figures.append(drawn(found, title=f"{c.id}: {drawn.__name__.replace('_', ' ')}, n = {len(found.clean)}"))
