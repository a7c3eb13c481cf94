"""Detector curves service: what passes each detector under an attacker who knows, for one ensemble or several."""

from __future__ import annotations

from collections.abc import Sequence

from app.services.detection import Found, Reports, check_count
from app.services.models import Registry
from cce.config import SCORES, Detector, check
from cce.evaluation.detector_curve import Curve, curve

MOST = 4
"""Ensembles that are shown together, at most."""

TITLES = {"entropy": "Entropy", "max probability": "Highest probability", "disagreement": "Disagreement"}
"""The detectors by the score that they judge by; the paper's is the first."""


def lines(
    registry: Registry, reports: Reports, name: str, found: Found | None, scores: Sequence[str], others: Sequence[str]
) -> list[tuple[str, Curve]]:
    """A named curve for each chosen detector of each ensemble.

    Args:
        registry: loads the ensembles.
        reports: what was measured here, which comes before what was measured at release.
        name: the ensemble that the tab is about.
        found: its report, None where nothing was measured.
        scores: the chosen detectors.
        others: ensembles to compare with.

    Raises:
        ConfigError: no detector, too many ensembles, or one of which nothing was measured.
    """
    check(bool(scores), "No detector is chosen. Choose at least one.")
    unknown = [s for s in scores if s not in SCORES]
    check(not unknown, f"The detector is {unknown[0] if unknown else ''!r}; there is {', '.join(SCORES)}.")
    ids = list(dict.fromkeys([name, *others]))
    check_count(len(ids), "The number of ensembles", MOST)
    made = []
    for one in ids:
        there = found if one == name else reports.latest(registry.get(one))
        check(there is not None, f"Nothing was measured for {one} yet. Choose it above and press Measure.")
        assert there is not None
        for score in SCORES:
            if score in scores:
                title = TITLES[score] if len(ids) == 1 else f"{TITLES[score]}, {one}"
                made.append((title, curve(there.report, score, _own(registry, one, score))))
    return made


def first_rate(registry: Registry, name: str, found: Found | None) -> int:
    """Percent of clean pictures that the ensemble's calibrated entropy threshold flags; 10 without one."""
    own = _own(registry, name, "entropy")
    if found is None or own is None:
        return 10
    return round(100 * curve(found.report, "entropy", own).at(own.threshold).clean_flagged)


def _own(registry: Registry, name: str, score: str) -> Detector | None:
    """The ensemble's calibrated detector of a score."""
    checkpoint = registry.get(name)
    own = checkpoint.detector
    return own if own and own.score == score else None
