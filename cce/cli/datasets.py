"""The data that a checkpoint is measured on: its named data set, or a folder of class folders by `--data-dir`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from cce.checkpoints.folder import Checkpoint
from cce.config import check
from cce.data import class_folders
from cce.data import datasets as data
from cce.data.datasets import DATASETS, DataError, Dataset
from cce.machine.processes import Processes


def add_data_dir(p: argparse.ArgumentParser) -> None:
    """`--data-dir`."""
    p.add_argument(
        "--data-dir",
        type=Path,
        metavar="FOLDER",
        help="test on your own pictures: a folder with a subfolder for each class of the ensemble, where every "
        f"{class_folders.TEST_EVERY}th picture is for testing, or train/ and test/ with these. Each is cut about its "
        "middle and resized to the ensemble's input, as in training (default: the folder that it was trained on)",
    )


def load_dataset(checkpoint: Checkpoint, options: argparse.Namespace, processes: Processes | None = None) -> Dataset:
    """The ensemble's data set at the size that it takes, or the class folders that are asked for.

    Args:
        checkpoint: the ensemble.
        options: with `data`, the folder of the named data sets, and `data_dir`, class folders.
        processes: the main one goes first, as it may have to download.

    Raises:
        ConfigError: class folders that are not the classes of the ensemble.
        DataError: data that is not there or cannot be read.
    """
    folder = options.data_dir or _trained_on(checkpoint)
    if folder is not None:
        return _class_folders(checkpoint, folder)
    size = checkpoint.model.config.input_shape[1] if checkpoint.dataset == "digits" else None
    processes = processes or Processes()
    found = data.load(checkpoint.dataset, options.data, size) if processes.main else None
    processes.gather(None)
    return found or data.load(checkpoint.dataset, options.data, size)


def _trained_on(checkpoint: Checkpoint) -> Path | None:
    """The class folders that the ensemble was trained on; None: it has a named data set."""
    if checkpoint.dataset in DATASETS:
        return None
    was = checkpoint.training.get("config", {}).get("data_dir")
    if was and Path(was).is_dir():
        return Path(was)
    where = f" in {was}, which is not here" if was else ""
    raise DataError(
        f"{checkpoint.id} was trained on the pictures of {checkpoint.dataset!r}{where}; name their folder by "
        "--data-dir: one subfolder for each class"
    )


def _class_folders(checkpoint: Checkpoint, folder: Path) -> Dataset:
    """Class folders at the ensemble's size; their classes are compared before a picture is read."""
    folder = folder.expanduser()
    check_classes(checkpoint, tuple(class_folders.find(folder)[0]), str(folder))
    with tqdm(unit="picture", desc="reading", leave=False) as bar:
        return class_folders.load(folder, checkpoint.model.config.input_shape, lambda done, total: bar.update())


def check_classes(checkpoint: Checkpoint, classes: tuple[str, ...], where: str) -> None:
    """Refuse data whose classes are not the ensemble's, in its order."""
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
