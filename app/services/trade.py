"""Trade service: what recipes for detection gain and lose, the ensembles of a kind side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig

Rows = dict[str, tuple[float, int]]  # what is measured -> the figure and its n


@dataclass(frozen=True)
class Row:
    """One figure of every ensemble.

    `group` is what it tells of; `unit` is `%` or `AUC`; `high`: whether more is better; `values` in the ensembles'
    order, as fractions; `images`: how many each was measured on.
    """

    group: str
    name: str
    unit: str
    high: bool
    values: tuple[float, ...]
    images: tuple[int, ...]

    @property
    def best(self) -> int | None:
        """Which ensemble is best, None where the figures do not differ as they are shown."""
        shown = [round(v, 4 if self.unit == "AUC" else 3) for v in self.values]
        top = max(shown) if self.high else min(shown)
        return shown.index(top) if shown.count(top) == 1 else None


@dataclass(frozen=True)
class Trade:
    """Ensembles in detection mode that differ in their recipe alone, by id, and their figures."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def short(self) -> tuple[str, tuple[str, ...]]:
        """What all names begin with, data set and architecture, and what is left of each."""
        parts = [name.split("-") for name in self.names]
        most = min(2, *(len(p) - 1 for p in parts))
        shared = next(k for k in range(most, -1, -1) if len({tuple(p[:k]) for p in parts}) == 1)
        return "".join(f"{p}-" for p in parts[0][:shared]), tuple("-".join(p[shared:]) for p in parts)


def trades(ensembles: Sequence[Checkpoint]) -> list[Trade]:
    """Every kind (data set, architecture, members) of which two or more in detection mode are measured.

    A figure that one of them lacks is left out.
    """
    kinds: dict[tuple[str, str, int], list[Checkpoint]] = {}
    for c in ensembles:
        if c.defense.detects and all(c.metrics.get(k) for k in ("adaptive", "attacks")):
            kinds.setdefault((c.dataset, c.model.config.architecture, c.model.config.members), []).append(c)
    return [_trade(found) for found in kinds.values() if len(found) > 1]


def _trade(found: Sequence[Checkpoint]) -> Trade:
    rows: list[Row] = []
    for group, unit, high, read in _GROUPS:
        measured = [read(c.metrics) for c in found]
        for name in measured[0]:
            if all(name in other for other in measured):
                values, images = zip(*(m[name] for m in measured), strict=True)
                rows.append(Row(group, name, unit, high, values, images))
    return Trade(tuple(c.id for c in found), tuple(rows))


def _natural(key: str, name: str) -> Callable[[Mapping[str, Any]], Rows]:
    def read(metrics: Mapping[str, Any]) -> Rows:
        natural = metrics.get("natural", {})
        there = natural.get(key) is not None and "images" in metrics
        return {name: (natural[key], metrics["images"])} if there else {}

    return read


def _listed(part: str, key: str) -> Callable[[Mapping[str, Any]], Rows]:
    def read(metrics: Mapping[str, Any]) -> Rows:
        return {
            _name(part, row): (row[key], row.get("images") or metrics.get("images", 0))
            for row in metrics.get(part, [])
            if row.get(key) is not None
        }

    return read


def _name(part: str, row: Mapping[str, Any]) -> str:
    return AttackConfig.of(row).describe().removesuffix(", on the ensemble") if part == "attacks" else str(row["name"])


_GROUPS = (
    ("Clean pictures", "%", True, _natural("accuracy", "right")),
    ("Clean pictures", "%", False, _natural("wrong_and_unflagged", "wrong and unflagged")),
    ("Attacks that ignore the detector: AUC", "AUC", True, _listed("attacks", "auc")),
    ("Detector-aware attacks: wrong and unflagged", "%", False, _listed("adaptive", "wrong_and_unflagged")),
    ("Benign changes: flagged", "%", False, _listed("benign_corruptions", "flagged")),
)
