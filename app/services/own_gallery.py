"""Own gallery service: the pictures of the folder that an ensemble was trained on, those that were held out."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import torch

from app.services.gallery import Collection
from cce.checkpoints.folder import Checkpoint
from cce.config import ConfigError
from cce.data.datasets import DataError, Split
from cce.evaluation import own_pictures

log = logging.getLogger(__name__)

_KEPT = 4
_Stamp = tuple[int, ...]


class OwnGallery:
    """The folders of ensembles that were trained on somebody's own pictures, each read once and again when it changes.

    Args:
        may_name: whether visitors may name a folder of this machine.
    """

    def __init__(self, may_name: bool = False) -> None:
        self.may_name = may_name
        self._named: dict[str, Path] = {}
        self._read: dict[str, tuple[Checkpoint, Path, _Stamp, Collection]] = {}
        self._lock = threading.Lock()

    def name(self, checkpoint: Checkpoint, folder: str) -> Collection:
        """Take a folder for an ensemble's, and keep that in mind on this machine.

        Raises:
            ConfigError: it cannot be named here, or its classes are not the ensemble's.
            DataError: it cannot be read.
        """
        if not self.may_name:
            raise ConfigError("No folder of this machine can be named here. Upload a picture instead.")
        path = Path(str(folder or "").strip()).expanduser()
        if not path.is_absolute() or not path.is_dir():
            raise DataError(f"There is no folder {str(folder or '')!r}. Give its whole path.")
        own_pictures.read(checkpoint, path, skip_bad=True)
        self._named[checkpoint.id] = path
        if checkpoint.pictures:
            own_pictures.remember(checkpoint.pictures, path)
        return self.collection(checkpoint)

    def collection(self, checkpoint: Checkpoint) -> Collection:
        """The held-out pictures that calibrate nothing; none, with words, where the folder is not here."""
        folder = self._named.get(checkpoint.id) or own_pictures.folder_of(checkpoint)
        if folder is None:
            return self._none(checkpoint, f"The pictures of {checkpoint.dataset!r}, that trained it, are not here.")
        with self._lock:
            stamp, known = _stamp(folder), self._read.get(checkpoint.id)
            if known and known[0] is checkpoint and known[1:3] == (folder, stamp):
                return known[3]
            made = self._of(checkpoint, folder)
            self._read.pop(checkpoint.id, None)
            self._read[checkpoint.id] = (checkpoint, folder, stamp, made)
            while len(self._read) > _KEPT:
                self._read.pop(next(iter(self._read)))
            return made

    def _of(self, checkpoint: Checkpoint, folder: Path) -> Collection:
        try:
            found = own_pictures.read(checkpoint, folder, skip_bad=True)
        except (ConfigError, DataError) as error:
            words = own_pictures.without_path(str(error), folder)
            log.warning("the pictures of %s: %s", checkpoint.id, error)
            return self._none(checkpoint, f"{words[:1].upper()}{words[1:]}.")
        notes = [f"{note[:1].upper()}{note[1:]}." for note in found.notes]
        words = " ".join([f"Pictures of {checkpoint.dataset!r} that no model here was trained on.", *notes])
        return Collection(checkpoint.dataset, checkpoint.classes, found.detection_test, words, None)

    def _none(self, checkpoint: Checkpoint, words: str) -> Collection:
        """A shelf without a picture."""
        empty = Split(torch.zeros(0, *checkpoint.model.config.input_shape, dtype=torch.uint8), torch.zeros(0).long())
        way = "Name their folder below, or upload a picture." if self.may_name else "Upload a picture."
        return Collection(checkpoint.dataset, checkpoint.classes, empty, f"{words} {way}", None, self.may_name)


def _stamp(folder: Path) -> _Stamp:
    """Changes when pictures come or go in the folder, its subfolders or theirs."""
    places = [folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*/"))]
    found = []
    for place in places:
        try:
            found.append(place.stat().st_mtime_ns if place.is_dir() else 0)
        except OSError:
            found.append(0)
    return tuple(found)
