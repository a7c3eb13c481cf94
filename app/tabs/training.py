"""The Train tab: start runs, watch them, and take what they made to the other tabs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context
from gradio.utils import get_upload_folder

from app.api import run_endpoints
from app.components import COMPUTE, PRIVATE, figure, heading, sentence, spoken
from app.figures import run_status
from app.figures import training as figures
from app.services import training, training_form
from app.services.training import duration
from app.studio import Studio
from app.tabs import training_form as form_tab
from app.tabs.training_form import ACTION, QUIET, Asked, Form
from cce.checkpoints import hub
from cce.reporting.cards import percent
from cce.runs.job import Job, JobError

TITLE = "Train"
SECONDS = 2
"""Between two looks at the run folders."""

_TITLES = (
    "Loss terms",
    "Accuracy (dashed: under attack)",
    "Transferring flow: who is right under attack",
    "Mean entropy of the ensemble",
    "Speed",
)
_EMPTY = "No run yet. Choose what to train and press Start."


@dataclass
class Watch:
    """What shows the runs; `shown` in the order in which `_Page.show` fills it."""

    runs: gr.Radio
    none: gr.HTML
    left_out: gr.HTML
    area: gr.Column
    status: gr.HTML
    plots: list[gr.HTML]
    numbers: gr.HTML
    log: gr.HTML
    stop: gr.Button
    resume: gr.Button
    duplicate: gr.Button
    use: gr.Button
    zip: gr.Button
    delete: gr.Button
    rename: gr.Button
    push: gr.Button
    folder: gr.HTML
    compared: gr.Dropdown
    bases: gr.Dropdown

    @property
    def buttons(self) -> list[gr.Button]:
        """What can be done with the run that is shown."""
        return [self.stop, self.resume, self.duplicate, self.use, self.zip, self.delete, self.rename, self.push]

    @property
    def shown(self) -> list[Any]:
        """All that changes as runs go on."""
        first = [self.runs, self.none, self.left_out, self.area, self.status]
        more = [self.folder, self.compared, self.bases]
        return [*first, *self.plots, self.numbers, self.log, *self.buttons, *more]


def build(studio: Studio) -> None:
    """Lay out the tab and wire it."""
    page = _Page(studio)
    run_endpoints.build(studio)
    with gr.Row(elem_classes="studio-split"):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            form = form_tab.build(studio)
        with gr.Column(scale=7, min_width=320, elem_id="train-runs-column"):
            page.lay_out(form)
    page.wire(form)


class _Page:
    """The right side of the tab: its components, what they show, and what their buttons do."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.training, self.jobs = studio, studio.training, studio.training.jobs

    # Layout

    def lay_out(self, form: Form) -> None:
        """The runs, the one that is looked at, and all that can be done with it."""
        heading("Runs")
        none = gr.HTML(run_status.nothing(_EMPTY), elem_id="train-none")
        runs = gr.Radio([], label="Runs", show_label=False, container=False, elem_id="train-runs")
        left_out = gr.HTML("", elem_id="train-left-out")
        status = gr.HTML("", elem_id="train-status")
        with gr.Row(elem_classes="studio-actions"):
            stop, resume, duplicate, use = (
                gr.Button(words, size="sm", min_width=110, interactive=False, elem_id=f"train-{key}")
                for words, key in (
                    ("Stop", "stop"), ("Resume", "resume"), ("Duplicate", "duplicate"), ("Use in the Studio", "use")
                )
            )  # fmt: skip
        self.said = gr.HTML("", elem_id="train-said")
        with gr.Column(visible=False) as self.area:
            plots, numbers, log = self._plots()
            compared = self._compare()
            kept = self._keep()
        self.watch = Watch(
            runs, none, left_out, self.area, status, plots, numbers, log, stop, resume, duplicate, use, *kept, compared,
            form.base,
        )  # fmt: skip
        self.seen = gr.State(None)

    def _plots(self) -> tuple[list[gr.HTML], gr.HTML, gr.HTML]:
        """The five figures with their table, and the log beside the last."""
        names = ("losses", "accuracies", "flow", "entropies", "speed")
        titles = _TITLES
        empty = self.drawn(None)
        plots = []
        for i in range(0, len(names), 2):
            with gr.Row(elem_classes="studio-pair"):
                for name, title, value in list(zip(names, titles, empty, strict=True))[i : i + 2]:
                    with gr.Column(min_width=300):
                        heading(title, 3)
                        plots.append(figure(value, height=figures.HEIGHT, elem_id=f"train-{name}"))
                if i + 2 > len(names):
                    with gr.Column(min_width=300):
                        heading("Log", 3)
                        log = gr.HTML(run_status.log([]), elem_id="train-log")
        return plots, gr.HTML("", elem_classes="studio-numbers"), log

    def _compare(self) -> gr.Dropdown:
        """One measure of several runs."""
        with gr.Accordion("Compare runs", open=False, elem_id="train-compare"):
            with gr.Row():
                compared = gr.Dropdown([], multiselect=True, label="Runs", elem_id="train-compared", min_width=200)
                self.measure = gr.Dropdown(
                    list(figures.COMPARED), value="robust accuracy", label="Measure", elem_id="train-measure",
                    min_width=150,
                )  # fmt: skip
            self.comparison = figure(
                figures.compare({}, "robust accuracy"), height=figures.HEIGHT, elem_id="train-comparison"
            )
        return compared

    def _keep(self) -> tuple[Any, ...]:
        """Export, push, rename, delete."""
        with gr.Accordion("Export, publish, rename, delete", open=False, elem_id="train-keep"):
            folder = gr.HTML("", elem_id="train-folder")
            with gr.Row():
                zip_button = gr.Button("Make a zip file", size="sm", interactive=False, elem_id="train-zip")
                self.saved = gr.DownloadButton("Save", size="sm", visible=False, elem_id="train-save")
            with gr.Row():
                self.repository = gr.Textbox(
                    label="Repository on the Hub", placeholder="your-name/my-ensemble", max_lines=1, min_width=180
                )
                self.token = gr.Textbox(
                    label="Access token", type="password", max_lines=1, min_width=180,
                    info="Used for this push, kept nowhere.",
                )  # fmt: skip
            with gr.Row():
                self.private = gr.Checkbox(True, label="Only I can see it", min_width=140)
                push = gr.Button("Push with its model card", size="sm", interactive=False, elem_id="train-push")
            with gr.Row():
                self.new_name = gr.Textbox(label="New name", max_lines=1, min_width=180, elem_id="train-new-name")
                rename = gr.Button("Rename", size="sm", interactive=False, elem_id="train-rename", min_width=110)
            delete = gr.Button("Delete this run …", size="sm", interactive=False, elem_id="train-delete")
            with gr.Group(visible=False) as self.sure:
                self.question = gr.HTML("", elem_id="train-question")
                with gr.Row():
                    self.really = gr.Button("Delete it", variant="stop", size="sm", elem_id="train-really")
                    self.keep = gr.Button("Keep it", size="sm", elem_id="train-keep-it")
        return zip_button, delete, rename, push, folder

    # What is shown

    def show(self, chosen: str | None, select: str | None = None) -> list[Any]:
        """Everything that changes, for the run that is chosen; `select` chooses another."""
        jobs = self.jobs.all()
        names = [job.name for job in jobs]
        wanted = next((n for n in (select, chosen) if n in names), names[0] if names else None)
        job = jobs[names.index(wanted)] if wanted else None
        runs = gr.Radio([(training.title(j), j.name) for j in jobs], value=wanted, visible=bool(jobs))
        if wanted == chosen and jobs:
            runs = gr.Radio([(training.title(j), j.name) for j in jobs], visible=True)
        none = gr.HTML(visible=not jobs)
        left_out = run_status.left_out(training.left_out(self.jobs))
        curves = training.curves(job) if job else {}
        log = run_status.log(training.log_lines(job) if job else [])
        texts = [self.status_of(job), *self.drawn(job), figures.numbers(curves), log]
        lists = [self.folder_of(job), gr.Dropdown(choices=names), gr.Dropdown(form_tab.base_choices(self.studio))]
        return [runs, none, left_out, gr.Column(visible=bool(jobs)), *texts, *self.buttons_of(job), *lists]

    def status_of(self, job: Job | None) -> str:
        """State, progress and facts of a run."""
        if job is None:
            return ""
        said = training.row(job)
        facts = [("data set, defense", f"{said['dataset']}, {said['defense']}")] if said["dataset"] else []
        if job.remote:
            facts.append(("on", f"Hugging Face, {job.remote.get('flavor', '')}"))
        if said["epoch"] is not None:
            facts.append(("epoch", f"{said['epoch']:.1f} of {said['epochs']:g}"))
        if said["seconds_left"] is not None:
            facts.append(("time left", duration(said["seconds_left"])))
        if said["natural_accuracy"] is not None:
            facts += [("natural", percent(said["natural_accuracy"])), ("robust", percent(said["robust_accuracy"]))]
        problem = sentence(job.error) if job.error else ""
        if job.remote and job.live and job.remote.get("problem"):
            problem = sentence(job.remote["problem"])
        elif job.silent_seconds > training.SILENT_SECONDS:
            problem = f"No sign of life for {duration(job.silent_seconds)}. Stop it, then resume it, if this goes on."
        elif not problem and (lines := training.left_out_lines(job)):
            problem = sentence(lines)
        return run_status.panel(job.name, training.state_words(job), job.state, said["progress"], facts, problem)

    def drawn(self, job: Job | None) -> list[dict[str, Any]]:
        """The five figures of a run."""
        curves = training.curves(job) if job else {}
        name = job.name if job else ""
        classes = training.class_count(job) if job else 10
        return [
            figures.losses(curves, name),
            figures.accuracies(curves, name),
            figures.flow(curves, name),
            figures.entropies(curves, name, classes),
            figures.speed(curves, name),
        ]

    def buttons_of(self, job: Job | None) -> list[Any]:
        """Which buttons can be pressed: stop, resume, duplicate, use, zip, delete, rename, push."""
        allowed, state = self.training.policy.allowed, job.state if job else ""
        live, waits = state in ("running", "stopping"), state == "queued"
        made = bool(job and job.checkpoint)
        usable = made or bool(job and job.folder.has_state())
        able = {
            "stop": state in ("running", "queued"),
            "resume": state in ("stopped", "failed"),
            "duplicate": bool(job),
            "use": usable,
            "zip": made,
            "delete": bool(job) and not live,
            "rename": bool(job) and not live and not waits,
            "push": made,
        }
        return [gr.Button(interactive=able[key] and (allowed or key == "zip")) for key in able]

    def folder_of(self, job: Job | None) -> str:
        """Where the ensemble lies."""
        if job is None or job.checkpoint is None:
            return run_status.nothing("There is no ensemble yet. Use in the Studio makes one of the latest state.")
        place = f"runs/{job.name}/{job.checkpoint.name}"
        return f'<p class="studio-note">The ensemble is the folder <code>{escape(place)}</code>.</p>'

    def compare(self, names: list[str], measure: str) -> dict[str, Any]:
        """Several runs in one figure."""
        there = {job.name: job for job in self.jobs.all()}
        return figures.compare({n: training.curves(there[n]) for n in names or [] if n in there}, measure)

    # What happens

    def looked(self, chosen: str | None, seen: Any) -> list[Any]:
        """Everything anew where something has changed, else nothing."""
        jobs, left_out = self.jobs.look()
        stamp = (chosen, training.stamp(jobs), tuple(left_out.items()))
        if stamp == seen:
            return [gr.skip() for _ in range(1 + len(self.watch.shown))]
        return [stamp, *self.show(chosen)]

    def started(self, where: str, flavor: str, token: str, *typed: Any) -> list[Any]:
        asked: Asked = form_tab.read(self.studio, *typed)
        if any(entry.id == asked.name for entry in self.studio.registry.entries() if not entry.run):
            raise JobError(f"there is already an ensemble called {asked.name}; take another name")
        if where == form_tab.AWAY:
            job = self.training.start_remotely(asked.name, asked.config, flavor, token)
        else:
            job = self.training.start(asked.name, asked.config, asked.device)
        waits = "waits in line, as another run is going on." if job.state == "queued" else "has started."
        name = form_tab.free_name(self.studio, asked.name)
        return [name, _said(f"{asked.name} {waits}"), *self.show(None, job.name)]

    def stopped(self, chosen: str) -> list[Any]:
        self.training.stop(chosen)
        return [_said(f"{chosen} was asked to stop; it saves its state first."), *self.show(chosen)]

    def resumed(self, chosen: str, token: str) -> list[Any]:
        job = self.training.resume(chosen, token)
        words = "waits in line." if job.state == "queued" else "goes on from its last saved state."
        return [_said(f"{chosen} {words}"), *self.show(chosen)]

    def duplicated(self, chosen: str) -> list[Any]:
        """The form, filled with the run's settings."""
        if not chosen:
            raise JobError("there is no run to duplicate yet; choose one in the list")
        base = training_form.base_of(training_form.RUN + chosen, self.training.bases())
        choice = gr.Dropdown(form_tab.base_choices(self.studio), value=training_form.RUN + chosen)
        words = _said(f"The form has the settings of {chosen} now. Change what you like and press Start.")
        return [words, choice, *form_tab.filled(self.studio, base)]

    def used(self, chosen: str) -> list[Any]:
        """The run's ensemble among the models of every tab."""
        job = self.jobs.get(chosen)
        if job.state != "finished":
            self.training.permit().export_latest(chosen)
        entry = next(e for e in self.studio.registry.entries() if e.folder == self.jobs.get(chosen).checkpoint)
        return [_said(f"{chosen} is in the list of models on every tab now, as “{entry.title}”."), *self.show(chosen)]

    def zipped(self, chosen: str) -> gr.DownloadButton:
        place = Path(get_upload_folder())
        place.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="zip-", dir=place))
        path = training.zipped(self.jobs.get(chosen), folder)
        size = path.stat().st_size / 1e6
        return gr.DownloadButton(f"Save {path.name} ({size:.1f} MB)", value=str(path), visible=True)

    def pushed(self, chosen: str, repository: str, token: str, private: bool) -> list[Any]:
        self.training.permit()
        job = self.jobs.get(chosen)
        if job.checkpoint is None:
            raise JobError(f"{chosen} has no ensemble yet")
        address = escape(hub.push(job.checkpoint, repository, token, private=private))
        link = f'<a href="{address}" target="_blank" rel="noopener">{address}</a>'
        return [f'<p class="studio-note" role="status">{escape(chosen)} is on the Hub: {link}</p>', ""]

    def renamed(self, chosen: str, new: str) -> list[Any]:
        job = self.training.permit().rename(chosen, str(new or "").strip())
        return [_said(f"{chosen} is called {job.name} now."), "", *self.show(None, job.name)]

    def asked(self, chosen: str) -> list[Any]:
        """The question before a run is deleted."""
        words = f"Delete the run {chosen} for good, with its curves and its ensemble?"
        return [gr.Group(visible=True), f'<p class="studio-question">{escape(words)}</p>']

    def deleted(self, chosen: str) -> list[Any]:
        self.training.permit().delete(chosen)
        return [_said(f"{chosen} was deleted."), gr.Group(visible=False), *self.show(None)]

    def wire(self, form: Form) -> None:
        """Let the buttons do it."""
        w, chosen, said = self.watch, self.watch.runs, self.said
        fields = [form.base, form.name, form.lines, *form.fields.values()]
        place = [form.where, form.flavor, form.token]
        form.start.click(spoken(self.started), [*place, *form.typed], [form.name, said, *w.shown], **ACTION)
        w.stop.click(spoken(self.stopped), [chosen], [said, *w.shown], **ACTION)
        w.resume.click(spoken(self.resumed), [chosen, form.token], [said, *w.shown], **ACTION)
        w.duplicate.click(spoken(self.duplicated), [chosen], [said, *fields], **ACTION)
        w.use.click(spoken(self.used), [chosen], [said, *w.shown], **PRIVATE, **COMPUTE, show_progress_on=[said])
        w.zip.click(spoken(self.zipped), [chosen], [self.saved], **ACTION)
        to_hub = [chosen, self.repository, self.token, self.private]
        w.push.click(spoken(self.pushed), to_hub, [said, self.token], **PRIVATE, concurrency_id="hub")
        w.rename.click(spoken(self.renamed), [chosen, self.new_name], [said, self.new_name, *w.shown], **ACTION)
        w.delete.click(spoken(self.asked), [chosen], [self.sure, self.question], **ACTION)
        self.really.click(spoken(self.deleted), [chosen], [said, self.sure, *w.shown], **ACTION)
        self.keep.click(lambda: gr.Group(visible=False), None, [self.sure], **QUIET)
        w.runs.input(spoken(self.show), [chosen], w.shown, **QUIET).then(
            lambda: ["", gr.Group(visible=False), gr.DownloadButton(visible=False)],
            None,
            [said, self.sure, self.saved],
            **QUIET,
        )
        pair = [w.compared, self.measure]
        gr.on([w.compared.input, self.measure.input], spoken(self.compare), pair, [self.comparison], **QUIET)
        looks = dict(fn=spoken(self.looked), inputs=[chosen, self.seen], outputs=[self.seen, *w.shown], **QUIET)
        gr.Timer(SECONDS).tick(**looks)
        Context.root_block.load(**looks)


def _said(words: str) -> str:
    return f'<p class="studio-note" role="status">{escape(words)}</p>'
