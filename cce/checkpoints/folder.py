"""Checkpoints: a released ensemble as a folder of `config.json`, `model.safetensors`, `metrics.json`, `README.md`.

Nothing in it can run code. Everything is checked against everything else before a weight is used.
The card, `README.md`, is text from above: `cce.reporting.cards.save_with_card` writes a checkpoint with its card.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cce.checkpoints import hub
from cce.checkpoints.compact import SCALE, pack, unpack
from cce.checkpoints.hub import FILES, CheckpointError
from cce.checkpoints.record import fit_metrics, fit_training
from cce.checkpoints.weight_files import check_types, refuse_pointer
from cce.config import ConfigError, Defense, Detector, ModelConfig, TrainConfig, check, from_json, to_json
from cce.config.json_files import JsonError, read_json
from cce.config.shapes import shown
from cce.data import datasets as data
from cce.data.datasets import DataError, Selection, Split
from cce.data.picture_split import FILE as PICTURES
from cce.data.picture_split import Record, read_record
from cce.machine.files import write_atomically, written_beside
from cce.models import Ensemble

FORMAT_VERSION = 1

MOST_SIDE, MOST_OWN_SIDE = 128, 1024
"""Pixels a side that an ensemble may take: of a named data set, and of one's own."""

MOST_CHARACTERS = 200
"""Of an ensemble's id, and of its data set's name."""


@dataclass
class Checkpoint:
    """An ensemble with all that was said and measured of it.

    `training` is the record of how it was made: the run's config, seconds, machine, versions.
    `detector` is the one that speaks by default, the paper's; `detectors` are further ones by their names.
    `metrics` is what `python -m cce evaluate` wrote, without the figures that do not fit: `left_out` names them.
    `pictures`: of an own folder, what each picture was for.
    `selected_on`: the test images that chose this state among those of its run; None: none did, or it is not recorded.
    """

    id: str
    model: Ensemble
    dataset: str
    classes: tuple[str, ...]
    defense: Defense
    training: dict[str, Any]
    detector: Detector | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    detectors: dict[str, Detector] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def detector_named(self, name: str = "") -> Detector:
        """The detector `name`, or the default one.

        Raises:
            CheckpointError: it is not there; the message lists those that are.
        """
        own = {self.detector.name: self.detector} if self.detector else {}
        there = own | self.detectors
        wanted = name or next(iter(there), "")
        if wanted not in there:
            raise CheckpointError(f"{self.id} has no detector {wanted!r}; it has {', '.join(there) or 'none'}")
        return there[wanted]

    pictures: Record | None = None
    selected_on: Selection | None = None

    def test_split(self, test: Split) -> Split:
        """The images to evaluate this ensemble on: those of a test split that had no part in choosing its weights.

        Args:
            test: test images, without those that calibrate detectors (`Dataset.detection_test`).

        Raises:
            DataError: there is none left.
        """
        left = test.without(self.selected_on) if self.selected_on else test
        if len(test) and not len(left):
            raise DataError(
                f"each of the {len(test)} test images had a part in choosing {self.id} among the states of its run; "
                "evaluate it on more images, or the run's last state"
            )
        return left

    @property
    def defense_name(self) -> str:
        """The defense's name for so many members: ADV-EN of one is ADV."""
        return self.defense.name_with(self.model.config.members)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, revision: str | None = None, token: str | None = None, device: torch.device | str = "cpu"
    ) -> Checkpoint:
        """An ensemble from a folder or the Hub, as `huggingface_hub`'s mixin names it.

        Args:
            name: a folder, or a Hub id, `owner/name`.
            revision: branch, tag or commit on the Hub; None is `main`.
            token: for a private repository; None: the one that this machine is logged in with.
            device: where it computes.

        Raises:
            CheckpointError, HubError: see `load`.
        """
        return load(name if Path(name).is_dir() else hub.fetch(str(name), revision, token), device)

    def save_pretrained(self, folder: Path | str, card: str | None = None) -> Path:
        """Write the folder; see `save`."""
        return save(self, folder, card)

    def push_to_hub(
        self, repository: str, token: str | None = None, private: bool = True, card: str | None = None
    ) -> str:
        """Push the ensemble with its card to the Hub; returns its address.

        Args:
            repository: `owner/name`; made where it is not there.
            token: with the right to write; None: the one that this machine is logged in with.
            private: whether a repository that is made is private.
            card: text of `README.md`; None: the one in the checkpoint's folder, where there is one.

        Raises:
            HubError: no token, no right, or no connection.
        """
        from huggingface_hub import get_token

        with tempfile.TemporaryDirectory() as place:
            made = save(replace(self), Path(place) / "checkpoint", card)
            if self.folder and (self.folder / "measurements").is_dir():
                shutil.copytree(self.folder / "measurements", made / "measurements")
            return hub.push(made, repository, token or get_token() or "", private=private)

    def config(self) -> dict[str, Any]:
        """The content of `config.json`."""
        shape = self.model.config
        return {
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "dataset": self.dataset,
            "classes": list(self.classes),
            "input_shape": list(shape.input_shape),
            "architecture": shape.architecture,
            "members": shape.members,
            "defense": {"name": self.defense_name, **to_json(self.defense)},
            "training": self.training,
            "detector": asdict(self.detector) if self.detector else None,
            **({"detectors": {k: asdict(d) for k, d in self.detectors.items()}} if self.detectors else {}),
            **({"selected_on": to_json(self.selected_on)} if self.selected_on else {}),
        }


def common_test_split(ensembles: Sequence[Checkpoint], test: Split) -> Split:
    """The images that none of several ensembles was chosen on, to evaluate all of them; see `Checkpoint.test_split`."""
    for checkpoint in ensembles:
        test = checkpoint.test_split(test)
    return test


def training_record(
    config: TrainConfig,
    steps: int,
    seconds: float,
    device: torch.device,
    machines: Sequence[str] = (),
    started_from: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """How a checkpoint was made: the config, images seen, time, versions, and the machines, else `device`'s.

    `started_from`: whose weights it started from (see `cce.training.state.Start`).

    A folder of pictures is named without its path: what is published tells nothing of a machine's folders.
    """
    beginning = {"started_from": started_from} if started_from else {}
    return beginning | {
        "config": to_json(replace(config, data_dir=Path(config.data_dir).name)),
        "steps": steps,
        "images_seen": steps * config.batch_size,
        "seconds": round(seconds, 1),
        "machine": ", then ".join(machines) or machine_name(device),
        "versions": {"python": platform.python_version(), "torch": version("torch"), "cce": version_of_cce()},
    }


def machine_name(device: torch.device) -> str:
    """The device in words, for figures to name where they were measured."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} thread(s) of {_cpu_name()}"


def version_of_cce() -> str:
    """This library's version."""
    from cce import __version__

    return __version__


def _cpu_name() -> str:
    try:
        names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def save(checkpoint: Checkpoint, folder: Path | str, card: str | None = None) -> Path:
    """Write the folder; the weights first, the config last, each whole or not at all.

    Weights that int8 or float16 holds exactly are written so, in a quarter or half of the bytes
    (`cce.checkpoints.compact`).

    Args:
        checkpoint: what is written; its `folder` is set.
        folder: made where it is not there.
        card: text of `README.md`; None: the one in the checkpoint's folder before, where there is one.

    Raises:
        CheckpointError: the folder cannot be written, or the disk is full; each file is the old one or the new one.
    """
    folder = Path(folder)
    try:
        return _write(checkpoint, folder, _card_of(checkpoint) if card is None else card)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).removeprefix("I/O error: ")
        raise CheckpointError(
            f"cannot write the checkpoint {folder}: {reason}; make room, or give another folder, and try again"
        ) from error


def _write(checkpoint: Checkpoint, folder: Path, card: str | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weights = pack({k: v.detach().cpu() for k, v in checkpoint.model.state_dict().items()})
    weights = {k: v.contiguous() for k, v in weights.items()}
    with written_beside(folder / "model.safetensors") as beside:
        save_file(weights, beside, metadata={"format": "pt"})
        beside.chmod(0o644)  # safetensors writes for the owner alone
    write_atomically(folder / "metrics.json", json.dumps(checkpoint.metrics, indent=1) + "\n")
    if card:
        write_atomically(folder / "README.md", card)
    if checkpoint.pictures is not None:
        write_atomically(folder / PICTURES, json.dumps(checkpoint.pictures.to_json()) + "\n")
    write_atomically(folder / "config.json", json.dumps(checkpoint.config(), indent=1) + "\n")
    checkpoint.folder = folder
    return folder


def _card_of(checkpoint: Checkpoint) -> str:
    """The card in a checkpoint's own folder; empty where there is none."""
    path = checkpoint.folder / "README.md" if checkpoint.folder else None
    return path.read_text(encoding="utf-8", errors="replace") if path and path.is_file() else ""


def load(folder: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a checkpoint folder, or an ensemble on the Hub by its id, in evaluation mode.

    Args:
        folder: a folder; or text like `owner/name`, which is a Hub id where no such folder is here.
        device: where it computes.

    Raises:
        CheckpointError: a missing, truncated or wrong file, a version this code does not know, or a
            member or class count that disagrees with the weights: before any weight is used.
        HubError: the ensemble cannot be had from the Hub.
    """
    if hub.is_repository(folder) and not Path(folder).exists():
        return load(hub.fetch(str(folder)), device)
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; a checkpoint is a folder with {', '.join(FILES)}")
    config, checkpoint_fields = read_config(folder)
    model = _build(folder, config)
    try:
        pictures = read_record(folder)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    _check_classes(folder / "config.json", checkpoint_fields["dataset"], checkpoint_fields["classes"])
    metrics, left_out = read_metrics(folder, config.members)
    checkpoint_fields["left_out"] += tuple(left_out)
    model.to(device, memory_format=torch.channels_last).eval()
    _check_outputs(folder / "model.safetensors", model)
    return Checkpoint(model=model, metrics=metrics, folder=folder, pictures=pictures, **checkpoint_fields)


def read_metrics(folder: Path, members: int) -> tuple[dict[str, Any], list[str]]:
    """The figures of `metrics.json`, and in words those that do not fit and are left out.

    Raises:
        CheckpointError: a file that is damaged.
    """
    path = folder / "metrics.json"
    return fit_metrics(_read_json(path), members) if path.exists() else ({}, [])


def read_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """What `config.json` says, without the weights: the model's config, and the fields of `Checkpoint` by name.

    Raises:
        CheckpointError: a missing or wrong file, or a field that does not fit.
    """
    return _parse_config(folder / "config.json", _read_json(folder / "config.json"))


def _read_json(path: Path) -> dict[str, Any]:
    refuse_pointer(path)
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; a checkpoint folder holds {', '.join(FILES)}") from None
    except JsonError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch the checkpoint again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object; fetch the checkpoint again")
    return values


def _parse_config(path: Path, values: dict[str, Any]) -> tuple[ModelConfig, dict[str, Any]]:
    """The model's config and the other fields of `Checkpoint`, each checked."""
    found = values.get("format_version")
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {found!r}; this version reads {FORMAT_VERSION}. Update the code or fetch again"
        )
    wanted = ("id", "dataset", "classes", "input_shape", "architecture", "members", "defense", "training")
    for name in wanted:
        if name not in values:
            raise CheckpointError(f"{path}: the field {name!r} is missing")
    kinds = {"id": str, "dataset": str, "classes": list, "defense": dict, "training": dict}
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise CheckpointError(f"{path}: {name} is {shown(values[name])}; it must be a {kind.__name__}")
    _check_names(path, values)
    shape = {
        "architecture": values["architecture"],
        "members": values["members"],
        "classes": len(values["classes"]),
        "input_shape": values["input_shape"],
    }
    names = {k: v for k, v in values["defense"].items() if k != "name"}
    try:
        config = from_json(ModelConfig, shape, "config")
        defense = from_json(Defense, names, "defense")
        detector = from_json(Detector, values["detector"], "detector") if values.get("detector") else None
        detectors = values.get("detectors", {})  # absent in older checkpoints
        check(isinstance(detectors, dict), f"detectors is {detectors!r}; it must be an object")
        detectors = {k: from_json(Detector, d, f"detectors.{k}") for k, d in detectors.items()}
        for name, one in detectors.items():
            check(name == one.name, f"detectors.{name} is the detector {one.name!r}; it must have its own name")
        chosen = values.get("selected_on")  # absent in older checkpoints, and where nothing was chosen
        selected_on = None if chosen is None else from_json(Selection, chosen, "selected_on")
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    _check_size(path, config, values["dataset"])
    training, left_out = fit_training(values["training"])
    fields = {k: values[k] for k in ("id", "dataset")} | {"training": training, "left_out": tuple(left_out)}
    fields |= {"defense": defense, "detector": detector, "detectors": detectors, "selected_on": selected_on}
    return config, {**fields, "classes": tuple(values["classes"])}


def _check_size(path: Path, config: ModelConfig, dataset: str) -> None:
    """Pictures that can be made: the weights alone say little of their size."""
    channels, *sides = config.input_shape
    most = MOST_SIDE if dataset in data.CLASS_NAMES else MOST_OWN_SIDE
    if channels not in (1, 3) or max(sides) > most:
        raise CheckpointError(
            f"{path}: input_shape is {config.input_shape}; it has 1 or 3 channels, and at most {most} pixels a side"
        )


def _check_names(path: Path, values: dict[str, Any]) -> None:
    """Names that can be shown."""
    classes = values["classes"]
    if not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{path}: classes is {shown(classes)}; it must be a list of names")
    for name in ("id", "dataset"):
        if not (values[name].isprintable() and 0 < len(values[name]) <= MOST_CHARACTERS):
            raise CheckpointError(
                f"{path}: {name} is {shown(values[name])}; it has from 1 to {MOST_CHARACTERS} printable characters"
            )


def _check_classes(path: Path, dataset: str, classes: tuple[str, ...]) -> None:
    """Refuse a named data set with other classes than its own: its pictures and labels would not fit."""
    own = data.CLASS_NAMES.get(dataset)
    if own and classes != own:
        raise CheckpointError(
            f"{path}: classes is {shown(list(classes))}; those of {dataset} are {', '.join(own[:4])}, ... "
            f"({len(own)}). Another data set needs another name"
        )


def _build(folder: Path, config: ModelConfig) -> Ensemble:
    """The ensemble with its weights; nothing is built that the weights' file does not bear out."""
    path = folder / "model.safetensors"
    refuse_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            check_types(path, {name: file.get_slice(name).get_dtype() for name in file.keys()})
            _compare_counts(path, shapes, config)
            with torch.device("meta"):  # names and shapes alone: a config can ask for any size
                model = Ensemble(config)
            needed = {k: tuple(v.shape) for k, v in model.state_dict().items()}
            scales = {k + SCALE: shape[:1] for k, shape in needed.items() if k + SCALE in shapes}
            _compare(path, shapes, needed | scales)
            weights = unpack({name: file.get_tensor(name) for name in shapes})
    except CheckpointError:
        raise
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # torch's own, of sizes past all bounds
        words = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{folder / 'config.json'}: {words}") from error
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; a checkpoint folder holds {', '.join(FILES)}") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); fetch the checkpoint again") from error
    for name, tensor in weights.items():
        if tensor.dtype == torch.int8:
            raise CheckpointError(f"{path}: {name} is int8 and has no scales; fetch the checkpoint again")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; fetch the checkpoint again")
    kinds = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.to(kinds[name]) for name, tensor in weights.items()}, assign=True)
    return model


@torch.no_grad()
def _check_outputs(path: Path, model: Ensemble) -> None:
    """Refuse weights that are finite and give outputs that are not, as a negative variance does."""
    device = next(model.parameters()).device
    plain = torch.tensor([0.0, 0.5, 1.0], device=device).view(-1, 1, 1, 1)
    try:
        logits = model.member_logits(plain.expand(-1, *model.config.input_shape).contiguous())
    except (RuntimeError, ValueError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: no picture of {model.config.input_shape} goes through: {words}") from error
    bad = [f"f{i + 1}" for i, one in enumerate(logits) if not bool(one.isfinite().all())]
    if bad:
        raise CheckpointError(
            f"{path}: the outputs of {', '.join(bad)} are not finite numbers, for a plain picture; the weights or the "
            "statistics of batch norm are damaged: fetch the checkpoint again"
        )


def _compare_counts(path: Path, found: dict[str, tuple[int, ...]], config: ModelConfig) -> None:
    """Members and layers, from the names alone."""
    members = {int(m.group(1)) for name in found if (m := re.match(r"members\.(\d+)\.", name))}
    if len(members) != config.members:
        raise CheckpointError(f"{path} holds {len(members)} members; config.json says members is {config.members}")
    if (config.resnet_depth or 0) > len(found):
        raise CheckpointError(
            f"{path}: {len(found)} tensors are too few for {config.architecture}; config.json and the weights disagree"
        )


def _compare(path: Path, found: dict[str, tuple[int, ...]], needed: dict[str, tuple[int, ...]]) -> None:
    for name in sorted(found.keys() ^ needed.keys()):
        where = "is missing" if name in needed else "is not part of this architecture"
        raise CheckpointError(f"{path}: the tensor {name} {where}; config.json and the weights disagree")
    for name, shape in needed.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{path}: {name} has the shape {found[name]}; config.json (architecture, classes, input_shape) "
                f"needs {shape}"
            )


def released(folder: Path | str | None = None) -> list[Path]:
    """The checkpoint folders that ship with the project, or those in `folder`, by name."""
    root = Path(folder) if folder else Path(__file__).resolve().parents[2] / "checkpoints"
    return sorted(p.parent for p in root.glob("*/config.json"))
