"""Detectors: what an input is judged by, and above which threshold it is flagged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cce.config.values import check

SCORES = ("entropy", "max probability", "disagreement")
"""What one look at an input gives; the higher, the more suspect. `max probability` is 1 - max f_en, `disagreement`
the Jensen-Shannon divergence of the members."""

CONSISTENCY = "consistency"
DETECTORS = (*SCORES, CONSISTENCY)
"""What an input can be judged by. `consistency` is minus the smallest radius within which the answer can be changed:
see `cce.detectors.consistency`."""


@dataclass(frozen=True)
class Detector:
    """Flags an input as adversarial where its `score` exceeds `threshold`.

    Entropy and disagreement are in nats, probabilities from 0 to 1, consistency's in pixel units from -1 to 0.
    The threshold lets `false_positive_rate` of the clean images `calibrated_on` through as flagged;
    these images are used for nothing else.

    Of consistency alone: the `radii` that are tried in turn (pixel units), the `steps` of the push at each, and
    `unanimity`, whether all members must give one answer rather than the ensemble.

    Raises:
        ConfigError: a threshold that is not finite, which would flag nothing or everything, a rate outside [0, 1], a
            score that is not in `DETECTORS`, or settings of consistency that it cannot have.
    """

    threshold: float
    false_positive_rate: float
    calibrated_on: str
    images: int
    score: str = "entropy"
    unanimity: bool = False
    radii: tuple[float, ...] = ()
    steps: int = 0

    def __post_init__(self) -> None:
        rate = self.false_positive_rate
        check(math.isfinite(self.threshold), f"threshold is {self.threshold}; it must be a finite number")
        check(0 <= rate <= 1, f"false_positive_rate is {rate}; it is from 0 to 1")
        check(self.score in DETECTORS, f"score is {self.score!r}; it is one of {', '.join(DETECTORS)}")
        if self.score == CONSISTENCY:
            check_push(self.radii, self.steps)
        else:
            pushed = self.unanimity or self.radii or self.steps
            check(not pushed, f"unanimity, radii and steps are consistency's; the score is {self.score!r}")

    @property
    def name(self) -> str:
        """The score, and `consistency, unanimous` where all members must agree."""
        return f"{self.score}, unanimous" if self.unanimity else self.score

    def flags(self, scores: ArrayLike) -> np.ndarray:
        """Which scores are flagged."""
        return np.asarray(scores) > self.threshold


def check_push(radii: tuple[float, ...], steps: int) -> None:
    """Refuse radii that do not rise within (0, 1), and a push without a step.

    Raises:
        ConfigError: one of these.
    """
    rising = all(a < b for a, b in zip((0.0, *radii), (*radii, 1.0), strict=True))
    check(bool(radii) and rising, f"radii is {radii}; they rise from above 0 to below 1, in pixel units")
    check(1 <= steps <= 10_000, f"steps is {steps}; it must be from 1 to 10000")
