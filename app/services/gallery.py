"""Gallery service: the pictures there are to choose from, for the ensembles of each data set."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from app.services.models import dataset_title
from cce.data import datasets as data
from cce.data.datasets import DOWNLOAD_BYTES, DataError, Split
from cce.data.pictures import to_model_input, to_picture

log = logging.getLogger(__name__)

PAGE_SIZE = 20
ASSETS = Path(__file__).resolve().parents[2] / "assets"
_NOT_EXAMPLES = ("horse_silhouette",)
_download_lock = threading.Lock()


@dataclass(frozen=True)
class Collection:
    """Labelled pictures at one size.

    `note` says in a line which they are. `missing_megabytes` is the size of the download that would
    bring the whole test set, None where it is here or there is none to get. `wants_folder`: whether a folder of the
    visitor's own can be named for it. There may be no picture at all: then the note says what is missing.
    """

    dataset: str
    classes: tuple[str, ...]
    split: Split
    note: str
    missing_megabytes: int | None
    wants_folder: bool = False

    def indices(self, label: int | None = None) -> list[int]:
        """Positions of the pictures, of all classes or of one."""
        if label is None:
            return list(range(len(self.split)))
        return torch.nonzero(self.split.labels == label).flatten().tolist()

    def pixels(self, index: int) -> Tensor:
        """`(C, H, W)` float32 in [0, 1]."""
        return self.split.images[index].to(torch.float32).div(255)

    def picture(self, index: int) -> Image.Image:
        """The picture at its own resolution."""
        return to_picture(self.pixels(index))

    def label(self, index: int) -> str:
        """Name of the true class."""
        return self.classes[int(self.split.labels[index])]

    def name(self, index: int) -> str:
        """What the picture is called on screen."""
        return f"test picture {self.split.start + index}"


def collection(dataset: str, root: Path | None, shape: tuple[int, int, int]) -> Collection:
    """The pictures for ensembles of a data set that take `shape` (channels, height, width).

    The test set where it is on this machine, without the images that calibrate detectors; else the
    pictures that installed packages ship.
    """
    here = data.available(dataset, root)
    changed = data.data_file(dataset, root).stat().st_mtime_ns if here and dataset != "digits" else 0
    return _collection(dataset, root, shape, changed)


@lru_cache(maxsize=4)
def _collection(dataset: str, root: Path | None, shape: tuple[int, int, int], changed: int) -> Collection:
    title = dataset_title(dataset)
    missing = None
    if dataset == "digits":
        split = data.load("digits", size=shape[1]).test if shape[1] == shape[2] else data.samples("digits")
        note = "Digits of scikit-learn that no model here was trained on."
    elif changed and (test := _test_set(dataset, root)):
        split, note = test, f"{title} test pictures, without those that calibrate detectors."
    else:
        split = data.samples(dataset)
        missing = round(DOWNLOAD_BYTES[dataset] / 1e6)
        note = f"The {len(split)} {title} test pictures that ship."
    return Collection(dataset, data.CLASS_NAMES[dataset], _at_size(split, shape), note, missing)


def _test_set(dataset: str, root: Path | None) -> Split | None:
    try:
        test = data.load_test(dataset, root)
    except DataError as error:
        log.warning("the gallery falls back on the sample pictures: %s", error)
        return None
    return test.first(len(test) - len(test) // 10)


def _at_size(split: Split, shape: tuple[int, int, int]) -> Split:
    """The split at a model's size, where the model does not take the data set's own."""
    if tuple(split.images.shape[1:]) == shape:
        return split
    resized = [to_model_input(to_picture(x).convert("RGB"), *shape)[0] for x in split.pixels()]
    return Split(torch.stack(resized).mul(255).round().to(torch.uint8), split.labels, split.start)


def page(indices: list[int], number: int) -> tuple[list[int], int, int]:
    """One page of a list: its entries, its number (from 0, the nearest there is), and how many there are."""
    count = max(1, -(-len(indices) // PAGE_SIZE))
    number = min(max(0, number), count - 1)
    return indices[number * PAGE_SIZE : (number + 1) * PAGE_SIZE], number, count


def download(dataset: str, root: Path | None, progress: Callable[[float, str], None]) -> None:
    """Get a test set; a second caller waits for the first one's download.

    Raises:
        DataError: it could not be got; in words for the screen, without paths of this machine.
    """
    title = dataset_title(dataset)
    with _download_lock:
        try:
            data.download(dataset, root, lambda done, text: progress(done, text.replace(dataset, title)))
        except DataError as error:
            log.warning("%s", error)
            raise DataError(
                f"The {title} test set could not be downloaded ({_cause(error)}). Check the network and try again, or "
                f"put {dataset}.npz into the data folder (the README says how). The pictures that ship stay."
            ) from error


def _cause(error: DataError) -> str:
    """The short reason behind a failed download."""
    cause = error.__cause__
    reason = getattr(cause, "reason", None) or cause or "no reason given"
    return str(getattr(reason, "strerror", None) or reason)


def examples() -> list[tuple[str, Path]]:
    """Everyday pictures to try uploads with: name and file."""
    paths = sorted(ASSETS.glob("*.jpg"))
    return [(p.stem, p) for p in paths if p.stem not in _NOT_EXAMPLES]
