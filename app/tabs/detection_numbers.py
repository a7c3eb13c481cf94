"""The lower half of the Detection tab: many pictures, their entropies, and a threshold to drag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import long_work
from app.components import PRIVATE, choice_of, figure, figure_template, heading, note, spoken, waiting
from app.figures import detection as drawn
from app.services import detection
from app.services.detection import Found, Reports
from app.services.models import dataset_title
from app.services.work import Work
from app.studio import Studio
from app.tabs import detector_curves
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig
from cce.evaluation.detection import KINDS

_QUIET = {**PRIVATE, "show_progress": "hidden"}
_NOTHING = "Nothing was measured for this model yet. Press Measure."


@dataclass
class Numbers:
    """The components, and what they show."""

    studio: Studio
    reports: Reports
    settings: list[Any]
    work: long_work.LongWork
    found: gr.State
    source: gr.HTML
    offer: gr.HTML
    board: gr.Column
    picks: list[gr.Dropdown]
    histogram: gr.HTML
    roc: gr.HTML
    auc: gr.HTML
    curves: detector_curves.DetectorCurves

    @property
    def filled(self) -> list[Any]:
        """What a report fills."""
        drawn_parts = [*self.curves.outputs, self.histogram, self.roc, self.auc]
        return [self.found, self.source, self.board, *self.picks, *drawn_parts]

    @property
    def outputs(self) -> list[Any]:
        """What another model fills."""
        return [*self.filled, self.offer, self.settings[2], self.settings[4]]

    def shown(self, name: str) -> list[Any]:
        """What there is of a model: measured here, or at release, or nothing yet."""
        checkpoint = self.studio.registry.get(name)
        knowing = gr.CheckboxGroup(aware_titles(checkpoint), value=first_aware(checkpoint))
        aware = [gr.Number(default_aware(checkpoint)), knowing]
        return [*self.fill(checkpoint, self.reports.latest(checkpoint)), offer(self.studio, checkpoint), *aware]

    def fill(self, checkpoint: Checkpoint, found: Found | None) -> list[Any]:
        """The figures of a report."""
        if found is None:
            hidden = [gr.skip() for _ in range(len(self.picks) + len(self.curves.outputs) + 3)]
            return [None, note(_NOTHING), gr.Column(visible=False), *hidden]
        report = detection.with_threshold(checkpoint, found.report)
        names = {kind: next(s.name for k, s in report.samples() if k == kind) for kind in KINDS}
        picks = [gr.Dropdown([s.name for k, s in report.samples() if k == kind], value=names[kind]) for kind in KINDS]
        return [
            found,
            note(found.source),
            gr.Column(visible=True),
            *picks,
            *self.curves.fill(checkpoint.id, found),
            self.board_of(checkpoint, found, names),
            drawn.roc(report, found.id),
            drawn.auc(report, found.id),
        ]

    def board_of(self, checkpoint: Checkpoint, found: Found, names: dict[str, Any]) -> dict[str, Any]:
        """Figure 2 with its threshold."""
        threshold, own = detection.threshold(checkpoint, found.report)
        report = detection.with_threshold(checkpoint, found.report)
        return drawn.board(report, names, threshold, own, found.id)

    def wire(self, model: gr.Dropdown) -> None:
        """Let the button measure, and the dropdowns choose what is drawn."""

        def measured(
            work: Work, name: str, names: list[str], count: float, aware: float, strengths: bool, knowing: list[str]
        ) -> list[Any]:
            checkpoint = self.studio.registry.get(name)
            configs = chosen(checkpoint, names, strengths)
            pictures = self.studio.collection(checkpoint)
            report, source = detection.measure(checkpoint, pictures, configs, count, aware, work.tell, knowing)
            return self.fill(checkpoint, self.reports.keep(checkpoint, report, source))

        def picked(name: str, found: Found | None, *names: str) -> Any:
            if found is None:
                return gr.skip()
            return self.board_of(self.studio.registry.get(name), found, dict(zip(KINDS, names, strict=True)))

        self.curves.wire(model, self.found)
        typed = [model, *self.settings]
        self.work.wire(measured, typed, self.filled)
        for pick in self.picks:
            choice_of(pick).click(
                spoken(picked), [model, self.found, *self.picks], [self.histogram], **_QUIET, trigger_mode="always_last"
            )


def build(studio: Studio, reports: Reports, checkpoint: Checkpoint) -> Numbers:
    """Lay out this half; it is filled when the tab is opened."""
    heading("How well are attacks told from clean pictures?")
    with gr.Row(elem_classes="studio-split"):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            names = [(name.upper(), name) for name in detection.ATTACKS]
            attacks = gr.CheckboxGroup(names, value=["pgd", "fgsm"], label="Attacks", elem_id="detection-attacks")
            knowing = gr.CheckboxGroup(
                aware_titles(checkpoint),
                value=first_aware(checkpoint),
                label="Detector-aware attacks",
                elem_id="detection-knowing",
            )
            with gr.Row():
                count = gr.Number(
                    detection.COUNT, label="Pictures", precision=0, min_width=120, elem_id="detection-count"
                )
                aware = gr.Number(
                    default_aware(checkpoint),
                    label="For detector-aware attacks",
                    precision=0,
                    min_width=120,
                    elem_id="detection-aware",
                )
            strengths = gr.Checkbox(
                False, label="PGD at five more strengths (Figure 4): takes longer", elem_id="detection-strengths"
            )
            work = long_work.build("detection", "Measure")
            source = gr.HTML(waiting("Looking for what was measured …", 2), elem_id="detection-source")
            offered = gr.HTML("", elem_id="detection-offer")
        with gr.Column(scale=7, min_width=320):
            gr.HTML(_READING)
    rows = _rows_there_are(reports, checkpoint)
    with gr.Column(visible=rows > 0, elem_id="detection-numbers") as board:
        with gr.Row(elem_classes="studio-picks"):
            picks = [
                gr.Dropdown(label=drawn.TITLES[kind], min_width=150, elem_id=f"detection-{kind}") for kind in KINDS
            ]
        histogram = gr.HTML(
            {},
            html_template=_BOARD.format(
                cards=waiting("Counting what is flagged …", 6),
                figure=figure_template(drawn.HISTOGRAM_HEIGHT),
                table=waiting("The table of all of them comes here …", 1.5 * rows),
            ),
            js_on_load="window.cceStudio.mountBoard(element, props, watch);",
            apply_default_css=False,
            elem_id="detection-board",
        )
        curves = detector_curves.build(studio, reports)
        heading("ROC of each attack (Figure 3)", 3)
        roc = figure({}, height=drawn.ROC_HEIGHT, stacked=drawn.STACKED_HEIGHT, elem_id="detection-roc")
        heading("AUC by strength (Figure 4)", 3)
        gr.HTML(
            note("PGD at every strength that was measured, then the others; the bars are numbered as in the table.")
        )
        auc = figure({}, height=drawn.ROC_HEIGHT, stacked=drawn.STACKED_HEIGHT, elem_id="detection-auc")
    settings = [attacks, count, aware, strengths, knowing]
    found = gr.State(None)
    return Numbers(studio, reports, settings, work, found, source, offered, board, picks, histogram, roc, auc, curves)


_BOARD = (
    '<div class="studio-board"><div class="studio-board-cards">{cards}</div>'
    '<p class="threshold-line"><span class="threshold-words" role="status"></span>'
    '<button type="button" class="threshold-reset" disabled>Back</button></p>'
    '<div class="studio-plot">{figure}'
    '<div class="studio-threshold" role="slider" tabindex="0" aria-label="Threshold of the entropy, in nats" '
    'aria-orientation="horizontal" hidden></div></div><div class="studio-board-table">{table}</div></div>'
)

_READING = (
    '<div class="studio-limits"><h3>What is measured</h3><ul>'
    "<li><b>An attack</b>: its maker does not know that there is a detector. Attacks should be flagged.</li>"
    "<li><b>Detector-aware attack</b>: members are driven to one wrong class, or the entropy is held down, so that the "
    "ensemble stays sure of itself; smooth attacks also avoid the fine patterns that detectors trip over. These "
    "should be flagged too.</li>"
    "<li><b>Benign change</b>: random noise of the attack’s size, JPEG, blur. Nobody attacks, so nothing should be "
    "flagged.</li><li>A good detector has a high AUC in the first two and .5 in the third. Near 1 on one attack alone "
    "says little.</li></ul></div>"
)


def _rows_there_are(reports: Reports, checkpoint: Checkpoint) -> int:
    """Lines of the table that will be shown when the tab is opened, 0 where nothing was measured."""
    found = reports.latest_or_none(checkpoint)  # a damaged record: said when the tab is opened
    return len(KINDS) + 2 + len(list(found.report.samples())) if found else 0


def default_aware(checkpoint: Checkpoint) -> int:
    """How many pictures the detector-aware attacks get at first: few where each takes long."""
    small = checkpoint.model.config.input_shape[2] <= 16
    return 4 * detection.AWARE if small else detection.AWARE


def aware_titles(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Title and name of the detector-aware attacks that fit the ensemble's pictures."""
    side = checkpoint.model.config.input_shape[2]
    return [(title, name) for name, title in detection.aware_choices(side)]


def first_aware(checkpoint: Checkpoint) -> list[str]:
    """What is ticked of these at first."""
    return [name for _, name in aware_titles(checkpoint) if name in detection.AWARE_FIRST]


def chosen(checkpoint: Checkpoint, names: list[str], strengths: bool) -> list[AttackConfig]:
    """The attacks from what is ticked."""
    return detection.attacks_of(checkpoint.dataset, names or [], detection.STRENGTHS if strengths else ())


def offer(studio: Studio, checkpoint: Checkpoint) -> str:
    """Where few pictures are here: how to get more."""
    pictures = studio.collection(checkpoint)
    if pictures.missing_megabytes is None:
        return ""
    return note(
        f"Only {len(pictures.split)} {dataset_title(checkpoint.dataset)} test pictures ship. For more, get the test "
        f"set with the button under the pictures above ({pictures.missing_megabytes} MB)."
    )
