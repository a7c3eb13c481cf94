"""The form of a new run, made from the trainer's own config, and the command line that does the same."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app.components import PRIVATE, choice_of, heading, sentence, spoken
from app.figures import run_status
from app.services import gallery, training, training_form
from app.services.models import dataset_title
from app.services.training_form import FOLDED, KEYS, MAIN, Base, Field
from app.studio import Studio
from cce.config import ConfigError, TrainConfig, check
from cce.data import datasets as data
from cce.evaluation import presets
from cce.runs.remote import FLAVORS

HERE, AWAY = "here", "away"
QUIET = {**PRIVATE, "show_progress": "hidden", "queue": False}
"""For what runs often and has nothing to refuse: beside the queue, where an error's words are lost."""

ACTION = {**PRIVATE, "show_progress": "hidden"}
"""For a press of a button: through the queue, which brings a refusal's words to the page."""


@dataclass
class Form:
    """The components of the form; `typed` is in the order that `Asked.read` takes."""

    name: gr.Textbox
    base: gr.Dropdown
    device: gr.Dropdown
    lines: gr.Textbox
    where: gr.Radio
    flavor: gr.Dropdown
    token: gr.Textbox
    note: gr.HTML
    phases: gr.HTML
    command: gr.Textbox
    get: gr.Button
    probe: gr.Button
    estimate: gr.HTML
    start: gr.Button
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def typed(self) -> list[Any]:
        """Every input of the config, in order."""
        return [self.name, self.base, self.device, self.lines, *self.fields.values()]


@dataclass(frozen=True)
class Asked:
    """What the form stands for."""

    name: str
    base: Base
    device: str
    config: TrainConfig


def read(studio: Studio, name: str, base: str, device: str, lines: str, *typed: Any) -> Asked:
    """What was typed, as a config.

    Raises:
        ConfigError: a value that cannot be used.
    """
    chosen = training_form.base_of(base, studio.training.bases())
    told = dict(zip(KEYS, typed, strict=True))
    typed_path = any(sign in str(told["dataset"] or "") for sign in "/\\")
    check(studio.training.policy.own_folders or not typed_path, "No folder of this machine can be named here")
    return Asked(str(name or "").strip(), chosen, device, training_form.config(chosen.config, told, lines or ""))


def build(studio: Studio) -> Form:
    """Lay out the form for the first preset and wire what belongs to it alone."""
    base = training_form.preset_base(training_form.FIRST)
    shown = training_form.values(base.config)
    allowed = studio.training.policy.allowed
    heading("New run")
    if not allowed:
        gr.HTML(f'<p class="studio-off" role="note">{studio.training.policy.reason}</p>', elem_id="training-off")
    with gr.Row():
        start_from = gr.Dropdown(
            base_choices(studio),
            value=base.name,
            label="Start from",
            info="A preset, or a run of yours.",
            elem_id="train-base",
            min_width=200,
        )
        name = gr.Textbox(
            free_name(studio, base.name),
            label="Name of the run",
            max_lines=1,
            elem_id="train-name",
            info="Letters, digits, dots, _ and -.",
            min_width=200,
        )
    found = _rows(MAIN[:-2], shown)
    with gr.Row(elem_classes="studio-fields"):
        seed, precision = (_component(one, shown[one.key]) for one in MAIN[-2:])
        device = gr.Dropdown(
            list(training_form.DEVICES),
            value="auto",
            label="Device",
            info="auto: a GPU if there is one.",
            min_width=110,
            elem_id="train-device",
        )
    found |= {"seed": seed, "precision": precision}
    where, flavor, token = _where()
    note = gr.HTML("", elem_id="train-note")
    get = gr.Button(visible=False, size="sm", elem_id="train-get")
    start = gr.Button("Start", variant="primary", size="lg", interactive=allowed, elem_id="train-start")
    with gr.Accordion("More settings", open=False, elem_id="train-more"):
        found |= _rows(FOLDED, shown)
        lines = gr.Textbox(
            "",
            lines=2,
            label="Any other field",
            placeholder="phases.0.learning_rate=0.001",
            info="FIELD=VALUE, one a line; fields as in config.json.",
        )
    phases = gr.HTML(run_status.phases(training_form.phase_rows(base.config)), elem_id="train-phases")
    probe = gr.Button("Estimate time and memory", size="sm", elem_id="train-probe", min_width=180)
    estimate = gr.HTML('<p class="studio-note">Measured here in about two seconds.</p>', elem_id="train-estimate")
    command = gr.Textbox(
        _command(studio, Asked(name.value, base, "auto", base.config)),
        label="The same on the command line",
        buttons=["copy"],
        interactive=False,
        lines=2,
        elem_id="train-command",
    )
    form = Form(
        name, start_from, device, lines, where, flavor, token, note, phases, command, get, probe, estimate, start, found
    )
    _wire(studio, form)
    return form


def _rows(fields: tuple[Field, ...], shown: dict[str, Any]) -> dict[str, Any]:
    """The fields, two in a row."""
    found = {}
    for i in range(0, len(fields), 2):
        with gr.Row(elem_classes="studio-fields"):
            for one in fields[i : i + 2]:
                found[one.key] = _component(one, shown[one.key])
    return found


def _component(one: Field, value: Any) -> Any:
    looks = dict(label=one.label, info=one.info, min_width=110, elem_id=f"train-{one.key.replace('_', '-')}")
    if one.kind == "switch":
        return gr.Checkbox(value, **looks)
    if one.kind == "choice":
        return gr.Dropdown(
            list(one.choices), value=value, allow_custom_value=one.key in (*training_form.CUSTOM, "dataset"), **looks
        )
    return gr.Number(value, **looks)


def _where() -> tuple[gr.Radio, gr.Dropdown, gr.Textbox]:
    """This machine, or Hugging Face Jobs with a machine and a token."""
    with gr.Accordion("Where to run: this machine", open=False, elem_id="train-where") as fold:
        where = gr.Radio([("This machine", HERE), ("Hugging Face Jobs", AWAY)], value=HERE, label="Where")
        with gr.Column(visible=False) as more:
            flavor = gr.Dropdown(
                list(FLAVORS), value=FLAVORS[0], label="Machine", info="Paid by the minute, from your account."
            )
            token = gr.Textbox(
                label="Access token",
                type="password",
                max_lines=1,
                info="With the right to start jobs and to write. It is sent to Hugging Face and kept nowhere.",
            )
            gr.HTML(_note("The run goes through a private repository of yours, which keeps its states."))

    def chosen(place: str) -> list[Any]:
        words = "Hugging Face Jobs" if place == AWAY else "this machine"
        return [gr.Column(visible=place == AWAY), gr.Accordion(f"Where to run: {words}")]

    where.input(chosen, [where], [more, fold], **QUIET)
    return where, flavor, token


def base_choices(studio: Studio) -> list[tuple[str, str]]:
    """Presets, then runs."""
    runs = [training_form.RUN + job.name for job in studio.training.jobs.all()]
    return [(name, name) for name in (*presets.PRESETS, *runs)]


def free_name(studio: Studio, wanted: str) -> str:
    """A name that neither a run nor an ensemble has."""
    taken = {entry.id for entry in studio.registry.entries()}
    name = studio.training.jobs.free_name(wanted)
    number = 2
    while name in taken:
        name, number = studio.training.jobs.free_name(f"{wanted}-{number}"), number + 1
    return name


def filled(studio: Studio, base: Base) -> list[Any]:
    """The form's values for another base: name, lines, then every field."""
    shown = training_form.values(base.config)
    return [free_name(studio, base.name), "", *(shown[key] for key in KEYS)]


def _command(studio: Studio, asked: Asked) -> str:
    root = Path(os.path.relpath(studio.training.jobs.root))
    root = studio.training.jobs.root if ".." in root.parts else root
    return training_form.command_line(asked.base, asked.config, asked.name, root, asked.device)


def _wire(studio: Studio, form: Form) -> None:
    fields = form.fields

    def described(*typed: Any) -> list[Any]:
        """Note, phases, command and the button that gets the data, for what is typed."""
        try:
            asked = read(studio, *typed)
        except ConfigError as error:
            return [_note(escape(sentence(str(error))), wrong=True), gr.skip(), gr.skip(), gr.skip()]
        rows = training_form.phase_rows(asked.config)
        return [missing_note(asked), run_status.phases(rows), _command(studio, asked), get_button(asked)]

    def missing_note(asked: Asked) -> str:
        if asked.config.data_dir or data.available(asked.config.dataset, studio.data_root):
            return ""
        return _note(f"{dataset_title(asked.config.dataset)} is not on this machine yet.")

    def get_button(asked: Asked) -> gr.Button:
        dataset = asked.config.dataset
        if asked.config.data_dir or data.available(dataset, studio.data_root):
            return gr.Button(visible=False)
        megabytes = round(data.DOWNLOAD_BYTES[dataset] / 1e6)
        return gr.Button(f"Get {dataset_title(dataset)} ({megabytes} MB)", visible=True)

    def of_base(name: str) -> list[Any]:
        return filled(studio, training_form.base_of(name, studio.training.bases()))

    def of_data_set(dataset: str) -> list[Any]:
        return list(training_form.data_set_values(dataset).values())

    def weights(method: str) -> list[Any]:
        return [gr.Number(interactive=method == "cce") for _ in range(2)]

    def fetch(dataset: str, progress: gr.Progress = gr.Progress()) -> None:  # noqa: B008
        studio.training.permit()
        gallery.download(dataset, studio.data_root, lambda fraction, text: progress(fraction, desc=text))

    def estimated(*typed: Any) -> str:
        asked = read(studio, *typed)
        studio.training.permit()
        busy = any(job.live for job in studio.training.jobs.all())
        return _note(training.estimate_words(training.estimate(asked.config, asked.device), busy))

    told = [form.note, form.phases, form.command, form.get]
    everything = [form.name, form.lines, *fields.values()]
    again = dict(fn=spoken(described), inputs=form.typed, outputs=told, trigger_mode="always_last", **QUIET)
    events = [form.name.change, form.device.input, form.lines.change, *(f.input for f in fields.values())]
    gr.on(events, **again)
    choice_of(form.base, again=True).click(spoken(of_base), [form.base], everything, **QUIET).then(**again)
    goes_with = [fields["epsilon_low"], fields["epsilon_high"], fields["flip"]]
    choice_of(fields["dataset"]).click(spoken(of_data_set), [fields["dataset"]], goes_with, **QUIET).then(**again)
    fields["method"].change(weights, [fields["method"]], [fields["lambda_pm"], fields["lambda_dm"]], **QUIET)
    form.get.click(
        spoken(fetch), [fields["dataset"]], None, concurrency_id="download", show_progress_on=[form.note], **PRIVATE
    ).then(**again)
    form.probe.click(
        spoken(estimated), form.typed, form.estimate, concurrency_id="probe", concurrency_limit=1, **PRIVATE
    )


def _note(text: str, wrong: bool = False) -> str:
    return f'<p class="studio-note{" studio-problem" if wrong else ""}">{text}</p>'
