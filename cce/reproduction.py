"""Reproduction: the paper's cells measured on the checkpoints there are, beside what is printed.

A number is either measured now, or was measured when the checkpoint was released, or is not given:
every cell says which, on how many images, and which settings differ from the paper's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cce import data, figures, paper
from cce.attacks import attack
from cce.checkpoints import Checkpoint, machine_name, version_of_cce
from cce.config import AttackConfig, ConfigError, check, default_attack
from cce.detection import DetectionReport, report_from_json
from cce.evaluation import Outcome, detect, outcome
from cce.examples import attack_picture
from cce.figures import Figure
from cce.models import Ensemble
from cce.paper import Cell, Item, Wanted
from cce.surfaces import surface
from cce.transferability import Transferability, from_json_values, from_outcomes

MEASURED = "measured"
AT_RELEASE = "measured at release"
NO_CHECKPOINT = "no checkpoint for this cell"
NEEDS_TEST_SET = "needs the test set"
NO_ATTACK = "attack not implemented here"
NOT_RECORDED = "not recorded with the checkpoint"
NO_DIRECTION = "no gradient at this picture"
STATUSES = (MEASURED, AT_RELEASE, NO_CHECKPOINT, NEEDS_TEST_SET, NO_ATTACK, NOT_RECORDED, NO_DIRECTION)

MEASUREMENTS = "measurements"
"""Folder of a checkpoint with what `detect --write` and `transfer --write` measured."""

Images = tuple[Tensor, Tensor]


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
    figures: list[Figure] = field(default_factory=list)

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


def read_measurement(checkpoint: Checkpoint, name: str) -> dict[str, Any] | None:
    """What ships with a checkpoint under `measurements/NAME.json`; None where nothing does.

    Raises:
        ConfigError: a file that is damaged.
    """
    path = checkpoint.folder / MEASUREMENTS / f"{name}.json" if checkpoint.folder else None
    if path is None or not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        check(False, f"{path} cannot be read: {error}; measure again or delete it")
        raise


class Bench:
    """Measures on demand and remembers, so that a figure that several tables print is measured once.

    Args:
        checkpoints: all on one device.
        root: folder of the data sets.
        n: images of a measurement, from the first; 0 measures nothing that needs a test set.
        steps: no attack takes more; 0 leaves the paper's own number.
        adaptive: of the images, how many the detector-aware attacks get.
        seed: of random starts, noise and v.
    """

    def __init__(
        self, checkpoints: Sequence[Checkpoint], root: Path | None, n: int, steps: int, adaptive: int, seed: int
    ) -> None:
        check(n >= 0, f"--n is {n}; it must be 0 or more")
        check(steps >= 0, f"--steps is {steps}; it must be 0 or more")
        check(adaptive >= 1, f"--adaptive is {adaptive}; detection is never shown without the attacker who knows")
        names = [c.id for c in checkpoints]
        twice = sorted({n for n in names if names.count(n) > 1})
        check(not twice, f"two checkpoints are called {twice[0] if twice else ''}; name one of them")
        self.checkpoints = list(checkpoints)
        self.root, self.n, self.steps, self.adaptive, self.seed = root, n, steps, adaptive, seed
        self._images: dict[tuple[str, int], Images | None] = {}
        self._examples: dict[tuple[int, AttackConfig | None], Tensor] = {}
        self._outcomes: dict[tuple[int, int, AttackConfig | None], Outcome] = {}
        self._reports: dict[int, DetectionReport] = {}

    def capped(self, config: AttackConfig) -> AttackConfig:
        """The attack with no more steps than asked for."""
        return replace(config, steps=min(config.steps, self.steps)) if self.steps else config

    def images(self, c: Checkpoint) -> Images | None:
        """Images and labels on the checkpoint's device, none of which calibrated a detector; None: not here."""
        size = c.model.config.input_shape[1]
        key = (c.dataset, size)
        if key not in self._images:
            self._images[key] = self._load(c.dataset, size) if self.n else None
        found = self._images[key]
        return found and tuple(t.to(_device(c)) for t in found)  # type: ignore[return-value]

    def _load(self, dataset: str, size: int) -> Images | None:
        if not data.available(dataset, self.root):
            return None
        if dataset == "digits":
            split = data.load("digits", size=size).detection_test
        else:
            test = data.load_test(dataset, self.root)
            split = test.first(len(test) - len(test) // 10)  # the last tenth calibrates detectors
        split = split.first(self.n)
        return split.pixels(), split.labels

    def outcome(self, judge: Checkpoint, source: Checkpoint, config: AttackConfig | None) -> Outcome:
        """What `judge` says of the examples that attack `source` (None: of clean images)."""
        key = (id(judge), id(source) if config else 0, config)
        if key not in self._outcomes:
            found = self.images(judge)
            assert found is not None
            x, labels = found
            self._outcomes[key] = outcome(judge.model, self._attacked(source, config, x, labels), labels)
        return self._outcomes[key]

    def _attacked(self, source: Checkpoint, config: AttackConfig | None, x: Tensor, labels: Tensor) -> Tensor:
        if config is None:
            return x
        key = (id(source), config)
        if key not in self._examples:
            self._examples[key] = attack(source.model, x, labels, config, seed=self.seed)
        return self._examples[key]

    def transfer(self, c: Checkpoint, config: AttackConfig) -> Transferability:
        """Table 6's figures."""
        targets = [*(f"member {m + 1}" for m in range(c.model.config.members)), "ensemble"]
        attacked = [self.outcome(c, c, replace(config, target=t)) for t in targets]
        return from_outcomes(self.outcome(c, c, None), attacked, config)

    def detection(self, c: Checkpoint, attacks: Sequence[AttackConfig], epsilon: float) -> DetectionReport | None:
        """The report, measured now, else the one that ships with the checkpoint, else None."""
        found = self.images(c)
        if found is None:
            shipped = read_measurement(c, "detection")
            return report_from_json(shipped["report"]) if shipped else None
        if id(c) not in self._reports:
            plan = [self.capped(a) for a in attacks]
            self._reports[id(c)] = detect(
                c, *found, plan, adaptive=min(self.adaptive, self.n), epsilon=epsilon, seed=self.seed
            )
        return self._reports[id(c)]

    def example(self, c: Checkpoint) -> tuple[Tensor, int, str]:
        """A picture `(C, H, W)`, its label, and which it is: the first test picture that f_en labels right."""
        size = c.model.config.input_shape[1]
        split = data.load("digits", size=size).test if c.dataset == "digits" else data.samples(c.dataset)
        x, labels = split.pixels().to(_device(c)), split.labels.to(_device(c))
        right = outcome(c.model, x[:20], labels[:20]).right.nonzero().flatten().tolist()
        place = right[0] if right else 0
        words = "the first that the ensemble labels right" if right else "it labels none of the first 20 right"
        return x[place], int(labels[place]), f"test picture {place} ({words})"


def _device(c: Checkpoint) -> torch.device:
    return next(c.model.parameters()).device


def reproduce(
    chosen: Sequence[Item], bench: Bench, report: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Every cell of the items, and the same measures on the checkpoints that the paper has no cell for.

    Args:
        chosen: see `cce.paper.choose`.
        bench: the checkpoints, and how to measure.
        report: called as `report(what, fraction)`.

    Returns:
        `items` (`ItemResult`s), `others` (the same for ensembles that are not in the paper), `counts`
        (cells by status), `settings`.
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
        results.append(_with_figures(item, cells, bench))
    tell("ensembles that the paper does not have", done / total)
    others = _others(chosen, bench)
    tell("done", 1.0)
    counts = {s: sum(c.status == s for r in results for c in r.cells) for s in STATUSES}
    settings = {"n": bench.n, "steps": bench.steps, "adaptive": bench.adaptive, "seed": bench.seed}
    devices = sorted({machine_name(_device(c)) for c in bench.checkpoints})
    settings |= {"device": ", ".join(devices), "cce": version_of_cce(), "torch": torch.__version__}
    return {
        "items": results,
        "others": others,
        "counts": counts,
        "settings": settings,
        "checkpoints": [c.id for c in bench.checkpoints],
    }


# One cell


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
    if cell.measure == "missing":
        return replace(result, status=NO_ATTACK, note=f"{cell.row}: this project does not have the attack")
    return _MEASURES[cell.measure](cell, result, c, source, bench)


def _number(
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
    if asked is None or used is None:
        return []
    found = [f"k = {used.steps} instead of {asked.steps}"] if used.steps != asked.steps else []
    for name in ("epsilon", "step_size"):
        ours, theirs = getattr(used, name), getattr(asked, name)
        if abs(ours - theirs) > 1e-6:
            found.append(f"{name.replace('_', ' ')} {255 * ours:.4g}/255 instead of {255 * theirs:.4g}/255")
    return found


def _released_row(c: Checkpoint, asked: AttackConfig) -> tuple[dict[str, Any], AttackConfig] | None:
    """The row of `metrics.json` for an attack of this kind and size, with the nearest number of steps."""
    fields = AttackConfig.__dataclass_fields__
    rows = []
    for row in c.metrics.get("attacks", []):
        config = AttackConfig(**{k: v for k, v in row.items() if k in fields})
        near = max(abs(config.epsilon - asked.epsilon), abs(config.step_size - asked.step_size)) < 1e-6
        if near and (config.name, config.target) == (asked.name, asked.target):
            rows.append((abs(config.steps - asked.steps), config, row))
    if not rows:
        return None
    _, config, row = min(rows, key=lambda r: r[0])
    return row, config


def _release_words(c: Checkpoint) -> str:
    m = c.metrics
    return (
        f"on {m.get('data', 'test images')}, seed {m.get('seed', 'not stated')}, {m.get('device', 'device not stated')}"
    )


def _natural(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    if bench.images(c):
        seen = bench.outcome(c, c, None)
        return _number(result, seen.accuracy, len(seen.labels), cell, None)
    if "natural" in c.metrics:
        value = c.metrics["natural"]["accuracy"]
        return _number(result, value, c.metrics["images"], cell, None, _release_words(c))
    return replace(result, status=NEEDS_TEST_SET)


def _robust(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    """Robust accuracy of `c` on examples that attack `source`."""
    assert cell.attack is not None
    if bench.images(c):
        used = bench.capped(cell.attack)
        seen = bench.outcome(c, source, used)
        return _number(result, seen.accuracy, len(seen.labels), cell, used)
    shipped = _released_row(c, cell.attack) if source is c else None
    if shipped:
        row, used = shipped
        return _number(result, row["accuracy"], c.metrics["images"], cell, used, _release_words(c))
    return replace(result, status=NEEDS_TEST_SET)


def _transfer(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    assert cell.attack is not None
    if bench.images(c):
        t = bench.transfer(c, bench.capped(cell.attack))
        return _number(result, table6(t)[cell.key], t.images, cell, t.attack)
    shipped = read_measurement(c, "transferability")
    if shipped:
        t = from_json_values(shipped["transferability"])
        return _number(result, table6(t)[cell.key], t.images, cell, t.attack, _shipped_words(shipped))
    row = _released_row(c, cell.attack)
    value = _table6_of_row(row[0]).get(cell.key) if row else None
    if row and value is not None:
        return _number(result, value, c.metrics["images"], cell, row[1], _release_words(c))
    return replace(result, status=NEEDS_TEST_SET)


def _shipped_words(record: dict[str, Any]) -> str:
    return f"on {record.get('data', 'test images')}, {record.get('device', 'device not stated')}"


def table6(t: Transferability) -> dict[str, float]:
    """Table 6's columns, as fractions: `a_en_en`, `a_1_1`, ..., `S11`, ..., `T`, `nT`, `a_single`."""
    own = {f"a_{i + 1}_{i + 1}": t.a[i][i] for i in range(t.members)}
    derived = {"T": t.transferability, "nT": t.not_transferable, "a_single": t.single}
    return {"a_en_en": t.a[-1][-1], **own, **t.subsets, **derived}


def _table6_of_row(row: dict[str, Any]) -> dict[str, float]:
    """What one attack on the ensemble tells of Table 6: all but the members' own attacks and T."""
    subsets, accuracy = row["subsets"], row["accuracy"]
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
    if made is None:
        return _released_auc(cell, result, c)
    now = bench.images(c) is not None
    row = _nearest_row(made, bench.capped(cell.attack) if now else cell.attack)
    if row is None:
        return replace(result, status=NEEDS_TEST_SET)
    used, value, n = row
    shipped = "" if now else _shipped_words(read_measurement(c, "detection") or {})
    return replace(_number(result, value, n, cell, used, shipped), margin=None)


def _nearest_row(made: DetectionReport, asked: AttackConfig) -> tuple[AttackConfig, float, int] | None:
    for s, row in zip(made.attacks, made.rows()[1:], strict=False):
        used = AttackConfig(**s.settings)
        if used.name == asked.name and not [d for d in _attack_differences(asked, used) if not d.startswith("k ")]:
            return used, row["auc"], len(s)
    return None


def _released_auc(cell: Cell, result: Result, c: Checkpoint) -> Result:
    """An AUC of `metrics.json`, only where its adaptive and benign columns are beside it."""
    assert cell.attack is not None
    row = _released_row(c, cell.attack)
    whole = c.metrics.get("adaptive") and c.metrics.get("benign_corruptions")
    if not whole or row is None or row[0].get("auc") is None:
        return replace(result, status=NEEDS_TEST_SET)
    made = _number(result, row[0]["auc"], c.metrics["images"], cell, row[1], _release_words(c))
    return replace(made, margin=None)


def _histogram(cell: Cell, result: Result, c: Checkpoint, source: Checkpoint, bench: Bench) -> Result:
    made = bench.detection(c, list(dict.fromkeys(FIGURE_ATTACKS)), 8 / 255)
    if made is None:
        return replace(result, status=NEEDS_TEST_SET)
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
    from cce.config import ModelConfig

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


# Figures of an item


def _with_figures(item: Item, cells: list[Result], bench: Bench) -> ItemResult:
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
                _add_picture(made, cell.wanted, bench, cell.attack, kind, result)
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
        made.detection = _released_detection(c)
        return
    made.detection = found.rows()
    drawn = {"figure2": figures.histogram, "figure3": figures.roc_curves, "figure4": figures.auc_by_epsilon}[item.id]
    made.figures.append(drawn(found, title=f"{item.name}: {c.id}, n = {len(found.clean)}"))


def _released_detection(c: Checkpoint) -> list[dict[str, Any]]:
    """Detection rows of `metrics.json`, in the form of `DetectionReport.rows`."""
    parts = [("attack", "attacks"), ("adaptive", "adaptive"), ("benign", "benign_corruptions")]
    if not all(c.metrics.get(name) for _, name in parts):
        return []
    wanted = ("accuracy", "auc", "auc_successful", "flagged", "wrong_and_unflagged")
    fields = AttackConfig.__dataclass_fields__
    rows = []
    for kind, name in parts:
        for row in c.metrics[name]:
            config = AttackConfig(**{k: v for k, v in row.items() if k in fields}) if kind == "attack" else None
            said = {k: row[k] for k in wanted if k in row}
            images = row.get("images", c.metrics["images"])
            rows.append({"kind": kind, "name": config.describe() if config else row["name"], "images": images, **said})
    return rows


def _add_picture(
    made: ItemResult, wanted: Wanted | Checkpoint, bench: Bench, config: AttackConfig | None, kind: str, result: Result
) -> None:
    """Figures 1 and 5, or 6 to 8, of one ensemble."""
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


# Ensembles that the paper does not have


def _kind(cell: Cell) -> str:
    """Natural and robust accuracy are one kind of measure."""
    return "accuracy" if cell.measure in ("natural", "attack", "missing") else cell.measure


def _others(chosen: Sequence[Item], bench: Bench) -> list[ItemResult]:
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
                made.cells.append(_number(blank, o.accuracy, n, cell, used))
        names = [c.id for c in group]
        made.figures = [figures.matrix(square, names, f"Robust accuracy in percent, n = {n}", "attacked", "source")]
        results.append(made)
    return results


def _wanted(c: Checkpoint) -> Wanted:
    """What a checkpoint itself is."""
    return Wanted(c.dataset, c.model.config.architecture, c.model.config.members, c.defense.name)


def _other(c: Checkpoint, kinds: set[str], bench: Bench) -> ItemResult:
    """One ensemble under its data set's usual attacks; nothing is printed for it."""
    base = default_attack(c.dataset)
    title = f"{c.defense.name}, {c.model.config.members} x {c.model.config.architecture} on {c.dataset}"
    note = "The paper has no such ensemble: nothing is printed. The attacks are those that its data set is shown under."
    made = ItemResult(f"other/{c.id}", c.id, title, "percent", note, [])

    def add(row: str, column: str, kind: str, attack: AttackConfig | None = None, **more: Any) -> Result:
        images = bench.images(c)
        n = len(images[1]) if images else c.metrics.get("images", 0)
        if kind in ("predictions", "surface"):
            n = 1
        cell = Cell(made.id, row, column, None, _wanted(c), kind, attack, images=n, **more)
        result = Result(cell.id, row, column, None, NEEDS_TEST_SET, checkpoint=c.id)
        made.cells.append(_MEASURES[kind](cell, result, c, c, bench))
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
            _add_picture(made, c, bench, base, kind, result)
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
        made.detection = _released_detection(c)
        return
    made.detection = found.rows()
    for drawn in (figures.histogram, figures.roc_curves, figures.auc_by_epsilon):
        made.figures.append(drawn(found, title=f"{c.id}: {drawn.__name__.replace('_', ' ')}, n = {len(found.clean)}"))
