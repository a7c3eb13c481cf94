"""The settings of an attack on the Attack tab: each is in sight where the chosen attack reads it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from app.components import PRIVATE, choice_of, spoken
from app.services import attacks, links
from app.services.attacks import in_255ths
from app.studio import Studio
from cce.checkpoints.folder import Checkpoint
from cce.config import ATTACKS, AttackConfig, default_attack

_NORMS = {"linf": "each pixel (L∞)", "l2": "all pixels together (L2)"}
_ANY = -1  # no class in particular


@dataclass
class Controls:
    """The settings, in the order in which listeners take them."""

    name: gr.Dropdown
    explanation: gr.HTML
    epsilon: gr.Slider
    more: gr.Accordion
    norm: gr.Radio
    step_size: gr.Number
    steps: gr.Number
    target: gr.Dropdown
    objective: gr.Dropdown
    restarts: gr.Number
    toward: gr.Dropdown
    seed: gr.Number

    @property
    def all(self) -> list[Any]:
        """What a listener is given; `config_of` reads it, the seed comes last."""
        first = [self.name, self.norm, self.epsilon, self.step_size, self.steps]
        return [*first, self.target, self.objective, self.restarts, self.toward, self.seed]

    @property
    def shown(self) -> list[Any]:
        """What `settings_of` fills."""
        return [*self.all, self.explanation, self.more]


def config_of(typed: tuple[Any, ...]) -> tuple[AttackConfig, int]:
    """The attack and the seed from what `Controls.all` gives.

    Raises:
        ConfigError: a value that cannot be used, in the units of the screen.
    """
    name, norm, epsilon, step_size, steps, target, objective, restarts, toward, seed = typed
    config = attacks.used_settings(
        name,
        norm=norm,
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
        target=target,
        objective=objective,
        restarts=restarts,
        toward=None if toward in (None, _ANY) else int(toward),
    )
    return config, attacks.check_seed(seed) if config.info.random else 0


def build(checkpoint: Checkpoint, first: AttackConfig) -> tuple[gr.Dropdown, gr.HTML, gr.Slider]:
    """What is always in sight: the attack, what it is, and epsilon."""
    values = _values(checkpoint, first, 0)
    name = gr.Dropdown(label="Attack", show_label=False, container=False, elem_id="attack-name", **values[0])
    explanation = gr.HTML(_explanation(first.name), elem_id="attack-explanation")
    epsilon = gr.Slider(label="Epsilon, in 1/255", elem_id="epsilon", **values[2])
    return name, explanation, epsilon


def build_more(checkpoint: Checkpoint, first: AttackConfig, top: tuple[gr.Dropdown, gr.HTML, gr.Slider]) -> Controls:
    """The folded rest."""
    values = _values(checkpoint, first, 0)
    name, explanation, epsilon = top
    with gr.Accordion("More settings", open=False, elem_id="more-settings") as more:
        norm = gr.Radio(label="Norm", elem_id="norm", **values[1])
        with gr.Row():
            step_size = gr.Number(label="Step size, in 1/255", min_width=120, **values[3])
            steps = gr.Number(label="Steps", min_width=120, **values[4])
        with gr.Row():
            target = gr.Dropdown(label="Attacked model", min_width=120, **values[5])
            toward = gr.Dropdown(label="Target class", min_width=120, elem_id="toward", **values[8])
        objective = gr.Dropdown(label="Loss of the ensemble", min_width=120, **values[6])
        with gr.Row():
            restarts = gr.Number(label="Restarts", min_width=120, **values[7])
            seed = gr.Number(label="Seed", min_width=120, **values[9])
    return Controls(
        name=name,
        explanation=explanation,
        epsilon=epsilon,
        more=more,
        norm=norm,
        step_size=step_size,
        steps=steps,
        target=target,
        objective=objective,
        restarts=restarts,
        toward=toward,
        seed=seed,
    )


def settings_of(checkpoint: Checkpoint, config: AttackConfig, seed: int = 0) -> list[Any]:
    """The controls for an attack on an ensemble; fills `Controls.shown`."""
    kinds = (
        *(gr.Dropdown, gr.Radio, gr.Slider, gr.Number, gr.Number),
        *(gr.Dropdown, gr.Dropdown, gr.Number, gr.Dropdown, gr.Number),
    )
    made = [kind(**values) for kind, values in zip(kinds, _values(checkpoint, config, seed), strict=True)]
    return [*made, _explanation(config.name), gr.Accordion(visible=_reads_more(config))]


def typed_of(checkpoint: Checkpoint, config: AttackConfig, seed: int = 0) -> tuple[Any, ...]:
    """What stands in the controls for an attack, in the order of `Controls.all`; None where one is out of sight."""
    shown = _values(checkpoint, config, seed)
    return tuple(values["value"] if values.get("visible", True) else None for values in shown)


def _values(checkpoint: Checkpoint, config: AttackConfig, seed: int) -> list[dict[str, Any]]:
    """Value, choices and visibility of each control, in the order of `Controls.all`."""
    info = config.info
    toward = [("any wrong class", _ANY), *((name, i) for i, name in enumerate(checkpoint.classes))]
    return [
        dict(choices=attacks.choices(), value=config.name),
        dict(choices=[(_NORMS[norm], norm) for norm in info.norms], value=config.norm, visible=len(info.norms) > 1),
        _epsilon(checkpoint, config),
        dict(value=in_255ths(config.step_size), visible=info.step_size and info.steps is not None),
        dict(value=config.steps, visible=info.steps is not None),
        dict(choices=attacks.targets(checkpoint), value=config.target, visible=info.member),
        dict(choices=links.objectives(), value=config.objective, visible=info.objective),
        dict(value=config.restarts, visible=info.restarts),
        dict(choices=toward, value=_ANY if config.toward is None else config.toward, visible=info.targeted),
        dict(value=seed, visible=info.random),
    ]


def _reads_more(config: AttackConfig) -> bool:
    info = config.info
    several = len(info.norms) > 1
    return any((several, info.steps, info.member, info.objective, info.restarts, info.targeted, info.random))


def _epsilon(checkpoint: Checkpoint, config: AttackConfig) -> dict[str, Any]:
    """The slider's range: small where the data set's usual epsilon is small."""
    usual = in_255ths(default_attack(checkpoint.dataset, config.name, config.norm).epsilon)
    value = in_255ths(config.epsilon)
    if config.norm == "l2":
        return dict(minimum=0, maximum=max(4 * usual, value), step=0.5, value=value)
    fine = usual % 0.25 != 0 or value % 0.25 != 0
    highest = max(32 if usual <= 16 else 128, value)
    return dict(minimum=0, maximum=highest, step=0.05 if fine else 0.25, value=value)


def _explanation(name: str) -> str:
    return f'<p class="studio-note">{escape(attacks.explain(name))}</p>'


def wire(studio: Studio, model: gr.Dropdown, controls: Controls) -> None:
    """Another attack, or another norm: its own controls and usual values; what was typed stays where it fits."""

    def other_attack(model: str, name: str, norm: str, epsilon: float, step_size: float, *rest: Any) -> list[Any]:
        checkpoint = studio.registry.get(model)
        there = norm if norm in ATTACKS[name].norms else ATTACKS[name].norms[0]
        usual = default_attack(checkpoint.dataset, name, there)
        shown = settings_of(checkpoint, usual)
        if there == norm:  # epsilon and step size are typed in the same unit: they stay
            shown[2] = gr.Slider(value=epsilon)
            shown[3] = gr.Number(value=step_size, visible=usual.info.step_size and usual.info.steps is not None)
        return shown

    def other_norm(model: str, name: str, norm: str) -> list[Any]:
        checkpoint = studio.registry.get(model)
        usual = default_attack(checkpoint.dataset, name, norm)
        return [gr.Slider(**_epsilon(checkpoint, usual)), in_255ths(usual.step_size)]

    quiet = {**PRIVATE, "show_progress": "hidden"}
    choice_of(controls.name).click(spoken(other_attack), [model, *controls.all], controls.shown, **quiet)
    given = [model, controls.name, controls.norm]
    controls.norm.input(spoken(other_norm), given, [controls.epsilon, controls.step_size], **quiet)
