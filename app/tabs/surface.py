"""The Loss surface tab: the loss and the label of every member and the ensemble around a picture (Figures 6 to 8)."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
from gradio.context import Context

from app.callers import CalledWork
from app.components import (
    COMPUTE,
    GIVE_UP,
    PRIVATE,
    WORKING,
    choice_of,
    figure_template,
    heading,
    note,
    spoken,
    waiting,
)
from app.figures import pictures
from app.figures import surfaces as drawn
from app.services import attacks, surfaces, verdicts
from app.services.attacks import Picture, in_255ths
from app.studio import Studio
from app.tabs import model_chooser
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig

TITLE = "Loss surface"
NOTHING = "none"
_ATTACKS = ("pgd", "bim", "mim", "fgsm")
_WORDS = (
    '<div class="studio-limits"><h3>What is drawn</h3><ul>'
    "<li>The plane through the picture along u, the way in which the ensemble’s loss climbs fastest, and v, a random "
    "way across it. The picture is in the middle, at the cross.</li>"
    "<li>Above, the loss for the label: high is wrong. Below, what each says there. A wide area of one colour "
    "around the picture means that small changes do not matter.</li>"
    "<li>All views share plane, scale and camera: drag one and all turn.</li></ul></div>"
)


def build(studio: Studio) -> None:
    """Lay out the tab and wire it; nothing is computed until it is opened."""
    name = studio.registry.default()
    if name is None:
        gr.Markdown("### There is no ensemble to look into\n\nThe Attack tab says how to get one.")
        return
    checkpoint = studio.registry.get(name)
    with gr.Row(elem_classes="studio-split"):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            about = model_chooser.build_subject(studio, name, checkpoint, "surface-")
            heading("3. Attack and plane")
            controls = _build_controls(checkpoint)
        with gr.Column(scale=7, min_width=320, elem_id="surface-results"):
            heading("The picture in the middle")
            subject = gr.HTML(waiting("Attacking the picture …", 2.5), elem_id="surface-subject")
            triptych = gr.HTML(pictures.awaited(WORKING), elem_id="surface-pictures")
            heading("Loss, and below it what each says", 3)
            legend = gr.HTML('<p class="studio-legend">&nbsp;</p>', elem_id="surface-legend")
            views = gr.HTML(
                {},
                html_template=figure_template(
                    drawn.HEIGHT,
                    "Working out the loss at every point of the plane …",
                    drawn.stacked_height(checkpoint.model.config.members),
                ),
                js_on_load="window.cceStudio.mountScenes(element, props, watch);",
                apply_default_css=False,
                elem_id="surface-views",
            )
            numbers = gr.HTML(elem_classes="studio-numbers")
            gr.HTML(_WORDS)
    _wire(studio, about, controls, [subject, triptych, legend, views, numbers])


def _build_controls(checkpoint: Checkpoint) -> list[Any]:
    """Attack, epsilon, extent, resolution and seed."""
    names = [("None", NOTHING), *((name.upper(), name) for name in _ATTACKS)]
    first = attacks.defaults(checkpoint)
    attack = gr.Radio(names, value="pgd", label="Attack", show_label=False, container=False, elem_id="surface-attack")
    epsilon = gr.Slider(**_epsilon(first), label="Epsilon, in 1/255", elem_id="surface-epsilon")
    extent = gr.Slider(**_extent(first), label="Extent, in 1/255", elem_id="surface-extent",
                       info="How far the plane reaches: the largest change of a pixel along an axis.")  # fmt: skip
    sizes = [(f"{n} × {n}", n) for n in surfaces.RESOLUTIONS]
    resolution = gr.Radio(sizes, value=surfaces.RESOLUTION, label="Points", elem_id="surface-resolution")
    seed = gr.Number(0, label="Seed", info="Of the axis v and of PGD's random start.", min_width=120)
    return [attack, epsilon, extent, resolution, seed]


def _epsilon(first: AttackConfig) -> dict[str, Any]:
    value = in_255ths(first.epsilon)
    return dict(minimum=0, maximum=32 if value <= 16 else 128, step=0.05 if value % 0.25 else 0.25, value=value)


def _extent(first: AttackConfig) -> dict[str, Any]:
    value = in_255ths(surfaces.usual_extent(first))
    return dict(minimum=1, maximum=64 if value <= 32 else 255, step=0.5, value=value)


def show(
    studio: Studio,
    name: str,
    picture: Picture,
    attack: str,
    epsilon: float,
    extent: float,
    resolution: float,
    seed: float,
) -> list[Any]:
    """What the panels show."""
    checkpoint = studio.registry.get(name)
    first = attacks.defaults(checkpoint)
    config = None
    if attack != NOTHING:
        usual = in_255ths(first.step_size) / in_255ths(first.epsilon)
        config = attacks.settings(attack, epsilon, usual * epsilon, first.steps, "ensemble")
    found = surfaces.draw(
        checkpoint, picture.pixels, picture.judged, config, extent, resolution, seed, CalledWork().tell
    )
    classes, s = checkpoint.classes, found.surface
    true = None if picture.judged == attacks.AUTO else picture.judged
    key = f"{name}:{extent:g}"
    return [
        _subject(picture, true, config, found),
        _triptych(picture, true, config, found),
        drawn.legend(s, classes, "right" if true else "the label"),
        drawn.figure(s, classes, key),
        drawn.numbers(s, classes),
    ]


def _subject(picture: Picture, true: str | None, config: AttackConfig | None, found: surfaces.Drawn) -> str:
    what = f"{attacks.describe(config)}." if config else "The picture itself."
    clipped = found.surface.clipped
    cut = (
        f" {100 * clipped:.1f} % of the pixels would leave the range of a picture and are cut."
        if clipped >= 0.0005
        else ""
    )
    outcome = ""
    if found.result:
        words = verdicts.change(found.result["benign"], found.result["adversarial"], true)
        outcome = f'<p class="outcome">{escape(words)}</p>'
    return note(f"{verdicts.subject(picture.name, true)} {what}{cut}") + outcome


def _triptych(picture: Picture, true: str | None, config: AttackConfig | None, found: surfaces.Drawn) -> str:
    before = found.said["label"]
    right = None if true is None else before == true
    if found.result is None or config is None:
        return pictures.triptych(picture.pixels, before, right, waiting="No attack")
    now = found.result["adversarial"]["label"]
    still = None if true is None else now == true
    return pictures.triptych(
        picture.pixels, before, right, (found.pixels, now, still, config.epsilon, found.result["linf"])
    )


def _wire(
    studio: Studio,
    about: model_chooser.Subject,
    controls: list[Any],
    panels: list[Any],
) -> None:
    model, picker = about.model, about.picker
    drawn_for = gr.State(None)  # the model of what is on screen, None before anything is
    epsilon, extent = controls[1], controls[2]

    def see(last: str | None, name: str, picture: Picture, *typed: Any) -> list[Any]:
        """The views; where the model is another one, with its own epsilon and extent."""
        if last == name:
            return [name, gr.skip(), gr.skip(), *show(studio, name, picture, *typed)]
        first = attacks.defaults(studio.registry.get(name))
        sizes = in_255ths(first.epsilon), in_255ths(surfaces.usual_extent(first))
        sliders = [gr.Slider(**_epsilon(first)), gr.Slider(**_extent(first))]
        return [name, *sliders, *show(studio, name, picture, typed[0], *sizes, *typed[3:])]

    def open_tab(last: str | None, *given: Any) -> list[Any]:
        """On the first visit of the tab: the views of what is chosen."""
        return see(last, *given) if last is None else [gr.skip() for _ in filled]

    def described(name: str) -> str:
        return model_chooser.described(studio.registry.get(name))

    inputs = [drawn_for, model, picker.picture, *controls]
    filled = [drawn_for, epsilon, extent, *panels]
    working = {**PRIVATE, **COMPUTE, "show_progress": "minimal", "show_progress_on": [panels[0]]}
    tab = Context.block
    if isinstance(tab, gr.Tab):
        tab.select(spoken(open_tab), inputs, filled, **working).failure(**GIVE_UP)
    picker.then(spoken(see), inputs, filled, **working)
    gr.on([c.input for c in controls], spoken(see), inputs, filled, **working, trigger_mode="always_last")
    choice_of(model).click(spoken(described), [model], [about.summary], **PRIVATE, show_progress="hidden")
