"""Own pictures: the folder that an ensemble was trained on, found again, and read as it was read then.

Where the folder lies is known to this machine alone: it stands in the run folder, and in `folders.json` beside what
evaluations keep. A checkpoint names it without its path.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cce.checkpoints.folder import Checkpoint
from cce.config import check
from cce.data import class_folders
from cce.data.datasets import DATASETS, DataError, Dataset
from cce.data.picture_split import Record
from cce.machine.files import write_atomically

_MOST = 500
"""Folders that are remembered; the oldest is forgotten first."""


def home() -> Path:
    """Where this machine keeps what belongs to no run: `CCE_STUDIO_HOME`, else `~/.cache/cce-studio`."""
    return Path(os.environ.get("CCE_STUDIO_HOME") or "~/.cache/cce-studio").expanduser()


def remember(record: Record, folder: Path | str) -> None:
    """Keep in mind where a folder lies that an ensemble is trained on; a disk that refuses is no reason to stop."""
    known = _known()
    known.pop(record.fingerprint, None)
    known[record.fingerprint] = str(Path(folder).resolve())
    kept = dict(list(known.items())[-_MOST:])
    try:
        home().mkdir(parents=True, exist_ok=True)
        write_atomically(home() / "folders.json", json.dumps(kept, indent=1) + "\n")
    except OSError:
        return


def _known() -> dict[str, str]:
    try:
        values = json.loads((home() / "folders.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in values.items() if isinstance(v, str)} if isinstance(values, dict) else {}


def is_own(checkpoint: Checkpoint) -> bool:
    """Whether it was trained on somebody's own folder, not on a named data set."""
    return checkpoint.dataset not in DATASETS


def folder_of(checkpoint: Checkpoint) -> Path | None:
    """The folder that an ensemble was trained on, where it is still here."""
    if not is_own(checkpoint):
        return None
    places = [_of_run(checkpoint), _known().get(checkpoint.pictures.fingerprint) if checkpoint.pictures else None]
    config = checkpoint.training.get("config")
    places.append(config.get("data_dir") if isinstance(config, dict) else None)  # checkpoints of before hold the path
    for place in places:
        if isinstance(place, str) and Path(place).is_absolute() and Path(place).is_dir():
            return Path(place)
    return None


def _of_run(checkpoint: Checkpoint) -> str | None:
    """What the run folder says that a checkpoint lies in."""
    if checkpoint.folder is None:
        return None
    try:
        values = json.loads((checkpoint.folder.resolve().parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(values, dict) and values.get("dataset") == checkpoint.dataset
    return values.get("data_dir") if same else None


def read(
    checkpoint: Checkpoint,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """Class folders at an ensemble's size; every picture that it knows keeps its part.

    Raises:
        ConfigError: class folders that are not the classes of the ensemble, told before a picture is read.
        DataError: see `cce.class_folders.load`.
    """
    check_classes(checkpoint, class_folders.read_layout(folder).classes, str(folder))
    by_place = is_own(checkpoint) and checkpoint.pictures is None
    options = class_folders.Options(checkpoint.pictures, by_place, skip_bad)
    return class_folders.load(folder, checkpoint.model.config.input_shape, progress, options)


def missing(checkpoint: Checkpoint) -> DataError:
    """The error for an ensemble whose pictures are not here."""
    config = checkpoint.training.get("config")
    was = config.get("data_dir") if isinstance(config, dict) else None
    where = f" in {was}, which is not here" if isinstance(was, str) and Path(was).is_absolute() else ""
    return DataError(
        f"{checkpoint.id} was trained on the pictures of {checkpoint.dataset!r}{where}; name their folder "
        "(data-dir on the command line), with a subfolder for each class"
    )


def check_classes(checkpoint: Checkpoint, classes: tuple[str, ...], where: str) -> None:
    """Refuse data whose classes are not the ensemble's, in its order.

    Raises:
        ConfigError: they differ; the message says in what.
    """
    if classes == checkpoint.classes:
        return
    more, less = (sorted(set(a) - set(b)) for a, b in ((classes, checkpoint.classes), (checkpoint.classes, classes)))
    differ = [f"has {_few(more)} more"] * bool(more) + [f"lacks {_few(less)}"] * bool(less) or ["has another order"]
    check(
        False,
        f"{where} has {len(classes)} classes and {checkpoint.id} {len(checkpoint.classes)}: "
        f"the folder {' and '.join(differ)}; subfolders take the names of the ensemble's classes",
    )


def _few(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def without_path(value: Any, folder: Path | str | None) -> Any:
    """JSON values in which a folder is called by its name alone: nothing that leaves this machine tells its paths.

    >>> without_path({"command": "evaluate --data-dir /home/me/pets"}, "/home/me/pets")
    {'command': 'evaluate --data-dir pets'}
    """
    if not folder:
        return value
    if isinstance(value, dict):
        return {k: without_path(v, folder) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_path(v, folder) for v in value]
    if not isinstance(value, str):
        return value
    for path in dict.fromkeys((str(Path(folder).resolve()), str(folder))):
        value = value.replace(path, Path(folder).resolve().name) if len(path) > 1 else value
    return value
