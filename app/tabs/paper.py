"""The Paper tab: Eq. 5 to play with, the printed tables beside our measurements, and where each figure can be seen."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import Context

from app.components import GIVE_UP, PRIVATE, heading, spoken, waiting
from app.figures import method, paper_tables
from app.figures.paper_tables import EVERY_DATASET
from app.services import paper as service
from app.services.models import dataset_title
from app.studio import Studio
from app.tabs import paper_figures

TITLE = "Paper"
_HEAD = (
    "Printed numbers are those of Bui et al., AAAI 2021 (arXiv 2009.09612). They stand beside ours for comparison, not "
    "as the truth to be matched. Ours were measured when the ensembles were released; nothing is computed here, and "
    "where there is no number there is the reason."
)
_FIGURES = (
    "Each as the paper draws it, with our own numbers, measured when the ensembles were released; under each what it "
    "does not say."
)
_DATASETS = [EVERY_DATASET, *(dataset_title(name) for name in ("cifar10", "cifar100", "mnist"))]
_READING = waiting("Reading what ships with the ensembles …", 16)


def build(studio: Studio) -> None:
    """Lay out the tab; its tables are read when it is opened."""
    tab = Context.block
    with gr.Tabs(elem_id="paper-parts"):
        with gr.Tab("Method", id="paper-method"):
            heading("Eq. 5: what a member learns from the others' examples")
            gr.HTML(method.page(), js_on_load="window.cceMethod.mount(element);", elem_id="method")
        with gr.Tab("Tables", id="paper-tables"):
            heading("Printed and measured")
            gr.HTML(f'<p class="studio-note">{_HEAD}</p>')
            dataset = gr.Radio(_DATASETS, value=EVERY_DATASET, label="Data set", elem_id="paper-dataset")
            tables = gr.HTML(_READING, elem_id="tables")
        with gr.Tab("Figures", id="paper-figures"):
            heading("The paper's figures")
            gr.HTML(f'<p class="studio-note">{_FIGURES}</p>')
            parts = paper_figures.build()
            heading("What the detection figures do not say", 3)
            detection = gr.HTML(_READING, elem_id="detection-figures")

    def tables_of(wanted: str) -> str:
        return paper_tables.tables_page(service.page(studio), service.counts, wanted)

    def read_paper(wanted: str) -> list[Any]:
        page = service.page(studio)
        return [tables_of(wanted), paper_tables.figures_page(page), *paper_figures.fill(studio)]

    quiet = {"show_progress": "hidden", **PRIVATE}
    tab.select(spoken(read_paper), [dataset], [tables, detection, *parts], **quiet).failure(**GIVE_UP)
    dataset.input(spoken(tables_of), [dataset], [tables], **quiet)
