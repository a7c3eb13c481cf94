"""Run folders: `runs/<id>/` as the only link between a trainer and whoever watches it.

`config.json`, `status.json`, `metrics.jsonl`, `log.txt`, `last/` (resumable state), `checkpoint/`
(the exported ensemble). Every file is written beside, flushed and renamed, so that a kill at any
moment leaves the last good one.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

STATES = ("queued", "running", "stopping", "stopped", "finished", "failed")


class RunError(RuntimeError):
    """A run folder that cannot be used; the message names the file and the way out."""


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader or a kill sees the old or the new file, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def process_start(pid: int) -> float | None:
    """Start time of a process in clock ticks since boot (Linux), so that a reused id is told apart; else None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return float(stat.rpartition(")")[2].split()[19])


class RunFolder:
    """One run's folder; making the object makes no file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def checkpoint(self) -> Path:
        """Where the exported ensemble lies."""
        return self.path / "checkpoint"

    @property
    def _state_file(self) -> Path:
        return self.path / "last" / "state.safetensors"

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder and write `config.json`.

        Raises:
            RunError: a folder that cannot be written, or one that holds another run's config.
        """
        try:
            (self.path / "last").mkdir(parents=True, exist_ok=True)
            config_file = self.path / "config.json"
            if not config_file.exists():
                write_atomically(config_file, json.dumps(config, indent=1) + "\n")
        except OSError as error:
            raise RunError(f"cannot write the run folder {self.path}: {error.strerror}") from error
        found, asked = self.config(), json.loads(json.dumps(config))
        differs = [name for name in found if name in asked and found[name] != asked[name]]
        if differs:
            raise RunError(
                f"{config_file} is another run's: its {', '.join(differs)} differs; "
                "take the same settings to resume it, or another folder"
            )

    def config(self) -> dict[str, Any]:
        """The run's config as it was written."""
        path = self.path / "config.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(f"{path} cannot be read ({error}); start the run anew") from error

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
        write_atomically(self.path / "status.json", json.dumps(status) + "\n")

    def status(self) -> dict[str, Any]:
        """`status.json`, or state `queued` where there is none yet."""
        try:
            return json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"state": "queued"}

    def log_metrics(self, row: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of `metrics.jsonl`; a half-written last line is passed over."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        kept = [json.dumps(row) for row in self.metrics() if row["step"] <= step]
        write_atomically(self.path / "metrics.jsonl", "".join(line + "\n" for line in kept))

    def save_state(self, tensors: dict[str, Tensor], step: int) -> None:
        """Replace the resumable state, atomically. Never a pickle."""
        beside = self._state_file.with_name(f".{os.getpid()}.part")
        contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        try:
            save_file(contiguous, beside, metadata={"step": str(step)})
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(beside, self._state_file)
        except (OSError, SafetensorError) as error:
            raise RunError(f"cannot save the state to {self._state_file}: {error}; the last state is kept") from error
        finally:
            beside.unlink(missing_ok=True)

    def has_state(self) -> bool:
        """Whether a resumable state was saved."""
        return self._state_file.exists()

    def load_state(self) -> tuple[dict[str, Tensor], int] | None:
        """The resumable state and its step, or None where none was saved.

        Raises:
            RunError: a state file that cannot be read.
        """
        if not self._state_file.exists():
            return None
        try:
            with safe_open(self._state_file, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, int(file.metadata()["step"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{self._state_file} is damaged ({error}); remove it to start from the beginning") from error
