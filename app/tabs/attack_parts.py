"""What the parts of the Attack tab share: its components, and what they show of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import long_work
from app.components import PRIVATE
from app.services.attacks import Picture
from app.services.models import card
from app.services.partners import partners
from app.studio import Studio
from app.tabs.attack_controls import Controls
from app.tabs.attack_results import Results
from app.tabs.model_chooser import described
from app.tabs.picture_picker import PicturePicker
from cce.checkpoints.folder import Checkpoint

QUIET = {**PRIVATE, "show_progress": "hidden"}
_NOBODY = "No second model beside it"


@dataclass
class Parts:
    """What the tab's listeners share. `done`: what the results on screen are an attack on."""

    studio: Studio
    model: gr.Dropdown
    described: list[Any]
    beside: gr.Dropdown
    mode: gr.Radio
    picker: PicturePicker
    controls: Controls
    work: long_work.LongWork
    results: Results
    crossing: gr.HTML
    done: gr.State

    @property
    def subject(self) -> list[Any]:
        """Which picture, and for which ensemble."""
        return [self.model, self.picker.picture]

    @property
    def setting(self) -> list[Any]:
        """All that an attack depends on."""
        return [*self.subject, self.beside, self.mode, *self.controls.all]

    @property
    def filled(self) -> list[Any]:
        """What another picture or another attack fills."""
        return [*self.results.panels, self.crossing, self.done]


def beside_settings(studio: Studio, name: str, value: str | None) -> dict[str, Any]:
    """The list of ensembles that can be shown beside another; out of sight where there is none."""
    others = partners(studio.registry, name)
    choices = [(_NOBODY, ""), *((f"Beside it: {entry.title}", entry.id) for entry in others)]
    return dict(choices=choices, value=value or "", visible=bool(others))


def described_by(checkpoint: Checkpoint) -> list[Any]:
    """An ensemble in a line and on its card."""
    return [described(checkpoint), card(checkpoint)]


def subject_key(name: str, picture: Picture) -> tuple[str, str, str]:
    """What the results on screen are about."""
    return name, picture.key or picture.name, picture.judged
