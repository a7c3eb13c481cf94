"""Columns of an evaluation: attacks, detector-aware attacks and benign corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from cce.attacks.corruptions import Corruption, corruption_kinds
from cce.attacks.task import generators_for
from cce.config import ATTACKS, AttackConfig, default_attack
from cce.evaluation.engine import Batch, Column
from cce.evaluation.fooling import Attacked, judged, run_attack
from cce.models import Ensemble


def attack_column(
    model: Ensemble,
    search: Ensemble,
    config: AttackConfig,
    count: int,
    *,
    kind: str = "attack",
    drop: bool = False,
    watch: bool = True,
    threshold: float | None = None,
    label: Mapping[str, str] | None = None,
) -> Column:
    """A registered attack on the first `count` images; see `run_attack`. `label` joins its settings."""

    def make(batch: Batch) -> Attacked:
        return run_attack(
            model,
            search,
            batch.images,
            batch.labels,
            config,
            wrong=batch.wrong,
            drop=drop,
            watch=watch,
            threshold=threshold,
            seed=batch.seed,
            numbers=batch.numbers,
            tick=batch.tick,
        )

    # An attack that is blind to the threshold is the same attack under another.
    settings = {**asdict(config), "drop": drop, "threshold": threshold if config.info.aware else None}
    return Column(kind, config.describe(), {**settings, **(label or {})}, count, passes(config, model), make)


_EVERY = {
    "spsa": 40,
    "square": 0.4,
    "aware-pgd": 9,
    "opgd": 2,
    "agree": 3,
    "smooth-16": 3,
    "smooth-8": 3,
    "smooth-4": 3,
}
"""Forward and backward passes that a step costs, where it is not one."""


def passes(config: AttackConfig, model: Ensemble) -> float:
    """About how many forward and backward passes an image costs: what a progress bar goes by."""
    steps = 600 if config.name.startswith("autoattack") else config.steps if config.info.steps else 1
    classes = model.config.classes - 1 if config.info.group == "Every target" else 1
    return float(steps * config.restarts * _EVERY.get(config.name, classes))


def aware_attacks(dataset: str, epsilon: float, side: int, chosen: Sequence[str] | None = None) -> list[AttackConfig]:
    """Attacks that know the detector, at `epsilon` (pixel units), on pictures `side` pixels wide.

    Every registered one, or of these the `chosen`.
    """
    names = [name for name, info in ATTACKS.items() if info.aware and (info.grid is None or info.grid < side)]
    names = [name for name in names if chosen is None or name in chosen]
    found = []
    for name in names:
        usual = default_attack(dataset, name)
        step_size = usual.step_size * epsilon / usual.epsilon
        found.append(replace(usual, epsilon=epsilon, step_size=min(1.0, step_size)))
    return found


def benign_columns(model: Ensemble, epsilon: float, count: int) -> list[Column]:
    """Each corruption of the first `count` images."""
    kinds = corruption_kinds(epsilon, model.config.input_shape[-1])
    return [_benign_column(model, name, corrupt, epsilon, count) for name, corrupt in kinds.items()]


def _benign_column(model: Ensemble, name: str, corrupt: Corruption, epsilon: float, count: int) -> Column:
    def make(batch: Batch) -> Attacked:
        changed = corrupt(batch.images, generators_for(batch.seed, batch.numbers))
        return judged(model, changed, batch.labels, batch.wrong)

    return Column("benign", name, {"epsilon": epsilon}, count, 0.3, make)
