"""A part of the Detection tab: one honest curve a detector, with a marker to move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.components import PRIVATE, choice_of, figure, heading, note, spoken, waiting
from app.figures import detector_curves as drawn
from app.services import detector_curves as service
from app.services.detection import Found, Reports
from app.studio import Studio
from app.tabs import model_chooser
from cce.config import SCORES

_QUIET = {**PRIVATE, "show_progress": "hidden"}
_READING = (
    "Each line is a detector, from one that flags nothing (left) to one that flags everything (right). Of every "
    "picture the worst attack counts: wrong, with the lowest score. Lower is better: a detector that helps falls "
    "steeply at the left. Attacks aim at the entropy; their examples are judged by all three."
)


@dataclass
class DetectorCurves:
    """The components and what fills them."""

    studio: Studio
    reports: Reports
    scores: gr.CheckboxGroup
    others: gr.Dropdown
    rate: gr.Slider
    plot: gr.HTML
    table: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        """What a report fills."""
        return [self.rate, self.plot, self.table]

    def fill(self, name: str, found: Found | None) -> list[Any]:
        """The curves of a report, all detectors, marked where the calibrated threshold is."""
        if found is None:
            return [gr.skip(), gr.skip(), gr.skip()]
        rate = service.first_rate(self.studio.registry, name, found)
        return [rate, *self.draw(name, found, list(SCORES), [], rate)]

    def draw(self, name: str, found: Found | None, scores: list[str], others: list[str], rate: float) -> list[Any]:
        """Figure and table."""
        made = service.lines(self.studio.registry, self.reports, name, found, scores or [], others or [])
        key = f"{found.id if found else name}"
        return [drawn.figure(made, rate / 100, key), drawn.table(made, rate / 100)]

    def wire(self, model: gr.Dropdown, found: gr.State) -> None:
        """Redraw where a control moves."""
        given = [model, found, self.scores, self.others, self.rate]
        for event in (self.scores.input, self.rate.input, choice_of(self.others).click):
            event(spoken(self.draw), given, [self.plot, self.table], **_QUIET, trigger_mode="always_last")


def build(studio: Studio, reports: Reports) -> DetectorCurves:
    """Lay it out; it is filled with the rest of the tab."""
    heading("What passes, against how many clean pictures are flagged", 3)
    gr.HTML(note(_READING))
    with gr.Row(elem_classes="studio-picks"):
        scores = gr.CheckboxGroup(
            [(title, score) for score, title in service.TITLES.items()],
            value=list(SCORES),
            label="Detectors",
            min_width=240,
            elem_id="curve-detectors",
        )
        others = gr.Dropdown(
            model_chooser.titled(studio),
            value=[],
            multiselect=True,
            max_choices=service.MOST - 1,
            label="Compare with",
            min_width=240,
            elem_id="curve-other-model",
        )
    plot = figure({}, height=drawn.HEIGHT, elem_id="detector-curves")
    rate = gr.Slider(
        0, 100, value=10, step=1, label="Marker: clean pictures flagged, at most, in %", elem_id="curve-rate"
    )
    table = gr.HTML(waiting("The figures at the marker come here …", 24), elem_id="curve-table")
    return DetectorCurves(studio, reports, scores, others, rate, plot, table)
