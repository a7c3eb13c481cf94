"""The data that a checkpoint is measured on: its named data set, or a folder of class folders by `--data-dir`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from cce.checkpoints.folder import Checkpoint
from cce.data import datasets as data
from cce.data.datasets import Dataset
from cce.data.folder_layout import TEST_EVERY
from cce.evaluation import own_pictures
from cce.machine.processes import Processes


def add_data_dir(p: argparse.ArgumentParser) -> None:
    """`--data-dir`."""
    p.add_argument(
        "--data-dir",
        type=Path,
        metavar="FOLDER",
        help="test on your own pictures: a folder with a subfolder for each class of the ensemble, where about one in "
        f"{TEST_EVERY} is for testing, or train/ and test/ (or val/) with these. Each is cut about its "
        "middle and resized to the ensemble's input, as in training; what was trained on is never tested on "
        "(default: the folder that it was trained on)",
    )
    add_skip_bad(p)


def add_skip_bad(p: argparse.ArgumentParser) -> None:
    """`--skip-bad`."""
    p.add_argument(
        "--skip-bad", action="store_true", help="go on without the pictures of --data-dir that cannot be read"
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
    folder = options.data_dir or own_pictures.folder_of(checkpoint)
    if folder is not None:
        processes = processes or Processes()
        return _class_folders(checkpoint, folder, options, processes.main)
    if own_pictures.is_own(checkpoint):
        raise own_pictures.missing(checkpoint)
    size = checkpoint.model.config.input_shape[1] if checkpoint.dataset == "digits" else None
    processes = processes or Processes()
    found = data.load(checkpoint.dataset, options.data, size) if processes.main else None
    processes.gather(None)
    return found or data.load(checkpoint.dataset, options.data, size)


def _class_folders(checkpoint: Checkpoint, folder: Path, options: argparse.Namespace, main: bool) -> Dataset:
    """Class folders at the ensemble's size, and what there is to tell of them."""
    with tqdm(unit="picture", desc="reading", leave=False, disable=not main) as bar:
        skip_bad = getattr(options, "skip_bad", False)
        found = own_pictures.read(checkpoint, folder.expanduser(), lambda done, total: bar.update(), skip_bad)
    if main:
        tell(getattr(options, "command", None), found)
    return found


def tell(command: str | None, dataset: Dataset) -> None:
    """Say on standard error what there is to tell of a folder."""
    for note in dataset.notes:
        print(f"cce {command or 'data'}: {dataset.name}: {note}", file=sys.stderr)
