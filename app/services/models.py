"""Models service: which ensembles there are, each loaded when it is first asked for and kept."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from cce.checkpoints import folder as checkpoints
from cce.checkpoints import hub
from cce.checkpoints.folder import FILES, Checkpoint, CheckpointError
from cce.checkpoints.hub import HubError
from cce.checkpoints.measurements import read_measurement
from cce.config import ConfigError
from cce.evaluation.presets import summary
from cce.models import Ensemble, resolve_device
from cce.reporting.cards import percent

log = logging.getLogger(__name__)

DATASET_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST", "digits": "Digits"}
"""How the data sets are written on screen."""

MOST_FROM_HUB = 16
"""Ensembles that can be added from the Hub while the Studio runs."""

MOST_HUB_BYTES = 200_000_000
"""A larger one on the Hub is not fetched by the Studio."""

HUB_IDLE_SECONDS = 600.0
"""An ensemble from the Hub that nobody has used for so long makes room for another."""

MOST_LOADED_BYTES = 60_000_000
"""Weights that are kept in memory; those that were used least recently leave first."""

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
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
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


@dataclass
class _Fetched:
    """An ensemble from the Hub: its folder, whether the Studio fetched it, and when it was last used."""

    folder: Path
    ours: bool
    used: float


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
        self._from_hub: dict[str, _Fetched] = {}
        self._loaded: OrderedDict[str, tuple[_Stamp, Checkpoint]] = OrderedDict()  # the last used last
        self._described: dict[str, tuple[_Stamp, Checkpoint]] = {}
        self._refused: dict[str, str] = {}
        self._lock, self._hub_lock = threading.Lock(), threading.Lock()

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
        with self._hub_lock:
            if repository not in self._from_hub:
                self._make_room_for_hub()
            ours = repository in self._from_hub or not hub.is_cached(repository)
            folder = hub.fetch(repository, token=hub.NOBODY, most_bytes=MOST_HUB_BYTES)
            try:
                checkpoints.load(folder)
            except BaseException:
                if ours:  # what was here before the Studio asked is somebody else's
                    hub.remove(repository, folder)
                raise
            self._from_hub[repository] = _Fetched(folder, ours, time.monotonic())
        return next(e for e in self.entries() if e.id == repository)

    def from_hub(self) -> list[str]:
        """The ensembles that were fetched from the Hub, by id there."""
        return sorted(self._from_hub)

    def remove_from_hub(self, repository: str) -> None:
        """Take an ensemble from the Hub off the list, out of memory, and off the disk where the Studio fetched it.

        Raises:
            HubError: it is not listed.
        """
        with self._hub_lock:
            if repository not in self._from_hub:
                raise HubError(f"{repository!r} is not among the ensembles from the Hub")
            self._forget_hub(repository)

    def _forget_hub(self, repository: str) -> None:
        fetched = self._from_hub.pop(repository)
        with self._lock:
            self._loaded.pop(repository, None)
            self._described.pop(repository, None)
            self._refused.pop(repository, None)
        if fetched.ours:
            hub.remove(repository, fetched.folder)

    def _make_room_for_hub(self) -> None:
        """Let the one go that nobody has used for longest, where the list is full."""
        if len(self._from_hub) < MOST_FROM_HUB:
            return
        oldest = min(self._from_hub, key=lambda name: self._from_hub[name].used)
        if time.monotonic() - self._from_hub[oldest].used < HUB_IDLE_SECONDS:
            raise HubError(
                f"{MOST_FROM_HUB} ensembles from the Hub are listed already and in use; "
                f"remove one, or try again in {HUB_IDLE_SECONDS / 60:.0f} minutes"
            )
        self._forget_hub(oldest)

    def default(self) -> str | None:
        """The ensemble to show first: detection mode on CIFAR-10, of these the one that fewest plain attacks pass.

        Never one from the Hub: what a visitor adds is not what others see first.
        """

        def rank(entry: Entry) -> tuple[bool, bool, float]:
            return entry.dataset != "cifar10", entry.defense != "CCE-DM", _passing(entry)

        for entry in sorted((e for e in self.entries() if not e.on_hub), key=rank):
            if self._usable(entry):
                return entry.id
        return None

    def _usable(self, entry: Entry) -> Checkpoint | None:
        """The ensemble, None where it would not load, whatever the reason; the log says which."""
        try:
            return self.described(entry.id)
        except CheckpointError as error:
            log.warning("%s is left out: %s", entry.id, error)
        except Exception:
            log.exception("%s is left out", entry.id)
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
            self._loaded.move_to_end(entry.id)
            if entry.on_hub and entry.id in self._from_hub:
                self._from_hub[entry.id].used = time.monotonic()
            checkpoint = self._loaded[entry.id][1]
            self._let_go()
            return checkpoint

    def described(self, name: str | None) -> Checkpoint:
        """The ensemble of that id without its weights, for its shape and what was measured of it; see `get`.

        All of them are read for one page, and their weights would take 300 MB. That they can be loaded was seen once.
        """
        entry = next((e for e in self.entries() if e.id == name), None)
        stamp = _stamp(entry.folder) if entry else ()
        with self._lock:
            known = self._described.get(str(name))
        if entry is None or known is None or known[0] != stamp:
            checkpoint = self.get(name)
            with torch.device("meta"):
                model = Ensemble(checkpoint.model.config).eval()
            known = (stamp, replace(checkpoint, model=model))
            with self._lock:
                self._described[str(name)] = known
        return known[1]

    def _let_go(self) -> None:
        """Keep in memory what was used last, up to `MOST_LOADED_BYTES`, and always one."""
        sizes = {name: _weight_bytes(checkpoint) for name, (_, checkpoint) in self._loaded.items()}
        while len(self._loaded) > 1 and sum(sizes.values()) > MOST_LOADED_BYTES:
            name, _ = self._loaded.popitem(last=False)
            del sizes[name]

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
                if checkpoint := self._usable(entry):
                    rows.append({**summary(checkpoint), "id": entry.id})
            except Exception:
                log.exception("%s is left out", entry.id)
        return rows

    def _scan(self) -> tuple[list[Entry], dict[str, str]]:
        entries: dict[str, Entry] = {}
        broken: dict[str, str] = {}
        for folder in self._checkpoint_folders():
            try:
                entry = _read_entry(folder)
            except CheckpointError as error:
                broken[folder.name] = str(error).replace(f"{folder.parent}{os.sep}", "")
                continue
            if entry.id in entries:
                broken[folder.name] = f"{folder.name} has the same id as {entries[entry.id].folder.name}: {entry.id}"
            else:
                entries[entry.id] = entry
        for repository, fetched in list(self._from_hub.items()):
            try:
                entries[repository] = replace(_read_entry(fetched.folder), id=repository, on_hub=True)
            except CheckpointError as error:
                broken[repository] = f"{repository}: {str(error).replace(f'{fetched.folder}{os.sep}', '')}"
        for folder in self.of_runs():
            try:
                entry = _read_entry(folder)
            except CheckpointError as error:
                log.warning("the ensemble of run %s is left out: %s", folder.parent.name, error)
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
    """What `config.json` says, read again when the folder has changed."""
    return _entry(folder, _stamp(folder))


@lru_cache(maxsize=512)
def _entry(folder: Path, stamp: _Stamp) -> Entry:
    config, fields = checkpoints.read_config(folder)
    defense = fields["defense"].name_with(config.members)
    shape = config.architecture, config.members, config.input_shape, fields["classes"]
    return Entry(fields["id"], folder, fields["dataset"], defense, *shape)


def _passing(entry: Entry) -> float:
    """Wrong and unflagged under some attack of the usual epsilon, on the most images; 1 where it is not known."""
    return _passing_of(entry.folder, entry.members, _stamp(entry.folder))


@lru_cache(maxsize=512)
def _passing_of(folder: Path, members: int, stamp: _Stamp) -> float:
    try:
        metrics, _ = checkpoints.read_metrics(folder, members)
    except CheckpointError:
        return 1.0
    epsilon = round(metrics.get("epsilon", -1), 9)
    usual = [r for r in metrics.get("worst_case", []) if r["norm"] == "linf" and round(r["epsilon"], 9) == epsilon]
    return float(max(usual, key=lambda r: r["images"], default={}).get("wrong_and_unflagged", 1.0))


def _weight_bytes(checkpoint: Checkpoint) -> int:
    return sum(p.numel() * p.element_size() for p in checkpoint.model.parameters())


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
    many = f" (n = {metrics['images']:,})" if "images" in metrics else ""
    return f"{', '.join(said)}{many}."


def card(checkpoint: Checkpoint) -> str:
    """The model card in Markdown for a place within a page: no front matter, headings two levels down."""
    from cce.reporting.cards import model_card

    text = model_card(checkpoint)
    text = text.split("---\n", 2)[2] if text.startswith("---\n") else text
    if checkpoint.left_out:
        text += "\n## Left out\n\nWhat does not fit: " + "; ".join(checkpoint.left_out[:10]) + ".\n"
    return re.sub(r"^#", "###", text, flags=re.MULTILINE)
