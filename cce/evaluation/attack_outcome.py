"""Attack outcome: the one word for what an attack did to the ensemble's answer, and its sentence.

The command line, the endpoints and the page all use these.
"""

from __future__ import annotations

from typing import Any

WRONG_BEFORE = "was wrong before"
NOT_FOOLED = "not fooled"
FOOLED = "fooled"
FOOLED_INTO_TARGET = "fooled into the target"

OUTCOMES = (WRONG_BEFORE, NOT_FOOLED, FOOLED, FOOLED_INTO_TARGET)
"""Every outcome there is."""


def outcome_of(label: str, before: str, after: str, target: str | None = None) -> str:
    """One of `OUTCOMES`.

    Args:
        label: the true class, or the one that the picture is judged by.
        before: the ensemble's answer to the picture.
        after: its answer to the adversarial picture.
        target: the class that a targeted attack aims for, else None.

    >>> outcome_of("cat", "cat", "dog"), outcome_of("cat", "cat", "dog", "dog"), outcome_of("cat", "dog", "dog")
    ('fooled', 'fooled into the target', 'was wrong before')
    """
    if before != label:
        return WRONG_BEFORE
    if after == label:
        return NOT_FOOLED
    return FOOLED_INTO_TARGET if after == target else FOOLED


def sentence(result: dict[str, Any], known: bool = True) -> str:
    """What an attack did, in a sentence, from `attack_picture`.

    Args:
        result: its JSON values.
        known: whether its label is the true class, not just the ensemble's own clean answer.
    """
    label, before, after = result["label"], result["benign"]["label"], result["adversarial"]["label"]
    target = result.get("toward")
    outcome = outcome_of(label, before, after, target)
    if outcome == WRONG_BEFORE:
        now = "still says" if after == before else "now says"
        return f"The ensemble was wrong before the attack: it said {before}, the label is {label}; it {now} {after}."
    if outcome == NOT_FOOLED:
        return f"The ensemble was not fooled: it still says {label}."
    said = f"{label}, which is right," if known else label
    if outcome == FOOLED_INTO_TARGET:
        return f"The ensemble was fooled into the target: it said {said} and now says {after}."
    aside = f", but not into the target, {target}" if target else ""
    return f"The ensemble was fooled{aside}: it said {said} and now says {after}."
