"""Training service: whether this Studio may train, what its runs have done so far, and what to do with them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.services.models import dataset_title
from app.services.training_form import Base, run_base
from cce.config import ConfigError, TrainConfig, to_json
from cce.data import datasets as data
from cce.evaluation.own_pictures import without_path
from cce.reporting.cards import percent
from cce.runs.job import Job, JobError
from cce.runs.queue import Jobs
from cce.runs.remote import Remote
from cce.training.run_folder import RunError, RunFolder

log = logging.getLogger(__name__)

MOST_POINTS = 600
"""Points of one curve; longer ones are thinned."""

SILENT_SECONDS = 180.0
"""After so long without a sign of life, a running trainer is said to be silent."""

_ESTIMATE_SECONDS = 150
_SPACE_EPOCHS, _SPACE_BYTES = 30.0, 2_000_000_000
_LOSSES = ("loss", "natural", "direct", "promoting", "demoting")
_WORDS = {
    "queued": "in line",
    "running": "running",
    "stopping": "stopping",
    "stopped": "stopped",
    "finished": "finished",
    "failed": "failed",
}


@dataclass(frozen=True)
class Policy:
    """Whether runs can be started and changed here, and how large they may be.

    `reason` is shown where they cannot. `most_epochs` and `most_bytes` of all runs; None: no limit.
    """

    allowed: bool = True
    reason: str = ""
    most_epochs: float | None = None
    most_bytes: int | None = None

    @property
    def own_folders(self) -> bool:
        """Whether visitors may name folders of this machine: not where it is lent to strangers."""
        return self.allowed and self.most_bytes is None


def policy(environment: Mapping[str, str] = os.environ) -> Policy:
    """Training is on, but on a Space only where its owner says so; then with limits."""
    wish = environment.get("CCE_STUDIO_TRAINING")
    if environment.get("SPACE_ID"):
        if wish == "1":
            return Policy(most_epochs=_SPACE_EPOCHS, most_bytes=_SPACE_BYTES)
        return Policy(
            False,
            "Training is off on this Space, so that visitors do not spend its owner's machine. Duplicate the Space and "
            "set the variable CCE_STUDIO_TRAINING to 1 there, or run the Studio on your own machine.",
        )
    if wish == "0":
        return Policy(False, "Training is off here: the Studio was started with CCE_STUDIO_TRAINING=0.")
    return Policy()


def default_root() -> Path:
    """`CCE_STUDIO_HOME/runs`, else `runs` where the Studio was started."""
    return Path(os.environ.get("CCE_STUDIO_HOME", ".")).expanduser() / "runs"


@dataclass(frozen=True)
class Training:
    """The runs of a Studio, behind its policy."""

    jobs: Jobs = field(default_factory=lambda: Jobs(default_root()))
    policy: Policy = field(default_factory=lambda: policy())
    remote: Remote = field(default_factory=lambda: Remote(Jobs(default_root())))

    @classmethod
    def at(cls, root: Path | None, data_root: Path | None) -> Training:
        """The runs in `root` (None: the default folder), with the data sets in `data_root`."""
        jobs = Jobs(root or default_root(), data_root)
        return cls(jobs, policy(), Remote(jobs))

    def watch(self) -> None:
        """Tend the line and follow what runs elsewhere, for as long as this process lives."""
        self.jobs.watch()
        self.remote.watch()

    def permit(self) -> Jobs:
        """The runs, to be changed.

        Raises:
            JobError: training is off here; the message says why.
        """
        if not self.policy.allowed:
            raise JobError(self.policy.reason)
        return self.jobs

    def start(self, name: str, config: TrainConfig, device: str) -> Job:
        """Start a run on this machine, or put it in line.

        Raises:
            JobError: it cannot be started, in words for the screen.
        """
        jobs, name = self.permit(), str(name or "").strip()
        if self.policy.most_epochs and config.epochs > self.policy.most_epochs:
            raise JobError(
                f"Epochs is {config.epochs:g}; on this Space at most {self.policy.most_epochs:g} are allowed"
            )
        if self.policy.most_bytes and size_of(jobs.root) > self.policy.most_bytes:
            raise JobError("The runs on this Space fill the room they may take; delete one first")
        if config.data_dir and not self.policy.own_folders:
            raise JobError("A folder of one's own can be named only where the Studio runs on one's own machine")
        if not config.data_dir and not data.available(config.dataset, jobs.data_root):
            title = dataset_title(config.dataset)
            raise JobError(f"{title} is not on this machine yet; press the button that gets it first")
        return jobs.start(name, config, device)

    def start_remotely(self, name: str, config: TrainConfig, flavor: str, token: str) -> Job:
        """Start a run on Hugging Face Jobs; the token is not stored.

        Raises:
            JobError, HubError: it cannot be started, in words for the screen.
        """
        self.permit()
        return self.remote.start(str(name or "").strip(), config, flavor, token)

    def stop(self, name: str) -> Job:
        """Stop a run, wherever it is."""
        return (self.remote if self.permit().get(name).remote else self.jobs).stop(name)

    def resume(self, name: str, token: str) -> Job:
        """Resume a run where it was."""
        if self.permit().get(name).remote:
            return self.remote.resume(name, token)
        return self.jobs.resume(name)

    def bases(self) -> dict[str, Base]:
        """Each run as something to start a form from."""
        found = {}
        for job in self.jobs.all():
            try:
                found[job.name] = run_base(job.name, job.config(), job.folder.path)
            except (RunError, ConfigError) as error:
                log.warning("%s cannot be duplicated: %s", job.name, error)
        return found


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def left_out(jobs: Jobs) -> dict[str, str]:
    """The run folders that cannot be shown, each with the reason, without folders of this machine."""
    return {name: reason.replace(f"{jobs.root}/", "") for name, reason in jobs.look()[1].items()}


# What a run has done


def metrics(job: Job) -> list[dict[str, Any]]:
    """The lines of its `metrics.jsonl` that fit, read again when the file has changed."""
    return _metrics(job.folder.path, _changed(job.folder.path / "metrics.jsonl"))[0]


def left_out_lines(job: Job) -> str:
    """How many lines of its `metrics.jsonl` do not fit and why the first one does not; empty where all do."""
    found = _metrics(job.folder.path, _changed(job.folder.path / "metrics.jsonl"))[1]
    if not found:
        return ""
    lines = "1 line" if len(found) == 1 else f"{len(found)} lines"
    return f"{lines} of its figures cannot be used and {'is' if len(found) == 1 else 'are'} left out: {found[0]}"


@lru_cache(maxsize=64)
def _metrics(path: Path, changed: int) -> tuple[list[dict[str, Any]], list[str]]:
    return RunFolder(path).read_metrics()


def row(job: Job) -> dict[str, Any]:
    """A run in a row, as the endpoint `/runs` gives it."""
    rows = metrics(job)
    looks = [r for r in rows if r.get("kind") == "evaluation"]
    last = looks[-1] if looks else {}
    config = _config_or_none(job)
    return {
        "id": job.name,
        "state": job.state,
        "place": job.place,
        "error": _shared(job, job.error),
        "dataset": config.dataset if config else None,
        "defense": config.defense_name if config else None,
        "progress": 1.0 if job.state == "finished" else round(job.progress, 4),
        "epoch": job.status.get("epoch"),
        "epochs": config.epochs if config else None,
        "seconds_left": job.seconds_left,
        "natural_accuracy": last.get("natural_accuracy"),
        "robust_accuracy": last.get("robust_accuracy"),
    }


def detail(job: Job) -> dict[str, Any]:
    """A run with its curves and the end of its log, as the endpoint `/run` gives it."""
    config = _config_or_none(job)
    found = {**row(job), "config": to_json(config) if config else None, **curves(job), "log": log_lines(job)}
    return without_path(without_path(found, config.data_dir if config else None), job.folder.path)


def curves(job: Job) -> dict[str, dict[str, list[Any]]]:
    """Columns over training: `training` (a point a logged step) and `evaluation` (a point a look)."""
    rows = metrics(job)
    steps = [r for r in rows if r.get("kind") == "training"]
    looks = [r for r in rows if r.get("kind") == "evaluation"]
    a_step = steps[-1]["epoch"] / steps[-1]["step"] if steps else 0.0
    names = ("epoch", "step", "phase", *_LOSSES, "entropy_clean", "learning_rate", "images_per_second")
    seen = [k for k in (looks[-1] if looks else {}) if k not in ("kind", "step", "images")]
    evaluation = {k: [r.get(k) for r in _thinned(looks)] for k in ("step", *seen)}
    evaluation["epoch"] = [a_step * step for step in evaluation["step"]]
    return {"training": {k: [r.get(k) for r in _thinned(steps)] for k in names}, "evaluation": evaluation}


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most so many of the rows, evenly, the last always among them."""
    if len(rows) <= MOST_POINTS:
        return rows
    chosen = {round(i * (len(rows) - 1) / (MOST_POINTS - 1)) for i in range(MOST_POINTS)}
    return [rows[i] for i in sorted(chosen)]


def class_count(job: Job) -> int:
    """How many classes it tells apart."""
    config = _config_or_none(job)
    return config.model.classes if config else 10


def log_lines(job: Job, lines: int = 14) -> list[str]:
    """The end of the log for people: without tracebacks and without folders of this machine."""
    kept, inside = [], False
    for line in job.log_tail(200):
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif not (inside and line.startswith(" ")):
            inside = False
            kept.append(line.replace(str(job.folder.path), f"runs/{job.name}"))
    return [_shared(job, line) for line in kept[-lines:]]


def _shared(job: Job, text: str | None) -> str | None:
    """A text of a run without the paths of this machine."""
    config = _config_or_none(job)
    return without_path(text, config.data_dir if config else None)


def title(job: Job) -> str:
    """A run in a line of the list."""
    said = row(job)
    parts = [f"{job.name} · {state_words(job)}"]
    if job.state == "running" and said["seconds_left"] is not None:
        parts.append(f"{duration(said['seconds_left'])} left")
    if said["natural_accuracy"] is not None:
        parts.append(f"natural {percent(said['natural_accuracy'])}, robust {percent(said['robust_accuracy'])}")
    return " · ".join(parts)


def state_words(job: Job) -> str:
    """Its state in a word or two."""
    if job.state == "queued":
        return "next in line" if job.place == 1 else f"number {job.place} in line"
    if job.state == "running" and job.remote and job.remote.get("stage") != "RUNNING":
        return "waiting for a machine at Hugging Face"
    if job.state == "running" and not job.status.get("total_steps"):
        return "starting"
    if job.state == "running" and job.progress == 1:
        return "saving the ensemble"
    word = _WORDS[job.state]
    return f"{word}, {100 * job.progress:.0f} %" if job.state in ("running", "stopping", "stopped") else word


def duration(seconds: float) -> str:
    """A stretch of time for the eye.

    >>> duration(42), duration(400), duration(9000), duration(400_000)
    ('42 s', '7 min', '2 h 30 min', '4 d 15 h')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def stamp(jobs: Sequence[Job]) -> tuple[Any, ...]:
    """Changes whenever something that is shown of these runs does."""
    files = ("status.json", "metrics.jsonl", "log.txt", "job.json", "latest/config.json", "checkpoint/config.json")
    return tuple((job.name, job.state, job.place, *(_changed(job.folder.path / f) for f in files)) for job in jobs)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _config_or_none(job: Job) -> TrainConfig | None:
    try:
        return job.config()
    except (RunError, ConfigError):
        return None


# What can be done with a run


def estimate(config: TrainConfig, device: str) -> dict[str, Any]:
    """Time and memory from a probe in a process like the trainer's; see `cce.training.probe.estimate`.

    Raises:
        JobError: the probe failed; the message says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(to_json(config)), encoding="utf-8")
        threads = str(max(1, (os.cpu_count() or 2) - 1))
        command = [sys.executable, "-m", "cce", "train", "--config", str(path), "--estimate"]
        command += ["--device", device, "--threads", threads]
        root = Path(__file__).resolve().parents[2]
        try:
            done = subprocess.run(
                command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ESTIMATE_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise JobError("the probe took too long: this machine is too slow for these settings, or busy") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].partition(": ")[2] if lines else "no reason given"
        raise JobError(f"the probe failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def estimate_words(said: dict[str, Any], busy: bool) -> str:
    """The estimate in a sentence."""
    memory = said["memory_bytes"] / 1e6
    room = f"{memory:,.0f} MB" if memory < 1000 else f"{memory / 1000:.1f} GB"
    words = f"About {duration(said['seconds'])} ({said['images_per_second']:,.0f} images/s) and {room} of memory."
    return f"{words} Another run is going on, which slows the probe." if busy else words


def zipped(job: Job, folder: Path) -> Path:
    """The run's ensemble as a zip file in `folder`.

    Raises:
        JobError: it has no ensemble yet.
    """
    if job.checkpoint is None:
        raise JobError(f"{job.name} has no ensemble yet; press Use in the Studio first")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{job.name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in job.checkpoint.rglob("*") if p.is_file() and not p.name.startswith(".")):
            archive.write(file, f"{job.name}/{file.relative_to(job.checkpoint)}")
    return path
