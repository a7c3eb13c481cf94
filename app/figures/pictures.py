"""Pictures at the model's few pixels, shown crisply: before, the perturbation magnified, after."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image
from torch import Tensor

from app.figures.palette import mark
from cce.data.pictures import MIDDLE, movable, to_png


def source(content: bytes, kind: str = "png") -> str:
    """A picture file as the `src` of an image."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def magnified(x: Tensor, x_adv: Tensor, factor: float) -> Tensor:
    """The perturbation `factor` times as strong on mid-grey, `(C, H, W)` in [0, 1]."""
    return (0.5 + factor * (x_adv - x)).clamp(0, 1)


def magnification(epsilon: float) -> int:
    """The factor that brings a perturbation of size `epsilon` (pixel units) to full contrast.

    >>> magnification(8 / 255)
    16
    """
    return max(1, round(0.5 / epsilon)) if epsilon > 0 else 1


def triptych(
    x: Tensor,
    said: str,
    right: bool | None,
    after: tuple[Tensor, str, bool | None, float, float] | None = None,
    waiting: str = "Press Attack",
    key: str = "",
) -> str:
    """Before, perturbation and after, side by side.

    Args:
        x: the picture `(C, H, W)`.
        said: the ensemble's class of it.
        right: whether that is so; None where the label is not known.
        after: the adversarial picture, the ensemble's class of it, whether that is right, `epsilon`
            and the largest change of a pixel, both in pixel units; None before there is one.
        key: names the attack, for the step slider.
        waiting: stands in the place of the other two pictures while there is no `after`.
    """
    cells = [_figure("Before", x, f"the picture before the attack; the ensemble says {said}", said_line(said, right))]
    if after is None:
        cells += [_empty("Perturbation", waiting), _empty("After", waiting)]
    else:
        x_adv, now, still, epsilon, linf = after
        factor = magnification(epsilon)
        shown = magnified(x, x_adv, factor)
        words = f"at most {255 * linf:.3g}/255 a pixel"
        title = f'Perturbation × <span class="between-factor">{factor}</span>'
        cells.append(_figure(title, shown, f"the perturbation magnified {factor} times", words, "between"))
        alt = f"the picture after the attack; the ensemble says {now}"
        cells.append(_compared(x, x_adv, alt, said_line(now, still)))
    return f'<div class="studio-triptych" data-key="{escape(key)}">{"".join(cells)}</div>'


def awaited(words: str) -> str:
    """The triptych before there is anything to show, as high as it will be."""
    cells = [_empty(title, words) for title in ("Before", "Perturbation", "After")]
    return f'<div class="studio-triptych">{"".join(cells)}</div>'


def said_line(name: str, right: bool | None) -> str:
    """The ensemble's class under a picture, and whether it is right (None: not known)."""
    word = "" if right is None else f' <span class="{"right" if right else "wrong"}">{mark(right)}</span>'
    return f"ensemble: <b>{escape(name)}</b>{word}"


def _figure(title: str, pixels: Tensor, alt: str, words: str, place: str = "before") -> str:
    return (
        f'<figure><h3>{title}</h3><img class="pixels {place}" src="{source(to_png(pixels))}" alt="{escape(alt)}">'
        f'<figcaption class="{place}-caption">{words}</figcaption></figure>'
    )


def _compared(x: Tensor, x_adv: Tensor, alt: str, words: str) -> str:
    """The picture after, over which the one before can be wiped, and a button that shows the two large."""
    under = f'<div class="pixels under" style="background-image:url(\'{source(to_png(x))}\')"></div>'
    wipe = '<input type="range" min="0" max="100" value="0" aria-label="Wipe from after to before">'
    zoom = '<button type="button" class="zoom" aria-label="Show before and after large">⤢</button>'
    image = f'<img class="pixels after" src="{source(to_png(x_adv))}" alt="{escape(alt)}">'
    return (
        f'<figure><h3>After {zoom}</h3><div class="studio-wipe">{image}{under}{wipe}</div>'
        f'<figcaption class="after-caption">{words}</figcaption></figure>'
    )


def _empty(title: str, words: str) -> str:
    return (
        f'<figure><h3>{title}</h3><div class="pixels empty">{escape(words)}</div>'
        "<figcaption>&nbsp;</figcaption></figure>"
    )


def cropped(size: tuple[int, int], width: int, height: int, place: float) -> str:
    """Which part of an upload of `size` is taken for a model of `width` x `height`, in words.

    >>> cropped((640, 480), 32, 32, 0.5), cropped((640, 480), 32, 32, 1.0), cropped((480, 640), 32, 32, 0.25)
    ('the middle 480 pixels', 'the right 480 pixels', '480 pixels at 25 % from top to bottom')
    """
    side = min(size[0], round(size[1] * width / height))
    upright = movable(size, width / height) == "height"
    names = {0.0: "upper" if upright else "left", MIDDLE: "middle", 1.0: "lower" if upright else "right"}
    if place in names:
        return f"the {names[place]} {side} pixels"
    return f"{side} pixels at {100 * place:.0f} % from {'top to bottom' if upright else 'left to right'}"


def fitting(crop: Image.Image, size: tuple[int, int], pixels: Tensor, place: float = MIDDLE) -> str:
    """An upload as it is cropped, at a `place` in [0, 1], and as the model sees it."""
    height, width = pixels.shape[-2:]
    if size == (width, height):
        words = f"Already {width} × {height} pixels: taken as it is, bit for bit."
    else:
        whole = abs(size[0] / size[1] - width / height) < 0.01
        cut = "" if whole else f"cropped to {cropped(size, width, height, place)}, then "
        words = f"{size[0]} × {size[1]} pixels, {cut}resized to {width} × {height}."
    grey = " In grey, as this model takes it." if pixels.shape[0] == 1 else ""
    content = io.BytesIO()
    crop.save(content, format="PNG")
    return (
        '<div class="studio-fitting">'
        f'<figure><img src="{source(content.getvalue())}" alt="the part of the upload that is used" '
        f'class="{"pixels" if max(crop.size) <= 64 else "photo"}"><figcaption>your picture</figcaption></figure>'
        f'<figure><img class="pixels" src="{source(to_png(pixels))}" alt="the upload as the model sees it">'
        "<figcaption>as the model sees it</figcaption></figure>"
        f'<p class="studio-note">{words}{grey}</p></div>'
    )


def downloads(x: Tensor, x_adv: Tensor, factor: int, numbers: str, name: str) -> str:
    """Links that save the adversarial picture, the perturbation magnified `factor` times, and the numbers.

    Args:
        x: the picture before, `(C, H, W)`.
        x_adv: the picture after.
        factor: what the perturbation is multiplied by; the page puts another in its place when it is changed.
        numbers: JSON.
        name: of the files, without an ending.
    """
    height, width = x_adv.shape[-2:]
    between = source(to_png(magnified(x, x_adv, factor)))
    text = base64.b64encode(numbers.encode()).decode("ascii")
    name = escape(name)
    return (
        '<p class="studio-downloads"><span>Download:</span>'
        f'<a class="studio-download picture" download="{name}.png" href="{source(to_png(x_adv))}">'
        f"Picture (PNG, {width} × {height})</a>"
        f'<a class="studio-download perturbation" download="{name}-perturbation-x{factor}.png" '
        f'data-name="{name}-perturbation-xFACTOR.png" href="{between}">Perturbation × {factor} (PNG)</a>'
        f'<a class="studio-download numbers" download="{name}.json" href="data:application/json;base64,{text}">'
        "Numbers (JSON)</a></p>"
    )
