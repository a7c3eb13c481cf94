"""Judging: every detector behind one interface: scores by name, a threshold from clean images, and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cce.config import DETECTORS, Detector, check
from cce.config.detectors import CONSISTENCY
from cce.detectors.consistency import RADII, STEPS, smallest_radius
from cce.detectors.looks import look
from cce.models import Ensemble, evaluating

BATCH = 250
"""Inputs judged at a time."""


@dataclass(frozen=True)
class Judgement:
    """What a detector says of B inputs: `scores` `(B,)` float64, `flagged` `(B,)` bool, and why, in words."""

    detector: Detector
    scores: np.ndarray

    @property
    def flagged(self) -> np.ndarray:
        """Which inputs are flagged."""
        return self.detector.flags(self.scores)

    def evidence(self, i: int) -> str:
        """Why input `i` is flagged or not, in a sentence."""
        return evidence(self.detector, float(self.scores[i]))


def scores(
    name: str,
    model: Ensemble,
    x: Tensor,
    *,
    unanimity: bool = False,
    radii: tuple[float, ...] = RADII,
    steps: int = STEPS,
    search: Ensemble | None = None,
) -> np.ndarray:
    """The score of each input, the higher the more suspect, in float32 and evaluation mode.

    Args:
        name: one of `DETECTORS`.
        model: the ensemble; its mode comes back as it was.
        x: `(B, C, H, W)` in [0, 1].
        unanimity: consistency's, as are `radii`, `steps` and `search`: see `smallest_radius`.
        radii: pixel units.
        steps: at each radius.
        search: a fast copy to push on.

    Returns:
        `(B,)` float64.

    Raises:
        ConfigError: no such detector, or a score that is not finite.
    """
    check(name in DETECTORS, f"detector is {name!r}; there is {', '.join(DETECTORS)}")

    def pushed(part: Tensor) -> Tensor:
        return -smallest_radius(model, part, radii, steps, unanimity=unanimity, search=search)

    @torch.no_grad()
    def looked(part: Tensor) -> Tensor:
        with evaluating(model):
            return look(name, model.member_logits(part))

    one: Callable[[Tensor], Tensor] = pushed if name == CONSISTENCY else looked
    parts = [one(x[i : i + BATCH].contiguous(memory_format=torch.channels_last)) for i in range(0, len(x), BATCH)]
    found = torch.cat(parts).double().cpu().numpy() if parts else np.empty(0)
    check(bool(np.isfinite(found).all()), f"some scores by {name} are not finite; the ensemble is broken")
    return found


def judge(detector: Detector, model: Ensemble, x: Tensor, search: Ensemble | None = None) -> Judgement:
    """What `detector` says of `x` `(B, C, H, W)`: see `scores`.

    Consistency does not try radii that decide nothing: all inputs that they would tell apart are accepted.
    """
    if detector.score != CONSISTENCY:
        return Judgement(detector, scores(detector.score, model, x))
    needed = deciding(detector) or detector.radii[:1]
    settings = {"unanimity": detector.unanimity, "radii": needed, "steps": detector.steps, "search": search}
    return Judgement(detector, scores(detector.score, model, x, **settings))


def deciding(detector: Detector) -> tuple[float, ...]:
    """The radii within which a change of the answer is flagged."""
    return tuple(r for r in detector.radii if float(np.float32(-r)) > detector.threshold)


def calibrated(
    name: str,
    model: Ensemble,
    x: Tensor,
    false_positive_rate: float,
    calibrated_on: str,
    *,
    unanimity: bool = False,
    radii: tuple[float, ...] = RADII,
    steps: int = STEPS,
    search: Ensemble | None = None,
) -> Detector:
    """The detector `name` with the lowest threshold that flags at most `false_positive_rate` of clean images.

    For consistency that is the largest radius: an input is flagged where its answer changes within a smaller one.

    Args:
        name: one of `DETECTORS`.
        model: the ensemble.
        x: clean images that nothing else uses, `(B, C, H, W)`.
        false_positive_rate: from 0 to 1.
        calibrated_on: which images these are, in words.
        unanimity: and what follows: see `scores`.
        radii: pixel units.
        steps: at each radius.
        search: a fast copy to push on.

    Raises:
        ConfigError: see `calibrate`, `scores`.
    """
    settings = {"unanimity": unanimity, "radii": radii, "steps": steps} if name == CONSISTENCY else {}
    found = scores(name, model, x, **settings, **({"search": search} if settings else {}))
    return calibrate(found, false_positive_rate, calibrated_on, name, **settings)


def calibrate(
    values: ArrayLike,
    false_positive_rate: float,
    calibrated_on: str,
    score: str = "entropy",
    *,
    unanimity: bool = False,
    radii: tuple[float, ...] = (),
    steps: int = 0,
) -> Detector:
    """The lowest threshold that flags at most `false_positive_rate` of these clean scores.

    >>> calibrate([0.1, 0.2, 0.3, 0.4], 0.25, "four numbers").threshold
    0.3

    Raises:
        ConfigError: no scores, scores that are not finite, or a rate outside [0, 1].
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    check(0 <= false_positive_rate <= 1, f"false_positive_rate is {false_positive_rate}; it is from 0 to 1")
    check(len(ordered) > 0, "there are no clean images to calibrate the detector on")
    check(bool(np.isfinite(ordered).all()), "some entropies to calibrate the detector on are not finite")
    allowed = int(false_positive_rate * len(ordered) + 1e-9)
    threshold = ordered[len(ordered) - 1 - min(allowed, len(ordered) - 1)]
    push = (unanimity, tuple(radii), steps)
    return Detector(float(threshold), false_positive_rate, calibrated_on, len(ordered), score, *push)


def evidence(detector: Detector, score: float) -> str:
    """Why an input with this score is flagged or not, in a sentence.

    >>> evidence(Detector(1.5, 0.05, "clean images", 100), 1.7512)
    'flagged: the entropy is 1.751 nats, above 1.500'
    """
    flagged = bool(detector.flags(score))
    verdict = "flagged" if flagged else "accepted"
    if detector.score != CONSISTENCY:
        what, unit = {
            "entropy": ("the entropy", " nats"),
            "max probability": ("1 minus the highest probability", ""),
            "disagreement": ("the members' disagreement", " nats"),
        }[detector.score]
        side = "above" if flagged else "not above"
        return f"{verdict}: {what} is {score:.3f}{unit}, {side} {detector.threshold:.3f}"
    who = "the members' one answer" if detector.unanimity else "the answer"
    if score == 0 and flagged:
        return f"{verdict}: the members do not agree"
    if flagged:
        return f"{verdict}: {who} changes within {-255 * score:.3g}/255"
    tried = deciding(detector)
    if tried:
        return f"{verdict}: no push within {255 * max(tried):.3g}/255 changes {who}"
    return f"{verdict}: {'the members agree' if detector.threshold < 0 else 'at its rate this detector flags nothing'}"


def describe(detector: Detector) -> str:
    """What it flags, calibrated on what, in a sentence.

    >>> describe(Detector(0.25, 0.05, "digits images 1 to 9", 9, "max probability"))
    'max probability: flagged where it exceeds 0.250; at most 5 % of digits images 1 to 9 (9 images).'
    """
    where = f"at most {100 * detector.false_positive_rate:g} % of {detector.calibrated_on} ({detector.images} images)"
    if detector.score != CONSISTENCY:
        return f"{detector.name}: flagged where it exceeds {detector.threshold:.3f}; {where}."
    tried = deciding(detector)
    if tried:
        who = "a member's answer differs" if detector.unanimity else "the answer changes"
        return f"{detector.name}: flagged where {who} within {255 * max(tried):.3g}/255; {where}."
    rule = "where the members do not agree" if detector.threshold < 0 else "nothing"
    return f"{detector.name}: flagged is {rule}; {where}."
