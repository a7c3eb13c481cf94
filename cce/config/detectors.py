"""Detectors: what an input is judged by, and above which threshold it is flagged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cce.config.values import check

SCORES = ("entropy", "max probability", "disagreement")
"""What an input can be judged by; the higher, the more suspect. `max probability` is 1 - max f_en, `disagreement`
the Jensen-Shannon divergence of the members."""


@dataclass(frozen=True)
class Detector:
    """Flags an input as adversarial where the entropy of f_en exceeds `threshold` (nats).

    The threshold lets `false_positive_rate` of the clean images `calibrated_on` through as flagged;
    these images are used for nothing else.

    Raises:
        ConfigError: a threshold that is not finite, which would flag nothing or everything, or a rate outside [0, 1].
    """

    threshold: float
    false_positive_rate: float
    calibrated_on: str
    images: int
    score: str = "entropy"

    def __post_init__(self) -> None:
        rate = self.false_positive_rate
        check(math.isfinite(self.threshold), f"threshold is {self.threshold}; it must be a finite number")
        check(0 <= rate <= 1, f"false_positive_rate is {rate}; it is from 0 to 1")
        check(self.score in SCORES, f"score is {self.score!r}; it is one of {', '.join(SCORES)}")

    def flags(self, entropies: ArrayLike) -> np.ndarray:
        """Which entropies are flagged."""
        return np.asarray(entropies) > self.threshold
