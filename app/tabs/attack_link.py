"""The permanent link to a setting of the Attack tab: copied on a press, read when a page opens."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr
from gradio.context import Context

from app.components import LOOK, PRIVATE, spoken
from app.services import examples, links
from app.services.attacks import AUTO, Picture, is_number
from app.services.examples import Example
from app.services.partners import partners
from app.tabs import attack_controls, attack_results, attack_stories, picture_picker
from app.tabs.attack_controls import config_of
from app.tabs.attack_history import History, Past
from app.tabs.attack_parts import QUIET, Parts, beside_settings, described_by, subject_key
from app.tabs.attack_stories import Stories
from cce.checkpoints.folder import CheckpointError

_NO_PICTURE = "Your own picture is not in the link: it stays on this page."


@dataclass
class Link:
    """The button, and the line that shows the link."""

    copy: gr.Button
    line: gr.HTML


def build() -> Link:
    """Lay out the button and its line."""
    copy = gr.Button("Copy link to this setting", size="sm", elem_id="copy-link")
    return Link(copy, gr.HTML("", elem_id="link"))


def note(problems: list[str] | None = None, then: str = "no") -> str:
    """What became of the link that the page was opened with, or of a story.

    Args:
        problems: what of it could not be used.
        then: `attack` where its attack is to be run now, `play` where its result is to be played, else `no`.
    """
    said = " ".join(problems or [])
    words = (
        f'<p class="studio-problem" role="status">Not all of the link could be used: {escape(said)}</p>' if said else ""
    )
    return f'<div data-then="{then}">{words}</div>'


def wire(p: Parts, link: Link, told: gr.HTML, stories: Stories, history: History) -> None:
    """Copy on a press; read the address when the page opens; tell a story, or bring an attack back, on a press."""
    studio = p.studio

    def linked(name: str, picture: Picture, beside: str, mode: str, *typed: Any) -> str:
        config, seed = config_of(typed)
        crop = 100 * picture.place
        setting = links.Setting(name, picture.key, picture.judged, config, seed, beside or None, mode, crop=crop)
        query = links.query(setting, studio.registry.get(name).classes)
        own = f'<p class="studio-note">{_NO_PICTURE}</p>' if picture.key is None else ""
        field = f'<input type="text" readonly aria-label="Link to this setting" value="{escape(query)}">'
        return f'{field}<span class="studio-note" role="status"></span>{own}'

    def opened(search: str) -> list[Any]:
        """All of the tab as a link says; nothing changes where the address says nothing to us."""
        said = links.read(search or "")
        if not said:
            return [gr.skip() for _ in filled]
        example = examples.find(said.get("story"))
        return tell(example) if example else _as_said(p, said)

    def tell(example: Example) -> list[Any]:
        """All of the tab as a story says: with its result where that ships for the ensemble that is here."""
        shipped = examples.shown(studio, example) is not None
        return _as_said(p, examples.setting(example), "play" if shipped else "attack", example.id if shipped else "")

    def surprise(name: str, picture: Picture, beside: str, mode: str, *typed: Any) -> list[Any]:
        """Another picture, drawn by chance, under the attack that is set."""
        config, seed = config_of(typed)
        checkpoint = studio.registry.get(name)
        pictures = studio.collection(checkpoint)
        keys = [f"test:{pictures.split.start + i}" for i in range(len(pictures.split))]
        key = random.choice([key for key in keys if key != picture.key] or keys or [picture.key])
        setting = links.Setting(name, key, AUTO, config, seed, beside or None, mode)
        return _as_said(p, links.read(links.query(setting, checkpoint.classes)), "attack")

    def again(past: list[Past], at: float) -> list[Any]:
        """An attack of this visit, with its own picture: it is made anew, which gives the same."""
        if not is_number(at) or not 0 <= at < len(past):
            return [gr.skip() for _ in filled]
        one = past[int(at)]
        setting = links.Setting(
            one.name,
            one.picture.key,
            one.picture.judged,
            one.config,
            one.seed,
            one.beside,
            one.mode,
            crop=100 * one.picture.place,
        )
        said = links.read(links.query(setting, studio.registry.get(one.name).classes))
        return _as_said(p, said, "attack", picture=one.picture)

    def seen(by_link: str | None, name: str, picture: Picture) -> list[Any]:
        if by_link is None:
            return [gr.skip() for _ in p.filled]
        checkpoint, key = studio.registry.get(name), None
        example = examples.find(by_link)
        shown = examples.shown(studio, example) if example else None
        if shown is not None:
            key = subject_key(name, picture)
        done = attack_stories.done_of(shown) if shown else None
        return [*attack_results.show(checkpoint, picture, done), "", key]

    by_link = gr.State(None)
    address = gr.Textbox(visible=False)
    filled = [p.model, *p.described, p.beside, p.mode, *p.picker.shelf, *p.picker.choice, *p.controls.shown]
    filled += [told, by_link]
    read = "() => [window.location.search]"
    begun = [Context.root_block.load(spoken(opened), [address], filled, js=read, **QUIET)]
    for example, button in stories.told:
        begun.append(button.click(spoken(partial(tell, example)), None, filled, **QUIET))
    begun.append(stories.surprise.click(spoken(surprise), p.setting, filled, **QUIET))
    which = "(past, at) => [past, window.cceStudio.chosenPast()]"
    begun.append(history.press.click(spoken(again), [history.past, history.at], filled, js=which, **QUIET))
    for event in begun:
        shown = event.success(spoken(seen), [by_link, *p.subject], p.filled, **QUIET, **LOOK)
        shown.then(None, None, None, js="() => { window.cceStudio.goOn(); }", **PRIVATE)
    copied = link.copy.click(spoken(linked), p.setting, [link.line], **QUIET)
    copied.success(None, None, None, js="() => { window.cceStudio.copyLink(); }", **PRIVATE)


def _as_said(
    p: Parts, said: dict[str, str], then: str | None = None, story: str = "", picture: Picture | None = None
) -> list[Any]:
    """All of the tab as a link says.

    Args:
        p: the tab.
        said: the link, by its keys.
        then: what is done next (`note`); None: what the link itself asks for.
        story: the example whose result ships; empty where there is none.
        picture: the picture itself, where the link cannot name it.
    """
    studio, problems = p.studio, []
    name = said.get("model", studio.registry.default())
    try:
        checkpoint = studio.registry.get(name)
    except CheckpointError:
        problems.append(f"There is no model {name!r}.")
        name = studio.registry.default()
        checkpoint = studio.registry.get(name)
    fits = [entry.id for entry in partners(studio.registry, name)]
    setting = links.setting_of(said, name, checkpoint, fits)
    pictures = studio.collection(checkpoint)
    found = links.picture_of(setting.image, pictures, checkpoint, setting.crop) if setting.image else None
    if setting.image and found is None:
        problems.append(f"There is no picture {setting.image!r} here.")
    first, page = found or (picture_picker.first_of(pictures, checkpoint), 0)
    picture = picture or first
    if picture.label is None and setting.label != AUTO:
        picture = replace(picture, said=setting.label)
    then = then or ("attack" if setting.run else "no")
    return [
        name,
        *described_by(checkpoint),
        gr.Dropdown(**beside_settings(studio, name, setting.beside)),
        gr.Radio(value=setting.show, visible=bool(setting.beside)),
        *picture_picker.stocked(pictures, page, picture),
        *picture_picker.chosen(picture, checkpoint),
        *attack_controls.settings_of(checkpoint, setting.config, setting.seed),
        note([*problems, *setting.problems], then),
        story,
    ]
