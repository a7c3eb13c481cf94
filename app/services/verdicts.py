"""Verdict service: what happened, in plain sentences, and what the verdict cannot tell."""

from __future__ import annotations

from typing import Any

from cce.checkpoints.folder import Checkpoint
from cce.evaluation.attack_outcome import sentence as fooled
from cce.reporting.cards import percent

__all__ = ["flag", "fooled", "limits", "subject"]


def subject(name: str, label: str | None) -> str:
    """Which picture it is, and what it is judged by.

    >>> subject("test picture 3", "airplane")
    'Test picture 3, true class airplane.'
    """
    judged = f"true class {label}" if label else "judged by the model's own clean answer"
    return f"{name[:1].upper()}{name[1:]}, {judged}."


def flag(said: dict[str, Any]) -> str:
    """The detector's verdict on one picture, from `classify`.

    >>> flag({"entropy": 1.712, "threshold": 0.62, "flagged": True})
    'Flagged as adversarial: entropy 1.71 nats, above 0.62'
    """
    value, threshold = said["entropy"], said["threshold"]
    if threshold is None:
        return f"No detector: entropy {value:.2f} nats, and this model has no threshold"
    near = 3 if f"{value:.2f}" == f"{threshold:.2f}" else 2
    if said["flagged"]:
        return f"Flagged as adversarial: entropy {value:.{near}f} nats, above {threshold:.{near}f}"
    where = "below" if value < threshold else "not above"
    return f"Not flagged: entropy {value:.{near}f} nats, {where} {threshold:.{near}f}"


def limits(checkpoint: Checkpoint) -> list[str]:
    """What the flag does not tell, each with the model's own measured figure where there is one."""
    detector, metrics = checkpoint.detector, checkpoint.metrics
    if detector is None:
        return ["This model has no detector: no threshold was calibrated for it."]
    lines = [
        "A flag is no proof of an attack: noise, and pictures unlike the training data, have a high entropy too."
        + _noise(metrics),
        f"The threshold was set to flag {percent(detector.false_positive_rate)} of clean pictures like those it was "
        f"calibrated on ({detector.images:,}).",
        "No flag is no proof that all is well: an attacker who knows of the detector can pass it." + _aware(metrics),
    ]
    if not checkpoint.defense.detects:
        lines.append("This model was not trained to detect: its members stay sure of themselves under attack.")
    return lines


def _noise(metrics: dict[str, Any]) -> str:
    rows = [r for r in metrics.get("benign_corruptions", []) if r.get("flagged") is not None]
    if not rows:
        return ""
    worst = max(rows, key=lambda r: r["flagged"])
    return f" Measured: {worst['name']}, which attack nothing, are flagged on {percent(worst['flagged'])} of pictures."


def _aware(metrics: dict[str, Any]) -> str:
    rows = [r for r in metrics.get("adaptive", []) if r.get("wrong_and_unflagged") is not None]
    if not rows:
        return " For this model that was not measured yet."
    worst = max(rows, key=lambda r: r["wrong_and_unflagged"])
    return (
        f" Measured: wrong and unflagged on {percent(worst['wrong_and_unflagged'])} of "
        f"{worst.get('images', metrics.get('images'))} pictures "
        f"({worst['name']})."
    )
