"""The pictures of one subset or of one way between two: each before and after the attack, with what was said of it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from torch import Tensor

from app.figures.palette import RIGHT_MARK, WRONG_MARK
from app.figures.pictures import source
from cce.data.pictures import to_png

MOST = 24
"""Pictures shown at once."""


def grid(
    words: str, images: Tensor, x_adv: Tensor, labels: Sequence[str], said: Sequence[tuple[str, str]], total: int
) -> str:
    """Pairs of pictures in a grid that scrolls by itself.

    Args:
        words: which pictures these are.
        images: `(K, C, H, W)` uint8, before the attack.
        x_adv: the same after it.
        labels: true class of each.
        said: the ensemble's class of each, before and after.
        total: how many there are of this kind; more than K are not shown.
    """
    pairs = zip(images, x_adv, labels, said, strict=True)
    shown = "".join(_pair(*pair) for pair in pairs)
    more = f", the first {len(images)} shown" if total > len(images) else ""
    line = (
        f"{words}: {total:,} picture{'' if total == 1 else 's'}{more}. Left before the attack, right after it; below, "
    )
    return (
        f'<p class="studio-note" aria-live="polite">{escape(line)}what the ensemble said.</p>'
        f'<div class="studio-pairs">{shown}</div>'
    )


def nothing(words: str) -> str:
    """The place without pictures."""
    return f'<p class="studio-note" aria-live="polite">{escape(words)}</p>'


def _pair(before: Tensor, after: Tensor, label: str, said: tuple[str, str]) -> str:
    names = [f"{name} {RIGHT_MARK if name == label else WRONG_MARK}" for name in said]
    images = "".join(
        f'<img class="pixels" alt="{escape(f"{label}, {when} the attack", quote=True)}" '
        f'src="{source(to_png(x.float() / 255))}">'
        for when, x in (("before", before), ("after", after))
    )
    words = "".join(
        f'<span class="{"right" if n == label else "wrong"}">{escape(w)}</span>'
        for n, w in zip(said, names, strict=True)
    )
    return f'<figure title="true class {escape(label, quote=True)}">{images}<figcaption>{words}</figcaption></figure>'
