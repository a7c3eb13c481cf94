"""Verdict service: what happened, in plain sentences, and what the verdict cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cce.checkpoints.folder import Checkpoint
from cce.evaluation.attack_outcome import sentence as fooled
from cce.reporting.cards import percent

__all__ = ["Danger", "change", "danger", "flag", "fooled", "kind_of", "limits", "noise", "subject"]

_NUMBERS = {2: "two", 3: "three", 10: "ten"}


@dataclass(frozen=True)
class Danger:
    """What an attack came to: `kind` is what its colour hangs on, `words` its headline.

    `missed`: fooled and not flagged; `caught`: fooled and flagged; `held`: neither; `alarm`: flagged only.
    """

    kind: str
    words: str


def subject(name: str, label: str | None) -> str:
    """Which picture it is, and what it is judged by.

    >>> subject("test picture 3", "airplane")
    'Test picture 3, true class airplane.'
    """
    judged = f"true class {label}" if label else "its true class is not known"
    return f"{name[:1].upper()}{name[1:]}, {judged}."


def flag(said: dict[str, Any], attacked: bool = False) -> str:
    """The detector's verdict on one picture, from `classify`; of a picture that nobody attacked unless `attacked`.

    >>> flag({"entropy": 1.69, "threshold": 1.53, "flagged": True, "classes": ["a"] * 10})
    'Unusual: the ensemble is unsure (1.69, limit 1.53). An attack, noise, or none of the ten classes.'
    >>> flag({"entropy": 2.3, "threshold": 1.53, "flagged": True, "classes": ["a"] * 10}, attacked=True)
    'Flagged: the ensemble is unsure (2.30, limit 1.53).'
    """
    value, threshold = said["entropy"], said["threshold"]
    if threshold is None:
        return f"This model has no detector. Its entropy is {value:.2f}."
    near = 3 if f"{value:.2f}" == f"{threshold:.2f}" else 2
    limit = f"({value:.{near}f}, limit {threshold:.{near}f})"
    if not said["flagged"]:
        return f"{'Not flagged' if attacked else 'Nothing unusual'}: the ensemble is sure enough {limit}."
    if attacked:
        return f"Flagged: the ensemble is unsure {limit}."
    count = len(said["classes"])
    classes = _NUMBERS.get(count, str(count))
    return f"Unusual: the ensemble is unsure {limit}. An attack, noise, or none of the {classes} classes."


def kind_of(said: dict[str, Any]) -> str:
    """The colour of a picture that nobody attacked."""
    return "unusual" if said["flagged"] else "quiet"


def danger(said: dict[str, Any], judged: str, known: bool = True) -> Danger:
    """What an attack on a picture came to.

    Args:
        said: what `classify` says of the adversarial picture.
        judged: the class it is judged by.
        known: whether that is the true class, not just the ensemble's own clean answer.

    >>> danger({"label": "dog", "flagged": False}, "cat")
    Danger(kind='missed', words='Fooled, and not noticed')
    """
    wrong, flagged = said["label"] != judged, said["flagged"]
    done, held = ("Fooled", "Not fooled") if known else ("Answer changed", "Answer kept")
    if wrong and flagged:
        return Danger("caught", f"{done}, but noticed")
    if wrong:
        return Danger("missed", f"{done}; there is no detector" if flagged is None else f"{done}, and not noticed")
    if flagged:
        return Danger("alarm", f"{held}, yet flagged: a false alarm")
    return Danger("held", held)


def change(before: dict[str, Any], after: dict[str, Any], judged: str | None) -> str:
    """How sure the ensemble was, and is now; `judged` is the true class, None where it is not known.

    >>> cat, frog = ({"label": "cat", "ensemble": [0.98, 0.02]}, {"label": "frog", "ensemble": [0.09, 0.11]})
    >>> change(cat, frog, "cat")
    'The ensemble was sure (cat 98 %, right); now it has no idea (best guess frog, 11 %, wrong).'
    """
    first = _stance(before, judged, "was sure", "leaned", "had no idea")
    return f"The ensemble {first}; now it {_stance(after, judged, 'is sure', 'leans', 'has no idea')}."


def _stance(said: dict[str, Any], judged: str | None, sure: str, leans: str, lost: str) -> str:
    """How sure it is, and of what."""
    p, label = max(said["ensemble"]), said["label"]
    share = f"{100 * p:.0f} %" + ("" if judged is None else ", right" if label == judged else ", wrong")
    if p >= 0.75:
        return f"{sure} ({label} {share})"
    if p >= 0.35:
        return f"{leans} to {label} ({share})"
    return f"{lost} (best guess {label}, {share})"


def noise(said: dict[str, Any] | None) -> str:
    """What the detector says of plain noise of the attack's size; see `attacks.same_size_noise`."""
    if said is None or said["flagged"] is None:
        return ""
    told = "is flagged too" if said["flagged"] else "is not flagged"
    return f"Plain noise of the same size, which attacks nothing, {told} ({said['entropy']:.2f})."


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
