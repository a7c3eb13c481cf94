"""Cells: one number of the paper beside ours, measured now, or at release, or not given with the reason why.

Every cell says which it is, on how many images, and which settings differ from the paper's.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from cce.checkpoints.folder import Checkpoint
from cce.checkpoints.measurements import BLACK_BOX, read_measurement
from cce.config import AttackConfig, ModelConfig
from cce.evaluation.detection import DetectionReport
from cce.evaluation.transferability import Transferability, black_box_from_json, from_json_values
from cce.models import Ensemble
from cce.paper import printed as paper
from cce.paper.bench import Bench
from cce.paper.printed import Cell

MEASURED = "measured"
AT_RELEASE = "measured at release"
NO_CHECKPOINT = "no checkpoint for this cell"
NEEDS_TEST_SET = "needs the test set"
NOT_AT_RELEASE = "not measured at release"
SLOW = "a slow attack, not measured yet"
NOT_RECORDED = "not recorded with the checkpoint"
NO_DIRECTION = "no gradient at this picture"
STATUSES = (
    *(MEASURED, AT_RELEASE, NO_CHECKPOINT, NEEDS_TEST_SET, NOT_AT_RELEASE, SLOW, NOT_RECORDED),
    NO_DIRECTION,
)


@dataclass
class Result:
    """A cell with what was measured of it.

    `printed`, `measured`, `difference` (measured - printed) and `margin` (95% interval, half its width, from
    n alone) are in the item's unit; None where there is no number. `differs` names the settings that
    are not the paper's.
    """

    id: str
    row: str
    column: str
    printed: float | str | None
    status: str
    measured: float | str | None = None
    margin: float | None = None
    checkpoint: str | None = None
    attack: str | None = None
    n: int | None = None
    differs: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Measured - printed, where both are numbers."""
        both = isinstance(self.measured, float) and isinstance(self.printed, float)
        return round(self.measured - self.printed, 3) if both else None  # type: ignore[operator]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "difference": self.difference}


@dataclass
class ItemResult:
    """A table or figure with its cells, its detection rows (attacks, adaptive, benign) and its figures."""

    id: str
    name: str
    title: str
    unit: str
    note: str
    cells: list[Result]
    detection: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """JSON values, without the figures."""
        head = {k: getattr(self, k) for k in ("id", "name", "title", "unit", "note")}
        return {**head, "cells": [c.to_json() for c in self.cells], "detection": self.detection}


def margin(fraction: float, n: int) -> float:
    """Half the width of the 95% Wilson interval of a fraction of n.

    >>> round(margin(0.5, 100), 3)
    0.096
    """
    z = 1.96
    return z / (1 + z * z / n) * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))


def measure(cell: Cell, bench: Bench) -> Result:
    """A cell's number, or the reason why there is none."""
    result = Result(cell.id, cell.row, cell.column, cell.printed, NO_CHECKPOINT)
    if cell.measure == "layers":
        layers = built_layers(cell.key)
        same = "the same layers" if layers == cell.printed else "other layers"
        return replace(result, status=MEASURED, measured=layers, note=f"{same}, read from the model that is built here")
    c = paper.find(cell.wanted, bench.checkpoints)
    source = paper.find(cell.source, bench.checkpoints) if cell.source else c
    if c is None or source is None:
        missing = cell.wanted if c is None else cell.source
        return replace(result, note=str(missing))
    result.checkpoint = c.id if source is c else f"{c.id}, attacked through {source.id}"
    result.differs = paper.differences(cell.wanted, c)
    return measure_on(cell, result, c, source, bench)


def measure_on(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    """A cell's number on the checkpoint `c`, with examples that attack `source`; `result` has what is known before."""
    return _MEASURES[cell.measure](cell, result, c, source, bench)


def number(
    result: Result,
    value: float,
    n: int,
    cell: Cell,
    used: AttackConfig | None,
    at_release: str = "",
    scale: float = 100,
) -> Result:
    """The result with a measured fraction, its n, and the settings that differ."""
    differs = [*result.differs, *_attack_differences(cell.attack, used)]
    if n != cell.images:
        differs.append(f"n = {n:,} instead of {cell.images:,}")
    width = (
        margin(value, n) * 100 if scale == 100 and 0 <= value <= 1 and cell.key not in ("T", "nT", "a_single") else None
    )
    return replace(
        result,
        status=AT_RELEASE if at_release else MEASURED,
        measured=round(scale * value, 3) + 0.0,  # no -0.0
        margin=None if width is None else round(width, 2),
        attack=used.describe() if used else None,
        n=n,
        differs=differs,
        note=at_release,
    )


def _attack_differences(asked: AttackConfig | None, used: AttackConfig | None) -> list[str]:
    """Where the attack that was run is not the one that was asked for, in words; what it does not read is no matter."""
    if asked is None or used is None:
        return []
    found = []
    for name, said in (("steps", "k"), ("restarts", "repeats")):
        ours, theirs = getattr(used, name), getattr(asked, name)
        if ours != theirs and (name != "steps" or used.info.steps is not None):
            found.append(f"{said} = {ours} instead of {theirs}")
    for name in ("epsilon", "step_size"):
        ours, theirs = getattr(used, name), getattr(asked, name)
        if abs(ours - theirs) > 1e-6 and (name != "step_size" or used.info.step_size):
            found.append(f"{name.replace('_', ' ')} {255 * ours:.4g}/255 instead of {255 * theirs:.4g}/255")
    return found


def _same_kind(asked: AttackConfig, used: AttackConfig) -> bool:
    """Whether they differ in steps and restarts alone."""
    sizes = ("epsilon", "step_size") if asked.info.step_size else ("epsilon",)
    near = all(abs(getattr(asked, size) - getattr(used, size)) < 1e-6 for size in sizes)
    kinds = ("name", "target", "norm", "objective", "toward")
    return near and all(getattr(asked, kind) == getattr(used, kind) for kind in kinds)


def _released_row(c: Checkpoint, asked: AttackConfig) -> tuple[dict[str, Any], AttackConfig] | None:
    """The row of `metrics.json` for an attack of this kind and size, with the nearest number of steps."""
    rows = [(AttackConfig.of(row), row) for row in c.metrics.get("attacks", [])]
    rows += [(AttackConfig.of(row["attack"]), row) for row in c.metrics.get("slow", [])]
    rows = [(config, row) for config, row in rows if _same_kind(asked, config)]
    if not rows:
        return None
    config, row = min(rows, key=lambda r: (abs(r[0].steps - asked.steps), abs(r[0].restarts - asked.restarts)))
    return row, config


def _unmeasured(result: Result, c: Checkpoint, bench: Bench) -> Result:
    """Why there is no number."""
    if not bench.n:
        return replace(result, status=NOT_AT_RELEASE)
    return replace(result, status=SLOW if bench.images(c) else NEEDS_TEST_SET)


def _release_words(c: Checkpoint, row: dict[str, Any] | None = None) -> str:
    """Of the evaluation that a row came from: the checkpoint's own, or a later one."""
    m = c.metrics | (row or {}).get("source", {})
    searched = f", searched for in {m['search_precision']}" if "search_precision" in m else ""
    where = f"on {m.get('data', 'test images')}, seed {m.get('seed', 'not stated')}"
    return f"{where}, {m.get('device', 'device not stated')}{searched}"


def _natural(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    if bench.images(c):
        seen = bench.outcome(c, c, None)
        return number(result, seen.accuracy, len(seen.labels), cell, None)
    if "natural" in c.metrics and "images" in c.metrics:
        value = c.metrics["natural"]["accuracy"]
        return number(result, value, c.metrics["images"], cell, None, _release_words(c))
    return _unmeasured(result, c, bench)


def _robust(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    """Robust accuracy of `c` on examples that attack `source`."""
    assert cell.attack is not None
    if bench.images(c) and (bench.slow or not cell.attack.info.slow):
        used = bench.capped(cell.attack)
        seen = bench.outcome(c, source, used)
        return number(result, seen.accuracy, len(seen.labels), cell, used)
    if source is c and (shipped := _released_row(c, cell.attack)):
        row, used = shipped
        n = row.get("images") or c.metrics["images"]
        return number(result, row["accuracy"], n, cell, used, _release_words(c, row))
    return _released_black_box(cell, result, c, source) or _unmeasured(result, c, bench)


def _released_black_box(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint) -> Result | None:
    """The black-box accuracy of the two ensembles that `transfer SOURCE ... --write` measured."""
    assert cell.attack is not None
    for record in (read_measurement(c, BLACK_BOX) or {}).get("records", []):
        found = black_box_from_json(record["black_box"])
        if {source.id, c.id} <= set(found.names) and _same_kind(cell.attack, found.attack):
            value = found.a[found.names.index(source.id)][found.names.index(c.id)]
            return number(result, value, found.images, cell, found.attack, _shipped_words(record))
    return None


def _transfer(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    assert cell.attack is not None
    if bench.images(c):
        t = bench.transfer(c, bench.capped(cell.attack))
        return number(result, table6(t)[cell.key], t.images, cell, t.attack)
    if shipped := read_measurement(c, "transferability"):
        t = from_json_values(shipped["transferability"])
        return number(result, table6(t)[cell.key], t.images, cell, t.attack, _shipped_words(shipped))
    row = _released_row(c, cell.attack)
    value = _table6_of_row(row[0]).get(cell.key) if row else None
    if row and value is not None:
        n = row[0].get("images") or c.metrics["images"]
        return number(result, value, n, cell, row[1], _release_words(c, row[0]))
    return _unmeasured(result, c, bench)


def _shipped_words(record: dict[str, Any]) -> str:
    return f"on {record.get('data', 'test images')}, {record.get('device', 'device not stated')}"


def table6(t: Transferability) -> dict[str, float]:
    """Table 6's columns, as fractions: `a_en_en`, `a_1_1`, ..., `S11`, ..., `T`, `nT`, `a_single`."""
    own = {f"a_{i + 1}_{i + 1}": t.a[i][i] for i in range(t.members)}
    derived = {"T": t.transferability, "nT": t.not_transferable, "a_single": t.single}
    return {"a_en_en": t.a[-1][-1], **own, **t.subsets, **derived}


def _table6_of_row(row: dict[str, Any]) -> dict[str, float]:
    """The cells of Table 6 that one attack on the ensemble gives: all but the members' own attacks and T."""
    subsets, accuracy = row.get("subsets"), row["accuracy"]
    if not subsets:
        return {}
    shares = list(subsets.values())
    return {"a_en_en": accuracy, **subsets, "nT": 1 - accuracy - shares[-1], "a_single": accuracy - shares[0]}


def _seconds(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    record = c.training
    if not record.get("seconds") or not record.get("images_seen"):
        return replace(result, status=NOT_RECORDED)
    value = record["seconds"] / record["images_seen"] * 50_000
    note = f"when it was trained, on {record['machine']}, evaluation included"
    return replace(result, status=AT_RELEASE, measured=round(value, 1), note=note)


FIGURE_ATTACKS = [a for i in paper.items() if i.id in ("figure3", "figure4") for c in i.cells if (a := c.attack)]
"""The attacks of Figures 3 and 4, together."""


def _auc(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    assert cell.attack is not None
    made = bench.detection(c, list(dict.fromkeys(FIGURE_ATTACKS)), 8 / 255)
    now = bench.images(c) is not None
    row = _nearest_row(made, bench.capped(cell.attack) if now else cell.attack) if made else None
    if row is None:  # an attack may have been added to the card after the report was made
        return (None if now else _released_auc(cell, result, c)) or _unmeasured(result, c, bench)
    used, value, n = row
    shipped = "" if now else _shipped_words(read_measurement(c, "detection") or {})
    return replace(number(result, value, n, cell, used, shipped), margin=None)


def _nearest_row(made: DetectionReport, asked: AttackConfig) -> tuple[AttackConfig, float, int] | None:
    for s, row in zip(made.attacks, made.rows()[1:], strict=False):
        used = AttackConfig.of(s.settings)
        if used.name == asked.name and not [d for d in _attack_differences(asked, used) if not d.startswith("k ")]:
            return used, row["auc"], len(s)
    return None


def _released_auc(cell: Cell, result: Result, c: Checkpoint) -> Result | None:
    """An AUC of `metrics.json`, only where its adaptive and benign columns are beside it."""
    assert cell.attack is not None
    row = _released_row(c, cell.attack)
    whole = c.metrics.get("adaptive") and c.metrics.get("benign_corruptions")
    if not whole or row is None or row[0].get("auc") is None:
        return None
    n = row[0].get("images") or c.metrics["images"]
    made = number(result, row[0]["auc"], n, cell, row[1], _release_words(c, row[0]))
    return replace(made, margin=None)


def _histogram(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    made = bench.detection(c, list(dict.fromkeys(FIGURE_ATTACKS)), 8 / 255)
    if made is None:
        return _unmeasured(result, c, bench)
    n, status = len(made.clean), MEASURED if bench.images(c) else AT_RELEASE
    differs = [*result.differs, *([f"n = {n:,} instead of {cell.images:,}"] if n != cell.images else [])]
    return replace(result, status=status, n=n, differs=differs, note="see the figure")


def _picture(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    _, _, which = bench.example(c)
    assert cell.attack is not None
    used = bench.capped(cell.attack)
    differs = [*result.differs, *_attack_differences(cell.attack, used)]
    return replace(
        result, status=MEASURED, n=1, attack=used.describe(), differs=differs, note=f"see the figure; {which}"
    )


_MEASURES = {
    "natural": _natural,
    "attack": _robust,
    "black-box": _robust,
    "transfer": _transfer,
    "seconds": _seconds,
    "auc": _auc,
    "histogram": _histogram,
    "predictions": _picture,
    "surface": _picture,
}


def built_layers(architecture: str) -> str:
    """Table 8's line of a standard CNN, read from the model that is built here.

    >>> built_layers("cnn-mnist") == paper.LAYERS["cnn-mnist"]
    True
    """
    shape = {"cnn-mnist": (1, 28, 28)}.get(architecture, (3, 32, 32))
    member = Ensemble(ModelConfig(architecture, 1, 100 if architecture == "cnn-cifar100" else 10, shape)).members[0]
    words: list[str] = []
    for layer in member.features:
        if isinstance(layer, torch.nn.Conv2d):
            words.append(f"Conv({layer.out_channels})")
        elif isinstance(layer, torch.nn.MaxPool2d):
            words.append("MaxPool")
    for layer in member.head:
        kinds = {torch.nn.Linear: lambda m: f"FC({m.out_features})", torch.nn.Dropout: lambda m: f"Dropout({m.p:g})"}
        words.append(kinds.get(type(layer), lambda m: type(m).__name__)(layer))
    lines: list[tuple[str, int]] = []
    for word in words:
        again = bool(lines) and lines[-1][0] == word and word.startswith("Conv")
        lines[-1:] = [(word, lines[-1][1] + 1)] if again else [*lines[-1:], (word, 1)]
    return ", ".join(f"{count} x {word}" if count > 1 else word for word, count in lines)
