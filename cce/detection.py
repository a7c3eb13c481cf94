"""Detection: the entropy of f_en as a score, its threshold, and how well it tells attacked from clean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score

from cce.config import check


@dataclass(frozen=True)
class Detector:
    """Flags an input as adversarial where the entropy of f_en exceeds `threshold` (nats).

    The threshold lets `false_positive_rate` of the clean images `calibrated_on` through as flagged;
    these images are used for nothing else.
    """

    threshold: float
    false_positive_rate: float
    calibrated_on: str
    images: int
    score: str = "entropy"

    def flags(self, entropies: ArrayLike) -> np.ndarray:
        """Which entropies are flagged."""
        return np.asarray(entropies) > self.threshold


def calibrate(entropies: ArrayLike, false_positive_rate: float, calibrated_on: str) -> Detector:
    """The lowest threshold that flags at most `false_positive_rate` of these clean entropies.

    >>> calibrate([0.1, 0.2, 0.3, 0.4], 0.25, "four numbers").threshold
    0.3

    Raises:
        ConfigError: no entropies, entropies that are not finite, or a rate outside [0, 1].
    """
    values = np.sort(np.asarray(entropies, dtype=float))
    check(0 <= false_positive_rate <= 1, f"false_positive_rate is {false_positive_rate}; it is from 0 to 1")
    check(len(values) > 0, "there are no clean images to calibrate the detector on")
    check(bool(np.isfinite(values).all()), "some entropies to calibrate the detector on are not finite")
    allowed = int(false_positive_rate * len(values) + 1e-9)
    threshold = values[len(values) - 1 - min(allowed, len(values) - 1)]
    return Detector(float(threshold), false_positive_rate, calibrated_on, len(values))


def auc(clean: ArrayLike, attacked: ArrayLike) -> float | None:
    """Area under the ROC of telling attacked (high score) from clean; None where one side is empty.

    >>> auc([0.1, 0.2], [0.3, 0.4])
    1.0
    """
    clean, attacked = np.asarray(clean), np.asarray(attacked)
    if not len(clean) or not len(attacked):
        return None
    truth = np.concatenate([np.zeros(len(clean)), np.ones(len(attacked))])
    return float(roc_auc_score(truth, np.concatenate([clean, attacked])))
