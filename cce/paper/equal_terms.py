"""Equal terms: ensembles that one recipe made of as many images, the loss apart, and whether CCE-RM is the best.

Tables 3 to 5 print CCE-RM's robust accuracy, and Table 5 its |S11|, above those of ADV-EN, ADP and CCE-Base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from cce.checkpoints.folder import Checkpoint
from cce.checkpoints.measurements import EQUAL_TERMS, read_measurement, write_measurement
from cce.config import CCE_RM, AttackConfig, ConfigError, TrainConfig, check, from_json
from cce.evaluation.outcomes import Outcome
from cce.paper.cells import margin
from cce.paper.orders import HOLDS, REVERSED, UNCLEAR, verdict

BELOW = ("ADV-EN", "ADP", "CCE-Base")
"""The defenses that the paper prints below CCE-RM."""

_WITHOUT_EFFECT = ("compile", "save_every", "evaluate_every", "evaluate_images", "data_dir")


@dataclass(frozen=True)
class Standing:
    """An ensemble's figures on the test images, as fractions.

    `robust` is its accuracy under the attack, `all_right` the part that every member has right under it (S1..1),
    `minutes` what its training took.
    """

    id: str
    defense: str
    natural: float
    robust: float
    all_right: float
    minutes: float

    @property
    def took(self) -> str:
        """The minutes in words: on a GPU their tenths count.

        >>> [Standing("", "", 0, 0, 0, minutes).took for minutes in (1.12, 92.4)]
        ['1.1', '92']
        """
        return f"{self.minutes:.1f}" if self.minutes < 10 else f"{self.minutes:.0f}"


@dataclass(frozen=True)
class Comparison:
    """CCE-RM beside another, by id and loss: `values` of `measure`, and their difference's 95% margin; fractions."""

    measure: str
    first: str
    second: str
    losses: tuple[str, str]
    values: tuple[float, float]
    margin: float
    verdict: str

    def describe(self) -> str:
        """The comparison in a sentence."""
        said = {
            HOLDS: f"{self.losses[0]} is better, as printed",
            REVERSED: f"{self.losses[1]} is better, against what is printed",
            UNCLEAR: f"the difference is within its margin of {100 * self.margin:.1f}",
        }[self.verdict]
        both = ", ".join(f"{loss} {100 * v:.1f} %" for loss, v in zip(self.losses, self.values, strict=True))
        return f"{self.measure[0].upper()}{self.measure[1:]}: {both}: {said}."


@dataclass(frozen=True)
class Family:
    """Ensembles of one recipe, by their robust accuracy, the highest first, and CCE-RM against each of `BELOW`.

    `images`: how many each was measured on; `images_seen`: in training; `paired`: whether the margins are of the
    differences image by image, or of each figure by itself, which is wider.
    """

    attack: str
    images: int
    images_seen: int
    paired: bool
    standings: tuple[Standing, ...]
    comparisons: tuple[Comparison, ...]

    def describe(self) -> str:
        """What was measured, on what."""
        return f"{self.images_seen:,} images seen in training; {self.attack}, n = {self.images:,}"


def families(ensembles: Sequence[Checkpoint]) -> list[Family]:
    """Every two or more ensembles of one recipe, as they were measured together, else as each was by itself.

    The recipe is all that a run depends on but the loss, down to the seed and the images seen. Ensembles that were
    not measured under the same attack on the same number of images are not compared.
    """
    found = []
    for group in groups(ensembles):
        kept = _kept(group)
        found += [kept] if kept else _by_themselves(group)
    return found


def groups(ensembles: Sequence[Checkpoint]) -> list[list[Checkpoint]]:
    """The ensembles by recipe, where there are two or more."""
    kinds: dict[tuple[TrainConfig, int], list[Checkpoint]] = {}
    for c in ensembles:
        recipe = _recipe(c)
        if recipe:
            kinds.setdefault((recipe, c.training["images_seen"]), []).append(c)
    return [found for found in kinds.values() if len(found) > 1]


def _recipe(c: Checkpoint) -> TrainConfig | None:
    """The config with one loss for every ensemble's own, and without what changes no weight; None: not known."""
    try:
        config: TrainConfig = from_json(TrainConfig, c.training["config"])
    except (ConfigError, KeyError, TypeError):
        return None  # made by hand, or by another version
    phases = (replace(p, name="", defense=CCE_RM if p.defense == config.defense else p.defense) for p in config.phases)
    usual = {k: getattr(TrainConfig, k) for k in _WITHOUT_EFFECT}
    return replace(config, phases=tuple(phases), **usual)


Verdicts = tuple[Outcome, Outcome]
"""An ensemble's verdicts on the clean images, and on the examples that attack it."""


def measured_together(group: Sequence[Checkpoint], verdicts: Mapping[str, Verdicts], attack: AttackConfig) -> Family:
    """A family from what its ensembles say of the same images, by id; the margins are of paired differences."""
    right = {name: (attacked.right, attacked.member_right.all(0)) for name, (_, attacked) in verdicts.items()}
    standings = []
    for c in group:
        figures = [which.float().mean().item() for which in right[c.id]]
        standings.append(_standing(c, verdicts[c.id][0].accuracy, *figures))
    images = len(verdicts[group[0].id][0].labels)

    def width(one: Standing, other: Standing, which: int) -> float:
        return paired_margin(right[one.id][which], right[other.id][which])

    return _family(group, attack, images, standings, width, paired=True)


def paired_margin(one: Tensor, other: Tensor) -> float:
    """Half the width of the 95% interval of the difference of two fractions of the same n; `(n,)` bool each.

    From the images that only one of them has right (Wald's interval for matched pairs), of which half a one is
    added to each count, so that none is no certainty.
    """
    n = len(one)
    b, c = (one & ~other).sum().item() + 0.5, (other & ~one).sum().item() + 0.5
    return 1.96 * math.sqrt(b + c - (b - c) ** 2 / n) / n


def keep(family: Family, ensembles: Sequence[Checkpoint], about: Mapping[str, Any]) -> None:
    """Write a family into each of its ensembles' folders, for the card; `about` says how it was measured."""
    for c in ensembles:
        write_measurement(c, EQUAL_TERMS, {**about, "family": asdict(family)})


def family_of(c: Checkpoint) -> Family | None:
    """The family that ships with an ensemble; None where there is none.

    Raises:
        ConfigError: a file that is damaged.
    """
    kept = read_measurement(c, EQUAL_TERMS)
    if kept is None:
        return None
    try:
        family: Family = from_json(Family, kept["family"], "family")
        for one in family.comparisons:
            check(one.verdict in (HOLDS, REVERSED, UNCLEAR), f"verdict is {one.verdict!r}")
            check(bool(one.measure), "measure is empty")
        return family
    except (KeyError, TypeError, ValueError) as error:
        check(False, f"{c.id}: {EQUAL_TERMS} cannot be read: {error}; measure again or delete it")
        raise


def _kept(group: Sequence[Checkpoint]) -> Family | None:
    """The comparison in the measurements of all of a group, if it compares these ensembles alone."""
    names = {c.id for c in group}
    for c in group:
        family = family_of(c)
        if family and {s.id for s in family.standings} == names:
            return family
    return None


def _by_themselves(group: Sequence[Checkpoint]) -> list[Family]:
    """Families from `metrics.json`; the margins are as if each had images of its own."""
    alike: dict[tuple[AttackConfig, int], list[tuple[Checkpoint, Standing]]] = {}
    for c in group:
        first = next(iter(c.metrics.get("attacks") or []), None)
        whole = first is not None and first.get("subsets") and "natural" in c.metrics and "images" in c.metrics
        if whole:
            figures = c.metrics["natural"]["accuracy"], first["accuracy"], next(iter(first["subsets"].values()))
            alike.setdefault((AttackConfig.of(first), c.metrics["images"]), []).append((c, _standing(c, *figures)))
    made = []
    for (attack, images), found in alike.items():

        def width(one: Standing, other: Standing, which: int, images: int = images) -> float:
            return math.hypot(*(margin((s.robust, s.all_right)[which], images) for s in (one, other)))

        if len(found) > 1:
            made.append(_family(group, attack, images, [s for _, s in found], width, paired=False))
    return made


def _standing(c: Checkpoint, natural: float, robust: float, all_right: float) -> Standing:
    return Standing(c.id, c.defense_name, natural, robust, all_right, round(c.training["seconds"] / 60, 1))


def _family(
    group: Sequence[Checkpoint],
    attack: AttackConfig,
    images: int,
    standings: Sequence[Standing],
    width: Callable[[Standing, Standing, int], float],
    paired: bool,
) -> Family:
    ranked = tuple(sorted(standings, key=lambda s: (-s.robust, s.id)))
    seen = group[0].training["images_seen"]
    return Family(attack.describe(), images, seen, paired, ranked, tuple(_compare(ranked, width)))


def _compare(standings: Sequence[Standing], width: Callable[[Standing, Standing, int], float]) -> Iterator[Comparison]:
    others = [s for name in BELOW for s in standings if s.defense == name]
    for one in (s for s in standings if s.defense == CCE_RM.name):
        for other in others:
            for which, (measure, key) in enumerate((("robust accuracy", "robust"), ("S1..1", "all_right"))):
                values, wide = (getattr(one, key), getattr(other, key)), width(one, other, which)
                said = verdict(values[0] - values[1], wide)
                losses = one.defense, other.defense
                yield Comparison(measure, one.id, other.id, losses, values, wide, said)
