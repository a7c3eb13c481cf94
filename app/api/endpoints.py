"""The public endpoints: `/models`, `/classify`, `/attack`. Epsilon and step size are in 1/255."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from app.callers import CalledWork
from app.components import COMPUTE, LOOK, spoken
from app.services import attacks
from app.studio import Studio
from app.upload_limit import MEGABYTES
from cce.config import ATTACKS, AttackConfig
from cce.data.pictures import to_picture


def build(studio: Studio) -> None:
    """Add the endpoints; their components are never on screen."""
    default = AttackConfig()

    def models() -> list[dict[str, Any]]:
        """The ensembles, with their main measured figures (None: not measured)."""
        return studio.registry.summaries()

    def classify(image: bytes | None, model: str) -> dict[str, Any]:
        """What each member and the ensemble say of a picture, its entropy in nats, and whether it is flagged.

        Args:
            image: a picture file; it is cropped and resized to what the ensemble takes.
            model: the id of an ensemble, as `models` lists them.
        """
        checkpoint = studio.registry.get(model)
        picture = attacks.open_upload(image or b"", checkpoint.model.config.input_shape)
        return attacks.classify(checkpoint, picture.pixels)

    def attack(
        image: bytes | None,
        label: str,
        model: str,
        attack: str,
        epsilon: float,
        step_size: float,
        steps: float,
        target: str,
        seed: float,
    ) -> tuple[Image.Image, dict[str, Any]]:
        """Attack a picture: the adversarial one as a lossless PNG, and what became of each member.

        Args:
            image: a picture file; it is cropped and resized to what the ensemble takes.
            label: a class, its index, or auto for the clean prediction.
            model: the id of an ensemble, as `models` lists them.
            attack: the attack's name, pgd for one.
            epsilon: how far each pixel may move, in 1/255.
            step_size: how far it moves at a time, in 1/255.
            steps: how often it moves.
            target: ensemble, or member 1, member 2 and so on.
            seed: of random starts.
        """
        checkpoint = studio.registry.get(model)
        picture = attacks.open_upload(image or b"", checkpoint.model.config.input_shape)
        config = attacks.settings(attack, epsilon, step_size, steps, target)
        made = attacks.attack_in_steps(checkpoint, picture.pixels, label, config, seed, CalledWork().tell)
        return to_picture(made.x_adv), made.result

    with gr.Column(visible=False):
        image = gr.File(type="binary", label=f"image: a picture file, at most {MEGABYTES} MB")
        first = studio.registry.default() or ""
        model = gr.Textbox(first, label="model")
        label = gr.Textbox(attacks.AUTO, label="label: a class, its index, or auto for the clean prediction")
        name = gr.Textbox(default.name, label=f"attack: one of {', '.join(ATTACKS)}")
        epsilon = gr.Number(attacks.in_255ths(default.epsilon), label="epsilon, in 1/255")
        step_size = gr.Number(attacks.in_255ths(default.step_size), label="step size, in 1/255")
        steps = gr.Number(default.steps, label="steps")
        target = gr.Textbox(default.target, label="target: ensemble, or member n")
        seed = gr.Number(0, label="seed")
        adversarial = gr.Image(format="png", image_mode=None, label="adversarial")
        result = gr.JSON(label="result")
        ask, go = gr.Button("classify"), gr.Button("attack")
    gr.api(spoken(models), api_name="models", **LOOK)
    ask.click(spoken(classify), [image, model], result, api_name="classify", **LOOK)
    typed = [image, label, model, name, epsilon, step_size, steps, target, seed]
    go.click(spoken(attack), typed, [adversarial, result], api_name="attack", **COMPUTE)
