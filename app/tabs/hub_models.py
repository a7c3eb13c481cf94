"""A field that brings an ensemble from the Hugging Face Hub into the lists of models of every tab."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from app.components import PRIVATE, spoken
from app.studio import Studio
from cce.checkpoints.hub import HubError


def build(studio: Studio) -> None:
    """Lay out the folded field and wire it; it can stand on any tab, and below all of them."""
    with gr.Accordion("Load an ensemble from the Hugging Face Hub", open=False, elem_id="hub"):
        with gr.Row(equal_height=True):
            repository = gr.Textbox(
                label="Its id on the Hub", placeholder="owner/name", max_lines=1, min_width=180, elem_id="hub-id"
            )
            load = gr.Button("Load", size="sm", scale=0, min_width=110, elem_id="hub-load")
        said = gr.HTML(
            '<p class="studio-note">Public ensembles of this project: weights and settings, nothing that runs.</p>',
            elem_id="hub-said",
        )

        with gr.Row(equal_height=True):
            listed = gr.Dropdown([], label="Those that are listed now", min_width=180, elem_id="hub-listed")
            drop = gr.Button("Remove", size="sm", scale=0, min_width=110, elem_id="hub-remove")

    def loaded_from_hub(name: str) -> list[Any]:
        entry = studio.registry.add_from_hub(name)
        words = f"{entry.id} is in the list of models on every tab now, as “{entry.title}”."
        return [_said(words), gr.Dropdown(studio.registry.from_hub(), value=entry.id)]

    def removed_from_hub(name: str | None) -> list[Any]:
        if not name:
            raise HubError("no ensemble from the Hub is chosen")
        studio.registry.remove_from_hub(name)
        words = f"{name} is no longer listed, and what was fetched of it has left this machine."
        return [_said(words), gr.Dropdown(studio.registry.from_hub(), value=None)]

    drop.click(spoken(removed_from_hub), [listed], [said, listed], concurrency_id="hub", **PRIVATE)
    listed.focus(lambda: gr.Dropdown(studio.registry.from_hub()), None, [listed], show_progress="hidden", **PRIVATE)
    for event in (load.click, repository.submit):
        event(spoken(loaded_from_hub), [repository], [said, listed], concurrency_id="hub", **PRIVATE)


def _said(words: str) -> str:
    return f'<p class="studio-note" role="status">{escape(words)}</p>'
