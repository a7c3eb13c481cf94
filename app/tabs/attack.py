"""The Attack tab: pick a model and a picture, attack it, and see what became of each member."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from app.components import COMPUTE, HOLD, PRIVATE, RELEASE, SETTLED, heading, spoken
from app.figures.verdict import glossary
from app.services import attacks
from app.services.attacks import Picture, in_255ths
from app.services.models import card, one_line
from app.studio import Studio
from app.tabs import attack_results, picture_picker
from cce.checkpoints import Checkpoint
from cce.config import ATTACKS, AttackConfig

TITLE = "Attack"
_SCROLL = "() => { if (window.innerWidth < 800) document.getElementById('attack-results').scrollIntoView(); }"
_ONE_STEP = "FGSM takes one step of epsilon: step size and steps are not used."


@dataclass
class Controls:
    """The settings of an attack, in the order in which listeners take them."""

    name: gr.Radio
    epsilon: gr.Slider
    step_size: gr.Number
    steps: gr.Number
    target: gr.Dropdown
    seed: gr.Number

    @property
    def all(self) -> list[Any]:
        """All of them, in order."""
        return [self.name, self.epsilon, self.step_size, self.steps, self.target, self.seed]


def build(studio: Studio) -> None:
    """Lay out the tab and wire it."""
    name = studio.registry.default()
    if name is None:
        gr.Markdown(_no_models(studio))
        return
    checkpoint = studio.registry.get(name)
    with gr.Row(elem_classes="studio-split"):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            heading("1. Model")
            model, summary = _build_model(studio, name, checkpoint)
            heading("2. Picture")
            picker = picture_picker.build(studio, model, checkpoint)
            heading("3. Attack")
            controls, button = _build_controls(checkpoint)
        with gr.Column(scale=7, min_width=320, elem_id="attack-results"):
            first = picker.picture.value
            results = attack_results.build(attack_results.show(checkpoint, first, first.label))
    with gr.Accordion("How to read this", open=False, elem_id="terms"):
        gr.HTML(glossary())
    with gr.Accordion("About this model", open=False, elem_id="about"):
        about = gr.Markdown(card(checkpoint), elem_classes="studio-card")
    _wire(studio, model, [summary, about], picker, controls, button, results)


def _build_model(studio: Studio, name: str, checkpoint: Checkpoint) -> tuple[gr.Dropdown, gr.HTML]:
    choices = [(entry.title, entry.id) for entry in studio.registry.entries()]
    model = gr.Dropdown(choices, value=name, label="Model", show_label=False, container=False, elem_id="model")
    summary = gr.HTML(_note(one_line(checkpoint)), elem_id="model-summary")
    for reason in studio.registry.broken().values():
        gr.HTML(f'<p class="studio-note wrong">One ensemble cannot be used: {escape(reason)}</p>')
    return model, summary


def _build_controls(checkpoint: Checkpoint) -> tuple[Controls, gr.Button]:
    first = attacks.defaults(checkpoint)
    names = [(name.upper(), name) for name in ATTACKS]
    name = gr.Radio(names, value=first.name, label="Attack", show_label=False, container=False, elem_id="attack-name")
    epsilon = gr.Slider(**_epsilon_settings(first), label="Epsilon, in 1/255", elem_id="epsilon")
    button = gr.Button("Attack", variant="primary", size="lg", elem_id="attack-button")
    with gr.Accordion("More settings", open=False, elem_id="more-settings"):
        with gr.Row():
            step_size = gr.Number(in_255ths(first.step_size), label="Step size, in 1/255", min_width=120)
            steps = gr.Number(first.steps, label="Steps", precision=0, min_width=120)
        with gr.Row():
            target = gr.Dropdown(attacks.targets(checkpoint), value="ensemble", label="Target", min_width=120)
            seed = gr.Number(0, label="Seed", precision=0, info="Of PGD's random start.", min_width=120)
    return Controls(name, epsilon, step_size, steps, target, seed), button


def _epsilon_settings(first: AttackConfig) -> dict[str, Any]:
    """The slider's range: small where the data set's usual epsilon is small."""
    value = in_255ths(first.epsilon)
    fine = value % 0.25 != 0
    return dict(minimum=0, maximum=32 if value <= 16 else 128, step=0.05 if fine else 0.25, value=value)


def _note(text: str) -> str:
    return f'<p class="studio-note">{escape(text)}</p>'


def _no_models(studio: Studio) -> str:
    where = ", ".join(str(folder) for folder in studio.registry.folders) or "checkpoints"
    reasons = "".join(f"\n- {reason}" for reason in studio.registry.broken().values())
    return (
        f"### There is no ensemble to attack\n\nNone was found in `{where}`. Train one with "
        f"`python -m cce train`, or start the Studio with `--checkpoints FOLDER`.{reasons}"
    )


def _wire(
    studio: Studio,
    model: gr.Dropdown,
    described: list[Any],
    picker: picture_picker.PicturePicker,
    controls: Controls,
    button: gr.Button,
    results: attack_results.Results,
) -> None:
    def described_by(name: str) -> list[Any]:
        """Model card and the attack's defaults for another ensemble."""
        checkpoint = studio.registry.get(name)
        first = attacks.defaults(checkpoint)
        settings = [gr.Slider(**_epsilon_settings(first)), in_255ths(first.step_size), first.steps]
        target = gr.Dropdown(attacks.targets(checkpoint), value="ensemble")
        return [_note(one_line(checkpoint)), card(checkpoint), *settings, target]

    done = gr.State(None)  # what the results on screen are an attack on

    def before(name: str, picture: Picture, label: str, last: Any) -> list[Any]:
        if last == (name, picture.name, label) and picture.dataset:  # picked again: keep the attack's results
            return [gr.skip() for _ in results.panels] + [last]
        return [*attack_results.show(studio.registry.get(name), picture, label), None]

    def attacked(name: str, picture: Picture, label: str, *typed: Any) -> list[Any]:
        checkpoint = studio.registry.get(name)
        config = attacks.settings(*typed[:5])
        x_adv, result = attacks.attack(checkpoint, picture.pixels, label, config, typed[5])
        shown = attack_results.show(checkpoint, picture, label, (x_adv, result, config))
        return [*shown, (name, picture.name, label)]

    def one_step(name: str) -> list[Any]:
        several = name != "fgsm"
        return [gr.Number(interactive=several), gr.Number(interactive=several, info=None if several else _ONE_STEP)]

    subject = [model, picker.picture, picker.label]
    quiet = {**PRIVATE, "show_progress": "hidden"}
    changed = [*described, controls.epsilon, controls.step_size, controls.steps, controls.target]
    model.input(**HOLD)
    model.input(spoken(described_by), [model], changed, trigger_mode="multiple", **quiet).then(**RELEASE)
    filled = [*results.panels, done]
    picker.then(spoken(before), [*subject, done], filled, **quiet, **COMPUTE)
    picker.label.input(**HOLD)
    relabelled = {**quiet, **COMPUTE, "trigger_mode": "multiple"}
    picker.label.input(spoken(before), [*subject, done], filled, **relabelled).then(**RELEASE)
    controls.name.input(spoken(one_step), [controls.name], [controls.step_size, controls.steps], **quiet)
    button.click(**SETTLED).then(
        spoken(attacked),
        [*subject, *controls.all],
        filled,
        show_progress="minimal",
        show_progress_on=[results.panels[0]],
        **PRIVATE,
        **COMPUTE,
    ).success(None, None, None, js=_SCROLL, **PRIVATE)
