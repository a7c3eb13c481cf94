"""The paper: every printed number as data, and for each the ensemble and the attack that it was printed for.

The numbers are in `paper_tables.json`, as printed; they are shown beside ours as *printed*, never as
the truth to be matched. What the paper leaves open (Bui et al., AAAI 2021, arXiv 2009.09612) is said in `Item.note`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from cce.checkpoints.folder import Checkpoint
from cce.checkpoints.measurements import EQUAL_TERMS, has_measurement
from cce.config import AttackConfig, Defense, check

TEST_IMAGES = 10_000
FEWER_IMAGES = 1_000
"""Images of the printed numbers: the whole test set; B&B, SPSA and Auto-Attack had fewer."""

EPOCHS, BATCH_SIZE, OPTIMIZER = 180, 64, "adam"

_CNN = {"cifar10": "cnn-cifar10", "cifar100": "cnn-cifar100"}
_STRENGTHS = (1, 2, 4, 8, 12, 16, 20, 24)  # /255; Figure 4 runs from 1 to 24
_FITS_CNN = "The architecture is not stated; the white-box figures fit the standard CNN of Tables 4 and 5."


@dataclass(frozen=True)
class Wanted:
    """The ensemble of a cell. `architecture` is None where the paper does not state it; `likely` is our guess then."""

    dataset: str
    architecture: str | None
    members: int
    defense: str
    likely: str | None = None

    def __str__(self) -> str:
        return f"{self.defense}, {self.members} x {self.architecture or 'unstated architecture'} on {self.dataset}"


@dataclass(frozen=True)
class Cell:
    """One number of the paper, or one panel of a figure.

    `measure` says what it is: `natural`, `attack` (robust accuracy under `attack`), `transfer` (`key` of Table 6),
    `black-box` (`source` attacked), `seconds`, `layers`, `auc`, `histogram`, `predictions`, `surface`. `printed` is
    in the item's unit, None where the paper gives a curve or a picture; `images` is the paper's own number of images.
    """

    item: str
    row: str
    column: str
    printed: float | str | None
    wanted: Wanted
    measure: str
    attack: AttackConfig | None = None
    key: str = ""
    source: Wanted | None = None
    images: int = TEST_IMAGES

    @property
    def id(self) -> str:
        """Such as `table3/PGD k=250/CCE-RM2`."""
        return f"{self.item}/{self.row}/{self.column}"


@dataclass(frozen=True)
class Item:
    """A table, one part of it, or a figure."""

    id: str
    title: str
    unit: str
    cells: tuple[Cell, ...]
    note: str = ""

    @property
    def name(self) -> str:
        """Table 10a, Figure 3."""
        kind, number = re.fullmatch(r"(table|figure)(.+)", self.id).groups()  # type: ignore[union-attr]
        return f"{kind.capitalize()} {number}"


@cache
def printed() -> Mapping[str, Any]:
    """The printed numbers as the file has them: `{item: {what, unit, rows: {row: {column: value}}}}`."""
    return json.loads(files("cce.paper").joinpath("paper_tables.json").read_text(encoding="utf-8"))


@cache
def items() -> tuple[Item, ...]:
    """Tables 3 to 13 and Figures 1 to 8, in the paper's order."""
    return tuple([*_tables(), *_figures()])


def choose(names: Iterable[str]) -> list[Item]:
    """The items asked for: `table3`, `table10` (both parts), `table10a`, `figure4`, `all`.

    Raises:
        ConfigError: a name that is not there; the message lists those that are.
    """
    chosen: dict[str, Item] = {}
    for name in names:
        asked = name.lower().replace(" ", "")
        found = [i for i in items() if asked == "all" or i.id == asked or (i.id[:-1] == asked and i.id[-1].isalpha())]
        known = ", ".join(dict.fromkeys(i.id.rstrip("ab") for i in items()))
        check(bool(found), f"{name!r} is not in the paper; there is {known} and all")
        chosen |= {i.id: i for i in found}
    return list(chosen.values())


def find(wanted: Wanted, checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The checkpoint for a cell: of its data set, members, defense, and the architecture where it is stated.

    Of several: that of the likely architecture, then one whose training attacks are the paper's kind, then one with
    figures, then one of a recipe that other losses were measured with too, so that a table's columns compare, then the
    one trained nearest to as long.
    """
    fitting = [
        c
        for c in checkpoints
        if (c.dataset, c.model.config.members, c.defense_name) == (wanted.dataset, wanted.members, wanted.defense)
        and wanted.architecture in (None, c.model.config.architecture)
    ]
    return min(fitting, key=lambda c: _distance(wanted, c), default=None)


def _distance(wanted: Wanted, checkpoint: Checkpoint) -> tuple[bool, bool, bool, bool, float]:
    """How far a checkpoint is from a cell's, in the order of what `find` says."""
    config = checkpoint.training.get("config")
    epochs = sum(p["epochs"] for p in config["phases"]) if config else 0
    architecture = checkpoint.model.config.architecture
    alone = not has_measurement(checkpoint, EQUAL_TERMS)
    return architecture != wanted.likely, _hardened(config), not checkpoint.metrics, alone, abs(EPOCHS - epochs)


def _hardened(config: dict[str, Any] | None) -> bool:
    """Whether it was trained on smooth attacks or noisy pictures, which the paper does not have."""
    attacks = [p.get("attack", {}) for p in config["phases"]] if config else []
    return any(a.get("smooth") or a.get("noise") for a in attacks)


def differences(wanted: Wanted, checkpoint: Checkpoint) -> list[str]:
    """Where the checkpoint was made otherwise than the paper's ensembles were."""
    found = []
    architecture = checkpoint.model.config.architecture
    if wanted.architecture is None:
        found.append(f"{architecture}; the paper does not state the architecture")
    config = checkpoint.training.get("config")
    if config:
        epochs = sum(p["epochs"] for p in config["phases"])
        pairs = [
            (f"{epochs:g} epochs", epochs, EPOCHS),
            (f"batch {config['batch_size']}", config["batch_size"], BATCH_SIZE),
        ]
        pairs.append((config["optimizer"], config["optimizer"], OPTIMIZER))
        found += [f"trained with {said} instead of {paper}" for said, ours, paper in pairs if ours != paper]
        if len(config["phases"]) > 1:
            found.append(f"trained in {len(config['phases'])} phases")
        if _hardened(config):
            found.append("trained on smooth attacks and noisy pictures too")
        if config["train_images"]:
            found.append(f"trained on {config['train_images']:,} images")
    return found


def method(column: str) -> tuple[str, int]:
    """Defense and members of a column such as `CCE-RM2`; ADV1 is ADV-EN with one member.

    >>> method("CCE-RM3"), method("ADV1")
    (('CCE-RM', 3), ('ADV-EN', 1))
    """
    name, members = column[:-1], int(column[-1])
    return ("ADV-EN" if name == "ADV" else name), members


def _attack_of(row: str, epsilon: float, step_size: float) -> AttackConfig:
    """The attack of a row such as `PGD k=250`."""
    if match := re.fullmatch(r"(mul-)?(PGD|BIM|MIM) k=(\d+)", row):
        name = ("mt-" if match.group(1) else "") + match.group(2).lower()
        return AttackConfig(name, epsilon, step_size, int(match.group(3)))
    if match := re.fullmatch(r"B&B \(wPGD([12])\)", row):  # from PGD at epsilon, or at twice as much; 3 repeats
        return AttackConfig("bb", int(match.group(1)) * epsilon, step_size, 100, restarts=3)
    others = {"SPSA": ("spsa", 50), "Auto-Attack": ("autoattack", 20)}
    name, steps = others[row]
    return AttackConfig(name, epsilon, step_size, steps)


def _accuracy_cell(item: str, row: str, column: str, value: float, wanted: Wanted, size: tuple[float, float]) -> Cell:
    if row == "natural":
        return Cell(item, row, column, value, wanted, "natural")
    few = FEWER_IMAGES if re.match(r"B&B|SPSA|Auto", row) else TEST_IMAGES
    return Cell(item, row, column, value, wanted, "attack", _attack_of(row, *size), images=few)


def _rows(item: str) -> Iterator[tuple[str, str, float]]:
    """Row, column and value of each number of an item."""
    for row, columns in printed()[item]["rows"].items():
        for column, value in columns.items():
            yield row, column, value


def _tables() -> Iterator[Item]:
    cifar10, cifar100 = (8 / 255, 2 / 255), (0.01, 0.001)
    settings = {
        "table3": ("cifar10", "resnet20", cifar10),
        "table4": ("cifar10", "cnn-cifar10", cifar10),
        "table5": ("cifar100", "cnn-cifar100", cifar100),
    }
    for name, (dataset, architecture, size) in settings.items():
        yield _accuracies(name, dataset, architecture, size)
    yield _table6()
    yield _table7()
    yield _table8()
    yield _table9()
    yield _accuracies("table10a", "cifar10", "cnn-cifar10", cifar10)
    yield _accuracies("table10b", "cifar100", "cnn-cifar100", cifar100)
    yield _ablation("table11a", lambda weight: Defense("cce", 0, weight))
    yield _ablation("table11b", lambda weight: Defense("cce", weight, 0))
    for name, dataset, size in (
        ("table12a", "cifar10", (8 / 255, 2 / 255)),
        ("table12b", "cifar10", (12 / 255, 2 / 255)),
        ("table13a", "cifar100", (0.01, 0.001)),
        ("table13b", "cifar100", (0.02, 0.001)),
    ):
        yield _black_box(name, dataset, size)


def _item(name: str, cells: Iterable[Cell], note: str = "", unit: str = "percent") -> Item:
    return Item(name, printed()[name]["what"], unit, tuple(cells), note)


def _accuracies(name: str, dataset: str, architecture: str, size: tuple[float, float]) -> Item:
    cells = []
    for row, column, value in _rows(name):
        defense, members = method(column)
        cells.append(_accuracy_cell(name, row, column, value, Wanted(dataset, architecture, members, defense), size))
    return _item(name, cells)


def _ablation(name: str, defense: Any) -> Item:
    cells = []
    for row, column, value in _rows(name):
        wanted = Wanted("cifar10", "cnn-cifar10", 2, defense(float(column)).name)
        cells.append(_accuracy_cell(name, row, column, value, wanted, (8 / 255, 2 / 255)))
    return _item(
        name, cells, "The columns are the weight. The number of members is not stated; the first column is CCE-Base2."
    )


def _table6() -> Item:
    attack = AttackConfig("pgd", 8 / 255, 2 / 255, 20)
    note = (
        f"{_FITS_CNN} nT takes S00 for a part of the ensemble's insecure region, which it need not be: two members "
        "that are wrong on different classes can be right together."
    )
    cells = [
        Cell("table6", row, column, value, Wanted("cifar10", None, 2, row, "cnn-cifar10"), "transfer", attack, column)
        for row, column, value in _rows("table6")
    ]
    return _item("table6", cells, note)


def _table7() -> Item:
    cells = []
    for row, column, value in _rows("table7"):
        architecture = "resnet20" if row.startswith("ResNet") else "cnn-cifar10"
        wanted = Wanted("cifar10", architecture, int(row[-1]), column)
        cells.append(Cell("table7", row, column, value, wanted, "natural"))
    return _item("table7", cells)


LAYERS = {
    "cnn-mnist": "2 x Conv(32), MaxPool, 2 x Conv(64), MaxPool, FC(200), ReLU, Dropout(0.5), FC(200), ReLU, FC(10)",
    "cnn-cifar10": "2 x Conv(64), MaxPool, 2 x Conv(128), MaxPool, FC(256), ReLU, Dropout(0.5), FC(256), ReLU, FC(10)",
    "cnn-cifar100": "3 x Conv(64), MaxPool, 3 x Conv(128), MaxPool, FC(256), ReLU, Dropout(0.5), "
    "FC(256), ReLU, FC(256), ReLU, FC(100)",
}
"""Table 8 without the last line, Softmax; every convolution has a ReLU."""


def _table8() -> Item:
    cells = [
        Cell(
            "table8",
            architecture,
            "layers",
            layers,
            Wanted(dataset, architecture, 1, "NAT"),
            "layers",
            key=architecture,
        )
        for (architecture, layers), dataset in zip(LAYERS.items(), ("mnist", "cifar10", "cifar100"), strict=True)
    ]
    return Item(
        "table8", "architectures of a member", "", tuple(cells), "A definition: compared with the layers built here."
    )


def _table9() -> Item:
    cells = []
    for row, column, value in _rows("table9"):
        defense = {"ADV (N=1)": "ADV-EN", "CCE": "CCE-RM"}.get(row, row)
        members = 1 if row.startswith("ADV (") else int(column[-1])
        cells.append(Cell("table9", row, column, value, Wanted("cifar10", "resnet20", members, defense), "seconds"))
    note = "Of another machine: the difference says nothing about the method. One epoch is 50,000 images."
    return _item("table9", cells, note, "seconds")


def _black_box(name: str, dataset: str, size: tuple[float, float]) -> Item:
    attack = AttackConfig("pgd", *size, 20)

    def wanted(defense: str) -> Wanted:
        return Wanted(dataset, None, 2, defense, _CNN[dataset])

    cells = [
        Cell(name, row, column, value, wanted(column), "black-box", attack, source=wanted(row))
        for row, column, value in _rows(name)
    ]
    return _item(name, cells, _FITS_CNN)


def _figures() -> Iterator[Item]:
    """Figures 1 to 8; the paper prints one number of them, the AUC at epsilon 1/255."""
    detecting = Wanted("cifar10", None, 2, "CCE-DM", "resnet20")
    base = AttackConfig("pgd", 8 / 255, 1 / 255, 20)
    caption = "The caption says CCE-RM, the text detection mode; the architecture is not stated."
    yield Item(
        "figure1",
        "prediction example in detection mode",
        "",
        (Cell("figure1", "prediction", "CCE-DM", None, detecting, "predictions", base, images=1),),
        "Which picture and which attack is not stated: here the first test picture that the ensemble labels right.",
    )
    yield Item(
        "figure2",
        "histogram of the prediction entropy in detection mode",
        "",
        (Cell("figure2", "histogram", "CCE-DM", None, detecting, "histogram", base),),
        "The attack is not stated: here that of Figure 3.",
    )
    three = [AttackConfig(name, base.epsilon, base.step_size, base.steps) for name in ("pgd", "bim", "mim")]
    cells = [Cell("figure3", f"{a.name.upper()} k=20", "AUC", None, detecting, "auc", a) for a in three]
    yield Item("figure3", printed()["figure3"]["what"], "AUC x 100", tuple(cells), caption)
    value = {row: v for row, _, v in _rows("figure4")}
    cells = []
    for strength in _STRENGTHS:
        row = f"eps={strength}/255"
        attack = AttackConfig("pgd", strength / 255, base.step_size, base.steps)
        cells.append(Cell("figure4", row, "AUC", value.get(row), detecting, "auc", attack))
    yield Item("figure4", printed()["figure4"]["what"], "AUC x 100", tuple(cells), caption)
    shown = AttackConfig("pgd", 8 / 255, 2 / 255, 20)
    note = "Which picture and which attack is not stated: here the first test picture that the ensemble labels right."
    robust = {name: Wanted("cifar10", None, 2, name, "cnn-cifar10") for name in ("ADV-EN", "ADP", "CCE-RM")}
    five = [Cell("figure5", "prediction", k, None, w, "predictions", shown, images=1) for k, w in robust.items()]
    yield Item("figure5", "prediction examples", "", tuple(five), note)
    for number, (name, wanted) in zip((6, 7, 8), robust.items(), strict=True):
        cell = Cell(f"figure{number}", "surface", name, None, wanted, "surface", shown, images=1)
        yield Item(f"figure{number}", f"loss surface around an adversarial example, {name}", "", (cell,), note)
