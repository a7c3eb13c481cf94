"""The honest curve of a detector: what passes it against how many clean pictures it flags, as its threshold moves.

What passes is counted under an attacker who knows: of every image the worst of all attacks that were run on it,
detector-aware ones and others, the one that is wrong with the lowest score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cce.config import Detector, check
from cce.evaluation.detection import DetectionReport

NEVER = np.inf
"""The score that an attacker reaches on an image that no attack makes the ensemble wrong on."""


@dataclass(frozen=True)
class Rates:
    """A detector at one threshold, as fractions.

    `clean_flagged` of clean images; `missed`: wrong and unflagged under the worst attack; `accepted` and
    `accepted_accuracy` of clean images (None where none is accepted); `benign`: flagged, by the change's name.
    """

    threshold: float
    clean_flagged: float
    missed: float
    accepted: float
    accepted_accuracy: float | None
    benign: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Curve:
    """A detector of one ensemble at every threshold.

    `clean_flagged` falls and `missed` rises along `thresholds` `(P,)`, which rise; `reached` `(M,)` and `worst` are of
    `worst_scores`; `detector` is the calibrated one, where there is one.
    """

    score: str
    thresholds: np.ndarray
    clean_flagged: np.ndarray
    missed: np.ndarray
    reached: np.ndarray
    worst: dict[str, int]
    report: DetectionReport
    detector: Detector | None = None

    @property
    def images(self) -> int:
        """How many pictures the detector-aware attacks had."""
        return len(self.reached)

    def at(self, threshold: float) -> Rates:
        """All figures at a threshold."""
        clean = self.report.clean
        kept = clean.scores[self.score] <= threshold
        missed = float((np.isfinite(self.reached) & (self.reached <= threshold)).mean())
        accuracy = float(clean.right[kept].mean()) if kept.any() else None
        benign = {s.name: float((s.scores[self.score] > threshold).mean()) for s in self.report.benign}
        return Rates(threshold, float(1 - kept.mean()), missed, float(kept.mean()), accuracy, benign)

    def at_rate(self, rate: float) -> Rates:
        """All figures at the lowest threshold that flags at most `rate` of the clean images."""
        allowed = self.thresholds[self.clean_flagged <= rate + 1e-9]
        return self.at(float(allowed.min()))

    def to_json(self) -> dict[str, Any]:
        """JSON values: the corners of the curve, the calibrated point, and the point at 10 % of clean images."""
        corners = _corners(self.clean_flagged, self.missed)
        return {
            "images": self.images,
            "thresholds": [float(f"{t:.6g}") for t in self.thresholds[corners]],
            "clean_flagged": self.clean_flagged[corners].round(5).tolist(),
            "wrong_and_unflagged": self.missed[corners].round(5).tolist(),
            "worst_attack": self.worst,
            "calibrated": self.at(self.detector.threshold).to_json() if self.detector else None,
            "at_10_percent": self.at_rate(0.1).to_json(),
        }


def worst_scores(report: DetectionReport, score: str) -> tuple[np.ndarray, dict[str, int]]:
    """What an attacker who knows reaches: of each image the lowest score of a wrong answer, `(M,)`, `NEVER` for none.

    M is the number of images that every detector-aware attack had. A picture that is wrong unattacked counts as it is.

    Returns:
        The scores, and of how many images each attack was the worst.
    """
    count = min(len(s) for s in report.adaptive)
    tried = [
        ("no attack", report.clean),
        *((s.name, s) for s in (*report.attacks, *report.adaptive) if len(s) >= count),
    ]
    reached = np.stack([np.where(s.right[:count], NEVER, s.scores[score][:count]) for _, s in tried])
    first = reached.argmin(0)
    lowest = reached.min(0)
    counts = np.bincount(first[np.isfinite(lowest)], minlength=len(tried))
    worst = {name: int(n) for (name, _), n in zip(tried, counts, strict=True) if n}
    return lowest, dict(sorted(worst.items(), key=lambda one: -one[1]))


def curve(report: DetectionReport, score: str = "entropy", detector: Detector | None = None) -> Curve:
    """The honest curve of one score.

    Args:
        report: with its detector-aware attacks.
        score: one of `SCORES`.
        detector: the calibrated threshold of this score (default: the report's own).

    Raises:
        ConfigError: a score that the report does not hold, or a detector of another.
    """
    check(score in report.clean.scores, f"score is {score!r}; there is {', '.join(report.clean.scores)}")
    detector = detector or report.detectors.get(score)
    check(detector is None or detector.score == score, f"the detector is of {detector and detector.score}, not {score}")
    clean = report.clean.scores[score]
    reached, worst = worst_scores(report, score)
    lowest = min(clean.min(), reached.min()) - 1.0  # below all: everything is flagged
    thresholds = np.unique(np.concatenate([[lowest], clean, reached[np.isfinite(reached)]]))
    flagged = 1 - np.searchsorted(np.sort(clean), thresholds, "right") / len(clean)
    missed = np.searchsorted(np.sort(reached), thresholds, "right") / len(reached)
    return Curve(score, thresholds, flagged, missed, reached, worst, report, detector)


def curves(report: DetectionReport) -> dict[str, Curve]:
    """The honest curve of every score that the report holds, by score."""
    return {score: curve(report, score) for score in report.clean.scores}


def _corners(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the curve turns: a point on the line between its neighbours draws nothing; `(P,)` bool."""
    keep = np.ones(len(x), dtype=bool)
    keep[1:-1] = (np.diff(x, 2) != 0) | (np.diff(y, 2) != 0)
    return keep
