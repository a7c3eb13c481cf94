"""What the step slider plays on the page: the pictures of an attack, and what each panel shows at each place.

The page does the rest without asking: it puts the pictures into the two frames, the pieces of HTML into
their panels, and the changed numbers into the figures.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from app.figures.palette import FLAG_MARK, voices


@dataclass(frozen=True)
class Place:
    """One place of the slider: its name, the caption under the picture, and the panels' HTML by element id.

    `pixels` `(C, H, W)` uint8; `said` what `classify` says there; `x` where the trajectory's line stands.
    """

    name: str
    pixels: Tensor
    said: dict[str, Any]
    caption: str
    alt: str
    html: Mapping[str, str] = field(default_factory=dict)


def swap(content: str) -> str:
    """A panel's part that follows the slider."""
    return f'<div class="studio-swap">{content}</div>'


def value(
    key: str, benign: Tensor, places: Sequence[Place], classes: Sequence[str], magnification: int, link: str
) -> dict[str, Any]:
    """What the slider is given.

    Args:
        key: names this attack; the panels it goes with carry the same.
        benign: the picture before the attack, `(C, H, W)` uint8.
        places: from the attack's start to its result.
        classes: those that the bars show, in their order.
        magnification: of the perturbation, unless the visitor chose one.
        link: the permanent link, from its question mark on.
    """
    panels: dict[str, list[str]] = {}
    stops = []
    for i, place in enumerate(places):
        html = {}
        for name, content in place.html.items():
            known = panels.setdefault(name, [])
            if content not in known:
                known.append(content)
            html[name] = known.index(content)
        stops.append(
            {
                "name": place.name,
                "caption": place.caption,
                "alt": place.alt,
                "html": html,
                "plots": {
                    "probabilities": _probabilities(place.said, classes),
                    "entropy": _entropy(place.said),
                    "trajectory": [{}, {"shapes[0].x0": i, "shapes[0].x1": i}, None],
                },
            }
        )
    height, width = benign.shape[-2:]
    frames = torch.stack([place.pixels for place in places])
    return {
        "key": key,
        "shape": [len(places), height, width, benign.shape[0]],
        "benign": _packed(benign[None]),
        "frames": _packed(frames),
        "panels": panels,
        "stops": stops,
        "magnification": magnification,
        "link": link,
    }


def _packed(frames: Tensor) -> str:
    """`(K, C, H, W)` uint8 as base64, pixel by pixel."""
    return base64.b64encode(frames.permute(0, 2, 3, 1).contiguous().numpy().tobytes()).decode("ascii")


def _probabilities(said: dict[str, Any], classes: Sequence[str]) -> list[Any]:
    """The bars of the right half: Plotly's restyle, relayout, and the traces they are for."""
    shown = [said["classes"].index(name) for name in classes]
    rows = [[row[i] for i in shown] for row in (*said["members"], said["ensemble"])]
    count = len(voices(len(said["members"])))
    return [{"x": [[round(p, 4) for p in row] for row in rows]}, {}, list(range(count, 2 * count))]


def _entropy(said: dict[str, Any]) -> list[Any]:
    """The dot of the state after, and the arrow's end."""
    entropy = round(said["entropy"], 4)
    text = f"{entropy:.2f}{f' {FLAG_MARK}' if said['flagged'] else ''}"
    return [{"x": [[entropy]], "text": [[text]]}, {"annotations[0].x": entropy}, [1]]
