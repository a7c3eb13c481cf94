"""The Transferability tab: where an attack takes the images (Table 1), and who is fooled by whose examples."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from app import long_work
from app.api import transfer_endpoints
from app.components import HOLD, PRIVATE, RELEASE, choice_of, figure, heading, note, sentence, spoken
from app.figures import flow, matrix, subset_pictures
from app.figures.metrics import metric_cards
from app.figures.palette import voices
from app.services import gallery
from app.services import transferability as service
from app.services.attacks import in_255ths
from app.services.transferability import Found
from app.services.work import Work
from app.studio import Studio
from app.tabs import model_chooser
from app.tabs.picture_picker import get_words
from cce.config import ConfigError
from cce.evaluation.transferability import BlackBox
from cce.reporting.cards import percent

TITLE = "Transferability"
COUNT = 100
"""Images of a measurement unless told otherwise: about half a minute on two cores for CIFAR-10."""

_NONE = "Nothing measured yet: press Measure."
_PICK = "Choose a subset or a ribbon above to see its pictures."
_LOOK = """
const chosen = (event) => event.target.closest('[data-before]');
const choose = (event) => {
  const part = chosen(event);
  if (!part) return;
  if (event.type === 'keydown') {
    if (event.key !== 'Enter' && event.key !== ' ') return;
    event.preventDefault();
  }
  for (const other of element.querySelectorAll('[aria-pressed=true]')) other.setAttribute('aria-pressed', 'false');
  part.setAttribute('aria-pressed', 'true');
  trigger('click', { before: part.dataset.before, after: part.dataset.after });
};
element.addEventListener('click', choose);
element.addEventListener('keydown', choose);
"""


@dataclass
class _Controls:
    """What a measurement is asked for with, in the order in which listeners take it."""

    model: gr.Dropdown
    count: gr.Number
    attack: gr.Dropdown
    epsilon: gr.Number
    step_size: gr.Number
    steps: gr.Number
    seed: gr.Number

    @property
    def of_attack(self) -> list[Any]:
        """Name, sizes and steps."""
        return [self.attack, self.epsilon, self.step_size, self.steps]


def build(studio: Studio) -> None:
    """Lay out the tab and wire it."""
    transfer_endpoints.build(studio)
    name = studio.registry.default()
    if name is None:
        gr.Markdown("### There is no ensemble to measure\n\nTrain one on the Train tab, or see the Attack tab.")
        return
    with gr.Row(elem_classes="studio-split"):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            heading("Who is fooled by whose examples")
            controls = _controls(studio, name)
            work = long_work.build("transferability", "Measure", "Every member and the ensemble are attacked in turn.")
            note, get = _data(studio, name)
            gr.HTML(_terms(), elem_classes="studio-more")
        with gr.Column(scale=7, min_width=320, elem_id="transferability-results"):
            panels = _panels(_released(studio, name))
            found = gr.State(None)
    _between(studio, controls)
    _wire(studio, controls, work, [note, get], panels, found)


# Layout


def _controls(studio: Studio, name: str) -> _Controls:
    model = model_chooser.build(studio, name, "transferability-", show_label=True)
    first = service.defaults(studio.registry.get(name))
    with gr.Row(elem_classes="studio-fields"):
        count = gr.Number(
            COUNT,
            label="Images",
            precision=0,
            min_width=100,
            elem_id="transferability-count",
            info="At most.",
        )
        attack = gr.Dropdown(
            [(a.upper(), a) for a in service.ATTACKS],
            value=first.name,
            label="Attack",
            info="The paper: PGD.",
            min_width=100,
            elem_id="transferability-attack",
        )
    with gr.Accordion("More settings", open=False):
        with gr.Row(elem_classes="studio-fields"):
            epsilon = gr.Number(in_255ths(first.epsilon), label="Epsilon, in 1/255", min_width=100)
            step_size = gr.Number(in_255ths(first.step_size), label="Step size, in 1/255", min_width=100)
        with gr.Row(elem_classes="studio-fields"):
            steps = gr.Number(first.steps, label="Steps", min_width=100, elem_id="transferability-steps")
            seed = gr.Number(0, label="Seed", min_width=100)
    return _Controls(model, count, attack, epsilon, step_size, steps, seed)


def _data(studio: Studio, name: str) -> tuple[gr.HTML, gr.Button]:
    """Which pictures there are, and the button that gets the whole test set."""
    words, button = _data_words(studio, name)
    note = gr.HTML(words, elem_id="transferability-data")
    return note, gr.Button(**button, size="sm", elem_id="transferability-get")


def _data_words(studio: Studio, name: str) -> tuple[str, dict[str, Any]]:
    shelf = studio.collection(studio.registry.get(name))
    missing = shelf.missing_megabytes is not None
    few = " With so few the figures are rough." if missing else ""
    words = f'<p class="studio-note">Pictures here: {escape(shelf.note)}{few}</p>'
    return words, dict(value=get_words(shelf), visible=missing)


def _panels(values: list[Any]) -> list[Any]:
    """The results, in the order of `_shown`."""
    source = gr.HTML(values[0], elem_id="transferability-source")
    heading("The flow under attack", 3)
    drawn = gr.HTML(values[1], js_on_load=_LOOK, elem_id="flow")
    flow_numbers = gr.HTML(values[2], elem_classes="studio-numbers")
    pictures = gr.HTML(values[3], elem_id="flow-pictures")
    heading("Table 6: a(i, j), and what follows from it", 3)
    cards = gr.HTML(values[4], elem_id="transferability-metrics")
    square = figure(values[5], height=matrix.HEIGHT, elem_id="a-matrix")
    square_numbers = gr.HTML(values[6], elem_classes="studio-numbers")
    return [source, drawn, flow_numbers, pictures, cards, square, square_numbers]


def _terms() -> str:
    terms = (
        ("S11, S10, S01, S00", "Table 1: a bit for each member, 1 where it is right. S10: f1 right, f2 wrong."),
        ("The flow", "Training with Eq. 5 means to move examples S00 → S01, S10 → S11; an attack moves them back."),
        ("a(i, j)", "How often j is right on the examples that attack i; en is the ensemble."),
    )
    rows = "".join(f"<dt>{escape(t)}</dt><dd>{escape(d)}</dd>" for t, d in terms)
    return f'<dl class="studio-terms">{rows}</dl>'


# What the panels show


def _released(studio: Studio, name: str) -> list[Any]:
    """What ships with an ensemble; in its place why it cannot be read, where it is damaged."""
    try:
        return _shown(studio, service.released(studio.registry.get(name)))
    except ConfigError as error:
        return [note(sentence(str(error)), live=True), *_shown(studio, None)[1:]]


def _shown(studio: Studio, found: Found | None) -> list[Any]:
    if found is None:
        waiting = f'<div class="studio-flow empty"><p class="studio-note">{_NONE}</p></div>'
        return [
            note(_NONE, live=True),
            waiting,
            "",
            subset_pictures.nothing(""),
            metric_cards(None),
            matrix.waiting(_NONE),
            "",
        ]
    t = found.table
    drawn, counted = _flow_of(found)
    names = [*(f"f{i + 1}" for i in range(t.members)), "en"]
    rows = ["clean", *(f"attack on {n}" for n in names)]
    values = [t.natural, *t.a]
    seen = matrix.figure(values, rows, names, "", "who is asked", [colour for _, colour in voices(t.members)])
    caption = (
        f"Right, in percent: {t.attack.describe()}, n = {t.images:,}; rows: who is attacked, columns: who is asked"
    )
    hint = _PICK if found.images is not None else "Press Measure to see the pictures of a subset."
    return [
        note(
            " ".join([_model_words(studio, found.model), found.source, _attack_words(found), *service.describe(found)]),
            live=True,
        ),
        drawn,
        counted,
        subset_pictures.nothing(hint),
        metric_cards(t),
        seen,
        matrix.numbers(caption, values, rows, names),
    ]


def _model_words(studio: Studio, name: str) -> str:
    entry = next((e for e in studio.registry.entries() if e.id == name), None)
    return f"{entry.title if entry else name}."


def _attack_words(found: Found) -> str:
    return f"{found.table.attack.describe().removesuffix(', on the ensemble')}, on each in turn."


def _flow_of(found: Found) -> tuple[str, str]:
    t = found.table
    if not t.flow:
        shares = ", ".join(f"{name} {percent(share)}" for name, share in t.subsets.items())
        words = f"After the attack: {shares}. Where each image came from was not kept; press Measure to see it."
        return f'<div class="studio-flow empty"><p class="studio-note">{escape(words)}</p></div>', ""
    said = f'<p class="studio-note">{escape(flow.describe(t.flow, t.images))}</p>'
    return flow.picture(t.flow, t.images, found.images is not None) + said, flow.numbers(t.flow)


def _pictures_of(studio: Studio, found: Found | None, before: str, after: str) -> str:
    """The pictures of a subset, or of the way between two."""
    if found is None or found.images is None or found.x_adv is None or found.labels is None or found.said is None:
        return subset_pictures.nothing(_NONE)
    places = found.places(before or None, after or None)
    shown = places[: subset_pictures.MOST]
    classes = studio.registry.get(found.model).classes
    labels = [classes[found.labels[i]] for i in shown]
    said = [(classes[found.said[0, i]], classes[found.said[1, i]]) for i in shown]
    if before and after:
        words = f"Stayed in {before}" if before == after else f"From {before} to {after}"
    else:
        name = before or after
        words = f"In {name} {'before' if before else 'after'} the attack ({flow.meaning(name)})"
    return subset_pictures.grid(words, found.images[shown], found.x_adv[shown], labels, said, len(places))


# What happens


def _wire(
    studio: Studio, c: _Controls, work: long_work.LongWork, data: list[Any], panels: list[Any], found: gr.State
) -> None:
    def measured(work: Work, model: str, count: float, *typed: Any) -> list[Any]:
        config = service.settings(*typed[:4])
        made = service.measure(studio, model, count, config, typed[4], work)
        return [*_shown(studio, made), made]

    def other_model(model: str) -> list[Any]:
        checkpoint = studio.registry.get(model)
        first = service.defaults(checkpoint)
        words, button = _data_words(studio, model)
        sizes = [in_255ths(first.epsilon), in_255ths(first.step_size), first.steps]
        return [*sizes, words, gr.Button(**button), *_released(studio, model), None]

    def looked(kept: Found | None, event: gr.EventData) -> str:
        return _pictures_of(studio, kept, str(event.before or ""), str(event.after or ""))

    def fetched(model: str, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        dataset = studio.registry.get(model).dataset
        gallery.download(dataset, studio.data_root, lambda fraction, text: progress(fraction, desc=text))
        words, button = _data_words(studio, model)
        return [words, gr.Button(**button)]

    quiet = {**PRIVATE, "show_progress": "hidden"}
    work.wire(measured, [c.model, c.count, *c.of_attack, c.seed], [*panels, found])
    changed = [c.epsilon, c.step_size, c.steps, *data, *panels, found]
    choice_of(c.model).click(**HOLD)
    choice_of(c.model).click(spoken(other_model), [c.model], changed, trigger_mode="multiple", **quiet).then(**RELEASE)
    panels[1].click(spoken(looked), [found], [panels[3]], trigger_mode="always_last", **quiet)
    data[1].click(spoken(fetched), [c.model], data, concurrency_id="download", show_progress_on=[data[0]], **PRIVATE)


def _between(studio: Studio, c: _Controls) -> None:
    """Tables 12 and 13: ensembles of one data set attacked through one another."""
    name = c.model.value
    heading("Between ensembles (Tables 12 and 13)")
    gr.HTML(
        note(
            "Black box: examples made against one ensemble, shown to another. On the diagonal each ensemble meets its "
            "own. Images and attack are those chosen above."
        )
    )
    choices = service.comparable(studio, name)
    with gr.Row(elem_classes="studio-split"):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            first = service.nearest(studio, name)
            chosen = gr.CheckboxGroup(choices, value=first, label="Ensembles", elem_id="black-box-models")
            work = long_work.build("black-box", "Compare", "Each ensemble is attacked once, all are asked.")
        with gr.Column(scale=7, min_width=320):
            shown = _released_between(studio, name)
            source = gr.HTML(shown[0], elem_id="black-box-source")
            square = gr.HTML(shown[1], elem_id="black-box")

    def compared(work: Work, names: list[str], count: float, *typed: Any) -> list[Any]:
        found, words = service.between(studio, names, count, service.settings(*typed[:4]), typed[4], work)
        return _compared(studio, found, words)

    def restocked(model: str) -> list[Any]:
        found = service.comparable(studio, model)
        return [gr.CheckboxGroup(found, value=service.nearest(studio, model)), *_released_between(studio, model)]

    work.wire(compared, [chosen, c.count, *c.of_attack, c.seed], [source, square])
    choice_of(c.model).click(**HOLD)
    filled = [chosen, source, square]
    quiet = {**PRIVATE, "show_progress": "hidden", "trigger_mode": "multiple"}
    choice_of(c.model).click(spoken(restocked), [c.model], filled, **quiet).then(**RELEASE)


def _released_between(studio: Studio, name: str) -> list[Any]:
    """What ships with an ensemble of this kind, or how to get it."""
    why = "Nothing compared yet: press Compare."
    try:
        found = service.released_between(studio.registry.get(name))
    except ConfigError as error:
        found, why = None, sentence(str(error))
    if found is None:
        return [note(why, live=True), note("Who is right on whose examples appears here.")]
    return _compared(studio, *found)


def _compared(studio: Studio, found: BlackBox, words: str) -> list[Any]:
    titles = {e.id: e.title.partition(", ")[2] for e in studio.registry.entries()}
    names = [titles.get(n, n) for n in found.names]
    if len(set(names)) < len(names):
        names = list(found.names)
    rows, values = ["clean", *names], [found.natural, *found.a]
    caption = "Right, in percent. A row's examples, made against it, are shown to the ensemble of each column's number."
    attack = found.attack.describe().removesuffix(", on the ensemble")
    return [note(f"{words} {attack}.", live=True), matrix.square(caption, values, rows, names)]
