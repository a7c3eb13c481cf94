"""Changes service: what a picture can go through before the detector sees it, and what its scores are worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.services import attacks
from app.services.detection import aware_choices
from cce.attacks.corruptions import corruption_kinds
from cce.attacks.task import generators_for
from cce.checkpoints.folder import Checkpoint
from cce.config import ATTACKS, AttackConfig, check, default_attack
from cce.evaluation import one_picture as examples
from cce.evaluation.detection import Sample
from cce.evaluation.evaluate import sample
from cce.evaluation.outcomes import outcome

KINDS = (
    ("nothing", "Nothing"),
    ("attack", "An attack"),
    ("adaptive", "Detector-aware attack"),
    ("benign", "Benign change"),
)
"""Who changes the picture, as named in a report and as shown."""


@dataclass(frozen=True)
class Changed:
    """A picture before and after a change.

    `before` and `after` are what `classify` says, `after` None where nothing was done; `label` the
    class it is judged by; `words` what was done; `disagreement` of the members in nats, before and after.
    """

    pixels: Tensor
    before: dict[str, Any]
    after: dict[str, Any] | None
    label: str
    words: str
    size: float
    disagreement: tuple[float, float | None]


def choices(checkpoint: Checkpoint, kind: str) -> list[tuple[str, str]]:
    """What can be done of a kind: title and name."""
    if kind == "attack":
        return [(ATTACKS[name].title, name) for name in ("pgd", "bim", "mim", "fgsm")]
    side = checkpoint.model.config.input_shape[2]
    if kind == "adaptive":
        names = aware_choices(side)
        passing = _passing(checkpoint)
        return [(title, name) for name, title in sorted(names, key=lambda pair: -passing.get(pair[0], 0.0))]
    if kind == "benign":
        return [(name[:1].upper() + name[1:], name) for name in corruption_kinds(_epsilon(checkpoint), side)]
    return []


def _passing(checkpoint: Checkpoint) -> dict[str, float]:
    """The share of pictures that each detector-aware attack makes wrong and unflagged, as far as it was measured."""
    rows = [row for row in checkpoint.metrics.get("adaptive", []) if row.get("wrong_and_unflagged") is not None]
    return {str(row.get("attack", {}).get("name")): row["wrong_and_unflagged"] for row in rows}


def first_choice(checkpoint: Checkpoint, kind: str) -> str | None:
    """What is done of a kind unless another is chosen: the first; of the detector-aware attacks, the strongest."""
    return next((name for _, name in choices(checkpoint, kind)), None)


def change(checkpoint: Checkpoint, pixels: Tensor, label: str | None, kind: str, which: str | None) -> Changed:
    """Do it to a picture.

    Args:
        checkpoint: the ensemble.
        pixels: `(C, H, W)` on the 1/255 grid.
        label: its class, or `auto` for the clean prediction.
        kind: one of `KINDS`.
        which: one of that kind's `choices`.

    Raises:
        ConfigError: a change or a label that is not there.
    """
    known = [name for _, name in choices(checkpoint, kind)]
    check(kind in dict(KINDS), f"The change is {kind!r}; there is {', '.join(dict(KINDS))}.")
    check(kind == "nothing" or which in known, f"The change is {which!r}; there is {', '.join(known)}.")
    before = attacks.classify(checkpoint, pixels)
    index = attacks.label_index(checkpoint, label)
    index = checkpoint.classes.index(before["label"]) if index is None else index
    device = next(checkpoint.model.parameters()).device
    x = pixels[None].to(device)
    x_new, words = _changed(checkpoint, x, index, kind, str(which))
    after = None if kind == "nothing" else examples.classify(checkpoint, x_new[0])
    scores = sample("both", outcome(checkpoint.model, torch.cat([x, x_new]), torch.full((2,), index))).scores
    first, second = scores["disagreement"].tolist()
    size = float((x_new - x).abs().max())
    spread = (first, None if after is None else second)
    return Changed(x_new[0].cpu(), before, after, checkpoint.classes[index], words, size, spread)


def _changed(checkpoint: Checkpoint, x: Tensor, index: int, kind: str, which: str) -> tuple[Tensor, str]:
    """The changed batch of one, on the 1/255 grid, and what was done in words."""
    if kind == "nothing":
        return x, "As it is"
    if kind == "benign":
        corrupt = corruption_kinds(_epsilon(checkpoint), x.shape[-1])[which]
        return (corrupt(x, generators_for(0, [0])) * 255).round() / 255, f"Nobody attacks: {which}"
    config = _attack(checkpoint, which)
    x_adv, _ = examples.attack_picture(checkpoint, x[0], index, config)
    words = attacks.describe(config).removesuffix(", on the ensemble")
    if kind == "adaptive":
        words = f"Detector-aware attack: {words}"
    return x_adv[None], words


def _epsilon(checkpoint: Checkpoint) -> float:
    return default_attack(checkpoint.dataset).epsilon


def _attack(checkpoint: Checkpoint, name: str) -> AttackConfig:
    """The attack at the usual epsilon; of PGD's kind with half the usual step, as in Figure 3."""
    config = default_attack(checkpoint.dataset, name)
    return config if config.info.aware else replace(config, step_size=config.step_size / 2)


def evidence(
    said: dict[str, Any], disagreement: float, clean: Sample, called: str, when: str, members: int
) -> list[str]:
    """What a picture's scores are worth, beside those of clean pictures.

    Args:
        said: what `classify` says of it.
        disagreement: of its members, nats.
        clean: scores of clean pictures.
        called: what these are called.
        when: begins the sentences, such as `After the change`.
        members: how many there are.
    """
    entropy = said["entropy"]
    lines = [f"{when}, its entropy of {entropy:.2f} nats is {_rank(entropy, clean.scores['entropy'], called)}."]
    if members > 1:
        rank = _rank(disagreement, clean.scores["disagreement"], called)
        lines.append(
            f"Its members disagree by {disagreement:.3f} nats (0 is full agreement, {np.log(members):.2f} the most), "
            f"which is {rank}."
        )
    return lines


def _rank(value: float, among: np.ndarray, called: str) -> str:
    """Where a value stands among others, in words."""
    below = int((among < value).sum())
    if below == 0:
        return f"lower than that of all {called}"
    if below == len(among):
        return f"higher than that of all {called}"
    return f"higher than that of {below:,} of the {called}"
