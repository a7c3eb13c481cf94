"""Collapse: whether a run's predictions have become uniform for good, told from slow learning."""

from __future__ import annotations

import math
from typing import Any

from cce.config import Defense, TrainConfig
from cce.training.monitoring import UNIFORM


class TrainingError(RuntimeError):
    """Training that cannot go on: the message says why; the last good state is kept."""


def is_uniform(entropy: float, config: TrainConfig) -> bool:
    """Whether a mean entropy in nats is within 2% of that of uniform predictions."""
    return entropy > UNIFORM * math.log(config.model.classes)


LEARNING = 0.005
"""A clean loss that fell by this share of the lowest epoch's before is learning, however slowly."""


def epoch_means(rows: list[dict[str, Any]], before: int, steps_per_epoch: int) -> list[float]:
    """The mean clean loss of each epoch that ended by step `before`."""
    epochs: dict[int, list[float]] = {}
    for row in rows:
        if row["step"] <= before:
            epochs.setdefault((row["step"] - 1) // steps_per_epoch, []).append(row["natural"])
    return [sum(values) / len(values) for values in epochs.values()]


def refuse_collapse(
    entropies: list[float], classes: int, step: int, warm_up: int, defense: Defense | None = None
) -> None:
    """Stop a run whose predictions on clean images stayed uniform for an epoch after the warm-up.

    Plain training (NAT) has nothing that drives predictions to be uniform: there they are uniform only as long as
    nothing is learned, and the run goes on.

    Raises:
        TrainingError: it has collapsed; the advice fits the loss.
    """
    uniform = math.log(classes)
    if defense is not None and defense.method == "nat":
        return
    if step > warm_up and entropies and min(entropies) > UNIFORM * uniform:
        mean = sum(entropies) / len(entropies)
        raise TrainingError(
            f"collapsed: the mean entropy on clean images was {mean:.3f} of at most {uniform:.3f} nats for an epoch. "
            f"{_advice(defense)}, or go on all the same (keep-going on the command line); the last state "
            "is kept. Classes that look alike end so too"
        )


def _advice(defense: Defense | None) -> str:
    """What may keep a loss from collapsing."""
    if defense is not None and (defense.method != "cce" or not defense.lambda_dm):
        return "Start with a longer natural phase, or train against a smaller epsilon"
    return "Start with a longer natural phase or a lower lambda_dm"
