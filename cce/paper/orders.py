"""Orders: where the paper prints one ensemble above another, and whether that holds on the ensembles that are here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cce.paper.cells import Result
from cce.paper.printed import Item

HOLDS = "holds"
REVERSED = "the other way round"
UNCLEAR = "within the margin of error"


@dataclass(frozen=True)
class Order:
    """Two numbers of one row: `first` is printed above `second`.

    `printed` and `measured` are (first, second) in percent, `n` the images of each measurement; `verdict` is `HOLDS`,
    `REVERSED` or `UNCLEAR`, where the difference is smaller than its 95% margin.
    """

    item: str
    row: str
    first: str
    second: str
    printed: tuple[float, float]
    measured: tuple[float, float]
    margin: float
    n: tuple[int, int]
    verdict: str
    differs: tuple[str, ...] = ()

    def describe(self) -> str:
        """The order in a sentence."""
        images = f"n = {self.n[0]:,}" if self.n[0] == self.n[1] else f"n = {self.n[0]:,} and {self.n[1]:,}"
        verdict = {
            HOLDS: "the order holds",
            REVERSED: "the order does not hold",
            UNCLEAR: f"the difference is within its margin of {self.margin:.1f}",
        }[self.verdict]
        return (
            f"{self.item}, {self.row}: printed {self.first} {self.printed[0]:.1f} above {self.second} "
            f"{self.printed[1]:.1f}; measured {self.measured[0]:.1f} and {self.measured[1]:.1f} ({images}): {verdict}."
        )


def verdict(difference: float, margin: float) -> str:
    """What a difference says of the order in which its two numbers are printed, `margin` being its 95% one.

    >>> verdict(0.05, 0.02), verdict(-0.05, 0.02), verdict(0.01, 0.02)
    ('holds', 'the other way round', 'within the margin of error')
    """
    return UNCLEAR if abs(difference) < margin else HOLDS if difference > 0 else REVERSED


def orders(measured: Iterable[tuple[Item, Sequence[Result]]]) -> list[Order]:
    """Every pair of a row of the accuracy tables that is measured under the same attack, each pair once.

    Args:
        measured: items with the results of their cells.
    """
    found: dict[object, Order] = {}
    for item, results in measured:
        if item.unit != "percent" or item.cells[0].measure not in ("natural", "attack"):
            continue
        rows: dict[str, list[Result]] = {}
        for result in results:
            if isinstance(result.measured, float) and result.margin is not None and result.n:
                rows.setdefault(result.row, []).append(result)
        for row in rows.values():
            for key, order in _of_row(item, row):
                found.setdefault(key, order)
    return list(found.values())


def _of_row(item: Item, row: Sequence[Result]) -> Iterator[tuple[object, Order]]:
    for one, other in itertools.combinations(row, 2):
        if one.attack != other.attack or one.printed == other.printed or one.checkpoint == other.checkpoint:
            continue
        first, second = sorted((one, other), key=lambda r: -r.printed)  # type: ignore[operator]
        values = (first.measured, second.measured)
        margin = math.hypot(first.margin or 0, second.margin or 0)
        difference = values[0] - values[1]  # type: ignore[operator]
        differs = tuple(dict.fromkeys([*first.differs, *second.differs]))
        yield (
            (first.checkpoint, second.checkpoint, first.attack),
            Order(
                item.name,
                first.row,
                first.column,
                second.column,
                (first.printed, second.printed),  # type: ignore[arg-type]
                values,  # type: ignore[arg-type]
                margin,
                (first.n, second.n),  # type: ignore[arg-type]
                verdict(difference, margin),
                differs,
            ),
        )
