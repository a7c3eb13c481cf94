"""The Attack tab: pick a model and a picture, attack it, and see what became of each member."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from app import long_work
from app.components import HOLD, LOOK, PRIVATE, RELEASE, choice_of, heading, note, spoken
from app.figures import side_by_side
from app.figures.verdict import glossary
from app.services import attacks, links
from app.services.attacks import Picture
from app.services.models import card
from app.services.partners import EACH, SAME, one_by_one, partners, per_member
from app.services.replay import replay, seen_by
from app.services.work import Work
from app.studio import Studio
from app.tabs import (
    attack_controls,
    attack_history,
    attack_link,
    attack_results,
    attack_stories,
    model_chooser,
    picture_picker,
)
from app.tabs.attack_controls import config_of
from app.tabs.attack_parts import QUIET, Parts, beside_settings, described_by, subject_key
from app.tabs.attack_results import Done, Second
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig

TITLE = "Attack"
_ANSWER = "() => { window.cceStudio.showAnswer(); }"
_MOVED = "(...typed) => { window.cceStudio.moved(typed); }"
_ONE_BY_ONE = (
    "Each member is attacked alone, then the ensemble, with the settings on the left; every example is shown to all."
)


def build(studio: Studio) -> None:
    """Lay out the tab and wire it."""
    name = studio.registry.default()
    if name is None:
        gr.Markdown(_no_models(studio))
        return
    checkpoint = studio.registry.get(name)
    told = gr.HTML(attack_link.note(), elem_id="link-note")
    opening = attack_stories.opening(studio, name)
    with gr.Row(elem_classes="studio-split studio-attack"):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            heading("1. Model")
            model, summary = _build_model(studio, name, checkpoint)
            heading("2. Picture")
            picker = picture_picker.build(studio, model, checkpoint, at=opening.example.place if opening else 0)
            heading("3. Attack")
            first = opening.example.config if opening else attacks.defaults(checkpoint)
            top = attack_controls.build(checkpoint, first)
            controls = attack_controls.build_more(checkpoint, first, top)
            beside, mode = _build_beside(studio, name)
            link = attack_link.build()
            with gr.Column(elem_id="attack-bar"):
                work = long_work.build("attack", "Attack")
        with gr.Column(scale=7, min_width=320, elem_id="attack-results"):
            shown: list[attack_stories.Stories] = []
            values = attack_results.show(
                checkpoint, picker.picture.value, attack_stories.done_of(opening) if opening else None
            )
            results = attack_results.build(values, lambda: shown.append(attack_stories.build(studio)))
            history = attack_history.build()
            with gr.Accordion("One member at a time", open=False, elem_id="one-by-one"):
                gr.HTML(note(_ONE_BY_ONE))
                each = long_work.build("crossing", "Attack each member")
                crossing = gr.HTML("", elem_id="crossing")
    with gr.Accordion("How to read this", open=False, elem_id="terms"):
        gr.HTML(glossary())
    with gr.Accordion("About this model", open=False, elem_id="about"):
        about = gr.Markdown(card(checkpoint), elem_classes="studio-card")
    done = gr.State(subject_key(name, picker.picture.value) if opening else None)
    described = [summary, about]
    parts = Parts(studio, model, described, beside, mode, picker, controls, work, results, crossing, done)
    _wire(parts, each, history)
    attack_controls.wire(studio, model, controls)
    attack_link.wire(parts, link, told, shown[0], history)


def _build_model(studio: Studio, name: str, checkpoint: Checkpoint) -> tuple[gr.Dropdown, gr.HTML]:
    model = model_chooser.build(studio, name)
    summary = gr.HTML(model_chooser.described(checkpoint), elem_id="model-summary")
    for reason in studio.registry.broken().values():
        gr.HTML(f'<p class="studio-note wrong">One ensemble cannot be used: {escape(reason)}</p>')
    return model, summary


def _build_beside(studio: Studio, name: str) -> tuple[gr.Dropdown, gr.Radio]:
    quiet = dict(show_label=False, container=False)
    others = beside_settings(studio, name, None)
    beside = gr.Dropdown(label="Second model", elem_id="beside-it", **quiet, **others)
    shown = [("shown the same example", SAME), ("attacked by itself", EACH)]
    mode = gr.Radio(shown, value=SAME, label="The second model is", elem_id="beside-mode", visible=False, **quiet)
    return beside, mode


def _no_models(studio: Studio) -> str:
    where = ", ".join(str(folder) for folder in studio.registry.folders) or "checkpoints"
    reasons = "".join(f"\n- {reason}" for reason in studio.registry.broken().values())
    return (
        f"### There is no ensemble to attack\n\nNone was found in `{where}`. Train one with "
        f"`python -m cce train`, or start the Studio with `--checkpoints FOLDER`.{reasons}"
    )


def attack(
    studio: Studio,
    work: Work,
    name: str,
    picture: Picture,
    config: AttackConfig,
    seed: int,
    beside: str | None,
    mode: str,
) -> Done:
    """Attack a picture, and look at every step with one ensemble or with two."""
    checkpoint = studio.registry.get(name)
    share = 0.5 if beside and mode == EACH else 0.9 if beside else 1.0
    made = attacks.attack_in_steps(
        checkpoint,
        picture.pixels,
        picture.judged,
        config,
        seed,
        lambda what, fraction: work.tell(what, share * fraction),
    )
    stops = replay(picture.pixels, made, config.name)
    noise = attacks.same_size_noise(checkpoint, picture.pixels, config, seed) if checkpoint.detector else None
    second = None
    if beside:
        titles = {entry.id: entry.title for entry in studio.registry.entries()}
        other = studio.registry.get(beside)
        benign, truth = attacks.classify(other, picture.pixels), made.result["label"]

        def rest(what: str, fraction: float) -> None:
            work.tell(f"The other model: {what.lower()}", share + (1 - share) * fraction)

        own = attacks.attack_in_steps(other, picture.pixels, truth, config, seed, rest) if mode == EACH else None
        others = replay(picture.pixels, own) if own else seen_by(other, stops, truth, rest)
        second = Second(titles[beside], titles[name], mode, benign, others, own)
    crop = 100 * picture.place
    setting = links.Setting(name, picture.key, picture.judged, config, seed, beside or None, mode, crop=crop)
    return Done(made, config, seed, stops, links.query(setting, checkpoint.classes), second, noise)


def _wire(p: Parts, each: long_work.LongWork, history: attack_history.History) -> None:
    studio = p.studio

    def another_model(name: str, beside: str) -> list[Any]:
        """Model card, what fits beside it, and the attack's usual settings for another ensemble."""
        checkpoint = studio.registry.get(name)
        fits = [entry.id for entry in partners(studio.registry, name)]
        kept = beside if beside in fits else None
        settings = attack_controls.settings_of(checkpoint, attacks.defaults(checkpoint))
        return [
            *described_by(checkpoint),
            gr.Dropdown(**beside_settings(studio, name, kept)),
            gr.Radio(visible=bool(kept)),
            *settings,
        ]

    def before(name: str, picture: Picture, last: Any) -> list[Any]:
        if last == subject_key(name, picture) and picture.dataset:  # picked again: keep the attack's results
            return [gr.skip() for _ in p.filled]
        return [*attack_results.show(studio.registry.get(name), picture), "", None]

    def attacked(
        work: Work,
        past: list[attack_history.Past],
        name: str,
        picture: Picture,
        beside: str,
        mode: str,
        *typed: Any,
    ) -> list[Any]:
        config, seed = config_of(typed)
        checkpoint = studio.registry.get(name)
        typed = (beside or "", mode if beside else None, *attack_controls.typed_of(checkpoint, config, seed))
        done = replace(attack(studio, work, name, picture, config, seed, beside, mode), typed=typed)
        shown = attack_results.show(checkpoint, picture, done)
        past = attack_history.remembered(past, checkpoint, picture, done, beside, mode)
        return [*shown, gr.skip(), subject_key(name, picture), past, attack_history.shown(past)]

    def attacked_each(work: Work, name: str, picture: Picture, beside: str, mode: str, *typed: Any) -> list[Any]:
        checkpoint = studio.registry.get(name)
        config, seed = config_of(typed)
        config = per_member(config, checkpoint.dataset)
        label = picture.judged
        rows = one_by_one(checkpoint, picture.pixels, label, config, seed, work.tell)
        truth = attacks.classify(checkpoint, picture.pixels)["label"] if label == attacks.AUTO else label
        how = attacks.describe(config).rsplit(", on ", 1)[0]
        return [side_by_side.crossing(rows, truth, f"Examples made with {how}.")]

    another = choice_of(p.model)
    another.click(**HOLD)
    changed = [*p.described, p.beside, p.mode, *p.controls.shown]
    another.click(spoken(another_model), [p.model, p.beside], changed, trigger_mode="multiple", **QUIET).then(**RELEASE)
    choice_of(p.beside).click(lambda beside: gr.Radio(visible=bool(beside)), [p.beside], [p.mode], **QUIET)
    p.picker.then(spoken(before), [*p.subject, p.done], p.filled, **QUIET, **LOOK)
    filled = [*p.filled, history.past, history.strip]
    p.work.wire(attacked, [history.past, *p.setting], filled).success(None, None, None, js=_ANSWER, **PRIVATE)
    moved = [p.beside, p.mode, *p.controls.all]
    gr.on([part.change for part in moved], None, moved, None, js=_MOVED, **PRIVATE)
    each.wire(attacked_each, p.setting, [p.crossing])
