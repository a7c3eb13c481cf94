"""Downloads: a data set's arrays, got and verified by torchvision, with progress and a watch for dead connections."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cce.data.torchvision_loading import import_torchvision

Progress = Callable[[float, str], None]
"""Called with a fraction in [0, 1] and a line of text."""

DOWNLOAD_BYTES = {"mnist": 11_594_722, "cifar10": 170_498_071, "cifar100": 169_001_437}
"""Size of what ``fetch`` gets, in bytes: training and test images come in one archive."""

_TORCHVISION_CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_STALL_SECONDS = 60.0  # a download that receives nothing for so long has failed
_POLL_SECONDS = 0.3


def fetch(name: str, scratch: Path, progress: Progress) -> dict[str, np.ndarray]:
    """Download into a scratch folder, reporting, and give the four arrays.

    The download runs in a thread of its own while this one watches the folder grow, so that
    progress is reported from the caller's thread and a dead connection is noticed.
    """
    outcome: dict[str, np.ndarray | BaseException] = {}
    worker = threading.Thread(target=_fetch_into, args=(outcome, name, scratch), daemon=True)
    worker.start()
    total, megabytes = DOWNLOAD_BYTES[name], round(DOWNLOAD_BYTES[name] / 1e6)
    seen, seen_at = 0, time.monotonic()
    while worker.is_alive():
        size = _bytes_in(scratch)
        if size != seen:
            seen, seen_at = size, time.monotonic()
        elif seen < total and time.monotonic() - seen_at > _STALL_SECONDS:
            raise TimeoutError(f"nothing received for {_STALL_SECONDS:.0f} seconds")
        if seen < total:
            progress(0.9 * seen / total, f"Downloading {name}: {seen / 1e6:.0f} of {megabytes} MB")
        else:
            progress(0.9, f"Unpacking and checking {name}")
        worker.join(_POLL_SECONDS)
    if isinstance(error := outcome.pop("error", None), BaseException):
        raise error
    progress(1.0, f"{name} is here")
    return outcome


def _fetch_into(outcome: dict[str, object], name: str, scratch: Path) -> None:
    """Fill outcome with the four arrays, or with the error under ``error``."""
    try:
        kind = getattr(import_torchvision().datasets, _TORCHVISION_CLASSES[name])
        for part in ("train", "test"):
            official = kind(str(scratch), train=part == "train", download=True)
            outcome[f"x_{part}"] = np.asarray(official.data, dtype=np.uint8)
            outcome[f"y_{part}"] = np.asarray(official.targets, dtype=np.uint8)
    except BaseException as error:  # handed to the caller's thread, which raises it
        outcome["error"] = error


def _bytes_in(folder: Path) -> int:
    """Size of all files in a folder that another thread is writing to."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
            total += path.stat().st_size if path.is_file() else 0
    return total
