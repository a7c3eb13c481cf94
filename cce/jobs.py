"""Jobs: training runs in the background, one at a time, the rest in line; run folders are the only link.

Each trainer is a process of its own, in a session of its own, its output in `log.txt`. Nothing is kept
in memory: whoever opens the same folder sees the same jobs, and a lock file lets one change them at a
time. `job.json` beside the trainer's own `status.json` holds what was asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cce import checkpoints, data
from cce.checkpoints import Checkpoint
from cce.config import TrainConfig, from_json, to_json
from cce.models import Ensemble
from cce.presets import export
from cce.runs import RunError, RunFolder, process_start, write_atomically

GRACE_SECONDS = 10.0
"""How long a trainer may take to stop before it is killed."""

SPARE_BYTES = 200_000_000
"""What must be left on the disk beside a run's own files."""

LIVE = ("running", "stopping")
_NICENESS = 10
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,59}")
_children: list[subprocess.Popen[bytes]] = []


class JobError(RunError):
    """Something that cannot be done with a run; the message is for people."""


@dataclass(frozen=True)
class Job:
    """A run as it is now.

    `state` is one of `cce.runs.STATES`; `error` says why it failed. `status` is the trainer's own word
    on its last step, `record` what was asked for, `place` where it waits in line, from 1.
    """

    name: str
    folder: RunFolder
    state: str
    status: dict[str, Any]
    record: dict[str, Any]
    error: str | None = None
    place: int | None = None

    @property
    def live(self) -> bool:
        """Whether its process is there."""
        return self.state in LIVE

    @property
    def remote(self) -> dict[str, Any] | None:
        """What is known of it on Hugging Face Jobs, None for a run on this machine."""
        return self.record.get("remote")

    @property
    def progress(self) -> float:
        """Fraction of the steps done."""
        total = self.status.get("total_steps")
        return min(1.0, self.status.get("step", 0) / total) if total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Training time that is left, None where it is not known."""
        return self.status.get("seconds_left") if self.state == "running" else None

    @property
    def silent_seconds(self) -> float:
        """Time since a live trainer's last sign of life."""
        last = max(self.status.get("heartbeat", 0), self.record.get("started_at", 0))
        return max(0.0, time.time() - last) if self.live and last else 0.0

    @property
    def checkpoint(self) -> Path | None:
        """The folder of its ensemble: the finished one, else the latest state that was exported."""
        for folder in (self.folder.checkpoint, latest_folder(self.folder)):
            if (folder / "config.json").exists():
                return folder
        return None

    def config(self) -> TrainConfig:
        """What it trains.

        Raises:
            RunError, ConfigError: a config that cannot be read.
        """
        return from_json(TrainConfig, self.folder.config())

    def log_tail(self, lines: int = 12) -> list[str]:
        """The last lines of `log.txt`, a progress bar as its last state."""
        return tail(self.folder.path / "log.txt", lines)


def latest_folder(folder: RunFolder) -> Path:
    """Where the latest state of a run that has not finished is exported to."""
    return folder.path / "latest"


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a text file; of a line that was overwritten with carriage returns, what is seen."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    seen = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line for line in seen if line][-lines:]


def alive(pid: int | None, start: float | None) -> bool:
    """Whether a process is there and is the one that was meant, not a later one with its id."""
    if not pid:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return not Path("/proc/self/stat").exists() and _answers(pid)
    ended = stat.rpartition(")")[2].split()[0] in "ZX"
    return not ended and process_start(pid) == start


def _answers(pid: int) -> bool:
    """Whether a process of that id is there, where the system tells no more."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


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
        found = [job for job in map(self._look, self._folders()) if job]
        in_line = [job.name for job in sorted(found, key=_asked) if job.state == "queued"]
        placed = [_placed(job, in_line) for job in found]
        return sorted(placed, key=lambda j: (not j.live, j.place or 1e9, -_made(j)))

    def get(self, name: str | None) -> Job:
        """The run of that name.

        Raises:
            JobError: there is none.
        """
        for job in self.all():
            if job.name == name:
                return job
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
            for made in (folder.checkpoint, latest_folder(folder)):
                if (made / "config.json").exists():
                    checkpoint = checkpoints.load(made)
                    checkpoint.id = new
                    checkpoints.save(checkpoint, made)
        return self.get(new)

    def delete(self, name: str) -> None:
        """Remove a run that is not running, with its ensemble."""
        with self._changing():
            job = self.get(name)
            if job.live:
                raise JobError(f"{name} is running; stop it before you delete it")
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
        model = Ensemble(config.model)
        model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        snapshot = Snapshot(model, config, step, float(tensors["seconds"]))
        checkpoint = export(snapshot, data.load(config.dataset, self.data_root), name)  # type: ignore[arg-type]
        checkpoints.save(checkpoint, latest_folder(job.folder))
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

        def keep_tending() -> None:
            while True:
                with contextlib.suppress(OSError, RunError):
                    self.tend()
                time.sleep(seconds)

        thread = threading.Thread(target=keep_tending, name="jobs", daemon=True)
        thread.start()
        return thread

    def _tend(self, besides: int | None = None) -> None:
        _children[:] = [child for child in _children if child.poll() is None]
        jobs = self.all()
        for job in jobs:
            asked = job.record.get("stop_asked")
            if asked and time.time() - asked > GRACE_SECONDS:
                _send(job, signal.SIGKILL)
        running = [
            job for job in jobs if job.live and not job.remote and _process(job.record, job.status)[0] != besides
        ]
        waiting = [job for job in jobs if job.state == "queued"]
        for job in waiting[: max(0, self.at_once - len(running))]:
            self._spawn(job)

    def _spawn(self, job: Job) -> None:
        """Start the trainer: no shell, no pipe, a session of its own, behind everything else in priority."""
        started = {**job.record, "state": "started", "started_at": time.time()}
        try:
            with (job.folder.path / "log.txt").open("ab") as log:
                child = subprocess.Popen(
                    job.record["command"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=Path(__file__).resolve().parents[1],
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,
                )
        except OSError as error:
            write_record(job.folder, {**started, "error": f"it could not be started: {error.strerror}"})
            return
        _children.append(child)
        with contextlib.suppress(OSError):
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, child.pid, max(own, _NICENESS))
        write_record(job.folder, {**started, "pid": child.pid, "pid_start": process_start(child.pid), "leads": True})

    def _command(self, folder: RunFolder, device: str) -> list[str]:
        threads = max(1, _cores() - 1)
        command = [sys.executable, "-m", "cce", "train", "--run", str(folder.path), "--device", device]
        command += ["--threads", str(threads), "--next"]
        return [*command, "--data", str(Path(self.data_root).absolute())] if self.data_root else command

    # Checking

    def _look(self, path: Path) -> Job | None:
        """A run from its files, None for a folder that is no run."""
        folder = RunFolder(path)
        if not (path / "config.json").exists():
            return None
        record, status = _read(path / "job.json"), _read(path / "status.json")
        state, error = _state(record, status)
        if state == "finished" and not (folder.checkpoint / "config.json").exists():
            state, error = "failed", "it was trained, but its ensemble was not saved; resume it to save it"
        return Job(path.name, folder, state, status, record, error)

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
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@dataclass
class Snapshot:
    """What `presets.export` needs of a trainer, from a saved state."""

    model: Ensemble
    config: TrainConfig
    step: int
    seconds: float
    device: torch.device = torch.device("cpu")


def _state(record: dict[str, Any], status: dict[str, Any]) -> tuple[str, str | None]:
    """State and error, from what was asked, what the trainer said, and whether its process is there."""
    if record.get("state") == "waiting":
        return "queued", None
    if record.get("remote"):
        from cce import remote

        return remote.state(record, status)
    pid, _ = _process(record, status)
    ended = status.get("pid") == pid and status.get("state") in ("stopped", "failed")  # all that is left is to exit
    if pid and not ended:
        return ("stopping" if record.get("stop_asked") else "running"), None
    if record.get("error"):
        return "failed", record["error"]
    said = status.get("state") if _is_of_last_attempt(record, status) else None
    if said == "failed":
        return "failed", status.get("error", "").partition(": ")[2] or "the trainer gave no reason"
    if said in ("finished", "stopped"):
        return said, None
    if record.get("stop_asked") or record.get("state") == "stopped" or not (record or status):
        return "stopped", None
    return "failed", "the trainer's process ended without a word: it was killed, or the machine went down"


def _process(record: dict[str, Any], status: dict[str, Any]) -> tuple[int | None, bool]:
    """Id of the run's live process, None where there is none, and whether it leads a session of its own."""
    for said in (record, status):
        if alive(said.get("pid"), said.get("pid_start")):
            return said["pid"], bool(record.get("leads") and said["pid"] == record.get("pid"))
    return None, False


def _is_of_last_attempt(record: dict[str, Any], status: dict[str, Any]) -> bool:
    same = (status.get("pid"), status.get("pid_start")) == (record.get("pid"), record.get("pid_start"))
    return same or status.get("heartbeat", 0) > record.get("started_at", 0)


def _send(job: Job, number: signal.Signals) -> None:
    """A signal to the trainer; the last one to its whole session."""
    pid, leads = _process(job.record, job.status)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if pid and leads and number == signal.SIGKILL:
            os.killpg(pid, number)
        elif pid:
            os.kill(pid, number)


def write_record(folder: RunFolder, record: dict[str, Any]) -> None:
    """Replace a run's `job.json`."""
    write_atomically(folder.path / "job.json", json.dumps(record, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _asked(job: Job) -> float:
    return job.record.get("asked_at", 0.0)


def _made(job: Job) -> float:
    return job.record.get("created") or (job.folder.path / "config.json").stat().st_mtime


def _placed(job: Job, in_line: list[str]) -> Job:
    place = in_line.index(job.name) + 1 if job.name in in_line else None
    return Job(job.name, job.folder, job.state, job.status, job.record, job.error, place)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
