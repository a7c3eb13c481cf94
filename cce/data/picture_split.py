"""Picture split: which pictures of a folder train, test and calibrate, decided by each picture's own content.

A picture is known by the SHA-256 of its file. One that is added, renamed or moved never changes what another one is
for, and the record of a split, which goes with run and checkpoint, keeps every picture in its part for good.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cce.config import ConfigError, check
from cce.data.folder_layout import LEAST_TEST, TEST_EVERY, Layout

FILE = "pictures.json"
"""The record's file, in a run folder and in a checkpoint folder."""

TRAIN, TEST, CALIBRATION = PARTS = ("train", "test", "calibration")
_VERSION = 1
_LENGTH = 16  # hexadecimal digits of the SHA-256 that are kept


@dataclass(frozen=True)
class PictureFile:
    """A file with its class's place, its place in a parted folder (`train`, `test`, or None), and its key.

    `key` is the start of the SHA-256 of the content; the second file of the same content has `.1` behind it, and so
    on, in the order of classes and names.
    """

    path: Path
    label: int
    where: str | None
    key: str

    @property
    def digest(self) -> str:
        """The key of the content alone."""
        return self.key.partition(".")[0]


@dataclass(frozen=True)
class Record:
    """The part of every picture when an ensemble was trained, by key; `skipped`: unreadable ones, each with why."""

    parts: Mapping[str, frozenset[str]]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def part_of(self, key: str) -> str | None:
        """What a picture was for; None: it was not there."""
        return next((part for part in PARTS if key in self.parts[part]), None)

    @property
    def count(self) -> int:
        """How many pictures it knows."""
        return sum(map(len, self.parts.values()))

    @property
    def fingerprint(self) -> str:
        """A name for this record."""
        keys = "\n".join(f"{part}:{key}" for part in PARTS for key in sorted(self.parts[part]))
        return hashlib.sha256(keys.encode()).hexdigest()[:_LENGTH]

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` is its inverse."""
        return {
            "version": _VERSION,
            "by": "the first 16 hexadecimal digits of the SHA-256 of each file",
            **{part: sorted(self.parts[part]) for part in PARTS},
            "skipped": dict(sorted(self.skipped.items())),
        }

    @classmethod
    def from_json(cls, values: Any) -> Record:
        """A record from JSON values.

        Raises:
            ConfigError: values that are no record; the message names the field.
        """
        check(isinstance(values, dict), "it is no JSON object")
        check(values.get("version") == _VERSION, f"version is {values.get('version')!r}; this code reads {_VERSION}")
        for part in PARTS:
            listed = isinstance(values.get(part), list) and all(isinstance(key, str) for key in values[part])
            check(listed, f"{part} must be a list of text")
        skipped = values.get("skipped", {})
        texts = isinstance(skipped, dict) and all(isinstance(v, str) for v in skipped.values())
        check(texts, "skipped must be an object of text")
        return cls({part: frozenset(values[part]) for part in PARTS}, skipped)


@dataclass(frozen=True)
class Divided:
    """The files of each part, and what is to be told of it, a line each."""

    train: list[PictureFile]
    test: list[PictureFile]
    calibration: list[PictureFile]
    notes: tuple[str, ...] = ()

    def record(self, skipped: Mapping[str, str]) -> Record:
        """What is to be kept of it."""
        return Record({part: frozenset(f.key for f in getattr(self, part)) for part in PARTS}, skipped)


class Keys:
    """Gives files their keys, in the order in which they are met."""

    def __init__(self) -> None:
        self._met: Counter[str] = Counter()

    def key(self, content: bytes) -> str:
        """The key of the next file."""
        digest = hashlib.sha256(content).hexdigest()[:_LENGTH]
        self._met[digest] += 1
        copies = self._met[digest] - 1
        return f"{digest}.{copies}" if copies else digest


def list_files(layout: Layout) -> list[tuple[Path, int, str | None]]:
    """Every file of a layout with its label and its place in a parted folder."""
    parts = [(None, layout.train)] if layout.test is None else [(TRAIN, layout.train), (TEST, layout.test)]
    return [
        (path, label, where) for where, files in parts for label, paths in enumerate(files.values()) for path in paths
    ]


def divide(files: Sequence[PictureFile], record: Record | None = None) -> Divided:
    """Part the pictures.

    Without a record: those in a folder for testing test; where the folder does not part them, those whose digest lies
    in the lowest fifth of all digests. Only where these are too few, a class gets the next ones. Copies of one picture
    stay together. Of the test pictures, the last tenth in the order of `_order`, at least ten, calibrate.

    With a record, every picture that it knows keeps its part. A new one tests where the rule says so and no copy of
    it was trained on; else it is left out.
    """
    if record is None:
        return _divide_anew(files)
    kept: dict[str | None, list[PictureFile]] = {part: [] for part in (*PARTS, None)}
    new = 0
    trained = {key.partition(".")[0] for key in record.parts[TRAIN]}
    for f in files:
        part = record.part_of(f.key)
        if part is None:
            new += 1
            part = TEST if _tests(f) and f.digest not in trained else None
        kept[part].append(f)
    known = sum(record.part_of(f.key) is not None for f in files)
    tested = sum(record.part_of(f.key) is None for f in kept[TEST])
    notes = _changes(new, tested, record.count - known)
    test, calibration = _by_order(kept[TEST]), _by_order(kept[CALIBRATION])
    lacking = max(0, min(LEAST_TEST // 2 - len(calibration), len(test) // 2))
    cut = len(test) - lacking
    return Divided(_by_class(kept[TRAIN]), test[:cut], test[cut:] + calibration, notes)


def _changes(new: int, tested: int, gone: int) -> tuple[str, ...]:
    """What is different from the record, in words."""
    if not new and not gone:
        return ()
    said = []
    if new:
        said.append(
            f"{new} {'picture is' if new == 1 else 'pictures are'} new ({tested} for testing, the rest left out)"
        )
    if gone:
        said.append(f"{gone} {'is' if gone == 1 else 'are'} gone")
    return (
        f"the folder has changed since training: {' and '.join(said)}; every other picture keeps its part, "
        "and nothing that was trained on is tested on",
    )


def _divide_anew(files: Sequence[PictureFile]) -> Divided:
    notes: tuple[str, ...] = ()
    if any(f.where for f in files):
        train = [f for f in files if f.where == TRAIN]
        trained = {f.digest for f in train}
        held = [f for f in files if f.where == TEST and f.digest not in trained]
        twice = sum(f.where == TEST for f in files) - len(held)
        if twice and held:
            what = "picture of the test folder is" if twice == 1 else "pictures of the test folder are"
            notes = (f"{twice} {what} in the training folder too, and left out of the test",)
        elif twice:
            held = [f for f in files if f.where == TEST]
            notes = ("every picture of the test folder is in the training folder too",)
    else:
        held = _held_out(files)
        out = {f.key for f in held}
        train = [f for f in files if f.key not in out]
    held = _by_order(held)
    cut = len(held) - max(LEAST_TEST // 2, len(held) // 10)
    return Divided(_by_class(train), held[:cut], held[cut:], notes)


def _held_out(files: Sequence[PictureFile]) -> list[PictureFile]:
    """The pictures for testing of a folder that does not part them."""
    classes: dict[int, list[PictureFile]] = {}
    for f in files:
        classes.setdefault(f.label, []).append(f)
    ranked = [sorted(members, key=lambda f: f.key) for members in classes.values()]
    counts = [sum(map(_tests, members)) for members in ranked]
    few = sum(counts) < LEAST_TEST
    chosen = []
    for members, count in zip(ranked, counts, strict=True):
        least = len(members) // TEST_EVERY
        count = max(count, least if few else 1)
        while count < len(members) and members[count].digest == members[count - 1].digest:
            count += 1  # copies stay together
        chosen += members[: count if count <= len(members) // 2 else least]
    return chosen


def _tests(f: PictureFile) -> bool:
    """Whether the rule for single pictures puts it among those for testing."""
    return f.where == TEST if f.where else int(f.digest, 16) < 16**_LENGTH // TEST_EVERY


def _by_class(files: Sequence[PictureFile]) -> list[PictureFile]:
    return sorted(files, key=lambda f: (f.label, f.key))


def _by_order(files: Sequence[PictureFile]) -> list[PictureFile]:
    """In an order of its own for each picture, which mixes the classes."""
    return sorted(files, key=lambda f: hashlib.sha256(f"order {f.key}".encode()).digest())


def divide_by_place(files: Sequence[PictureFile], shuffle: Callable[[int], Sequence[int]]) -> Divided:
    """The split of ensembles that were trained before splits were recorded: every fifth file of a class tests.

    Args:
        files: in the order of classes and names.
        shuffle: gives the order that the test pictures were put in, from their number.
    """
    if any(f.where for f in files):
        train, test = ([f for f in files if f.where == part] for part in (TRAIN, TEST))
    else:
        place: Counter[int] = Counter()
        train, test = [], []
        for f in files:
            (test if place[f.label] % TEST_EVERY == TEST_EVERY - 1 else train).append(f)
            place[f.label] += 1
    test = [test[i] for i in shuffle(len(test))]
    cut = len(test) - max(LEAST_TEST // 2, len(test) // 10)
    note = (
        "which pictures this ensemble was trained on was not recorded: they are split by their place in the folder, as "
        "they were then; pictures that were added since may have moved trained ones into the test"
    )
    return Divided(train, test[:cut], test[cut:], (note,))


def read_record(folder: Path) -> Record | None:
    """The record in a run folder or a checkpoint folder; None where there is none.

    Raises:
        ConfigError: a file that cannot be read; the message names it.
    """
    path = folder / FILE
    try:
        return Record.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ConfigError is a ValueError
        raise ConfigError(f"{path} cannot be used: {error}; fetch it again, or remove it to go on without") from error
