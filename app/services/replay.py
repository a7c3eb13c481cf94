"""Replay service: the steps of one attack, few enough to send to a page at once, as one or two ensembles see them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from app.services import attacks
from cce.checkpoints.folder import Checkpoint
from cce.evaluation.one_picture import AttackedPicture, Teller, subset_of

MOST_STOPS = 51
FROM_NOISE = ("pgd", "mt-pgd", "apgd-ce")
"""Attacks that start at a point of the ball that is drawn evenly: a picture with noise on it."""
_MOST_BYTES = 1_000_000  # of all pictures of a replay


@dataclass(frozen=True)
class Stop:
    """One place of the replay: what it is called, what `classify` says there, and the subset.

    `pixels` `(C, H, W)` uint8; `last` where it is the attack's result.
    """

    name: str
    pixels: Tensor
    said: dict[str, Any]
    subset: str
    last: bool = False


def replay(x: Tensor, attacked: AttackedPicture, attack: str = "") -> list[Stop]:
    """The places of an attack's replay: the picture before it, its steps, its result.

    All steps where they are few, else some of them, evenly spread. The result takes the place of the last
    step where it is that step's picture, rounded to what a PNG can hold.

    Args:
        x: the picture before the attack, `(C, H, W)` in [0, 1].
        attacked: what the attack passed through.
        attack: its name, for what its start is called.
    """
    result, frames, told = attacked.result, to_bytes(attacked.path), attacked.said
    index = result["benign"]["classes"].index(result["label"])
    before, after = to_bytes(x), to_bytes(attacked.x_adv)
    steps = len(frames) - 1
    inner = list(range(len(frames)))
    if inner and torch.equal(frames[0], before):
        inner = inner[1:]
    if inner and (frames[inner[-1]].int() - after.int()).abs().max() <= 1:
        inner = inner[:-1]
    most = max(2, min(MOST_STOPS, _MOST_BYTES // max(1, before.numel())) - 2)
    if len(inner) > most:
        inner = [inner[round(i * (len(inner) - 1) / (most - 1))] for i in range(most)]
    first = Stop("before the attack", before, result["benign"], result["benign_subset"])
    between = [Stop(_name(i, steps, attack), frames[i], told[i], subset_of(told[i], index)) for i in inner]
    name = f"the result, after {steps} steps" if steps > 1 else "the result"
    return [first, *between, Stop(name, after, result["adversarial"], result["subset"], last=True)]


def _name(step: int, steps: int, attack: str) -> str:
    """A place in words: what a random start shows is plain noise, and no step of the attack."""
    start = "random start: plain noise, no step yet" if attack in FROM_NOISE else "the start"
    return start if step == 0 else f"step {step} of {steps}"


def seen_by(checkpoint: Checkpoint, stops: list[Stop], label: str, tell: Teller | None = None) -> list[Stop]:
    """The same pictures as another ensemble sees them.

    Args:
        checkpoint: the other ensemble; its classes and its size are those of the first.
        stops: the replay of an attack on the first.
        label: the class they are judged by.
        tell: see `cce.evaluation.one_picture.classify_all`.
    """
    pixels = torch.stack([stop.pixels for stop in stops]).to(torch.float32) / 255
    said = attacks.classify_all(checkpoint, pixels[:-1], tell)
    said.append(attacks.classify(checkpoint, pixels[-1]))
    index = checkpoint.classes.index(label)
    return [replace(stop, said=s, subset=subset_of(s, index)) for stop, s in zip(stops, said, strict=True)]


def to_bytes(x: Tensor) -> Tensor:
    """Pixels in [0, 1] as uint8."""
    return x.mul(255).round().clamp(0, 255).to(torch.uint8)
