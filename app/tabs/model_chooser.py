"""What a tab is about: an ensemble, chosen as on every other tab, and a picture for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.components import heading, note
from app.services.models import one_line
from app.studio import Studio
from app.tabs import picture_picker
from cce.checkpoints.folder import Checkpoint


@dataclass
class Subject:
    """The ensemble's list, its line, and the picker of a picture that fits it."""

    model: gr.Dropdown
    summary: gr.HTML
    picker: picture_picker.PicturePicker


def titled(studio: Studio) -> list[tuple[str, str]]:
    """Title and id of the ensembles there are now."""
    return [(entry.title, entry.id) for entry in studio.registry.entries()]


def build(studio: Studio, name: str, prefix: str = "", **settings: Any) -> gr.Dropdown:
    """The list of ensembles, which `app.model_lists` keeps current.

    Args:
        studio: what the whole app shares.
        name: the ensemble that is chosen at first.
        prefix: begins the component's id.
        settings: for the dropdown; without any it has no label in sight, since a heading stands above it.
    """
    settings = settings or dict(show_label=False, container=False)
    return gr.Dropdown(titled(studio), value=name, label="Model", elem_id=f"{prefix}model", **settings)


def build_subject(studio: Studio, name: str, checkpoint: Checkpoint, prefix: str) -> Subject:
    """The first two steps of a tab: model and picture."""
    heading("1. Model")
    model = build(studio, name, prefix)
    summary = gr.HTML(described(checkpoint))
    heading("2. Picture")
    return Subject(model, summary, picture_picker.build(studio, model, checkpoint, prefix=prefix))


def described(checkpoint: Checkpoint) -> str:
    """How good an ensemble is, as the line below the list."""
    return note(one_line(checkpoint))
