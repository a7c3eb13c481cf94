"""Run folders: `runs/<id>/` as the only link between a trainer and whoever watches it.

`config.json`, `status.json`, `metrics.jsonl`, `log.txt`, `last/` (resumable state), `best/` (the best
weights so far), `checkpoint/` and `checkpoint-best/` (the exported ensembles). Every file is written
beside, flushed and renamed, so that a kill at any moment leaves the last good one.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cce.config import ConfigError, TrainConfig, from_json, to_json
from cce.config.json_files import JsonError, read_json
from cce.config.shapes import Misfit
from cce.machine import locks
from cce.machine.files import write_atomically, written_beside
from cce.training.run_record import STATES as STATES
from cce.training.run_record import STATUS, metrics_rows, read_record


class RunError(RuntimeError):
    """A run folder that cannot be used; the message names the file and the way out."""


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Say in words that `what` cannot be written.

    Raises:
        RunError: instead of an error of the disk.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = reason.removeprefix("I/O error: ")
        raise RunError(
            f"cannot write {what}: {reason}; what was saved before is kept. "
            "Make room, or give another folder, and run the same command again"
        ) from error


def process_start(pid: int) -> float | None:
    """Start time of a process in clock ticks since boot (Linux), so that a reused id is told apart; else None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return float(stat.rpartition(")")[2].split()[19])


class RunLock:
    """The system's lock (flock) on a run folder: it ends with its process, however that ends, and leaves no file."""

    def __init__(self, folder: RunFolder) -> None:
        self._place = os.open(folder.path, os.O_RDONLY) if locks.AVAILABLE else -1
        try:
            locks.lock(self._place, wait=False)
        except BlockingIOError:
            self.close()
            who = folder.status().get("pid")
            raise RunError(
                f"another trainer{f' (process {who})' if who else ''} is at work in {folder.path}; "
                "let it end or stop it, or take another folder"
            ) from None
        except OSError:
            return  # a file system without locks; a run is more than a lock

    def close(self) -> None:
        """Let others in."""
        if self._place >= 0:
            os.close(self._place)
        self._place = -1


class RunFolder:
    """One run's folder; making the object makes no file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def checkpoint(self) -> Path:
        """Where the exported ensemble of the last step lies."""
        return self.path / "checkpoint"

    @property
    def best_checkpoint(self) -> Path:
        """Where the exported ensemble of the best step lies, where that is not the last one."""
        return self.path / "checkpoint-best"

    def state_file(self, kind: str = "last") -> Path:
        """The state of a kind: `last`, which a run resumes from, or `best`, which holds weights alone."""
        return self.path / kind / "state.safetensors"

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder and write `config.json`.

        Raises:
            RunError: a folder that cannot be written, or one that holds another run's config.
        """
        config_file = self.path / "config.json"
        with refusing(f"the run folder {self.path}"):
            (self.path / "last").mkdir(parents=True, exist_ok=True)
            if not config_file.exists():
                write_atomically(config_file, json.dumps(config, indent=1) + "\n")
        found, asked = (_with_new_fields(values) for values in (self.config(), config))
        differs = [name for name in found if name in asked and found[name] != asked[name]]
        if differs:
            raise RunError(
                f"{config_file} is another run's: its {', '.join(differs)} differs; "
                "take the same settings to resume it, or another folder"
            )

    def lock(self) -> RunLock:
        """Keep every other trainer out of this folder until the lock is closed, or its process is gone.

        Raises:
            RunError: another trainer is at work here.
        """
        return RunLock(self)

    def config(self) -> dict[str, Any]:
        """The run's config as it was written.

        Raises:
            RunError: it cannot be read.
        """
        path = self.path / "config.json"
        try:
            values = read_json(path, finite=True)
        except (OSError, JsonError) as error:
            raise RunError(f"{path} cannot be read ({error}); start the run anew") from error
        if not isinstance(values, dict):
            raise RunError(f"{path} is not a JSON object; start the run anew")
        return values

    def write_status(self, state: str, **more: Any) -> None:
        """Replace `status.json`: the state, this process with its start time, a heartbeat, and `more`."""
        pid = os.getpid()
        status = {
            "state": state,
            "pid": pid,
            "pid_start": process_start(pid),
            "heartbeat": time.time(),
            **more,
        }
        with refusing(f"{self.path / 'status.json'}"):
            write_atomically(self.path / "status.json", json.dumps(status) + "\n")

    def status(self) -> dict[str, Any]:
        """`status.json`, or state `queued` where there is none yet, or none that can be read."""
        try:
            return read_record(self.path / "status.json", STATUS) or {"state": "queued"}
        except Misfit:
            return {"state": "queued"}

    def machines(self) -> tuple[str, ...]:
        """The machines that have worked on the run, in turn."""
        try:
            names = read_json(self.path / "machines.json")
        except (OSError, JsonError):
            return ()
        return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()

    def note_machine(self, name: str, anew: bool = False) -> None:
        """Add a machine to the list of those that worked on the run; `anew` begins the list again."""
        before = () if anew else self.machines()
        if before[-1:] != (name,):
            with refusing(f"{self.path / 'machines.json'}"):
                write_atomically(self.path / "machines.json", json.dumps([*before, name]) + "\n")

    def note_start(self, record: dict[str, Any]) -> None:
        """Write down which checkpoint's weights the run starts from."""
        with refusing(f"{self.path / 'init.json'}"):
            write_atomically(self.path / "init.json", json.dumps(record) + "\n")

    def started_from(self) -> dict[str, Any] | None:
        """What `note_start` wrote down; None where the run started from random weights."""
        try:
            return json.loads((self.path / "init.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def log_metrics(self, row: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        path = self.path / "metrics.jsonl"
        with refusing(str(path)), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of `metrics.jsonl` that fit; a half-written last line is passed over."""
        return self.read_metrics()[0]

    def read_metrics(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The lines of `metrics.jsonl` that fit, and in words those that do not."""
        try:
            content = (self.path / "metrics.jsonl").read_bytes()
        except FileNotFoundError:
            return [], []
        except OSError as error:
            return [], [f"metrics.jsonl: {error.strerror}"]
        return metrics_rows(content.decode("utf-8", "replace").splitlines())

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        kept = [json.dumps(row) for row in self.metrics() if row["step"] <= step]
        with refusing(f"{self.path / 'metrics.jsonl'}"):
            write_atomically(self.path / "metrics.jsonl", "".join(line + "\n" for line in kept))

    def save_state(self, tensors: dict[str, Tensor], step: int, kind: str = "last") -> None:
        """Replace the state of a kind (see `state_file`), atomically. Never a pickle.

        Raises:
            RunError: it cannot be written; the one before is kept.
        """
        path = self.state_file(kind)
        contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        with refusing(str(path)):
            path.parent.mkdir(exist_ok=True)
            with written_beside(path, self.path) as beside:  # a copy of last/ is made while it is written
                save_file(contiguous, beside, metadata={"step": str(step)})

    def has_state(self) -> bool:
        """Whether a resumable state was saved."""
        return self.state_file().exists()

    def load_state(self, kind: str = "last") -> tuple[dict[str, Tensor], int] | None:
        """The state of a kind and its step, or None where none was saved.

        Raises:
            RunError: a state file that cannot be read.
        """
        path = self.state_file(kind)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, int(file.metadata()["step"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            way_out = "remove it to start from the beginning" if kind == "last" else "remove it to go on without"
            raise RunError(f"{path} is damaged ({error}); {way_out}") from error


def _with_new_fields(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config as plain values, with defaults for the fields that are newer than it is."""
    try:
        return json.loads(json.dumps(to_json(from_json(TrainConfig, config))))
    except ConfigError:
        return json.loads(json.dumps(config))
