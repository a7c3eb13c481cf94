"""Detection: scores of an input (the entropy of f_en first), their thresholds, ROC and AUC.

`DetectionReport` is the only thing that figures and tables of detection are made from, and it cannot be
made without detector-aware attacks and benign corruptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cce.config import SCORES, ConfigError, Detector, check, from_json

KINDS = ("attack", "adaptive", "benign")
"""The three columns of every detection figure."""


def auc(clean: ArrayLike, attacked: ArrayLike) -> float | None:
    """Area under the ROC of telling attacked (high score) from clean; None where one side is empty.

    >>> auc([0.1, 0.2], [0.3, 0.4])
    1.0
    """
    clean, attacked = np.sort(np.asarray(clean)), np.asarray(attacked)
    if not len(clean) or not len(attacked):
        return None
    # The fraction of pairs in which the attacked score is the higher one, a tie counting as half: the area (Mann and
    # Whitney). Counted in whole halves, so that nothing is rounded before the one division.
    halves = np.searchsorted(clean, attacked, "left").sum() + np.searchsorted(clean, attacked, "right").sum()
    return float(halves / (2 * len(clean) * len(attacked)))


def roc(clean: ArrayLike, attacked: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates from (0, 0) to (1, 1), as the threshold falls; Figure 3's curve.

    >>> [rates.tolist() for rates in roc([0.1, 0.3], [0.2, 0.4])]
    [[0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0]]
    """
    clean, attacked = np.sort(np.asarray(clean)), np.sort(np.asarray(attacked))
    check(len(clean) > 0 and len(attacked) > 0, "a ROC curve needs clean and attacked scores; one of them is empty")
    thresholds = np.unique(np.concatenate([clean, attacked]))[::-1]
    false_positives, true_positives = (len(s) - np.searchsorted(s, thresholds, "left") for s in (clean, attacked))
    # Only the corners: a point on the line between its neighbours draws nothing.
    corners = np.ones(len(thresholds), dtype=bool)
    corners[1:-1] = (np.diff(false_positives, 2) != 0) | (np.diff(true_positives, 2) != 0)
    rates = (false_positives[corners] / len(clean), true_positives[corners] / len(attacked))
    return tuple(np.concatenate([[0.0], rate]) for rate in rates)  # type: ignore[return-value]


@dataclass(frozen=True)
class Sample:
    """A group of inputs: what each was made by, whether f_en is right on it, and its scores `(B,)`."""

    name: str
    right: np.ndarray
    scores: dict[str, np.ndarray]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(set(self.scores) == set(SCORES), f"scores are {sorted(self.scores)}; they must be {sorted(SCORES)}")
        for name, values in self.scores.items():
            fits = values.shape == self.right.shape and bool(np.isfinite(values).all())
            check(fits, f"{name} of {self.name!r} must be {self.right.shape} finite numbers")

    def __len__(self) -> int:
        return len(self.right)


@dataclass(frozen=True)
class DetectionReport:
    """Clean inputs against attacked ones, against the attacker who knows, and against benign corruptions.

    Each sample is of the clean images from the first on, in the same order. `detectors` are the
    thresholds, by score; a score without one has no `flagged` figures.

    Raises:
        ConfigError: any of the three columns is empty.
    """

    clean: Sample
    attacks: tuple[Sample, ...]
    adaptive: tuple[Sample, ...]
    benign: tuple[Sample, ...]
    detectors: dict[str, Detector] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, samples in zip(("attacks", "adaptive", "benign"), self._columns(), strict=True):
            check(
                len(samples) > 0 and all(len(s) for s in samples),
                f"{kind} is empty; a detection figure needs attacks, adaptive attacks and benign corruptions",
            )
            longest = max(len(s) for s in samples)
            check(longest <= len(self.clean), f"{kind} has {longest} images, more than the {len(self.clean)} clean")

    def _columns(self) -> tuple[tuple[Sample, ...], ...]:
        return self.attacks, self.adaptive, self.benign

    def samples(self) -> Iterator[tuple[str, Sample]]:
        """Every sample with its kind, attacks first."""
        for kind, samples in zip(KINDS, self._columns(), strict=True):
            yield from ((kind, s) for s in samples)

    def rows(self, score: str = "entropy") -> list[dict[str, Any]]:
        """A row a sample, the clean one first.

        `auc` of telling it from its own clean images, `auc_successful` on those that turned f_en from right
        to wrong (None where there is none), and with a threshold `flagged` and `wrong_and_unflagged`.
        """
        return [self._row("clean", self.clean, score)] + [self._row(k, s, score) for k, s in self.samples()]

    def _row(self, kind: str, s: Sample, score: str) -> dict[str, Any]:
        base, values = self.clean_scores(s, score), s.scores[score]
        row: dict[str, Any] = {"kind": kind, "name": s.name, "images": len(s), "accuracy": float(s.right.mean())}
        if kind != "clean":
            turned = self.clean.right[: len(s)] & ~s.right
            row |= {"auc": auc(base, values), "auc_successful": auc(base, values[turned])}
        if score in self.detectors:
            flagged = self.detectors[score].flags(values)
            row |= {"flagged": float(flagged.mean()), "wrong_and_unflagged": float((~s.right & ~flagged).mean())}
        return row

    def clean_scores(self, s: Sample, score: str) -> np.ndarray:
        """Scores of the clean images that `s` was made from."""
        return self.clean.scores[score][: len(s)]

    def roc(self, s: Sample, score: str = "entropy") -> tuple[np.ndarray, np.ndarray]:
        """ROC of telling `s` from its clean images."""
        return roc(self.clean_scores(s, score), s.scores[score])

    def histogram(self, score: str = "entropy", bins: int = 30) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Figure 2: edges `(bins + 1,)` and, of each sample by name, the fraction in each bin; `clean` first."""
        everything = [self.clean, *(s for _, s in self.samples())]
        top = max(s.scores[score].max() for s in everything)
        edges = np.linspace(0, top if top > 0 else 1, bins + 1)
        shares = {s.name: np.histogram(s.scores[score], edges)[0] / len(s) for s in everything}
        return edges, shares

    def to_json(self) -> dict[str, Any]:
        """JSON values with every score to six digits; `report_from_json` is the inverse."""
        columns = zip(("attacks", "adaptive", "benign"), self._columns(), strict=True)
        return {
            "clean": _sample_to_json(self.clean),
            **{name: [_sample_to_json(s) for s in samples] for name, samples in columns},
            "detectors": {k: asdict(d) for k, d in self.detectors.items()},
        }


def report_from_json(values: dict[str, Any]) -> DetectionReport:
    """A report from what `DetectionReport.to_json` gave.

    Raises:
        ConfigError: values that are not a whole report.
    """
    try:
        columns = [tuple(_sample_from_json(s) for s in values[k]) for k in ("attacks", "adaptive", "benign")]
        detectors = {k: from_json(Detector, d, f"detectors.{k}") for k, d in values["detectors"].items()}
        return DetectionReport(_sample_from_json(values["clean"]), *columns, detectors)
    except ConfigError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        check(False, f"this is not a detection report: {error!r}")
        raise


def _sample_to_json(s: Sample) -> dict[str, Any]:
    scores = {k: [float(f"{x:.6g}") for x in v] for k, v in s.scores.items()}
    return {"name": s.name, "right": "".join("01"[int(r)] for r in s.right), "scores": scores, "settings": s.settings}


def _sample_from_json(values: dict[str, Any]) -> Sample:
    right = np.array([c == "1" for c in values["right"]], dtype=bool)
    check(isinstance(values["name"], str), f"name is {values['name']!r}; it must be text")
    scores = {k: np.array(v, float) for k, v in values["scores"].items()}
    return Sample(values["name"], right, scores, dict(values["settings"]))
