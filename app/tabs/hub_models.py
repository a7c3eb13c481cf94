"""A field that brings an ensemble from the Hugging Face Hub into the lists of models of every tab."""

from __future__ import annotations

from html import escape

import gradio as gr

from app.components import PRIVATE, spoken
from app.studio import Studio


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

    def loaded_from_hub(name: str) -> str:
        entry = studio.registry.add_from_hub(name)
        words = f"{entry.id} is in the list of models on every tab now, as “{entry.title}”."
        return f'<p class="studio-note" role="status">{escape(words)}</p>'

    for event in (load.click, repository.submit):
        event(spoken(loaded_from_hub), [repository], [said], concurrency_id="hub", **PRIVATE)
