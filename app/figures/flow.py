"""The flow under attack: how many images were in each subset of Table 1 before, and where the attack took them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from app.figures.palette import RIGHT_MARK, WRONG_MARK, member_name, subset_colour
from app.figures.values import fold, table

Flow = Mapping[str, Mapping[str, int]]

_WIDTH, _BAR, _LEFT, _RIGHT, _TOP = 440, 14, 100, 326, 34
_GAP, _SPACING, _TALL = 14, 40, 240  # between bars, between labels at least, and all bars together


@dataclass(frozen=True)
class _Node:
    """A subset on one side: where its bar is and how many images it holds."""

    name: str
    count: int
    top: float
    height: float


def picture(flow: Flow, images: int, clickable: bool) -> str:
    """The flow as SVG: subsets before on the left, after on the right, a ribbon for each way that images took.

    Args:
        flow: `flow[before][after]` counts images.
        images: all of them.
        clickable: whether a subset or a ribbon can be chosen; then each is a button with its counts as name.
    """
    before = _nodes({name: sum(after.values()) for name, after in flow.items()}, images)
    after = _nodes(_arrivals(flow), images)
    height = max(n[-1].top + n[-1].height for n in (before, after)) + 22
    parts = [_heads(), *_ribbons(flow, before, after, images, clickable)]
    parts += [_bar(n, "before", images, clickable) for n in before] + [
        _bar(n, "after", images, clickable) for n in after
    ]
    title = escape(describe(flow, images), quote=True)
    role = "group" if clickable else "img"
    return (
        f'<svg class="studio-flow" viewBox="0 0 {_WIDTH} {height:.0f}" role="{role}" aria-label="{title}">'
        f"{''.join(parts)}</svg>"
    )


def describe(flow: Flow, images: int) -> str:
    """The flow in a sentence.

    >>> describe({"S11": {"S11": 3, "S00": 5}, "S10": {"S11": 1}}, 9)
    'Of 9 images, 3 stay in their subset under attack, 5 lose a right answer (most from S11 to S00: 5), 1 gains one.'
    """
    ways = [(n, b, a) for b, row in flow.items() for a, n in row.items()]
    stay = sum(n for n, b, a in ways if b == a)
    lost = [(n, b, a) for n, b, a in ways if b != a and b.count("1") >= a.count("1")]
    gained = sum(n for n, b, a in ways if a.count("1") > b.count("1"))
    said = f"Of {images:,} images, {_verb(stay, 'stays in its', 'stay in their')} subset under attack"
    if lost:
        n, b, a = max(lost)
        total = sum(n for n, _, _ in lost)
        said += f", {_verb(total, 'loses', 'lose')} a right answer (most from {b} to {a}: {n:,})"
    return said + (f", {_verb(gained, 'gains', 'gain')} one." if gained else ".")


def _verb(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def numbers(flow: Flow) -> str:
    """The table behind the figure, folded: rows before, columns after."""
    after = sorted(_arrivals(flow), key=_order)
    rows = [[b, *(f"{flow[b].get(a, 0):,}" for a in after)] for b in sorted(flow, key=_order)]
    return fold("The numbers", table("Images by subset: rows before the attack, columns after it", ["", *after], rows))


def marks(name: str) -> str:
    """A mark for each member.

    >>> marks("S10")
    '✓✗'
    """
    return "".join(RIGHT_MARK if bit == "1" else WRONG_MARK for bit in name[1:])


def meaning(name: str) -> str:
    """A subset in words.

    >>> meaning("S10"), meaning("S00"), meaning("S111")
    ('f1 right, f2 wrong', 'all wrong', 'all right')
    """
    bits = name[1:]
    if len(set(bits)) == 1:
        return "all right" if bits[0] == "1" else "all wrong"
    return ", ".join(f"{member_name(i)} {'right' if bit == '1' else 'wrong'}" for i, bit in enumerate(bits))


def _order(name: str) -> tuple[int, str]:
    """All right first, all wrong last."""
    return -name.count("1"), name


def _arrivals(flow: Flow) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in flow.values():
        for after, count in row.items():
            found[after] = found.get(after, 0) + count
    return found


def _nodes(counts: Mapping[str, int], images: int) -> list[_Node]:
    """Bars from the top down, far enough apart for their labels."""
    nodes, top = [], float(_TOP)
    for name in sorted(counts, key=_order):
        height = max(3.0, _TALL * counts[name] / images)
        pad = max(0.0, (_SPACING - height - _GAP) / 2)
        nodes.append(_Node(name, counts[name], top + pad, height))
        top += height + _GAP + 2 * pad
    return nodes


def _heads() -> str:
    return (
        f'<text x="{_LEFT + _BAR}" y="18" class="head end">before</text>'
        f'<text x="{_RIGHT}" y="18" class="head">after</text>'
    )


def _button(before: str | None, after: str | None, words: str, clickable: bool) -> str:
    """What makes a part of the drawing a button."""
    if not clickable:
        return ""
    return (
        f' role="button" tabindex="0" aria-pressed="false" data-before="{before or ""}" data-after="{after or ""}" '
        f'aria-label="{escape(words, quote=True)}: show the pictures"'
    )


def _bar(node: _Node, side: str, images: int, clickable: bool) -> str:
    x = _LEFT if side == "before" else _RIGHT
    at, end = (x - 8, " end") if side == "before" else (x + _BAR + 8, "")
    y = node.top + node.height / 2
    words = f"{node.count:,} of {images:,} images in {node.name} {side} the attack, {meaning(node.name)}"
    ends = (node.name, None) if side == "before" else (None, node.name)
    share = f"{node.count:,} ({100 * node.count / images:.0f} %)"
    return (
        f'<g class="node"{_button(*ends, words, clickable)}><title>{escape(words)}</title>'
        f'<rect x="{x}" y="{node.top:.1f}" width="{_BAR}" height="{node.height:.1f}" rx="2" '
        f'fill="{subset_colour(node.name)}"/>'
        f'<text x="{at}" y="{y - 2:.1f}" class="name{end}">{node.name} '
        f'<tspan class="marks">{marks(node.name)}</tspan></text>'
        f'<text x="{at}" y="{y + 14:.1f}" class="share{end}">{share}</text></g>'
    )


def _ribbons(flow: Flow, before: list[_Node], after: list[_Node], images: int, clickable: bool) -> list[str]:
    starts = {n.name: n.top for n in before}
    ends = {n.name: n.top for n in after}
    of = {("b", n.name): n for n in before} | {("a", n.name): n for n in after}
    parts = []
    for b in before:
        for a in after:
            count = flow.get(b.name, {}).get(a.name, 0)
            if not count:
                continue
            left = of["b", b.name].height * count / b.count
            right = of["a", a.name].height * count / a.count
            y0, y1 = starts[b.name], ends[a.name]
            starts[b.name], ends[a.name] = y0 + left, y1 + right
            parts.append(_ribbon((b.name, a.name), count, (y0, left), (y1, right), clickable))
    return parts


def _ribbon(
    way: tuple[str, str], count: int, left: tuple[float, float], right: tuple[float, float], clickable: bool
) -> str:
    x0, x1 = _LEFT + _BAR, _RIGHT
    mid = (x0 + x1) / 2
    (y0, h0), (y1, h1) = left, right
    path = (
        f"M{x0} {y0:.1f}C{mid} {y0:.1f} {mid} {y1:.1f} {x1} {y1:.1f}V{y1 + h1:.1f}"
        f"C{mid} {y1 + h1:.1f} {mid} {y0 + h0:.1f} {x0} {y0 + h0:.1f}Z"
    )
    words = f"{count:,} image{'' if count == 1 else 's'} {'stay in' if way[0] == way[1] else 'from'} {way[0]}"
    words += "" if way[0] == way[1] else f" to {way[1]}"
    return (
        f'<g class="ribbon"{_button(*way, words, clickable)}><title>{escape(words)}</title>'
        f'<path d="{path}" fill="{subset_colour(way[1])}"/></g>'
    )
