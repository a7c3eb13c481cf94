"""The permanent link to a setting of the Attack tab: copied on a press, read when a page opens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr
from gradio.context import Context

from app.components import LOOK, PRIVATE, spoken
from app.services import links
from app.services.attacks import AUTO, Picture
from app.services.partners import partners
from app.tabs import attack_controls, attack_results, picture_picker
from app.tabs.attack_controls import config_of
from app.tabs.attack_parts import QUIET, Parts, beside_settings, described_by
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


def note(problems: list[str] | None = None, run: bool = False) -> str:
    """What became of the link that the page was opened with; `run`: its attack is to be run now."""
    said = " ".join(problems or [])
    words = (
        f'<p class="studio-problem" role="status">Not all of the link could be used: {escape(said)}</p>' if said else ""
    )
    return f'<div data-run="{"yes" if run else "no"}">{words}</div>'


def wire(p: Parts, link: Link, told: gr.HTML) -> None:
    """Copy on a press; read the address when the page opens."""
    studio = p.studio

    def linked(name: str, picture: Picture, beside: str, mode: str, *typed: Any) -> str:
        config, seed = config_of(typed)
        setting = links.Setting(name, picture.key, picture.judged, config, seed, beside or None, mode)
        query = links.query(setting, studio.registry.get(name).classes)
        own = f'<p class="studio-note">{_NO_PICTURE}</p>' if picture.key is None else ""
        field = f'<input type="text" readonly aria-label="Link to this setting" value="{escape(query)}">'
        return f'{field}<span class="studio-note" role="status"></span>{own}'

    def opened(search: str) -> list[Any]:
        """All of the tab as a link says; nothing changes where the address says nothing to us."""
        said = links.read(search or "")
        if not said:
            return [gr.skip() for _ in filled]
        problems = []
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
        found = links.picture_of(setting.image, pictures, checkpoint) if setting.image else None
        if setting.image and found is None:
            problems.append(f"There is no picture {setting.image!r} here.")
        picture, page = found or (picture_picker.first_of(pictures, checkpoint), 0)
        if picture.label is None and setting.label != AUTO:
            picture = replace(picture, said=setting.label)
        return [
            name,
            *described_by(checkpoint),
            gr.Dropdown(**beside_settings(studio, name, setting.beside)),
            gr.Radio(value=setting.show, visible=bool(setting.beside)),
            *picture_picker.stocked(pictures, page),
            *picture_picker.chosen(picture, checkpoint),
            *attack_controls.settings_of(checkpoint, setting.config, setting.seed),
            note([*problems, *setting.problems], setting.run),
            True,
        ]

    def seen(by_link: bool, name: str, picture: Picture) -> list[Any]:
        if not by_link:
            return [gr.skip() for _ in p.filled]
        return [*attack_results.show(studio.registry.get(name), picture), "", None]

    by_link = gr.State(False)
    address = gr.Textbox(visible=False)
    filled = [p.model, *p.described, p.beside, p.mode, *p.picker.shelf, *p.picker.choice, *p.controls.shown]
    filled += [told, by_link]
    read = "() => [window.location.search]"
    load = Context.root_block.load(spoken(opened), [address], filled, js=read, **QUIET)
    shown = load.success(spoken(seen), [by_link, *p.subject], p.filled, **QUIET, **LOOK)
    shown.then(None, None, None, js="() => { window.cceStudio.runLink(); }", **PRIVATE)
    copied = link.copy.click(spoken(linked), p.setting, [link.line], **QUIET)
    copied.success(None, None, None, js="() => { window.cceStudio.copyLink(); }", **PRIVATE)
