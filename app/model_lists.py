"""The lists of models on every tab, kept current while runs make new ensembles."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.components import PRIVATE
from app.studio import Studio

_SECONDS = 2


def keep_current(studio: Studio, demo: gr.Blocks) -> None:
    """Give every dropdown called `model`, or something that ends in `-model`, the ensembles there are now."""
    lists = [b for b in demo.blocks.values() if isinstance(b, gr.Dropdown) and _is_model(b.elem_id)]
    if not lists:
        return

    def choices(seen: Any) -> list[Any]:
        found = [(entry.title, entry.id) for entry in studio.registry.entries()]
        if found == seen:
            return [gr.skip() for _ in range(1 + len(lists))]
        return [found, *(gr.Dropdown(choices=found) for _ in lists)]

    seen = gr.State(None)
    quiet = {**PRIVATE, "show_progress": "hidden", "queue": False}
    gr.Timer(_SECONDS).tick(choices, [seen], [seen, *lists], **quiet)
    demo.load(choices, [seen], [seen, *lists], **quiet)


def _is_model(name: str | None) -> bool:
    return bool(name) and (name == "model" or str(name).endswith("-model"))
