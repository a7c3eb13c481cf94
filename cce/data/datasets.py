"""Data stage: load a data set once, as uint8.

Four data sets. ``digits`` comes with scikit-learn and is always there. ``mnist``, ``cifar10`` and
``cifar100`` are one file each, ``<folder>/<name>.npz``, which is written after the first
download. Images are kept as uint8 ``(N, C, H, W)``; ``Split.pixels`` gives them in [0, 1].
"""

import functools
import importlib.util
import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cce.config import ConfigError, check, mirror_keeps_class
from cce.data import files as data_files
from cce.data.downloads import DOWNLOAD_BYTES, Progress, fetch
from cce.data.files import SHAPES, DataError

__all__ = [
    "CLASS_NAMES",
    "DATASETS",
    "DOWNLOAD_BYTES",
    "DataError",
    "Dataset",
    "Split",
    "available",
    "data_file",
    "data_folder",
    "download",
    "load",
    "load_test",
    "samples",
]

_DIGITS = tuple("0123456789")

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "mnist": _DIGITS,
    "digits": _DIGITS,
    "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    # The hundred fine labels, in their official order, which is alphabetical.
    "cifar100": tuple(
        """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
        butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
        crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house
        kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
        mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
        plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew
        skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
        telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf
        woman worm""".split()
    ),
}
"""Class names of each data set, by label."""

DATASETS = tuple(CLASS_NAMES)
"""The names that ``load`` takes."""

DIGITS_SIZE = 16
"""Side in pixels that the 8x8 digits are upscaled to unless another is asked for."""


@dataclass(frozen=True)
class Selection:
    """Images that a choice was made on: ``start`` to ``stop - 1`` of an official set, or a folder's pictures by key."""

    start: int = 0
    stop: int = 0
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(0 <= self.start <= self.stop, f"start is {self.start} and stop {self.stop}; 0 <= start <= stop")

    @property
    def count(self) -> int:
        """How many images."""
        return len(self.keys) or self.stop - self.start


@dataclass(frozen=True)
class Split:
    """Images with their labels: a run of consecutive ones from an official set.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64.
        start: index of the first one in the official set.
        keys: of a folder of pictures, each one's key (``cce.data.picture_split``); empty for a named data set.

    Raises:
        ValueError: images, labels and keys differ in number.
    """

    images: Tensor
    labels: Tensor
    start: int = 0
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")
        if self.keys and len(self.keys) != len(self.images):
            raise ValueError(f"{len(self.images)} images but {len(self.keys)} keys")

    def __len__(self) -> int:
        return len(self.images)

    def first(self, n: int) -> "Split":
        """The first n, or all if there are fewer. Shares memory with this split.

        Raises:
            ValueError: n is negative.
        """
        if n < 0:
            raise ValueError(f"n is {n}; how many images to take cannot be negative")
        return Split(self.images[:n], self.labels[:n], self.start, self.keys[:n])

    def last(self, n: int) -> "Split":
        """The last n, or all if there are fewer. Shares memory with this split.

        Raises:
            ValueError: n is negative.
        """
        if n < 0:
            raise ValueError(f"n is {n}; how many images to take cannot be negative")
        begin = max(0, len(self) - n)
        return Split(self.images[begin:], self.labels[begin:], self.start + begin, self.keys[begin:])

    def selection(self) -> Selection:
        """Which images these are."""
        return Selection(keys=self.keys) if self.keys else Selection(self.start, self.start + len(self))

    def without(self, selection: Selection) -> "Split":
        """The images that are not in a selection, in their order. Shares memory where these come first."""
        if self.keys:
            chosen = set(selection.keys)
            out = [key in chosen for key in self.keys]
        else:
            out = [selection.start <= self.start + i < selection.stop for i in range(len(self))]
        left = [i for i, gone in enumerate(out) if not gone]
        if left == list(range(len(left))):
            return self.first(len(left))
        keys = tuple(self.keys[i] for i in left) if self.keys else ()
        return Split(self.images[left], self.labels[left], self.start + left[0], keys)

    def pixels(self) -> Tensor:
        """The images as ``(N, C, H, W)`` float32 in [0, 1], on the 1/255 grid."""
        return self.images.to(torch.float32).div_(255)


@dataclass(frozen=True)
class Dataset:
    """A data set in its three roles.

    For ``mnist``, ``cifar10`` and ``cifar100``, ``train`` is every training image, ``test`` the
    whole official test set and ``calibration`` its last tenth (1,000 images). ``digits`` has one
    set of 1,797: ``test`` is the last 360, ``calibration`` the 180 before, ``train`` the rest.

    Calibration images set detector thresholds and do nothing else: what evaluates a detector
    reads ``detection_test``, never ``test``.

    ``record``: of a folder of pictures, which of them is for what (``cce.picture_split.Record``). ``notes``: what there
    is to tell of a folder, a line each: files that were passed over, pictures that came or went since training.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    calibration: Split
    test: Split
    record: Any = None
    notes: tuple[str, ...] = ()

    @property
    def detection_test(self) -> Split:
        """The test images that no detector threshold was calibrated on."""
        before = self.calibration.start - self.test.start
        return self.test.first(before) if before >= 0 else self.test

    @property
    def flips(self) -> bool:
        """Whether a mirror image keeps its class: true of photographs, not of digits."""
        return mirror_keeps_class(self.name)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width


def data_folder(root: str | Path | None = None) -> Path:
    """The folder of the data sets: root, else ``CCE_DATA``, else ``~/.cache/cce-studio/data``."""
    chosen = root or os.environ.get("CCE_DATA") or "~/.cache/cce-studio/data"
    return Path(chosen).expanduser()


def data_file(name: str, root: str | Path | None = None) -> Path:
    """The file that holds ``mnist``, ``cifar10`` or ``cifar100``, whether or not it is there.

    Raises:
        ValueError: no data set of that name has a file.
    """
    if name not in SHAPES:
        raise ValueError(f"{name!r} has no data file; the ones with a file: {', '.join(SHAPES)}")
    return data_folder(root) / f"{name}.npz"


def available(name: str, root: str | Path | None = None) -> bool:
    """Whether ``load`` would find the data set on this machine. Uses no network.

    Raises:
        ValueError: the name is none of ``DATASETS``.
    """
    _check_name(name)
    return name == "digits" or data_file(name, root).is_file()


def load(name: str, root: str | Path | None = None, size: int | None = None) -> Dataset:
    """Load a data set, downloading it first if it is not there.

    Args:
        name: one of ``DATASETS``.
        root: folder of the data sets; see ``data_folder``.
        size: side in pixels to upscale ``digits`` to (default 16). For ``digits`` only.

    Returns:
        The data set, on the CPU.

    Raises:
        ValueError: the name is none of ``DATASETS``, or a size is given for another than digits.
        DataError: not there and not to be got, or its file is damaged or wrong.

    Example:
        >>> digits = load("digits")
        >>> digits.train.images.shape
        torch.Size([1257, 1, 16, 16])
    """
    _check_name(name)
    if name == "digits":
        return _digits(DIGITS_SIZE if size is None else size)
    if size is not None:
        raise ValueError(f"size is {size}, but {name} has its own; only digits are resized")
    path = data_file(name, root)
    if not path.is_file():
        download(name, root)
    train, test = _splits(path, name, "train", "test")
    if len(test) < 10:
        raise DataError(
            f"{path}: x_test has {len(test)} images; at least 10 are needed, as a tenth of them "
            "calibrates the detectors"
        )
    tenth = len(test) // 10
    start = len(test) - tenth
    calibration = Split(test.images[start:], test.labels[start:], start)
    return Dataset(name, CLASS_NAMES[name], train, calibration, test)


def load_test(name: str, root: str | Path | None = None) -> Split:
    """The official test set alone, from the file that must already be there: a sixth of what `load` reads.

    Raises:
        ValueError: no data set of that name has a file.
        DataError: the file is absent, damaged or wrong.
    """
    return _splits(data_file(name, root), name, "test")[0]


def samples(name: str) -> Split:
    """The test images that installed packages ship: always there, with no network.

    Args:
        name: one of ``DATASETS``.

    Returns:
        The first 20 of the official test set, from the foolbox package; for ``digits`` the 360
        held-out ones.

    Raises:
        ValueError: the name is none of ``DATASETS``.
        DataError: the foolbox package is not installed, or has lost its pictures.
    """
    _check_name(name)
    if name == "digits":
        return load(name).test
    # find_spec looks without importing: foolbox takes seconds to import.
    spec = importlib.util.find_spec("foolbox")
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else None
    paths = sorted(folder.glob(f"{name}_[0-9][0-9]_*.png")) if folder else []
    if not paths:
        raise DataError(
            f"the sample pictures of {name} are missing: they come with the foolbox package "
            f"(looked in {folder or 'the installed packages'}); run 'pip install foolbox'"
        )
    channels = SHAPES[name][2]
    pictures = [_read_sample(path, "L" if channels == 1 else "RGB") for path in paths]
    labels = [int(path.stem.rsplit("_", 1)[1]) for path in paths]
    images = np.stack(pictures).reshape(len(paths), *SHAPES[name])
    return Split(_channels_first(images), torch.tensor(labels))


def download(name: str, root: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Get a data set by torchvision, which verifies it, and write its file.

    Does nothing where the file is already there. The archive holds training and test images
    together (``DOWNLOAD_BYTES``); it is removed once the file is written.

    Args:
        name: ``mnist``, ``cifar10`` or ``cifar100`` (for ``digits`` there is nothing to get).
        root: folder of the data sets; see ``data_folder``.
        progress: called, from the calling thread, with a fraction in [0, 1] and a line of text.

    Returns:
        The file.

    Raises:
        ValueError: no data set of that name is to be downloaded.
        DataError: no network, a checksum that disagrees, or a folder that cannot be written.
    """
    path = data_file(name, root)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{name}-download-", dir=path.parent, ignore_cleanup_errors=True
        ) as scratch:
            arrays = fetch(name, Path(scratch), progress or (lambda fraction, text: None))
            data_files.write(path, arrays)
    except (OSError, RuntimeError, EOFError, zlib.error) as error:  # URLError is an OSError
        raise DataError(_how_to_get(name, path, error)) from error
    return path


def _check_name(name: str) -> None:
    if name not in CLASS_NAMES:
        raise ConfigError(f"no data set is called {name!r}; choose one of {', '.join(DATASETS)}")


def _how_to_get(name: str, path: Path, error: BaseException) -> str:
    """The message for a data set that is neither there nor to be downloaded."""
    megabytes = round(DOWNLOAD_BYTES[name] / 1e6)
    return (
        f"{name} is not on this machine and could not be downloaded ({error}).\n"
        f"Looked for {path.name} in {path.parent}.\n"
        "Three ways to get it:\n"
        f"  1. with a network, run 'python -m cce data {name}' again ({megabytes} MB);\n"
        f"  2. copy {path.name} from another machine to {path} (arrays x_train, y_train, x_test, "
        "y_test; uint8, images NHWC or NHW);\n"
        f"  3. point --data or the variable CCE_DATA at a folder that holds {path.name}."
    )


def _splits(path: Path, name: str, *parts: str) -> list[Split]:
    """The parts of a data file."""
    found = data_files.read(path, name, len(CLASS_NAMES[name]), parts)
    return [Split(_channels_first(images), torch.from_numpy(labels)) for images, labels in found]


def _channels_first(images: np.ndarray) -> Tensor:
    """NHWC to a contiguous NCHW tensor, in memory of its own."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


# Pictures from packages


def _read_sample(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert(mode))


def _digits(size: int) -> Dataset:
    """scikit-learn's digits at the given size.

    The rule: a value v in 0..16 becomes v * 255 / 16; the 8x8 picture is then interpolated
    bilinearly, pixels as areas (half-pixel centres, edges repeated), and rounded to uint8.
    """
    if size < 8:
        raise ValueError(f"size is {size}; digits are 8x8 and are only upscaled")
    values, targets = _raw_digits()
    scaled = torch.from_numpy(values)[:, None] * (255 / 16)  # (N, 1, 8, 8) float64
    scaled = F.interpolate(scaled, size=(size, size), mode="bilinear", align_corners=False)
    images = scaled.round_().to(torch.uint8)
    labels = torch.from_numpy(targets).to(torch.int64)
    count = len(images)
    bounds = {"train": (0, count - 540), "calibration": (count - 540, count - 360)}
    bounds["test"] = (count - 360, count)
    parts = {part: Split(images[a:b], labels[a:b], a) for part, (a, b) in bounds.items()}
    return Dataset("digits", CLASS_NAMES["digits"], **parts)


@functools.cache
def _raw_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 8, 8) with values 0..16 and labels, in one fixed shuffled order.

    scikit-learn keeps the writers together: cut as it is, the calibration and the test images would
    come from different hands, and a threshold set for 5 % of the one would flag 16 % of the other.
    """
    rows = _digits_rows()
    images, labels = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    return images[order], labels[order]


def _digits_rows() -> np.ndarray:
    """scikit-learn's rows of 64 values and a label, from its file: its import takes a second of every process."""
    spec = importlib.util.find_spec("sklearn")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz" if spec and spec.origin else None
    if path and path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits  # an installation that keeps the file elsewhere

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
