"""The Detection tab: is this picture attacked? One picture first, then many, with detector-aware attacks among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.context import Context

from app.components import (
    GIVE_UP,
    HOLD,
    LOOK,
    PRIVATE,
    RELEASE,
    WORKING,
    choice_of,
    figure,
    heading,
    spoken,
    waiting,
)
from app.figures import detection as drawn
from app.figures import entropies, pictures, verdict
from app.figures.templates import render
from app.services import attacks, changes, detection, verdicts
from app.services.attacks import Picture
from app.studio import Studio
from app.tabs import detection_numbers, model_chooser, picture_picker
from cce.checkpoints.folder import Checkpoint

TITLE = "Detection"
_QUIET = {**PRIVATE, "show_progress": "hidden"}
_WAITING = "Choose on the left what happens to it."
_SHORT_WAITING = "Nothing was done"
_TITLES = ("The picture", "After the change")
_FOCUS = "(kind) => { window.cceStudio?.focusRate?.(kind); }"


@dataclass
class _Parts:
    """The components that listeners fill."""

    model: gr.Dropdown
    summary: gr.HTML
    kind: gr.Radio
    which: gr.Dropdown
    panels: list[Any]


def build(studio: Studio) -> None:
    """Lay out the tab and wire it; nothing is computed until it is opened."""
    name = studio.registry.default()
    if name is None:
        gr.Markdown("### There is no ensemble whose detector could be tried\n\nThe Attack tab says how to get one.")
        return
    checkpoint = studio.registry.get(name)
    reports = detection.Reports()
    with gr.Row(elem_classes="studio-split"):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            subject = model_chooser.build_subject(studio, name, checkpoint, "detection-")
            heading("3. What happens to it")
            kinds = [(title, kind) for kind, title in changes.KINDS]
            kind = gr.Radio(
                kinds, value="nothing", label="Change", show_label=False, container=False, elem_id="detection-change"
            )
            which = gr.Dropdown(visible=False, label="How", elem_id="detection-how")
        with gr.Column(scale=7, min_width=320, elem_id="detection-results"):
            panels = _build_panels(checkpoint)
    numbers = detection_numbers.build(studio, reports, checkpoint)
    parts = _Parts(subject.model, subject.summary, kind, which, panels)
    _wire(studio, reports, parts, subject.picker, numbers)


def _build_panels(checkpoint: Checkpoint) -> list[Any]:
    """The panels of one picture; each says that it is being worked out until the tab is opened."""
    heading("Is it attacked?")
    cards = gr.HTML(verdict.awaited(_TITLES, WORKING), elem_id="detection-verdict")
    triptych = gr.HTML(pictures.awaited(WORKING), elem_id="detection-pictures")
    heading("The evidence", 3)
    standing = figure({}, height=entropies.HEIGHT, elem_id="detection-standing")
    evidence = gr.HTML(waiting(height=4), elem_id="detection-evidence")
    numbers = gr.HTML(elem_classes="studio-numbers")
    limits = gr.HTML(verdict.limits(verdicts.limits(checkpoint)), elem_id="detection-limits")
    return [cards, triptych, standing, evidence, numbers, limits]


def show(
    studio: Studio, reports: detection.Reports, name: str, picture: Picture, kind: str, which: str | None
) -> list[Any]:
    """What the panels say of a picture, before and after what happens to it."""
    checkpoint = studio.registry.get(name)
    known = [key for _, key in changes.choices(checkpoint, kind)]
    which = which if which in known else changes.first_choice(checkpoint, kind)
    found = changes.change(checkpoint, picture.pixels, picture.judged, kind, which)
    measured = reports.latest_or_none(checkpoint)
    clean, called = detection.clean_reference(checkpoint, studio.collection(checkpoint), measured)
    before, after = found.before, found.after
    true = None if picture.judged == attacks.AUTO else found.label
    attacked = kind in ("attack", "adaptive")
    outcome = verdicts.danger(after, found.label, true is not None) if after else None
    second = None
    if after and outcome:
        second = (verdicts.flag(after, attacked), outcome.kind if attacked else verdicts.kind_of(after))
    cards = verdict.cards(
        f"{verdicts.subject(picture.name, true)} {found.words}.",
        (verdicts.flag(before), verdicts.kind_of(before)),
        second,
        _outcome(found, true, kind),
        titles=_TITLES,
        waiting=_WAITING,
        headline=outcome.words if outcome and attacked else "",
    )
    return [
        cards,
        _triptych(picture, found, true),
        drawn.standing(before, after, clean.scores["entropy"], called),
        _evidence(checkpoint, found, clean, called),
        entropies.numbers(before, after),
        verdict.limits(verdicts.limits(checkpoint)),
    ]


def _outcome(found: changes.Changed, true: str | None, kind: str) -> str:
    """What became of the ensemble, and of its detector."""
    if found.after is None:
        return ""
    before, after = found.before["label"], found.after["label"]
    if kind == "benign":
        same = "still says" if before == after else f"said {before} and now says"
        flagged = ", and it is flagged: a false alarm." if found.after["flagged"] else ", and it is not flagged."
        return f"Nobody attacked. The ensemble {same} {after}{flagged if found.after['flagged'] is not None else '.'}"
    return verdicts.change(found.before, found.after, true)


def _triptych(picture: Picture, found: changes.Changed, true: str | None) -> str:
    right = None if true is None else found.before["label"] == true
    if found.after is None:
        return pictures.triptych(picture.pixels, found.before["label"], right, waiting=_SHORT_WAITING)
    still = None if true is None else found.after["label"] == true
    after = (found.pixels, found.after["label"], still, max(found.size, 1 / 255), found.size)
    return pictures.triptych(picture.pixels, found.before["label"], right, after)


def _evidence(checkpoint: Checkpoint, found: changes.Changed, clean: Any, called: str) -> str:
    members = checkpoint.model.config.members
    when = "As it is" if found.after is None else "Before"
    lines = changes.evidence(found.before, found.disagreement[0], clean, called, when, members)
    if found.after is not None and found.disagreement[1] is not None:
        lines += changes.evidence(found.after, found.disagreement[1], clean, called, "After the change", members)
    return render("lines.html", kind="studio-evidence", lines=lines)


def _wire(
    studio: Studio,
    reports: detection.Reports,
    parts: _Parts,
    picker: picture_picker.PicturePicker,
    numbers: detection_numbers.Numbers,
) -> None:
    opened = gr.State(False)
    subject = [parts.model, picker.picture, parts.kind, parts.which]

    def see(name: str, picture: Picture, kind: str, which: str | None) -> list[Any]:
        return show(studio, reports, name, picture, kind, which)

    def how(name: str, kind: str) -> gr.Dropdown:
        """The choices of a kind of change."""
        checkpoint = studio.registry.get(name)
        found = changes.choices(checkpoint, kind)
        return gr.Dropdown(found, value=changes.first_choice(checkpoint, kind), visible=bool(found))

    def changed(name: str, picture: Picture, kind: str) -> list[Any]:
        return [how(name, kind), *see(name, picture, kind, None)]

    def another_model(name: str, kind: str) -> list[Any]:
        checkpoint = studio.registry.get(name)
        return [model_chooser.described(checkpoint), how(name, kind), *numbers.shown(name)]

    def open_tab(already: bool, *given: Any) -> list[Any]:
        """On the first visit of the tab: all that it shows."""
        if already:
            return [gr.skip() for _ in range(1 + len(parts.panels) + len(numbers.outputs))]
        return [True, *see(*given), *numbers.shown(given[0])]

    computing = {**_QUIET, **LOOK}
    tab = Context.block
    if isinstance(tab, gr.Tab):
        filled = [opened, *parts.panels, *numbers.outputs]
        tab.select(spoken(open_tab), [opened, *subject], filled, **computing).failure(**GIVE_UP)
    picker.then(spoken(see), subject, parts.panels, **computing)
    parts.kind.input(None, [parts.kind], None, js=_FOCUS, **PRIVATE)
    parts.kind.input(
        spoken(changed), subject[:3], [parts.which, *parts.panels], **computing, trigger_mode="always_last"
    )
    choice_of(parts.which).click(spoken(see), subject, parts.panels, **computing, trigger_mode="always_last")
    choice_of(parts.model).click(**HOLD)
    described = [parts.summary, parts.which, *numbers.outputs]
    choice_of(parts.model).click(
        spoken(another_model), [parts.model, parts.kind], described, **computing, trigger_mode="multiple"
    ).then(**RELEASE)
    numbers.wire(parts.model)
