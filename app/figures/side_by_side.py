"""Two ensembles side by side, and each member's examples shown to all the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import Tensor

from app.figures.palette import FLAG_MARK, mark, member_name, voices
from app.figures.pictures import source
from app.figures.values import framed
from app.figures.verdict import FLAGGED
from cce.data.pictures import to_png


@dataclass(frozen=True)
class Side:
    """One ensemble's part: its name, the two verdicts on the picture, the sentence of what became of it.

    `before` and `after` are a flag sentence and its kind (`app.services.verdicts`); `answers` the table of who says
    what; `subsets` before and after, empty where no true class is known; `picture` the example it was shown, where
    the two were shown different ones.
    """

    title: str
    answers: str
    before: tuple[str, str]
    after: tuple[str, str] | None = None
    outcome: str = ""
    subsets: tuple[str, str | None] = ("", None)
    picture: Tensor | None = None


def columns(first: Side, second: Side, shown: str) -> str:
    """The two beside one another; `shown` says which example they look at."""
    cells = "".join(_side(side) for side in (first, second))
    return f'<p class="studio-note">{escape(shown)}</p><div class="studio-sides">{cells}</div>'


def _side(side: Side) -> str:
    before, after = side.subsets
    way = f"{before} to {after}" if after and after != before else before
    subset = f'<p class="studio-note">Subset: <b>{way}</b></p>' if way else ""
    lines = [_line("Before", side.before), _line("After", side.after) if side.after else ""]
    picture = ""
    if side.picture is not None:
        alt = f"the example made on {side.title}"
        picture = f'<img class="pixels" src="{source(to_png(side.picture))}" alt="{escape(alt)}">'
    return (
        f'<section aria-label="{escape(side.title)}"><h4>{escape(side.title)}</h4>{picture}{"".join(lines)}'
        f"<p>{escape(side.outcome)}</p>{side.answers}{subset}</section>"
    )


def _line(when: str, verdict: tuple[str, str]) -> str:
    sentence, kind = verdict
    sign = f"{FLAG_MARK} " if kind in FLAGGED else ""
    return f'<p class="line {kind}"><b>{when}:</b> {sign}{escape(sentence)}</p>'


def crossing(rows: Sequence[Any], label: str, note: str) -> str:
    """Each member's example shown to all: a row for each, what every voice says of it.

    Args:
        rows: `MadeOn` of every member and the ensemble.
        label: the class they are judged by.
        note: how the examples were made.
    """
    members = len(rows[0].said["members"])
    names = voices(members)
    head = "".join(
        f'<th scope="col"><span class="swatch" style="background:{colour}"></span>{name}</th>' for name, colour in names
    )
    body = []
    for row in rows:
        made = member_name(int(row.target.split()[1]) - 1) if row.target.startswith("member") else "the ensemble"
        said = [*row.said["members"], row.said["ensemble"]]
        cells = "".join(_cell(row.said["classes"], p, right) for p, right in zip(said, row.right, strict=True))
        flag = {True: f"{FLAG_MARK} flagged", False: "not flagged", None: "no detector"}[row.said["flagged"]]
        image = f'<img class="pixels" src="{source(to_png(row.pixels))}" alt="the example made on {made}">'
        body.append(
            f'<tr><th scope="row">{image}<span>made on <b>{made}</b></span></th>{cells}<td>{row.subset}</td>'
            f"<td>{row.said['entropy']:.2f} {flag}</td></tr>"
        )
    told = crossing_sentence(rows, label)
    last = '<th scope="col">subset</th><th scope="col">entropy, nats</th>'
    shown = framed(
        f"What each says of the examples; the class is {label}",
        f'<th scope="col">example</th>{head}{last}',
        "".join(body),
        "studio-crossing",
    )
    return f'<p class="studio-note">{escape(note)}</p><p class="outcome">{escape(told)}</p>{shown}'


def _cell(classes: Sequence[str], row: Sequence[float], right: bool) -> str:
    top = max(range(len(row)), key=row.__getitem__)
    kind = "right" if right else "wrong"
    return f'<td><b>{escape(classes[top])}</b> {row[top]:.2f}<br><span class="{kind}">{mark(right)}</span></td>'


def crossing_sentence(rows: Sequence[Any], label: str) -> str:
    """How far the members' examples transfer, in a sentence."""
    members = len(rows[0].right) - 1
    own = sum(not row.right[i] for i, row in enumerate(rows[:members]))
    pairs = [(i, j) for i in range(members) for j in range(members) if i != j]
    if not pairs:
        return f"The one member is {'fooled' if own else 'not fooled'} by its own example."
    crossed = sum(not rows[i].right[j] for i, j in pairs)
    ensemble = sum(not row.right[-1] for row in rows[:members])
    return (
        f"{own} of {members} members say something other than {label} of their own example; {crossed} of {len(pairs)} "
        f"times an example made on one fools another, and {ensemble} of {members} fool the ensemble."
    )
