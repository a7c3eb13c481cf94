"""Job: a training run as it is now, told from its folder alone, and whether its trainer is there.

`job.json` (the record: what was asked for, and the process that was started) stands beside the trainer's
own `status.json`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cce.config import TrainConfig, from_json
from cce.config.shapes import Misfit
from cce.machine.files import write_atomically
from cce.runs.background import alive
from cce.training.run_folder import RunError, RunFolder
from cce.training.run_record import JOB, STATUS, read_record

LIVE = ("running", "stopping")


class JobError(RunError):
    """Something that cannot be done with a run; the message is for people."""


@dataclass(frozen=True)
class Job:
    """A run as it is now.

    `state` is one of `cce.training.run_folder.STATES`; `error` says why it failed. `status` is the trainer's own word
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
    def process(self) -> tuple[int | None, bool]:
        """Id of the live process, None where there is none, and whether it leads a session of its own."""
        return _process(self.record, self.status)

    @property
    def asked_at(self) -> float:
        """When it was put in line."""
        return self.record.get("asked_at", 0.0)

    @property
    def created(self) -> float:
        """When it was made."""
        return self.record.get("created") or (self.folder.path / "config.json").stat().st_mtime

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

    def placed(self, in_line: list[str]) -> Job:
        """The same, with its place among the names that wait."""
        return replace(self, place=in_line.index(self.name) + 1 if self.name in in_line else None)


def read_job(path: Path) -> Job | None:
    """A run from its files, None for a folder that is no run.

    Raises:
        JobError: a file of another shape; the message names it.
    """
    folder = RunFolder(path)
    if not (path / "config.json").exists():
        return None
    try:
        record, status = read_record(path / "job.json", JOB), read_record(path / "status.json", STATUS)
    except Misfit as error:
        raise JobError(str(error)) from error
    state, error = _state(record, status)
    if state == "finished" and not (folder.checkpoint / "config.json").exists():
        state, error = "failed", "it was trained, but its ensemble was not saved; resume it to save it"
    return Job(path.name, folder, state, status, record, error)


def latest_folder(folder: RunFolder) -> Path:
    """Where the latest state of a run that has not finished is exported to."""
    return folder.path / "latest"


def write_record(folder: RunFolder, record: dict[str, Any]) -> None:
    """Replace a run's `job.json`."""
    write_atomically(folder.path / "job.json", json.dumps(record, indent=1) + "\n")


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


def _state(record: dict[str, Any], status: dict[str, Any]) -> tuple[str, str | None]:
    """State and error, from what was asked, what the trainer said, and whether its process is there."""
    if record.get("state") == "waiting":
        return "queued", None
    if record.get("remote"):
        return _remote_state(record["remote"], status)
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


def _remote_state(remote: dict[str, Any], status: dict[str, Any]) -> tuple[str, str | None]:
    """State and error of a run on Hugging Face Jobs, as it was seen last."""
    stage = remote.get("stage", "SCHEDULING")
    if stage in ("SENDING", "SCHEDULING", "RUNNING"):
        return ("stopping" if remote.get("stop_asked") else "running"), None
    said = status.get("state")
    if said in ("finished", "failed"):
        return said, status.get("error", "").partition(": ")[2] or None
    if stage == "ERROR":
        return "failed", remote.get("message") or "the job on Hugging Face failed; its page there has the log"
    return "stopped", None


def _process(record: dict[str, Any], status: dict[str, Any]) -> tuple[int | None, bool]:
    for said in (record, status):
        if alive(said.get("pid"), said.get("pid_start")):
            return said["pid"], bool(record.get("leads") and said["pid"] == record.get("pid"))
    return None, False


def _is_of_last_attempt(record: dict[str, Any], status: dict[str, Any]) -> bool:
    same = (status.get("pid"), status.get("pid_start")) == (record.get("pid"), record.get("pid_start"))
    return same or status.get("heartbeat", 0) > record.get("started_at", 0)
