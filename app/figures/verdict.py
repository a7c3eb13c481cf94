"""The verdict in words: was it flagged, was the ensemble fooled, and who says what."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from app.figures.palette import FLAG_MARK, RIGHT_MARK, WRONG_MARK, voices


def cards(
    subject: str,
    before: tuple[str, bool | None],
    after: tuple[str, bool | None] | None = None,
    outcome: str = "",
    titles: tuple[str, str] = ("Before the attack", "After the attack"),
    waiting: str = "Press Attack to see.",
) -> str:
    """Two cards, before on the left and after on the right, and what became of the ensemble.

    Args:
        subject: which picture, and how it was attacked.
        before: the detector's sentence on the picture, and whether it is flagged (None: no detector).
        after: the same of the adversarial picture.
        outcome: a sentence on the ensemble; empty before an attack.
        titles: of the two cards.
        waiting: stands on the second one while there is no `after`.
    """
    right = _card(titles[1], *after) if after else _waiting(titles[1], waiting)
    told = f'<p class="outcome">{escape(outcome)}</p>' if outcome else ""
    line = f'<p class="studio-note">{escape(subject)}</p>'
    return f'{line}<div class="studio-cards" aria-live="polite">{_card(titles[0], *before)}{right}</div>{told}'


def awaited(titles: tuple[str, str], words: str) -> str:
    """The two cards before anything is known."""
    body = "".join(_waiting(title, words) for title in titles)
    return f'<p class="studio-note">&nbsp;</p><div class="studio-cards">{body}</div><p class="outcome">&nbsp;</p>'


def _card(title: str, sentence: str, flagged: bool | None) -> str:
    kind, sign = ("flagged", f"{FLAG_MARK} ") if flagged else ("quiet", "")
    return f'<div class="card {kind}"><h3>{title}</h3><p>{sign}{escape(sentence)}</p></div>'


def _waiting(title: str, words: str) -> str:
    return f'<div class="card waiting"><h3>{title}</h3><p>{escape(words)}</p></div>'


def answers(label: str, before: dict[str, Any], after: dict[str, Any] | None, known: bool = True) -> str:
    """Who says what: a row for each member and the ensemble, before and after.

    Args:
        label: the class they are judged by.
        before: what `classify` says of the picture.
        after: the same of the adversarial one, None before there is one.
        known: whether the label is the true class, not just the ensemble's own clean answer.
    """
    words = (
        (f"{RIGHT_MARK} right", f"{WRONG_MARK} wrong") if known else (f"{RIGHT_MARK} as label", f"{WRONG_MARK} other")
    )
    rows = []
    now = [*after["members"], after["ensemble"]] if after else None
    for i, (name, colour) in enumerate(voices(len(before["members"]))):
        was = [*before["members"], before["ensemble"]][i]
        cells = _answer(label, before["classes"], was, words)
        cells += _answer(label, before["classes"], now[i], words) if now else "<td>–</td>"
        swatch = f'<span class="swatch" style="background:{colour}"></span>'
        rows.append(f'<tr><th scope="row">{swatch}{name}</th>{cells}</tr>')
    return (
        '<table class="studio-table answers"><thead><tr><th scope="col">says</th>'
        '<th scope="col">before</th><th scope="col">after</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _answer(label: str, classes: Sequence[str], row: Sequence[float], words: tuple[str, str]) -> str:
    top = max(range(len(row)), key=row.__getitem__)
    kind, word = ("right", words[0]) if classes[top] == label else ("wrong", words[1])
    return f'<td><b>{escape(classes[top])}</b> {row[top]:.2f} <span class="{kind}">{word}</span></td>'


def limits(lines: Sequence[str]) -> str:
    """What the verdict cannot tell, as a list that is always in sight."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="studio-limits"><h3>What the verdict cannot tell</h3><ul>{items}</ul></div>'


TERMS = (
    ("f1, f2", "The members: networks trained together, each with its own answer."),
    ("ensemble, f_en", "The mean of the members' probabilities: what the whole says."),
    ("S11, S01, S10, S00", "A bit for each member, 1 where it is right: S01 means f1 wrong, f2 right."),
    ("epsilon", "How far an attack may move each pixel, in 1/255 of the full range."),
    ("step size, steps", "How far it moves at a time, and how often."),
    ("entropy", "How unsure the ensemble is: 0 when it is certain, highest when all classes are as likely."),
    ("nats", "The unit of entropy, with natural logarithms; for ten classes the highest is 2.30."),
    ("threshold", "A picture with a higher entropy is flagged."),
    ("CCE-RM", "Robustness mode: each member learns to be right where the others are fooled."),
    ("CCE-DM", "Detection mode: each member learns to be unsure there, so that attacks stand out."),
    ("FGSM", "One step along the sign of the gradient."),
    ("PGD, BIM, MIM", "Many small steps: from a random start, from the picture, and with momentum."),
)


def glossary() -> str:
    """Each term in one line."""
    return f'<dl class="studio-terms">{"".join(f"<dt>{escape(t)}</dt><dd>{escape(d)}</dd>" for t, d in TERMS)}</dl>'
