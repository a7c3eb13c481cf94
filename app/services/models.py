"""Models service: which ensembles there are, each loaded when it is first asked for and kept."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cce.checkpoints import folder as checkpoints
from cce.checkpoints import hub
from cce.checkpoints.folder import FILES, Checkpoint, CheckpointError
from cce.checkpoints.hub import HubError
from cce.checkpoints.measurements import read_measurement
from cce.config import ConfigError
from cce.evaluation.presets import summary
from cce.models import resolve_device
from cce.reporting.cards import percent

log = logging.getLogger(__name__)

DATASET_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST", "digits": "Digits"}
"""How the data sets are written on screen."""

MOST_FROM_HUB = 16
"""Ensembles that can be added from the Hub while the Studio runs."""

MOST_HUB_BYTES = 200_000_000
"""A larger one on the Hub is not fetched by the Studio."""

_Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One line of the list of ensembles: what can be said without loading its weights."""

    id: str
    folder: Path
    dataset: str
    defense: str
    architecture: str
    members: int
    run: bool = False
    on_hub: bool = False

    @property
    def title(self) -> str:
        """The entry as it is listed on screen; with its run's name, or its id on the Hub, where it has one.

        What follows the defense in a released ensemble's id tells its recipe: `hardened`.
        """
        recipe = "" if self.run or self.on_hub else self.id.partition(f"-{self.defense.lower()}-")[2]
        defense = f"{self.defense} {recipe}" if recipe else self.defense
        made = f"{dataset_title(self.dataset)}, {defense}: {self.members} × {self.architecture}"
        if self.on_hub:
            return f"{made} (Hub, {self.id})"
        return f"{made} (run {self.id})" if self.run else made


def dataset_title(name: str) -> str:
    """A data set's name as it is written."""
    return DATASET_TITLES.get(name, name)


class Registry:
    """The ensembles in some folders.

    Args:
        folders: each a checkpoint folder, or a folder of them; none means the released ones.
        device: where the ensembles compute: `auto`, `cpu`, `cuda`, `mps`.
        of_runs: gives the folders of the ensembles that training runs have made so far.
    """

    def __init__(
        self,
        folders: Sequence[Path | str] = (),
        device: str = "auto",
        of_runs: Callable[[], Sequence[Path]] = tuple,
    ) -> None:
        self.of_runs = of_runs
        self.folders = [Path(f) for f in folders]
        self.device = resolve_device(device)
        self._from_hub: dict[str, Path] = {}
        self._loaded: dict[str, tuple[_Stamp, Checkpoint]] = {}
        self._refused: dict[str, str] = {}
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """The ensembles that are there now, by data set and name; those that cannot be listed are left out."""
        return self._scan()[0]

    def broken(self) -> dict[str, str]:
        """What cannot be used, with the reason: folders that cannot be listed, ensembles that would not load."""
        return {**self._scan()[1], **self._refused}

    def add_from_hub(self, repository: str) -> Entry:
        """Fetch an ensemble from the Hub and list it under its id there, until this process ends.

        No token is used: what only its owner may see is not put in a list that others see too.

        Raises:
            HubError: it cannot be had, or the list has no room.
            CheckpointError: it is damaged.
        """
        repository = hub.check_repository(repository)
        if repository not in self._from_hub and len(self._from_hub) >= MOST_FROM_HUB:
            raise HubError(f"{MOST_FROM_HUB} ensembles from the Hub are listed already; start the Studio anew for more")
        folder = hub.fetch(repository, token=hub.NOBODY, most_bytes=MOST_HUB_BYTES)
        checkpoints.load(folder)
        self._from_hub[repository] = folder
        return next(e for e in self.entries() if e.id == repository)

    def default(self) -> str | None:
        """The ensemble to show first: detection mode on CIFAR-10, of these the one that fewest plain attacks pass."""

        def rank(entry: Entry) -> tuple[bool, bool, float]:
            return entry.dataset != "cifar10", entry.defense != "CCE-DM", _passing(entry.folder)

        for entry in sorted(self.entries(), key=rank):
            try:
                self.get(entry.id)
            except CheckpointError as error:
                log.warning("%s is left out: %s", entry.id, error)
            else:
                return entry.id
        return None

    def get(self, name: str | None) -> Checkpoint:
        """The ensemble of that id, read again if its files have changed.

        Raises:
            CheckpointError: no such ensemble, or a damaged one; the message says which file.
        """
        entries = self.entries()
        entry = next((e for e in entries if e.id == name), None)
        if entry is None:
            known = ", ".join(e.id for e in entries) or "none"
            raise CheckpointError(f"there is no model {name!r}; there is: {known}")
        with self._lock:
            stamp = _stamp(entry.folder)
            if entry.id not in self._loaded or self._loaded[entry.id][0] != stamp:
                self._loaded[entry.id] = (stamp, self._load(entry))
            return self._loaded[entry.id][1]

    def _load(self, entry: Entry) -> Checkpoint:
        """Load it, or remember why not; the message leaves out where on this machine the folder lies."""
        self._refused.pop(entry.id, None)
        try:
            return checkpoints.load(entry.folder, self.device)
        except CheckpointError as error:
            self._refused[entry.id] = str(error).replace(f"{entry.folder.parent}{os.sep}", "")
            raise CheckpointError(self._refused[entry.id]) from error

    def summaries(self) -> list[dict[str, Any]]:
        """The rows of `/models`; an ensemble that cannot be loaded is logged and left out."""
        rows = []
        for entry in self.entries():
            try:
                rows.append({**summary(self.get(entry.id)), "id": entry.id})
            except CheckpointError as error:
                log.warning("%s is left out: %s", entry.id, error)
        return rows

    def _scan(self) -> tuple[list[Entry], dict[str, str]]:
        entries: dict[str, Entry] = {}
        broken: dict[str, str] = {}
        for folder in self._checkpoint_folders():
            try:
                entry = _read_entry(folder)
            except (OSError, ValueError, KeyError, TypeError) as error:
                broken[folder.name] = f"{folder.name}/config.json cannot be read ({_reason(error)})"
                continue
            if entry.id in entries:
                broken[folder.name] = f"{folder.name} has the same id as {entries[entry.id].folder.name}: {entry.id}"
            else:
                entries[entry.id] = entry
        for repository, folder in list(self._from_hub.items()):
            try:
                entries[repository] = replace(_read_entry(folder), id=repository, on_hub=True)
            except (OSError, ValueError, KeyError, TypeError) as error:
                broken[repository] = f"{repository}: config.json cannot be read ({_reason(error)})"
        for folder in self.of_runs():
            try:
                entry = _read_entry(folder)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("the ensemble of run %s is left out: %s", folder.parent.name, _reason(error))
                continue
            name = folder.parent.name
            name = f"{name}-run" if name in entries else name
            entries[name] = replace(entry, id=name, run=True)
        return sorted(entries.values(), key=lambda e: (e.dataset, e.id)), broken

    def _checkpoint_folders(self) -> list[Path]:
        if not self.folders:
            return checkpoints.released()
        found: list[Path] = []
        for folder in self.folders:
            found += [folder] if (folder / "config.json").exists() else checkpoints.released(folder)
        return found


def _read_entry(folder: Path) -> Entry:
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Entry(
        id=str(values["id"]),
        folder=folder,
        dataset=str(values["dataset"]),
        defense=str(values["defense"]["name"]),
        architecture=str(values["architecture"]),
        members=int(values["members"]),
    )


def _passing(folder: Path) -> float:
    """Wrong and unflagged under some attack of the usual epsilon, on the most images; 1 where it is not known."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        epsilon = round(metrics["epsilon"], 9)
        usual = [row for row in metrics["worst_case"] if row["norm"] == "linf" and row["epsilon"] == epsilon]
        return float(max(usual, key=lambda row: row["images"])["wrong_and_unflagged"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1.0


def _reason(error: Exception) -> str:
    return f"the field {error} is missing" if isinstance(error, KeyError) else str(error)


def _stamp(folder: Path) -> _Stamp:
    """Changes when one of the checkpoint's files does."""
    paths = [folder / name for name in FILES]
    return tuple(p.stat().st_mtime_ns if p.exists() else 0 for p in paths)


def read_released(checkpoint: Checkpoint, name: str) -> dict[str, Any] | None:
    """Like `read_measurement`, with a message that does not tell where on this machine the folder lies.

    Raises:
        ConfigError: a record that is damaged.
    """
    try:
        return read_measurement(checkpoint, name)
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"{checkpoint.folder}/", "")) from error


def one_line(checkpoint: Checkpoint) -> str:
    """How good an ensemble is, in a line: every figure from its own `metrics.json`."""
    metrics = checkpoint.metrics
    if not metrics:
        return "Not measured yet."
    row = summary(checkpoint)
    said = [f"Right on {percent(row['natural_accuracy'])} of clean test pictures"]
    if row["robust_accuracy"] is not None:
        said.append(f"{percent(row['robust_accuracy'])} under {metrics['attacks'][0]['name'].upper()}")
    return f"{', '.join(said)} (n = {metrics['images']:,})."


def card(checkpoint: Checkpoint) -> str:
    """The model card in Markdown for a place within a page: no front matter, headings two levels down."""
    from cce.reporting.cards import model_card

    text = model_card(checkpoint)
    text = text.split("---\n", 2)[2] if text.startswith("---\n") else text
    return re.sub(r"^#", "###", text, flags=re.MULTILINE)
