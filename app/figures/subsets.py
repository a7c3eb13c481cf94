"""Table 1: where a picture lies, by which members are right, and the way it took under attack."""

from __future__ import annotations

from html import escape
from typing import Any

from app.figures.palette import RIGHT_MARK, WRONG_MARK, member_name
from app.figures.values import table

# Rows f2, columns f1, as in the paper: name of the cell -> (column, row) and its meaning.
_CELLS = {
    "S11": (0, 0, "both right"),
    "S01": (1, 0, "only f2 right"),
    "S10": (0, 1, "only f1 right"),
    "S00": (1, 1, "both wrong"),
}
_LEFT, _TOP, _WIDTH, _HEIGHT = 68, 30, 144, 104


def picture(before: str, after: str | None = None) -> str:
    """The subsets as HTML: for two members the paper's two by two, else a line of bits for each state.

    Args:
        before: subset of the picture, such as `S11`; a bit for each member, 1 where it is right.
        after: subset of the adversarial picture, None before there is one.
    """
    if len(before) == 3:
        return _two_by_two(before, after)
    return _bit_strings(before, after)


def describe(before: str, after: str | None) -> str:
    """The way in a sentence.

    >>> describe("S11", "S01")
    'Before the attack the picture is in S11, after it in S01.'
    """
    if after is None:
        return f"The picture is in {before}."
    if after == before:
        return f"The picture is in {before}, before and after the attack."
    return f"Before the attack the picture is in {before}, after it in {after}."


def agreement(before: dict[str, Any], after: dict[str, Any] | None = None) -> str:
    """Whether the members agree, where nobody has told what the picture shows: no marks, no subsets.

    Args:
        before: what `classify` says of the picture.
        after: the same of the adversarial one, None before there is one.
    """
    lines = [f"<p><b>Before:</b> {_agree(before)}</p>", f"<p><b>After:</b> {_agree(after)}</p>" if after else ""]
    told = "Say on the left what the picture shows, and Table 1 says here which members are right."
    return f'<div class="studio-agreement">{"".join(lines)}<p class="studio-note">{told}</p></div>'


def _agree(said: dict[str, Any]) -> str:
    """In words, such as `the members disagree: f1 cat, f2 dog`."""
    tops = [said["classes"][max(range(len(row)), key=row.__getitem__)] for row in said["members"]]
    if len(tops) == 1:
        return f"the one member says <b>{escape(tops[0])}</b>."
    if len(set(tops)) == 1:
        return f"the members agree on <b>{escape(tops[0])}</b>."
    each = ", ".join(f"{member_name(i)} <b>{escape(top)}</b>" for i, top in enumerate(tops))
    return f"the members disagree: {each}."


def _two_by_two(before: str, after: str | None) -> str:
    parts = [_headers(), *(_cell(name, name in (before, after)) for name in _CELLS), *_way(before, after)]
    size = f"{_LEFT + 2 * _WIDTH + 4} {_TOP + 2 * _HEIGHT + 4}"
    title = escape(describe(before, after))
    return (
        f'<svg class="studio-subsets" viewBox="0 0 {size}" role="img" aria-label="{title}">'
        '<defs><marker id="studio-arrow" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0L10 5L0 10z" class="arrow-head"/></marker></defs>{"".join(parts)}</svg>'
        f'<p class="studio-note">{title}</p>'
    )


def _headers() -> str:
    parts = []
    for i, word in enumerate((f"{RIGHT_MARK} right", f"{WRONG_MARK} wrong")):
        x, y = _LEFT + (i + 0.5) * _WIDTH, _TOP + (i + 0.5) * _HEIGHT
        parts.append(f'<text x="{x}" y="19" class="head f1">f1 {word}</text>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y - 4}" class="head f2 side">f2</text>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 13}" class="head f2 side">{word}</text>')
    return "".join(parts)


def _cell(name: str, here: bool) -> str:
    """A subset; its words keep to the outer corner, out of the arrow's way."""
    column, row, meaning = _CELLS[name]
    x, y = _LEFT + column * _WIDTH, _TOP + row * _HEIGHT
    at, side = (x + 12, "") if column == 0 else (x + _WIDTH - 12, " outer")
    sign = f'<tspan class="name">S</tspan><tspan class="name" dy="4" font-size="11">{name[1:]}</tspan>'
    return (
        f'<g class="cell {name}{" here" if here else ""}">'
        f'<rect x="{x + 2}" y="{y + 2}" width="{_WIDTH - 4}" height="{_HEIGHT - 4}" rx="6"/>'
        f'<text x="{at}" y="{y + 22}" class="words{side}">{sign}</text>'
        f'<text x="{at}" y="{y + 40}" class="words meaning{side}">{meaning}</text></g>'
    )


def _way(before: str, after: str | None) -> list[str]:
    """Where the picture was and is, and the arrow between."""
    start, end = _centre(before), _centre(after or before)
    if after is None:
        return [_dot(start, "before", below=False)]
    if start == end:
        start, end = (start[0] - 36, start[1]), (end[0] + 36, end[1])
    down, up = end[1] > start[1], end[1] < start[1]
    return [_arrow(start, end), _dot(start, "before", below=up), _dot(end, "after", below=down)]


def _centre(name: str) -> tuple[float, float]:
    column, row, _ = _CELLS[name]
    return _LEFT + (column + 0.5) * _WIDTH, _TOP + (row + 0.5) * _HEIGHT + 16


def _dot(at: tuple[float, float], name: str, below: bool) -> str:
    """A dot, its name on the side where no arrow is."""
    x, y = at
    return (
        f'<circle cx="{x}" cy="{y}" r="8" class="dot {name}"/>'
        f'<text x="{x}" y="{y + (23 if below else -13)}" class="dot-name">{name}</text>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x0, y0), (x1, y1) = start, end
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    path = f'x1="{x0 + 11 * ux:.1f}" y1="{y0 + 11 * uy:.1f}" x2="{x1 - 13 * ux:.1f}" y2="{y1 - 13 * uy:.1f}"'
    return f'<line {path} class="arrow" marker-end="url(#studio-arrow)"/>'


def _bit_strings(before: str, after: str | None) -> str:
    header = ["", "subset", *(member_name(i) for i in range(len(before) - 1))]
    rows = [
        [when, subset, *(f"{RIGHT_MARK} right" if b == "1" else f"{WRONG_MARK} wrong" for b in subset[1:])]
        for when, subset in (("before", before), ("after", after))
        if subset
    ]
    return table("A bit for each member, 1 where it is right", header, rows)
