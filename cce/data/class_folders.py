"""Class folders: any folder of pictures as a data set, one subfolder for each class.

Either `FOLDER/train/CLASS/*` and `FOLDER/test/CLASS/*`, or `FOLDER/CLASS/*`, where every fifth picture of a class,
in the order of the file names, is for testing. Classes are in the order of their names. A picture is cut about its
middle to the model's proportions and resized to its input, as uploads are (`cce.data.pictures`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cce.config import TrainConfig
from cce.data import datasets as data
from cce.data.datasets import DATASETS, DataError, Dataset, Split
from cce.data.pictures import PictureError, read_picture, to_model_input

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
"""What counts as a picture; other files are passed over."""

TEST_EVERY = 5
"""Without `train/` and `test/`: every so manyth picture of a class is for testing."""

LEAST_TEST = 20
"""Fewest pictures for testing, half of which may go to calibrating the detector."""

MOST_BYTES = 8_000_000_000
"""Most bytes of resized pictures: they are held in memory."""

Files = dict[str, list[Path]]
"""The picture files of each class, by its name."""


def name_of(folder: Path | str) -> str:
    """The data set's name: the folder's, told apart from the named data sets."""
    name = Path(folder).resolve().name
    return f"{name}-folder" if name in DATASETS else name


def find(folder: Path | str) -> tuple[Files, Files]:
    """The picture files of each class, for training and for testing. No picture is opened.

    Raises:
        DataError: no such folder, fewer than two classes, an empty class, classes of train/ and test/ that
            differ, or too few pictures; the message names the folder and what it takes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}; pictures of your own are a folder with a subfolder for each class"
        )
    parts = [folder / "train", folder / "test"]
    if all(part.is_dir() for part in parts):
        train, test = (_classes(part) for part in parts)
        differ = sorted(train.keys() ^ test.keys())
        if differ:
            where = parts[differ[0] not in train]
            raise DataError(f"the class {differ[0]!r} is in {where} alone; train/ and test/ take the same classes")
    else:
        whole = _classes(folder)
        train = {k: [p for i, p in enumerate(v) if i % TEST_EVERY != TEST_EVERY - 1] for k, v in whole.items()}
        test = {k: v[TEST_EVERY - 1 :: TEST_EVERY] for k, v in whole.items()}
    for part, files in (("training", train), ("testing", test)):
        empty = [name for name, paths in files.items() if not paths]
        if empty:
            raise DataError(
                f"the class {empty[0]!r} of {folder} has no picture for {part}; it takes at least {TEST_EVERY} "
                "pictures, or some in each of train/ and test/"
            )
    count = sum(map(len, test.values()))
    if count < LEAST_TEST:
        raise DataError(
            f"{folder} has {count} pictures for testing; it takes at least {LEAST_TEST}, "
            f"{LEAST_TEST * TEST_EVERY} in all where there are no train/ and test/"
        )
    return train, test


def _classes(folder: Path) -> Files:
    """The picture files of each subfolder."""
    subfolders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(subfolders) < 2:
        raise DataError(
            f"{folder} has {len(subfolders)} subfolder{'' if len(subfolders) == 1 else 's'}; "
            "a data set has one for each class, two at least"
        )
    return {
        sub.name: sorted(p for p in sub.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        for sub in subfolders
    }


def load(
    folder: Path | str, shape: tuple[int, int, int], progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """A folder as a data set.

    The test pictures are shuffled once, so that the calibration ones, the last tenth but at least ten, are of
    all classes.

    Args:
        folder: see the head of this module.
        shape: channels (1: grey, 3: RGB), height and width that each picture is brought to.
        progress: called as `progress(done, total)` in pictures.

    Raises:
        DataError: as `find`; a picture that cannot be read or is too small, by its path; or more than
            `MOST_BYTES` of them.
    """
    if shape[0] not in (1, 3):
        raise DataError(f"input_shape is {shape}; pictures have 1 channel (grey) or 3")
    train, test = find(folder)
    count = sum(len(paths) for files in (train, test) for paths in files.values())
    size = count * shape[0] * shape[1] * shape[2]
    if size > MOST_BYTES:
        raise DataError(
            f"{folder} has {count} pictures, {size / 1e9:.0f} GB at {shape[1]} x {shape[2]}; "
            f"at most {MOST_BYTES / 1e9:.0f} GB are held in memory: take a smaller input_shape or fewer pictures"
        )
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, count)

    training, testing = (_read(files, shape, tick) for files in (train, test))
    order = torch.randperm(len(testing), generator=torch.Generator().manual_seed(0))
    testing = Split(testing.images[order], testing.labels[order])
    start = len(testing) - max(10, len(testing) // 10)
    calibration = Split(testing.images[start:], testing.labels[start:], start)
    return Dataset(name_of(folder), tuple(train), training, calibration, testing)


def _read(files: Files, shape: tuple[int, int, int], tick: Callable[[], None]) -> Split:
    """All pictures, resized, with their class's place as label."""
    images: list[Tensor] = []
    labels = []
    for label, paths in enumerate(files.values()):
        for path in paths:
            try:
                pixels, _ = to_model_input(read_picture(path), *shape)
            except PictureError as error:
                problem = str(error).split(". ")[0].removesuffix(".")
                raise DataError(f"{path}: {problem[0].lower()}{problem[1:]}; replace it or take it away") from error
            images.append(pixels.mul(255).round().to(torch.uint8))
            labels.append(label)
            tick()
    return Split(torch.stack(images), torch.tensor(labels))


def of_config(
    config: TrainConfig, root: Path | str | None = None, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """The data that a config trains on: class folders where it names them, else a named data set under `root`."""
    if config.data_dir:
        return load(config.data_dir, config.model.input_shape, progress)
    size = config.model.input_shape[1] if config.dataset == "digits" else None
    return data.load(config.dataset, root, size)
