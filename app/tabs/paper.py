"""The Paper tab: Eq. 5 to play with, the printed tables beside our measurements, and where each figure can be seen."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
from gradio.context import Context

from app.components import GIVE_UP, PRIVATE, heading, spoken, waiting
from app.figures import method, paper_tables
from app.figures.values import fold
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
_TRADE = (
    "The paper’s recipe makes a detector that flags every plain attack, and random noise as well; an attacker who "
    "knows of it passes, above all with smooth changes. A hardened recipe trains on smooth attacks and on noisy clean "
    "pictures too. What it gains, and what it costs:"
)
_EQUAL = (
    "The tables are of ensembles of many recipes. These were made by one: the same epochs, attack in training, seed "
    "and number of images; only the loss differs, and with it the time that a step takes. Each was trained "
    "once: another seed may turn a small difference."
)
_FIGURES = (
    "Each as the paper draws it, with our own numbers, measured when the ensembles were released; under each what it "
    "does not say."
)
_ALL = ["All", *(dataset_title(name) for name in ("cifar10", "cifar100", "mnist"))]
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
            dataset = gr.Radio(_ALL, value=_ALL[0], label="Data set", elem_id="paper-dataset")
            tables = gr.HTML(_READING, elem_id="tables")
        with gr.Tab("Figures", id="paper-figures"):
            heading("The paper's figures")
            gr.HTML(f'<p class="studio-note">{_FIGURES}</p>')
            parts = paper_figures.build()
            heading("What the detection figures do not say", 3)
            detection = gr.HTML(_READING, elem_id="detection-figures")

    def read_paper(wanted: str) -> list[Any]:
        page = service.page(studio)
        return [_tables(page, wanted), _detection(page), *paper_figures.fill(studio)]

    quiet = {"show_progress": "hidden", **PRIVATE}
    tab.select(spoken(read_paper), [dataset], [tables, detection, *parts], **quiet).failure(**GIVE_UP)
    dataset.input(spoken(lambda wanted: _tables(service.page(studio), wanted)), [dataset], [tables], **quiet)


def _tables(page: service.Page, wanted: str = "All") -> str:
    """The tables of a data set, the verdicts first."""
    items = [(one, found) for one, found in page.tables if wanted in ("All", *paper_tables.datasets(one))]
    names_shown = {one.name for one, _ in items}
    order = [o for o in page.orders if o.item in names_shown]
    count = len(page.ensembles)
    names = f"<p>{escape(', '.join(page.ensembles))}</p>" if count else ""
    used = fold(f"Measured on {count} ensemble{'' if count == 1 else 's'}", names)
    damaged = f'<p class="studio-note">Not readable: {escape(", ".join(page.damaged))}.</p>' if page.damaged else ""
    shown = "".join(paper_tables.item(item, results, service.counts(results)) for item, results in items)
    return (
        f"{used}{damaged}{paper_tables.overview(items, order)}<h3>Does the printed order hold?</h3>"
        f"{paper_tables.order_list(order)}<h3>Tables</h3>{shown}{_families(page)}{_trades(page)}"
    )


def _families(page: service.Page) -> str:
    if not page.families:
        return ""
    shown = "".join(paper_tables.family(one) for one in page.families)
    return f'<h3 id="equal-terms">On equal terms</h3><p class="studio-note">{_EQUAL}</p>{shown}'


def _trades(page: service.Page) -> str:
    if not page.trades:
        return ""
    shown = "".join(paper_tables.trade(one) for one in page.trades)
    title = "Beyond the paper: a detector of attacks, not of fine noise"
    return f'<h3 id="trade">{title}</h3><p class="studio-note">{_TRADE}</p>{shown}'


def _detection(page: service.Page) -> str:
    lines = paper_tables.limits(page.detection)
    said = "".join(f"<li>{escape(line)}</li>" for line in lines)
    none = "No ensemble in detection mode has been measured under an attacker who knows of the detector."
    head = f'<ul class="studio-lines">{said}</ul>' if said else f'<p class="studio-note">{none}</p>'
    why = (
        "Figures 2 to 4 show how well the examples of attacks that ignore the detector are told from clean pictures. "
        "The paper does not test an attacker who knows of it. The same ensembles under both:"
    )
    rows = "".join(paper_tables.detection(name, found) for name, found in page.detection.items())
    curves = f"<h4>Figures 3 and 4, point by point</h4>{paper_tables.curves(page.curves)}"
    return f'<p class="studio-note">{why}</p>{head}{curves}{rows}'
