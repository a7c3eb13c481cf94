"""The attacks of a visit as a strip of thumbnails, and the same as one page to keep."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import Tensor

from app.figures.pictures import source
from cce.data.pictures import to_png


@dataclass(frozen=True)
class Line:
    """One attack: the adversarial picture `(C, H, W)`, its setting, what it came to, and its numbers."""

    picture: Tensor
    setting: str
    verdict: str
    kind: str
    numbers: dict[str, Any]


def strip(lines: Sequence[Line]) -> str:
    """A button for each, the newest first, and links that save them all; nothing where there is none."""
    if not lines:
        return ""
    buttons = "".join(
        f'<li><button type="button" class="{line.kind}" data-past="{i}" title="{escape(line.setting)}">{_image(line)}'
        f"<b>{escape(line.verdict)}</b><span>{escape(line.setting)}</span></button></li>"
        for i, line in enumerate(lines)
    )
    numbers = json.dumps([line.numbers for line in lines], indent=1)
    links = "".join(
        f'<a class="studio-download" download="attacks.{ending}" href="{_address(text, kind)}">{ending.upper()}</a>'
        for ending, kind, text in (("html", "text/html", page(lines)), ("json", "application/json", numbers))
    )
    return f'<h3>On this visit</h3><ol>{buttons}</ol><p class="studio-downloads"><span>Save all:</span>{links}</p>'


def page(lines: Sequence[Line]) -> str:
    """The same as one HTML page that needs nothing else."""
    rows = "".join(
        f"<tr><td>{_image(line)}</td><td>{escape(line.verdict)}</td><td>{escape(line.numbers['model'])}</td>"
        f"<td>{escape(line.setting)}</td><td>{escape(line.numbers['benign']['label'])}</td>"
        f"<td>{escape(line.numbers['adversarial']['label'])}</td>"
        f"<td>{line.numbers['adversarial']['entropy']:.2f}</td></tr>"
        for line in lines
    )
    head = "".join(
        f"<th>{name}</th>" for name in ("", "verdict", "model", "setting", "before", "after", "entropy, nats")
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>CCE Studio: attacks</title>'
        "<style>body{font:15px system-ui}td,th{padding:.3em .7em;text-align:left}img{width:64px;"
        f"image-rendering:pixelated}}</style><h1>Attacks</h1><table><tr>{head}</tr>{rows}</table></html>"
    )


def _image(line: Line) -> str:
    return f'<img class="pixels" src="{source(to_png(line.picture))}" alt="">'


def _address(text: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode('ascii')}"
