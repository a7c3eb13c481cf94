"""What was attacked on this visit: a strip of thumbnails with setting and verdict, each of which is made again."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from app.figures import history
from app.services import attacks, verdicts
from app.services.attacks import Picture
from app.tabs.attack_results import Done
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig, to_json

MOST = 12
"""Attacks that are remembered for a page: the last ones."""


@dataclass(frozen=True)
class Past:
    """An attack that was made: all that it takes to make it again, which gives the same, and how it is listed."""

    name: str
    picture: Picture
    config: AttackConfig
    seed: int
    beside: str | None
    mode: str
    listed: history.Line


@dataclass
class History:
    """What is remembered, the strip, and what is pressed, out of sight, for one of its pictures; `at` says which."""

    past: gr.State
    strip: gr.HTML
    at: gr.Number
    press: gr.Button


def build() -> History:
    """Lay out the strip; it is empty at first."""
    at = gr.Number(0, visible=False)
    press = gr.Button(visible="hidden", elem_id="history-go")
    return History(gr.State([]), gr.HTML("", elem_id="history"), at, press)


def remembered(
    past: list[Past], checkpoint: Checkpoint, picture: Picture, done: Done, beside: str | None, mode: str
) -> list[Past]:
    """The attacks of this visit with one more, the newest first."""
    known = picture.judged != attacks.AUTO
    result = done.made.result
    outcome = verdicts.danger(result["adversarial"], result["label"], known)
    line = history.Line(
        done.made.x_adv,
        f"{picture.name}: {attacks.describe(done.config)}",
        outcome.words,
        outcome.kind,
        {
            "model": checkpoint.id,
            "picture": picture.key or picture.name,
            "attack": to_json(done.config),
            "seed": done.seed,
            "link": done.link,
            "verdict": outcome.words,
            **{key: result[key] for key in ("label", "benign", "adversarial", "subset", "linf")},
        },
    )
    made = Past(checkpoint.id, picture, done.config, done.seed, beside or None, mode, line)
    return [made, *past][:MOST]


def shown(past: list[Past]) -> str:
    """The strip."""
    return history.strip([one.listed for one in past])
