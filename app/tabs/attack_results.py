"""What the Attack tab shows of a picture, before and after an attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from torch import Tensor

from app.components import figure, heading
from app.figures import entropies, pictures, probabilities, subsets, verdict
from app.services import attacks, verdicts
from app.services.attacks import Picture
from cce.checkpoints import Checkpoint
from cce.config import AttackConfig
from cce.examples import subset_name

Attacked = tuple[Tensor, dict[str, Any], AttackConfig]
"""The adversarial picture, what `attack_picture` says of it, and the attack."""


@dataclass
class Results:
    """The panels, in the order in which `show` fills them."""

    panels: list[Any]


def build(values: list[Any]) -> Results:
    """Lay out the panels with what they show first."""
    heading("Result")
    cards = gr.HTML(values[0], elem_id="verdict")
    triptych = gr.HTML(values[1], elem_id="pictures")
    download = gr.HTML(values[2], elem_id="download")
    with gr.Row(elem_classes="studio-pair"):
        with gr.Column(min_width=300):
            heading("Who says what", 3)
            answers = gr.HTML(values[3], elem_id="answers")
        with gr.Column(min_width=300):
            heading("Which members are right", 3)
            table1 = gr.HTML(values[6], elem_id="subsets")
    heading("How unsure the ensemble is: its entropy", 3)
    entropy = figure(values[4], height=entropies.HEIGHT, elem_id="entropy")
    entropy_numbers = gr.HTML(values[5], elem_classes="studio-numbers")
    heading("Probability of each class", 3)
    legend = gr.HTML(values[10])
    bars = figure(values[7], height=probabilities.HEIGHT, elem_id="probabilities")
    bar_numbers = gr.HTML(values[8], elem_classes="studio-numbers")
    limits = gr.HTML(values[9], elem_id="limits")
    return Results(
        [cards, triptych, download, answers, entropy, entropy_numbers, table1, bars, bar_numbers, limits, legend]
    )


def show(checkpoint: Checkpoint, picture: Picture, label: str, attacked: Attacked | None = None) -> list[Any]:
    """What the panels show.

    Args:
        checkpoint: the ensemble.
        picture: the picture before the attack.
        label: the class it is judged by; `auto` stands for the ensemble's own answer.
        attacked: what the attack made of it, None before one.
    """
    x_adv, result, config = attacked or (None, None, None)
    before = result["benign"] if result else attacks.classify(checkpoint, picture.pixels)
    after = result["adversarial"] if result else None
    known = None if label == attacks.AUTO else label
    judged = known or before["label"]
    return [
        _cards(picture, label, before, result, config),
        _triptych(picture, before, known, x_adv, result, config),
        pictures.download_link(x_adv, file_name(checkpoint, config)) if result else "",
        verdict.answers(judged, before, after, known is not None),
        entropies.figure(before, after),
        entropies.numbers(before, after),
        subsets.picture(*_subsets(before, judged, result)),
        probabilities.figure(judged, before, after),
        probabilities.numbers(before, after),
        verdict.limits(verdicts.limits(checkpoint)),
        probabilities.legend(len(before["members"])),
    ]


def _cards(
    picture: Picture, label: str, before: dict[str, Any], result: dict[str, Any] | None, config: AttackConfig | None
) -> str:
    first = (verdicts.flag(before), before["flagged"])
    subject = verdicts.subject(picture.name, None if label == attacks.AUTO else label)
    if result is None:
        return verdict.cards(subject, first)
    after = result["adversarial"]
    second = (verdicts.flag(after), after["flagged"])
    return verdict.cards(
        f"{subject} {attacks.describe(config)}.", first, second, verdicts.fooled(result, label != attacks.AUTO)
    )


def _triptych(
    picture: Picture,
    before: dict[str, Any],
    known: str | None,
    x_adv: Tensor | None,
    result: dict[str, Any] | None,
    config: AttackConfig | None,
) -> str:
    right = None if known is None else before["label"] == known
    if result is None or x_adv is None or config is None:
        return pictures.triptych(picture.pixels, before["label"], right)
    said = result["adversarial"]["label"]
    after = (x_adv, said, None if known is None else said == known, config.epsilon, result["linf"])
    return pictures.triptych(picture.pixels, before["label"], right, after)


def _subsets(before: dict[str, Any], label: str, result: dict[str, Any] | None) -> tuple[str, str | None]:
    if result:
        return result["benign_subset"], result["subset"]
    place = before["classes"].index(label)
    return subset_name([row.index(max(row)) == place for row in before["members"]]), None


def file_name(checkpoint: Checkpoint, config: AttackConfig) -> str:
    """What the adversarial picture is saved as."""
    epsilon = f"{attacks.in_255ths(config.epsilon):g}".replace(".", "_")
    return f"{checkpoint.id}-{config.name}-epsilon-{epsilon}.png"
