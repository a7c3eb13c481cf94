"""Transferability: who is fooled by whose examples, among members (Table 6) and between ensembles (Tables 12, 13)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from cce.attacks.in_parts import Ticks, attack_in_parts
from cce.config import AttackConfig, ConfigError, check, from_json
from cce.evaluation.evaluate import Outcome, outcome
from cce.models import Ensemble

_BATCH = 32
"""Images that are judged at a time: between two one can stop."""


def total_transferability(a: Sequence[Sequence[float]], members: int) -> float:
    """T = sum over members i != j of (a(i,j) - a(i,i)).

    Args:
        a: accuracy of j, the column, on the examples that attack i, the row; the members first.
        members: how many rows and columns are members.

    >>> total_transferability([[0.25, 0.75], [0.5, 0.5]], 2)
    0.5
    """
    n = range(members)
    return sum(a[i][j] - a[i][i] for i in n for j in n if i != j)


@dataclass(frozen=True)
class Transferability:
    """Table 6 for an ensemble of N members.

    `a[i][j]` is the robust accuracy of j on the examples that attack i; i and j run over the members
    and then en, the ensemble: N + 1 rows and columns. `natural` is the accuracy of each on clean
    images. `subsets` are the fractions of Table 1's subsets on the examples that attack the ensemble:
    `S` and a bit for each member, 1 where it is right. `flow[before][after]` counts the images that were in
    `before` and whose examples are in `after`; it is empty in records of before it was kept.
    """

    members: int
    images: int
    attack: AttackConfig
    natural: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    subsets: dict[str, float]
    flow: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """What rows and columns stand for: f1, f2, ..., en."""
        return [f"f{i + 1}" for i in range(self.members)] + ["en"]

    @property
    def transferability(self) -> float:
        """T = sum over members i != j of (a(i,j) - a(i,i)); the smaller, the more the examples transfer."""
        return total_transferability(self.a, self.members)

    @property
    def not_transferable(self) -> float:
        """Metric nT = 1 - a(en,en) - |S0..0|: wrong together though some member is right.

        The paper calls S0..0 a part of the ensemble's insecure region. That does not hold: two members
        that are wrong on different classes can be right together, as f1 = (.4, .6, 0) and
        f2 = (.4, 0, .6) are on the first class. Such images make nT smaller; it can be below zero.
        """
        return 1 - self.a[-1][-1] - self.subsets["S" + "0" * self.members]

    @property
    def single(self) -> float:
        """a_single = a(en,en) - |S1..1|: right together though some member is wrong.

        Never below zero (Lemma 1), but for rounding: in float32, members whose two best classes lie within 1e-6
        of each other can both be right where their mean is not.
        """
        return self.a[-1][-1] - self.subsets["S" + "1" * self.members]

    def to_json(self) -> dict[str, Any]:
        """JSON values: the fields, `names`, and `T`, `nT`, `a_single`."""
        derived = {"T": self.transferability, "nT": self.not_transferable, "a_single": self.single}
        return {**asdict(self), "names": self.names, **derived}


def from_json_values(values: dict[str, Any]) -> Transferability:
    """The inverse of `Transferability.to_json`.

    Raises:
        ConfigError: values that are not a whole record.
    """
    try:
        members, images = int(values["members"]), int(values["images"])
        config = from_json(AttackConfig, values["attack"], "attack")
        a = tuple(tuple(float(x) for x in row) for row in values["a"])
        natural = tuple(float(x) for x in values["natural"])
        subsets = {name: float(share) for name, share in values["subsets"].items()}
        flow = {before: {k: int(n) for k, n in after.items()} for before, after in values.get("flow", {}).items()}
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        check(False, f"this is not a transferability record: {error!r}")
        raise
    square = len(a) == len(natural) == members + 1 and all(len(row) == members + 1 for row in a)
    named = square and len(subsets) == 2**members and all(re.fullmatch(f"S[01]{{{members}}}", n) for n in subsets)
    named = named and {*flow, *(name for after in flow.values() for name in after)} <= set(subsets)
    check(named and images >= 1, f"this transferability record does not fit {members} members")
    counted = sum(sum(after.values()) for after in flow.values())
    check(not flow or counted == images, f"this transferability record's flow counts {counted} of {images} images")
    return Transferability(members, images, config, natural, a, subsets, flow)


def from_outcomes(clean: Outcome, attacked: Sequence[Outcome], config: AttackConfig) -> Transferability:
    """Table 6's figures from what the ensemble says of each set of examples.

    Args:
        clean: on the images themselves.
        attacked: N + 1 outcomes: on the examples that attack each member, then those that attack the ensemble.
        config: the attack, as it was run on the ensemble.
    """
    n = len(clean.member_labels)
    check(
        len(attacked) == n + 1, f"there are {len(attacked)} sets of examples; {n} members and the ensemble need {n + 1}"
    )
    rows = tuple((*o.member_accuracy, o.accuracy) for o in attacked)
    natural = (*clean.member_accuracy, clean.accuracy)
    flow: dict[str, dict[str, int]] = {}
    pairs = Counter(zip(subset_of_each(clean), subset_of_each(attacked[-1]), strict=True))
    for (before, after), count in sorted(pairs.items(), reverse=True):
        flow.setdefault(before, {})[after] = count
    return Transferability(n, len(clean.labels), config, natural, rows, attacked[-1].subset_counts(), flow)


def subset_of_each(said: Outcome) -> list[str]:
    """The subset of Table 1 that each image is in: `S` and a bit for each member, 1 where it is right."""
    return ["S" + "".join("1" if right else "0" for right in image) for image in said.member_right.T.tolist()]


@dataclass(frozen=True)
class Study:
    """A transferability with what it was computed from.

    `clean` and `attacked` are what the ensemble says of the images and of the examples `x_adv`
    `(B, C, H, W)` that attack it.
    """

    found: Transferability
    x_adv: Tensor
    clean: Outcome
    attacked: Outcome


def transferability(
    model: Ensemble,
    x: Tensor,
    labels: Tensor,
    config: AttackConfig,
    *,
    seed: int = 0,
    progress: Ticks | None = None,
) -> Transferability:
    """Attack every member and the ensemble alike, and measure all on all of it (Table 6); see `study`."""
    return study(model, x, labels, config, seed=seed, progress=progress).found


def study(
    model: Ensemble,
    x: Tensor,
    labels: Tensor,
    config: AttackConfig,
    *,
    seed: int = 0,
    progress: Ticks | None = None,
) -> Study:
    """Table 6 with the examples that it is computed from.

    Args:
        model: the ensemble.
        x: `(B, C, H, W)` float32 in [0, 1], at least one image.
        labels: true labels `(B,)`.
        config: the attack; its `target` is of no effect. The random start of an image is the same for every target.
        seed: of the random start.
        progress: see `Ticks`.
    """
    check(len(x) > 0, "there are no images to measure transferability on")
    n = len(model.members)
    x_adv, outcomes = x, []
    for i, target in enumerate([*(f"member {m + 1}" for m in range(n)), "ensemble"]):
        ticks = _shifted(progress, i * len(x), (n + 1) * len(x))
        x_adv = attack_in_parts(model, x, labels, replace(config, target=target), seed=seed, progress=ticks)
        outcomes.append(_verdict(model, x_adv, labels, ticks))
    clean = _verdict(model, x, labels, _shifted(progress, (n + 1) * len(x), (n + 1) * len(x)))
    found = from_outcomes(clean, outcomes, replace(config, target="ensemble"))
    return Study(found, x_adv, clean, outcomes[-1])


@dataclass(frozen=True)
class BlackBox:
    """Tables 12 and 13: `a[i][j]`, robust accuracy of ensemble j on the examples that attack ensemble i.

    The diagonal is the white-box figure. `natural` is each ensemble's accuracy on the clean images.
    """

    names: tuple[str, ...]
    images: int
    attack: AttackConfig
    natural: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def black_box_from_json(values: dict[str, Any]) -> BlackBox:
    """The inverse of `BlackBox.to_json`.

    Raises:
        ConfigError: values that are not a whole record.
    """
    try:
        names, images = tuple(str(name) for name in values["names"]), int(values["images"])
        config = from_json(AttackConfig, values["attack"], "attack")
        natural = tuple(float(v) for v in values["natural"])
        a = tuple(tuple(float(x) for x in row) for row in values["a"])
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        check(False, f"this is not a black-box record: {error!r}")
        raise
    square = len(a) == len(natural) == len(names) and all(len(row) == len(names) for row in a)
    check(square, f"this black-box record does not fit its {len(names)} ensembles")
    return BlackBox(names, images, config, natural, a)


def black_box(
    models: Mapping[str, Ensemble],
    x: Tensor,
    labels: Tensor,
    config: AttackConfig,
    *,
    seed: int = 0,
    progress: Ticks | None = None,
) -> BlackBox:
    """Attack each ensemble, and measure every one on its examples (Tables 12 and 13).

    Args:
        models: by name; all take the same input and have the same classes.
        x: `(B, C, H, W)` float32 in [0, 1], at least one image.
        labels: true labels `(B,)`.
        config: the attack, on the ensemble.
        seed: of the random start.
        progress: see `Ticks`.

    Raises:
        ConfigError: no ensembles, no images, or ensembles of different inputs or classes.
    """
    check(len(models) > 0, "there are no ensembles to compare")
    check(len(x) > 0, "there are no images to measure transfer on")
    shapes = {(m.config.input_shape, m.config.classes) for m in models.values()}
    check(len(shapes) == 1, f"the ensembles take different inputs or classes: {sorted(shapes)}")
    config = replace(config, target="ensemble")
    rows = []
    for i, source in enumerate(models.values()):
        ticks = _shifted(progress, i * len(x), len(models) * len(x))
        x_adv = attack_in_parts(source, x, labels, config, seed=seed, progress=ticks)
        rows.append(tuple(_verdict(m, x_adv, labels, ticks).accuracy for m in models.values()))
    ticks = _shifted(progress, len(models) * len(x), len(models) * len(x))
    natural = tuple(_verdict(m, x, labels, ticks).accuracy for m in models.values())
    return BlackBox(tuple(models), len(x), config, natural, tuple(rows))


def _verdict(model: Ensemble, x: Tensor, labels: Tensor, progress: Ticks | None) -> Outcome:
    """What the ensemble says, with a tick before each batch: all the images are done when it begins."""
    return outcome(model, x, labels, _BATCH, progress and (lambda: progress(len(x), len(x))))


def _shifted(progress: Ticks | None, before: int, total: int) -> Ticks | None:
    """Ticks of one stretch of a longer work."""
    return progress and (lambda done, _: progress(min(before + done, total), total))
