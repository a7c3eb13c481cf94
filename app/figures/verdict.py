"""The verdict in words: was it flagged, was the ensemble fooled, and who says what."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from app.figures.palette import FLAG_MARK, RIGHT_MARK, WRONG_MARK, voices

FLAGGED = ("caught", "alarm", "unusual")
"""Kinds of verdict (`app.services.verdicts`) in which the picture is flagged."""


def cards(
    subject: str,
    before: tuple[str, str],
    after: tuple[str, str] | None = None,
    outcome: str = "",
    titles: tuple[str, str] = ("Before the attack", "After the attack"),
    waiting: str = "Press Attack to see.",
    headline: str = "",
    aside: str = "",
) -> str:
    """What became of the ensemble, and two cards: before on the left and after on the right.

    Args:
        subject: which picture, and how it was attacked.
        before: the detector's sentence on the picture, and its kind, which the colour hangs on.
        after: the same of the adversarial picture; its kind is also that of the headline.
        outcome: a sentence on the ensemble; empty before an attack.
        titles: of the two cards.
        waiting: stands on the second one while there is no `after`.
        headline: what it came to, in a few words.
        aside: a line below the cards.
    """
    right = _card(titles[1], *after) if after else _waiting(titles[1], waiting)
    head = f"<h3>{escape(headline)}</h3>" if headline else ""
    kind = f" {after[1]}" if after and headline else ""
    said = f'<p class="outcome">{escape(outcome)}</p>' if outcome else ""
    told = f'<div class="studio-told{kind}" aria-live="polite">{head}{said}</div>' if head or said else ""
    line = f'<p class="studio-note">{escape(subject)}</p>'
    last = f'<p class="studio-note aside">{escape(aside)}</p>' if aside else ""
    return f'{line}{told}<div class="studio-cards">{_card(titles[0], *before)}{right}</div>{last}'


def awaited(titles: tuple[str, str], words: str) -> str:
    """The two cards before anything is known."""
    body = "".join(_waiting(title, words) for title in titles)
    return f'<p class="studio-note">&nbsp;</p><div class="studio-cards">{body}</div><p class="outcome">&nbsp;</p>'


def _card(title: str, sentence: str, kind: str) -> str:
    sign = f"{FLAG_MARK} " if kind in FLAGGED else ""
    return f'<div class="card {kind}"><h3>{title}</h3><p>{sign}{escape(sentence)}</p></div>'


def _waiting(title: str, words: str) -> str:
    return f'<div class="card waiting"><h3>{title}</h3><p>{escape(words)}</p></div>'


def answers(label: str, before: dict[str, Any], after: dict[str, Any] | None, known: bool = True) -> str:
    """Who says what: a row for each member and the ensemble, before and after, each with a bar.

    Args:
        label: the class they are judged by.
        before: what `classify` says of the picture.
        after: the same of the adversarial one, None before there is one.
        known: whether the label is the true class: else nobody is called right or wrong.
    """
    rows = []
    now = [*after["members"], after["ensemble"]] if after else None
    for i, (name, colour) in enumerate(voices(len(before["members"]))):
        was = [*before["members"], before["ensemble"]][i]
        judged = label if known else None
        cells = _answer(judged, before["classes"], was, colour)
        cells += _answer(judged, before["classes"], now[i], colour) if now else "<td>–</td>"
        swatch = f'<span class="swatch" style="background:{colour}"></span>'
        rows.append(f'<tr><th scope="row">{swatch}{name}</th>{cells}</tr>')
    return (
        '<table class="studio-table answers"><thead><tr><th scope="col">says</th>'
        '<th scope="col">before</th><th scope="col">after</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _answer(judged: str | None, classes: Sequence[str], row: Sequence[float], colour: str) -> str:
    top = max(range(len(row)), key=row.__getitem__)
    right = classes[top] == judged
    mark, word, kind = (RIGHT_MARK, "right", "right") if right else (WRONG_MARK, "wrong", "wrong")
    told = "" if judged is None else f' <span class="{kind}">{mark} {word}</span>'
    bar = f'<i class="share" style="width:{100 * row[top]:.0f}%;background:{colour}"></i>'
    return f"<td><b>{escape(classes[top])}</b> {row[top]:.2f}{told}{bar}</td>"


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
    ("limit, threshold", "A picture with a higher entropy is flagged: it is unusual, which need not be an attack."),
    ("CCE-RM", "Robustness mode: each member learns to be right where the others are fooled."),
    ("CCE-DM", "Detection mode: each member learns to be unsure there, so that attacks stand out."),
    ("FGSM", "One step along the sign of the gradient."),
    ("PGD, BIM, MIM", "Many small steps: from a random start, from the picture, and with momentum."),
)


def glossary() -> str:
    """Each term in one line."""
    return f'<dl class="studio-terms">{"".join(f"<dt>{escape(t)}</dt><dd>{escape(d)}</dd>" for t, d in TERMS)}</dl>'
