"""Folder layout: which files of a folder of class folders are pictures, of which class, for training or for testing.

No picture is decoded here. Subfolders of a class are read as torchvision's ImageFolder reads them; what is passed
over is counted and named once.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cce.data.datasets import DATASETS, DataError
from cce.data.picture_kinds import is_picture_file, suffix_is_known

TRAIN_NAMES = ("train", "training")
"""What the folder for training may be called, in any case."""

TEST_NAMES = ("test", "testing", "val", "valid", "validation")
"""What the folder for testing may be called, in any case; the first that is there is taken."""

TEST_EVERY = 5
"""Without a folder for testing, one picture in so many is for testing."""

LEAST_TEST = 20
"""Fewest pictures for testing, half of which may go to calibrating the detector."""

_NO_CLASSES = ("__macosx", "@eadir", "$recycle.bin", "lost+found")
"""Folders that systems make and nobody means as a class; those that begin with a dot are left alone too."""

Files = dict[str, list[Path]]
"""The picture files of each class, by its name."""


@dataclass(frozen=True)
class Layout:
    """The picture files of a folder.

    `train` holds the files for training and `test` those for testing; where the folder does not part them, `train`
    holds all and `test` is None. `notes`: what was passed over, a line each.
    """

    folder: Path
    train: Files
    test: Files | None
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of their names."""
        return tuple(self.train)

    @property
    def count(self) -> int:
        """How many picture files there are."""
        return sum(len(paths) for files in (self.train, self.test or {}) for paths in files.values())

    @property
    def training_count(self) -> int:
        """About how many of them are for training."""
        share = 1.0 if self.test else 1 - 1 / TEST_EVERY
        return round(share * sum(map(len, self.train.values())))


@dataclass
class _Notes:
    """What was passed over so far; `with_files`: classes that hold files, be they no pictures."""

    lines: list[str] = field(default_factory=list)
    with_files: set[str] = field(default_factory=set)

    def passed(self, name: str, paths: list[Path]) -> None:
        """Files of a class that are no pictures."""
        if paths:
            self.with_files.add(name)
            few = ", ".join(p.name for p in paths[:3]) + (f" and {len(paths) - 3} others" if len(paths) > 3 else "")
            files, are = ("file", "is no picture") if len(paths) == 1 else ("files", "are no pictures")
            was = "was" if len(paths) == 1 else "were"
            self.lines.append(f"{len(paths)} {files} of {name!r} {was} passed over: {few} {are}")


def name_of(folder: Path | str) -> str:
    """The data set's name: the folder's, told apart from the named data sets.

    Raises:
        DataError: a name that is not written in UTF-8.
    """
    name = check_name(Path(folder).resolve().name, "the folder")
    return f"{name}-folder" if name in DATASETS else name


def check_name(name: str, what: str) -> str:
    """A name that can be written into a checkpoint, with its accents in one piece (Unicode NFC).

    Raises:
        DataError: it holds bytes that are not UTF-8, or line breaks; the message calls it `what`.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"the name of {what} {os.fsencode(name)!r} is not written in UTF-8; rename it") from None
    if any(unicodedata.category(c) == "Cc" for c in name):
        raise DataError(f"the name of {what} {name!r} holds a line break or another control character; rename it")
    return unicodedata.normalize("NFC", name)


def read_layout(folder: Path | str) -> Layout:
    """The picture files of a folder, by class. No picture is decoded.

    Either `FOLDER/CLASS/...`, or a folder for training (`TRAIN_NAMES`) and one for testing (`TEST_NAMES`) with these.

    Raises:
        DataError: no such folder, fewer than two classes, an empty class, classes of the two parts that differ, names
            that cannot be used, or too few pictures; the message names the folder and what it takes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; own pictures are a folder with a subfolder for each class")
    notes = _Notes()
    parts = _parts(folder, notes)
    train, test = _classes(parts[0], notes), None
    if len(parts) == 2:
        test = _classes(parts[1], notes)
        differ = sorted(train.keys() ^ test.keys())
        if differ:
            where, names = parts[differ[0] not in train], " and ".join(f"{part.name}/" for part in parts)
            raise DataError(f"the class {differ[0]!r} is in {where} alone; {names} take the same classes")
    empty = [name for name in train if not train[name] and not (test and test[name])]
    empty = [name for name in empty if name not in notes.with_files]
    train, test = (files and {k: v for k, v in files.items() if k not in empty} for files in (train, test))
    if empty:
        notes.lines.append(f"passed over, since nothing is in them: {', '.join(map(repr, empty))}")
    if len(train) < 2:
        raise DataError(
            f"{parts[0]} has {len(train)} subfolder{'' if len(train) == 1 else 's'}; "
            "a data set has one for each class, two at least, with pictures in them"
        )
    count = sum(len(paths) if test else len(paths) // TEST_EVERY for paths in (test or train).values())
    least = 1 if test else TEST_EVERY
    for name, paths in train.items():
        if len(paths) < least or (test and not test[name]):
            part = "training" if len(paths) < 1 else "testing"
            raise DataError(
                f"the class {name!r} of {folder} has no picture for {part}; it takes at least {TEST_EVERY} "
                "pictures, or some in each of train/ and test/"
            )
    if count < LEAST_TEST:
        raise DataError(
            f"{folder} has {count} pictures for testing; it takes at least {LEAST_TEST}, "
            f"{LEAST_TEST * TEST_EVERY} in all where there are no train/ and test/"
        )
    return Layout(folder, train, test, tuple(notes.lines))


def _parts(folder: Path, notes: _Notes) -> list[Path]:
    """The folders for training and for testing, or the one that holds the classes."""
    inside = _subfolders(folder)
    named = {p.name.lower(): p for p in inside}
    train = next((named[n] for n in TRAIN_NAMES if n in named), None)
    tests = [named[n] for n in TEST_NAMES if n in named]
    others = [p for p in inside if p != train and p not in tests]
    parted = [p for p in (train, *tests) if p is not None]
    if not parted or (others and not all(_subfolders(p) for p in parted)):
        return [folder]  # a class may be called train
    loose = next((p for p in parted if not _subfolders(p)), None)
    if loose is not None:
        raise DataError(
            f"{loose} holds no subfolders; {' and '.join(p.name + '/' for p in parted)} are no classes: "
            "each takes a subfolder for each class"
        )
    if train is None or not tests:
        return [folder] if others else [parted[0]]
    left = [*tests[1:], *others]
    if left:
        notes.lines.append(f"left out beside {train.name}/ and {tests[0].name}/: {', '.join(p.name for p in left)}")
    return [train, tests[0]]


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that somebody made for pictures."""
    with os.scandir(folder) as entries:
        found = [Path(e.path) for e in entries if e.is_dir() and not _made_by_a_system(e.name)]
    return sorted(found)


def _made_by_a_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NO_CLASSES


def _classes(folder: Path, notes: _Notes) -> Files:
    """The picture files of each subfolder."""
    found: Files = {}
    for sub in _subfolders(folder):
        paths, others = [], []
        for path in _files(sub):
            (paths if suffix_is_known(path) or is_picture_file(path) else others).append(path)
        name = check_name(sub.name, f"the class folder in {folder.name}/")
        if name in found:
            raise DataError(
                f"two folders in {folder} are called {name!r}, with the accents written in two ways (Unicode NFC and "
                "NFD); put their pictures into one"
            )
        found[name] = paths
        notes.passed(name, others)
    return {name: found[name] for name in sorted(found)}


def _files(folder: Path) -> Iterator[Path]:
    """All files in a folder and its subfolders, in the order of their names; links are followed, each folder once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not _made_by_a_system(name))
        where = os.path.realpath(place)
        if where in seen:
            folders[:] = []
            continue
        seen.add(where)
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))
