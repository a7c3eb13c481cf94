"""Data files: `<name>.npz` with x_train, y_train, x_test, y_test, each checked as it is read, written whole or not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}  # H, W, C
_FIELDS = ("x_train", "y_train", "x_test", "y_test")
_REMEDY = "delete the file and load again to download it"


class DataError(RuntimeError):
    """A data set is absent, cannot be got, or its file is not what it should be."""


def read(
    path: Path, name: str, classes: int, parts: Sequence[str] = ("train", "test")
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read and check a data file.

    Args:
        path: of the file.
        name: of the data set, which says the size of its images.
        classes: labels run from 0 to one less.
        parts: which splits to read; what is left out costs nothing.

    Returns:
        For each part, images uint8 `(N, H, W, C)` and labels int64 `(N,)`.

    Raises:
        DataError: damaged or wrong; the message names the file and the field.
    """
    arrays = _open(path)
    with arrays:
        return [_split(arrays, path, name, classes, part) for part in parts]


def _open(path: Path) -> np.lib.npyio.NpzFile:
    """Open a data file and check that it holds the four arrays; nothing of them is read yet."""
    try:
        arrays = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises nearly anything over a damaged file
        raise DataError(_unreadable(path, _reason(error))) from error
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise DataError(_unreadable(path, "it holds a single array"))
    missing = [field for field in _FIELDS if field not in arrays.files]
    if missing:
        arrays.close()
        raise DataError(f"{path} lacks {', '.join(missing)} (it has {', '.join(arrays.files) or 'nothing'}); {_REMEDY}")
    return arrays


def _split(
    arrays: np.lib.npyio.NpzFile, path: Path, name: str, classes: int, part: str
) -> tuple[np.ndarray, np.ndarray]:
    """Read and check ``x_<part>`` and ``y_<part>``."""
    images = _field(arrays, path, f"x_{part}")
    labels = _field(arrays, path, f"y_{part}")
    height, width, channels = SHAPES[name]
    if images.dtype != np.uint8:
        raise DataError(f"{path}: x_{part} is {images.dtype}; it has to be uint8, 0 to 255")
    if images.ndim == 3 and channels == 1:
        images = images[..., None]
    if images.shape[1:] != (height, width, channels):
        raise DataError(
            f"{path}: x_{part} has shape {images.shape}; {name} is (N, {height}, {width}, {channels}), channels last"
        )
    return images, _labels(labels, len(images), path, name, classes, f"y_{part}")


def _labels(labels: np.ndarray, count: int, path: Path, name: str, classes: int, field: str) -> np.ndarray:
    """Check the labels of a split and give them as int64."""
    if labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {field} is {labels.dtype}; labels are whole numbers")
    if labels.shape not in ((count,), (count, 1)):
        raise DataError(f"{path}: {field} has shape {labels.shape}; there are {count} images")
    if count and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{path}: {field} runs from {labels.min()} to {labels.max()}; {name} has labels 0 to {classes - 1}"
        )
    return labels.reshape(-1).astype(np.int64)


def _field(arrays: np.lib.npyio.NpzFile, path: Path, field: str) -> np.ndarray:
    """Read one array; this is where damage inside the file shows."""
    try:
        array = arrays[field]
    except Exception as error:  # a header may be no Python, name no type, or ask for more memory than there is
        raise DataError(f"{path}: {field} cannot be read ({_reason(error)}); {_REMEDY}") from error
    if not isinstance(array, np.ndarray):  # numpy gives what does not begin like an array as bytes
        raise DataError(f"{path}: {field} is no array; {_REMEDY}")
    return array


def _reason(error: Exception) -> str:
    """What numpy says of a damaged file; where that is of its own objects, in our words."""
    words = str(error)
    return words if words and " at 0x" not in words else "its header is damaged"


def _unreadable(path: Path, why: object) -> str:
    return f"{path} is not a readable npz file ({why}); {_REMEDY}"


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the data file beside its place, then rename: it is whole or absent, never half."""
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)  # mkstemp's 0600 would lock out others who share the folder
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
