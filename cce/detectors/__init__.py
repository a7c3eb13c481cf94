"""Detectors: inputs judged by name, by one look or by a push, and thresholds calibrated at a stated rate.

May be imported by: checkpoints, evaluation and what follows, the app. Must not go in: attacks on a detector, figures.
"""

from cce.detectors.consistency import usual_radii
from cce.detectors.judging import Judgement, calibrate, calibrated, describe, judge, scores

__all__ = ["Judgement", "calibrate", "calibrated", "describe", "judge", "scores", "usual_radii"]
