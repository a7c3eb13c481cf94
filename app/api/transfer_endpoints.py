"""The public endpoint `/transferability`. Epsilon and step size are in 1/255."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.callers import CalledWork
from app.components import COMPUTE, spoken
from app.services import transferability as service
from app.services.attacks import in_255ths
from app.studio import Studio
from cce.config import AttackConfig


def build(studio: Studio) -> None:
    """Add the endpoint; its components are never on screen."""
    default = AttackConfig()

    def transferability(
        model: str, count: float, attack: str, epsilon: float, step_size: float, steps: float, seed: float
    ) -> dict[str, Any]:
        """Who is right on whose adversarial examples, members and ensemble: Table 6 on the first test pictures here."""
        config = service.settings(attack, epsilon, step_size, steps)
        return service.endpoint(service.measure(studio, model, count, config, seed, CalledWork()))

    with gr.Column(visible=False):
        model = gr.Textbox(studio.registry.default() or "", label="model")
        count = gr.Number(20, label=f"count: pictures, at most {service.MOST_IMAGES}")
        name = gr.Textbox(default.name, label=f"attack: one of {', '.join(service.ATTACKS)}")
        epsilon = gr.Number(in_255ths(default.epsilon), label="epsilon, in 1/255")
        step_size = gr.Number(in_255ths(default.step_size), label="step size, in 1/255")
        steps = gr.Number(default.steps, label="steps")
        seed = gr.Number(0, label="seed")
        result = gr.JSON(label="result")
        go = gr.Button("transferability")
    typed = [model, count, name, epsilon, step_size, steps, seed]
    go.click(spoken(transferability), typed, result, api_name="transferability", **COMPUTE)
