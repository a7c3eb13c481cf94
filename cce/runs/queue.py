"""Jobs: training runs in the background, one at a time, the rest in line; run folders are the only link.

Each trainer is a process of its own, in a session of its own, its output in `log.txt`. Nothing is kept
in memory: whoever opens the same folder sees the same jobs, and a lock file lets one change them at a
time.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.config import TrainConfig, to_json
from cce.data import class_folders
from cce.evaluation.presets import export
from cce.machine import locks
from cce.models import Ensemble
from cce.reporting.cards import save_with_card
from cce.runs.background import cores, reap, repeat, send, spawn
from cce.runs.job import LIVE, Job, JobError, latest_folder, read_job, write_record
from cce.training.averaging import released_at
from cce.training.run_folder import RunError, RunFolder, process_start
from cce.training.state import AVERAGE, under

CPU = torch.device("cpu")

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""How long a trainer may take to stop before it is killed."""

SPARE_BYTES = 200_000_000
"""What must be left on the disk beside a run's own files."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,59}")


def is_run_name(name: str) -> bool:
    """Whether a run folder of this name is listed.

    >>> is_run_name("my-run_2"), is_run_name("my run")
    (True, False)
    """
    return bool(_NAME.fullmatch(name))


class Jobs:
    """The runs in one folder.

    Args:
        root: folder of the run folders; made when the first run is started.
        data_root: folder of the data sets (None: `CCE_DATA`, else the default one).
        at_once: how many run at a time.
    """

    def __init__(self, root: Path | str, data_root: Path | None = None, at_once: int = 1) -> None:
        self.root = Path(root).expanduser().absolute()
        self.data_root = data_root
        self.at_once = at_once

    # Looking

    def all(self) -> list[Job]:
        """Every run: live ones first, then those in line, then the others, the newest first."""
        return self.look()[0]

    def look(self) -> tuple[list[Job], dict[str, str]]:
        """Every run, as `all` gives them; and the folders that are left out, with the reason."""
        found, left_out = [], {}
        for path in self._folders():
            try:
                if job := read_job(path):
                    found.append(job)
            except RunError as error:
                left_out[path.name] = str(error)
            except Exception as error:  # whatever is in one folder, the others stay
                log.exception("the run folder %s cannot be read", path)
                left_out[path.name] = f"it cannot be read ({type(error).__name__})"
        in_line = [job.name for job in sorted(found, key=lambda j: j.asked_at) if job.state == "queued"]
        placed = [job.placed(in_line) for job in found]
        return sorted(placed, key=lambda j: (not j.live, j.place or 1e9, -j.created)), left_out

    def get(self, name: str | None) -> Job:
        """The run of that name.

        Raises:
            JobError: there is none.
        """
        jobs, left_out = self.look()
        for job in jobs:
            if job.name == name:
                return job
        if isinstance(name, str) and name in left_out:
            raise JobError(f"the run {name} cannot be read: {left_out[name]}")
        raise JobError(f"there is no run called {name!r}")

    def checkpoints(self) -> list[Path]:
        """The folders of the ensembles that the runs have made so far."""
        return [job.checkpoint for job in self.all() if job.checkpoint]

    # Changing

    def start(self, name: str, config: TrainConfig, device: str = "auto") -> Job:
        """Make a run and put it in line; it starts at once where nothing runs.

        Raises:
            JobError: a name that cannot be used or is taken, or no room on the disk.
        """
        with self.making(name, config) as folder:
            folder.create(to_json(config))
            record = {"created": time.time(), "state": "waiting", "asked_at": time.time(), "device": device}
            write_record(folder, {**record, "command": self._command(folder, device)})
        self.tend()
        return self.get(name)

    @contextlib.contextmanager
    def making(self, name: str, config: TrainConfig) -> Iterator[RunFolder]:
        """A new run's folder, to be filled inside; gone again where that fails.

        Raises:
            JobError: a name that cannot be used or is taken, or no room on the disk.
        """
        self._check_name(name)
        self._check_room(config)
        with self._changing():
            self._refuse_taken(name)
            folder = RunFolder(self.root / name)
            try:
                yield folder
            except BaseException as error:
                shutil.rmtree(folder.path, ignore_errors=True)
                cause = error if isinstance(error, OSError) else error.__cause__
                if isinstance(cause, OSError):
                    raise JobError(f"the run could not be written: {cause.strerror}") from error
                raise

    def stop(self, name: str) -> Job:
        """Ask a run to save and stop; `tend` insists after `GRACE_SECONDS`. One in line leaves it."""
        with self._changing():
            job = self.get(name)
            self._refuse_remote(job)
            if job.state == "queued":
                write_record(job.folder, {**job.record, "state": "stopped"})
            elif job.live:
                write_record(job.folder, {**job.record, "stop_asked": job.record.get("stop_asked") or time.time()})
                _send(job, signal.SIGTERM)
            else:
                raise JobError(f"{name} is not running")
        return self.get(name)

    def resume(self, name: str) -> Job:
        """Put a run that was stopped or has failed in line again; it goes on from its last saved state.

        Raises:
            JobError: it runs, waits or has finished, or there is no room on the disk.
        """
        with self._changing():
            job = self.get(name)
            if job.state in (*LIVE, "queued", "finished"):
                words = {"queued": "already waits in line", "finished": "has finished"}
                raise JobError(f"{name} {words.get(job.state, 'is running')}")
            self._refuse_remote(job)
            self._check_room(job.config())
            device = job.record.get("device", "auto")
            fresh = {"created": job.record.get("created", time.time()), "state": "waiting", "asked_at": time.time()}
            write_record(job.folder, {**fresh, "device": device, "command": self._command(job.folder, device)})
            self._tend()
        return self.get(name)

    def rename(self, name: str, new: str) -> Job:
        """Give a run that is not running another name, and its ensemble too."""
        self._check_name(new)
        with self._changing():
            job = self.get(name)
            if job.live or job.state == "queued":
                raise JobError(f"{name} is running or in line; stop it before it gets another name")
            self._refuse_taken(new)
            job.folder.path.rename(self.root / new)
            folder = RunFolder(self.root / new)
            ids = {folder.checkpoint: new, latest_folder(folder): new, folder.best_checkpoint: f"{new}-best"}
            for made, named in ids.items():
                if (made / "config.json").exists():
                    checkpoint = checkpoints.load(made)
                    checkpoint.id = named
                    save_with_card(checkpoint, made)
        return self.get(new)

    def delete(self, name: str) -> None:
        """Remove a run that is not running, with its ensemble; of a symbolic link, the link alone."""
        with self._changing():
            job = self.get(name)
            if job.live:
                raise JobError(f"{name} is running; stop it before you delete it")
            if job.folder.path.is_symlink():  # what it points to is not ours to delete
                job.folder.path.unlink()
                return
            gone = self.root / f".deleted-{name}-{time.time_ns()}"
            job.folder.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def export_latest(self, name: str) -> Checkpoint:
        """Export the last saved state of a run that has not finished, its detector calibrated.

        Raises:
            JobError: nothing was saved yet.
            DataError: the data set, which calibrates the detector, is not there.
        """
        job = self.get(name)
        config = job.config()
        saved = job.folder.load_state()
        if saved is None:
            raise JobError(f"{name} has not saved a state yet; try again in a moment")
        tensors, step = saved
        dataset = class_folders.of_config(config, self.data_root, run=job.folder.path)
        model = Ensemble(config.model)
        model.load_state_dict(under(AVERAGE if config.ema_decay else "model/", tensors))
        if config.ema_decay:
            model = released_at(model, dataset, config, step)
        machines, started_from = job.folder.machines(), job.folder.started_from()
        snapshot = Snapshot(model, config, step, float(tensors["seconds"]), CPU, machines, started_from)
        checkpoint = export(snapshot, dataset, name)
        save_with_card(checkpoint, latest_folder(job.folder))
        return checkpoint

    def free_name(self, wanted: str) -> str:
        """`wanted`, or with the first number that is not taken."""
        taken = {path.name for path in self._folders()}
        base = re.sub(r"-\d+$", "", wanted)[:56]
        names = (wanted, *(f"{base}-{i}" for i in range(2, 10_000)))
        return next(n for n in names if n not in taken)

    # Tending

    def tend(self, besides: int | None = None) -> None:
        """Start what is next in line, and end what did not stop when asked.

        Args:
            besides: process id of a trainer that counts as gone: the caller, at its end.
        """
        if self.root.is_dir():
            with self._changing():
                self._tend(besides)

    def watch(self, seconds: float = 1.0) -> threading.Thread:
        """Tend for as long as this process lives, in a thread that does not keep it alive."""
        return repeat(self.tend, seconds, "jobs")

    def _tend(self, besides: int | None = None) -> None:
        reap()
        jobs = self.all()
        for job in jobs:
            asked = job.record.get("stop_asked")
            if asked and time.time() - asked > GRACE_SECONDS:
                _send(job, signal.SIGKILL)
        running = [job for job in jobs if job.live and not job.remote and job.process[0] != besides]
        waiting = [job for job in jobs if job.state == "queued"]
        for job in waiting[: max(0, self.at_once - len(running))]:
            self._spawn(job)

    def _spawn(self, job: Job) -> None:
        """Start the trainer."""
        started = {**job.record, "state": "started", "started_at": time.time()}
        try:
            command = job.record.get("command") or self._command(job.folder, job.record.get("device", "auto"))
            pid = spawn(command, job.folder.path / "log.txt")
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the command
            reason = getattr(error, "strerror", None) or str(error)
            write_record(job.folder, {**started, "error": f"it could not be started: {reason}"})
            return
        write_record(job.folder, {**started, "pid": pid, "pid_start": process_start(pid), "leads": True})

    def _command(self, folder: RunFolder, device: str) -> list[str]:
        threads = max(1, cores() - 1)  # one core stays free for the Studio
        command = [sys.executable, "-m", "cce", "train", "--run", str(folder.path), "--device", device]
        command += ["--threads", str(threads), "--next"]
        return [*command, "--data", str(Path(self.data_root).absolute())] if self.data_root else command

    # Checking

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return [p for p in self.root.iterdir() if p.is_dir() and _NAME.fullmatch(p.name) and p.name[0] != "."]

    def _check_name(self, name: str) -> None:
        name = str(name or "")
        if not name:
            raise JobError("the run needs a name")
        if len(name) > 60:
            raise JobError(f"the name has {len(name)} characters; at most 60 are possible")
        if not _NAME.fullmatch(name) or (self.root / name).parent != self.root:
            shown = name if name.isprintable() else "that name"
            raise JobError(
                f"{shown} cannot be a run's name; letters without accents, digits, dots, _ and - can, and no dot first"
            )

    def _refuse_remote(self, job: Job) -> None:
        if job.remote:
            raise JobError(f"{job.name} is on Hugging Face Jobs; it is stopped and resumed there")

    def _refuse_taken(self, name: str) -> None:
        if (self.root / name).exists():
            raise JobError(f"there is already a run called {name}; try {self.free_name(name)}")

    def _check_room(self, config: TrainConfig) -> None:
        """Refuse where the weights, the optimizer's moments and a copy of both would not fit."""
        with torch.device("meta"):
            size = sum(p.numel() for p in Ensemble(config.model).parameters())
        needed = 4 * size * 10 + SPARE_BYTES
        place = next(p for p in (self.root, *self.root.parents) if p.exists())
        free = shutil.disk_usage(place).free
        if free < needed:
            raise JobError(
                f"the disk is full: the run needs {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free; make room"
            )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One at a time, over all processes that use this folder."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("w")
        except OSError as error:
            raise JobError(f"the folder of the runs cannot be written: {error.strerror}") from error
        with lock:
            locks.lock(lock.fileno())
            yield


@dataclass
class Snapshot:
    """What `presets.export` needs of a trainer, from a saved state."""

    released: Ensemble
    config: TrainConfig
    step: int
    seconds: float
    device: torch.device = CPU
    machines: tuple[str, ...] = ()
    started_from: dict[str, Any] | None = None


def _send(job: Job, number: signal.Signals) -> None:
    """A signal to the trainer; the last one to its whole session."""
    pid, leads = job.process
    if pid:
        send(pid, number, session=leads and number == signal.SIGKILL)
