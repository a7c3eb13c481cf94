"""The public endpoints of the analysis tabs, `/surface` and `/detection`; sizes are in 1/255."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.callers import CalledWork
from app.components import COMPUTE, spoken
from app.services import attacks, surfaces
from app.services import detection as service
from app.services.attacks import in_255ths
from app.studio import Studio
from app.upload_limit import MEGABYTES
from cce.config import ATTACKS, AttackConfig, default_attack


def build(studio: Studio) -> None:
    """Add the endpoints; their components are never on screen."""

    def surface(
        image: bytes | None,
        label: str,
        model: str,
        attack: str,
        epsilon: float,
        step_size: float,
        steps: float,
        target: str,
        seed: float,
        extent: float,
        resolution: float,
    ) -> dict[str, Any]:
        """Loss and label of every member and the ensemble on a plane through the attacked picture."""
        checkpoint = studio.registry.get(model)
        picture = attacks.open_upload(image or b"", checkpoint.model.config.input_shape)
        config = None if attack == "none" else attacks.settings(attack, epsilon, step_size, steps, target)
        found = surfaces.draw(checkpoint, picture.pixels, label, config, extent, resolution, seed, CalledWork().tell)
        return found.to_json(checkpoint.classes)

    # Its name is the tool's that an assistant is given.
    def detection(model: str, attacks: list[str], epsilons: list[float] | None, count: float) -> dict[str, Any]:
        """How well clean pictures are told from attacked ones, with detector-aware attacks and benign changes beside.

        Args:
            model: the id of an ensemble, as `models` lists them.
            attacks: names of attacks, pgd for one.
            epsilons: how far each may move a pixel, in 1/255; null is the data set's usual one.
            count: of test pictures.
        """
        checkpoint = studio.registry.get(model)
        usual = in_255ths(default_attack(checkpoint.dataset).epsilon)
        configs = service.attacks_from(checkpoint.dataset, attacks or [], [usual] if epsilons is None else epsilons)
        pictures = studio.collection(checkpoint)
        aware = min(service.AWARE, service.check_count(count))
        report, source = service.measure(checkpoint, pictures, configs, count, aware, CalledWork().tell)
        return service.to_json(checkpoint, report, source)

    default = AttackConfig()
    first = studio.registry.default() or ""
    with gr.Column(visible=False):
        image = gr.File(type="binary", label=f"image: a picture file, at most {MEGABYTES} MB")
        model = gr.Textbox(first, label="model")
        label = gr.Textbox(attacks.AUTO, label="label: a class, its index, or auto for the clean prediction")
        attack = gr.Textbox(default.name, label=f"attack: one of none, {', '.join(ATTACKS)}")
        epsilon = gr.Number(in_255ths(default.epsilon), label="epsilon, in 1/255")
        step_size = gr.Number(in_255ths(default.step_size), label="step size, in 1/255")
        steps = gr.Number(default.steps, label="steps")
        target = gr.Textbox(default.target, label="target: ensemble, or member n")
        seed = gr.Number(0, label="seed: of the random start and of the axis v")
        extent = gr.Number(in_255ths(surfaces.usual_extent(default)), label="extent of the plane, in 1/255")
        resolution = gr.Number(surfaces.RESOLUTION, label=f"resolution: points along an axis, at most {surfaces.MOST}")
        grids = gr.JSON(label="surface")
        look = gr.Button("surface")
        names = gr.CheckboxGroup(service.ATTACKS, value=["pgd"], label="attacks")
        epsilons = gr.JSON(None, label="epsilons: a list, in 1/255; null is the data set's usual one")
        count = gr.Number(50, label=f"count: of test pictures, at most {service.MOST}")
        found = gr.JSON(label="detection")
        measure = gr.Button("detection")
    typed = [image, label, model, attack, epsilon, step_size, steps, target, seed, extent, resolution]
    look.click(spoken(surface), typed, grids, api_name="surface", **COMPUTE)
    asked = [model, names, epsilons, count]
    measure.click(spoken(detection), asked, found, api_name="detection", **COMPUTE)
