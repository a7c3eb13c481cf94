"""The evaluation engine: attacks walked over images by the batch, by threads and processes, and taken up after a kill.

A walk yields outcomes only. `cce.evaluation.evaluate` makes figures of them.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cce.attacks.task import check_batch
from cce.config import check
from cce.evaluation.fooling import Attacked
from cce.evaluation.outcomes import Outcome, outcome
from cce.machine import shards
from cce.machine.files import written_beside
from cce.machine.processes import Processes
from cce.models import Ensemble, evaluating

Report = Callable[[str, float], None]
VERSION = 1  # of what a partial result means; raise it when one made before must not be taken up


@dataclass(frozen=True)
class Batch:
    """Some of the images, from `first` on: what a column works on.

    `images` `(B, C, H, W)` float32 in [0, 1]; `labels` `(B,)`; `wrong` `(B,)`: where the ensemble errs on
    the images themselves; `seed`: the walk's, from which every image draws by its number; `tick`: to be called
    with the fraction done.
    """

    first: int
    images: Tensor
    labels: Tensor
    wrong: Tensor
    seed: int
    tick: Callable[[float], None]

    @property
    def numbers(self) -> range:
        """The images' numbers in the whole set."""
        return range(self.first, self.first + len(self.images))


@dataclass(frozen=True)
class Column:
    """An attack on the images, or something that is done to images instead.

    `kind` and `name` say what it is, `settings` (JSON values) all that it depends on; `count`: how many
    images it gets, from the first; `work`: what an image costs, in forward and backward passes; `make`
    does it.
    """

    kind: str
    name: str
    settings: dict[str, Any]
    count: int
    work: float
    make: Callable[[Batch], Attacked]


@dataclass(frozen=True)
class Found:
    """The result of a column: the float32 verdict on its examples, and who was `fooled` `(B,)` (see `Attacked`).

    `seconds` are those of all threads and processes together, `taken_up` of them spent by an earlier, killed walk.
    """

    column: Column
    outcome: Outcome
    fooled: Tensor
    seconds: float
    taken_up: float = 0.0


@dataclass
class Store:
    """Partial results of walks in a folder, a file a column and batch; a kill leaves whole files only.

    A file's name is the hash of all that it depends on: the weights, the images, the column, the seed, and what
    else `settings` says. A walk takes up what fits it, whatever made it.
    """

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    taking_up: bool = True
    used: list[Path] = field(default_factory=list)

    def place(self, column: Column, first: int, last: int) -> Path:
        """The file of the images `first` to `last` (not included) of a column."""
        said = [VERSION, self.settings, column.kind, column.name, column.settings, first, last]
        name = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{name}.safetensors"

    def load(self, path: Path) -> dict[str, Tensor] | None:
        """A partial result, or None where there is none that can be read."""
        if not self.taking_up:
            return None
        try:
            return load_file(path)
        except (OSError, SafetensorError):
            return None

    def save(self, path: Path, tensors: dict[str, Tensor]) -> None:
        """Write a partial result, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as beside:
            save_file(tensors, beside)

    def clear(self) -> None:
        """Remove what this walk wrote or took up: it is of no more use once the figures are out."""
        for path in self.used:
            path.unlink(missing_ok=True)
        self.used.clear()


def digest(model: Ensemble, images: Tensor, labels: Tensor) -> str:
    """A hash of the weights, the images and the labels."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    for tensor in (images, labels):
        found.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return found.hexdigest()


def walk(
    model: Ensemble,
    images: Tensor,
    labels: Tensor,
    columns: Sequence[Column],
    *,
    seed: int = 0,
    batch_size: int = 128,
    store: Store | None = None,
    processes: Processes | None = None,
    report: Report | None = None,
) -> tuple[Outcome, list[Found]]:
    """The outcome on the clean images, and the result of each column, in their order.

    Args:
        model: judges in float32.
        images: `(B, C, H, W)` float32 in [0, 1].
        labels: true labels `(B,)`.
        columns: each on its first `count` images.
        seed: of everything random; what an image gets depends on it and on its number alone.
        batch_size: images at a time; what is found does not depend on it.
        store: where finished batches are kept until the walk ends, and taken up from.
        processes: share the batches; each gets all results. None: this one does all.
        report: called as `report(what, fraction)`, by one thread at a time; first with what an earlier walk had done.
            Where it raises, the walk ends.

    Raises:
        ConfigError: images outside [0, 1], labels that do not fit, an output that is not finite, or
            settings that cannot be used.
    """
    check(batch_size >= 1, f"batch_size is {batch_size}; it must be at least 1")
    check(len(images) > 0, "there are no images to evaluate on")
    check_batch(model, images, labels)
    processes, report = processes or Processes(), report or (lambda what, fraction: None)
    clean = outcome(model, images, labels, batch_size)
    threads = shards.threads(images.device) if processes.count == 1 else 1
    jobs = [(t, *part) for t, column in enumerate(columns) for part in shards.parts(column.count, batch_size, threads)]
    mine = [job for i, job in enumerate(jobs) if i % processes.count == processes.index]
    done = {job: tensors for job in mine if store and (tensors := store.load(_place(store, columns, job)))}
    before = set(done)
    total = sum(_work(columns, job) for job in mine) or 1.0
    report("taken up" if before else "clean images", sum(_work(columns, job) for job in before) / total)

    lock, under_way = threading.Lock(), dict.fromkeys(before, 1.0)

    def make(job: tuple[int, int, int]) -> None:
        t, first, last = job
        column, part = columns[t], slice(first, last)

        def tick(fraction: float) -> None:
            shards.go_on()
            with lock:
                under_way[job] = min(1.0, fraction)
                report(column.name, sum(_work(columns, j) * done for j, done in under_way.items()) / total)

        tick(0.0)
        began = time.perf_counter()
        made = column.make(Batch(first, images[part], labels[part], ~clean.right[part], seed, tick))
        done[job] = _pack(made, time.perf_counter() - began)
        if store:
            store.save(_place(store, columns, job), done[job])
        tick(1.0)

    with evaluating(model):  # once for all threads
        shards.each(make, [job for job in mine if job not in before], images.device)

    if store:
        store.used += [_place(store, columns, job) for job in mine]
    everything: dict[tuple[int, int, int], tuple[dict[str, Tensor], bool]] = {}
    for part in processes.gather({job: (tensors, job in before) for job, tensors in done.items()}):
        everything |= part
    found = []
    for t, column in enumerate(columns):
        parts = [everything[job] for job in jobs if job[0] == t]
        found.append(_unpack(column, parts, labels[: column.count]))
    report("done", 1.0)
    return clean, found


def _work(columns: Sequence[Column], job: tuple[int, int, int]) -> float:
    t, first, last = job
    return columns[t].work * (last - first)


def _place(store: Store, columns: Sequence[Column], job: tuple[int, int, int]) -> Path:
    t, first, last = job
    return store.place(columns[t], first, last)


def _pack(made: Attacked, seconds: float) -> dict[str, Tensor]:
    """What is kept of a batch: verdicts, no pictures."""
    seen = made.outcome
    assert seen.member_entropy is not None
    return {
        "log_probability": seen.log_probability.cpu(),
        "member_labels": seen.member_labels.cpu().contiguous(),
        "member_entropy": seen.member_entropy.cpu().contiguous(),
        "fooled": made.fooled.cpu(),
        "seconds": torch.tensor(seconds, dtype=torch.float64),
    }


def _unpack(column: Column, parts: Sequence[tuple[dict[str, Tensor], bool]], labels: Tensor) -> Found:
    def joined(name: str, dim: int) -> Tensor:
        return torch.cat([tensors[name] for tensors, _ in parts], dim).to(labels.device)

    seen = Outcome(joined("log_probability", 0), joined("member_labels", 1), labels, joined("member_entropy", 1))
    seconds = [(tensors["seconds"].item(), earlier) for tensors, earlier in parts]
    spent, taken_up = sum(s for s, _ in seconds), sum(s for s, earlier in seconds if earlier)
    return Found(column, seen, joined("fooled", 0), spent, taken_up)
