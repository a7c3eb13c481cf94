"""The example that the page opens on, and the stories below it: one click sets the controls and plays the attack."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from app.services import examples
from app.services.examples import Example, Shown
from app.studio import Studio
from app.tabs import attack_controls
from app.tabs.attack_results import Done


@dataclass
class Stories:
    """The buttons: one for each story that can be told here, and one for a picture by chance."""

    told: list[tuple[Example, gr.Button]]
    surprise: gr.Button


def opening(studio: Studio, name: str) -> Shown | None:
    """The example that the page opens on, where it is one of the ensemble that is shown first."""
    example = examples.find(examples.OPENING)
    return examples.shown(studio, example) if example and example.model == name else None


def done_of(shown: Shown) -> Done:
    """An example as an attack that has just been made; the page's address names it, but for the opening."""
    example = shown.example
    link = "" if example.id == examples.OPENING else example.link
    typed = ("", None, *attack_controls.typed_of(shown.checkpoint, example.config))
    return Done(shown.made, example.config, 0, shown.stops, link, None, shown.noise, typed, example.see)


def build(studio: Studio) -> Stories:
    """Lay out the buttons."""
    with gr.Row(elem_classes="studio-stories"):
        told = [
            (story, gr.Button(f"▸ {story.title}", size="sm", min_width=150, elem_id=f"story-{story.id}"))
            for story in examples.offered(studio)
        ]
        surprise = gr.Button("Surprise me", size="sm", min_width=110, elem_id="surprise")
    return Stories(told, surprise)
