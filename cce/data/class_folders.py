"""Class folders: any folder of pictures as a data set, one subfolder for each class.

`cce.data.folder_layout` says which files are pictures, `cce.data.picture_split` which of them train and test. Classes
are in the order of their names. A picture is cut about its middle to the model's proportions and resized to its input,
as uploads are (`cce.data.pictures`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cce.config import TrainConfig
from cce.data import datasets as data
from cce.data.datasets import DataError, Dataset, Split
from cce.data.folder_layout import TEST_EVERY, Files, Layout, name_of, read_layout
from cce.data.picture_split import (
    Divided,
    Keys,
    PictureFile,
    Record,
    divide,
    divide_by_place,
    list_files,
    read_record,
)
from cce.data.pictures import PictureError, read_picture, to_model_input

__all__ = ["TEST_EVERY", "Options", "find", "load", "name_of", "of_config", "read_layout"]

MOST_BYTES = 8_000_000_000
"""Most bytes of resized pictures: they are held in memory."""

MOST_NAMED = 20
"""So many pictures that cannot be read are named; the rest are counted."""

_SUFFIXES_BEFORE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")


@dataclass(frozen=True)
class Options:
    """How a folder is read.

    `record`: the split of the ensemble that is measured, or of the run that goes on. `by_place`: an ensemble that was
    trained before splits were recorded. `skip_bad`: leave out pictures that cannot be read, instead of refusing.
    """

    record: Record | None = None
    by_place: bool = False
    skip_bad: bool = False


def find(folder: Path | str) -> tuple[Files, Files]:
    """The picture files of each class, for training and for testing. Every file is read, none decoded.

    Raises:
        DataError: see `read_layout`.
    """
    layout, keys = read_layout(folder), Keys()
    files = [PictureFile(p, n, where, keys.key(p.read_bytes())) for p, n, where in list_files(layout)]
    made = divide(files)
    train, test = ({name: [] for name in layout.classes} for _ in range(2))
    for part, chosen in ((train, made.train), (test, [*made.test, *made.calibration])):
        for f in chosen:
            part[layout.classes[f.label]].append(f.path)
    return train, test


def load(
    folder: Path | str,
    shape: tuple[int, int, int],
    progress: Callable[[int, int], None] | None = None,
    options: Options = Options(),  # noqa: B008  frozen
) -> Dataset:
    """A folder as a data set.

    Args:
        folder: see `cce.data.folder_layout`.
        shape: channels (1: grey, 3: RGB), height and width that each picture is brought to.
        progress: called as `progress(done, total)` in pictures.
        options: how it is read.

    Returns:
        The data set; its `record` says which picture is for what, its `notes` what there is to tell of it.

    Raises:
        DataError: as `read_layout`; pictures that cannot be read or are too small, each by its path; more than
            `MOST_BYTES` of them; or none left for testing.
    """
    if shape[0] not in (1, 3):
        raise DataError(f"input_shape is {shape}; pictures have 1 channel (grey) or 3")
    layout = read_layout(folder)
    count = layout.count
    size = count * shape[0] * shape[1] * shape[2]
    if size > MOST_BYTES:
        raise DataError(
            f"{folder} has {count} pictures, {size / 1e9:.0f} GB at {shape[1]} x {shape[2]}; "
            f"at most {MOST_BYTES / 1e9:.0f} GB are held in memory: take a smaller input_shape or fewer pictures"
        )
    files, images, skipped = _read(layout, shape, progress, options)
    made = _divide(layout, files, options)
    parts = {part: [f.key for f in getattr(made, part)] for part in ("train", "test", "calibration")}
    if not parts["test"] or not parts["train"]:
        missing = "testing" if parts["train"] else "training"
        raise DataError(f"{folder} has no picture left for {missing}; put back those that were there in training")
    labels = {f.key: f.label for f in files}

    def split(keys: Sequence[str], start: int = 0) -> Split:
        pixels, targets = torch.stack([images[k] for k in keys]), torch.tensor([labels[k] for k in keys])
        return Split(pixels, targets, start, tuple(keys))

    testing = split([*parts["test"], *parts["calibration"]])
    calibration = testing.last(len(parts["calibration"]))
    notes = (*layout.notes, *_skipped_words(skipped), *made.notes)
    record = options.record or made.record({})
    record = replace(record, skipped={**record.skipped, **skipped})
    return Dataset(name_of(folder), layout.classes, split(parts["train"]), calibration, testing, record, notes)


def _divide(layout: Layout, files: Sequence[PictureFile], options: Options) -> Divided:
    if options.record is not None or not options.by_place:
        return divide(files, options.record)

    def shuffle(count: int) -> Sequence[int]:
        return torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()

    depth = 3 if layout.test else 2  # what was read then: no subfolders of a class, and fewer endings
    before = [
        f
        for f in files
        if len(f.path.relative_to(layout.folder).parts) == depth and f.path.suffix.lower() in _SUFFIXES_BEFORE
    ]
    return divide_by_place(before, shuffle)


def _read(
    layout: Layout, shape: tuple[int, int, int], progress: Callable[[int, int], None] | None, options: Options
) -> tuple[list[PictureFile], dict[str, Tensor], dict[str, str]]:
    """Every readable file, its pixels by key, and why others cannot be read, by key."""
    listed, keys = list_files(layout), Keys()
    files, images, skipped, bad = [], {}, {}, []
    known = options.record.skipped if options.record else {}
    for done, (path, label, where) in enumerate(listed, 1):
        key = ""
        try:
            content = path.read_bytes()
            key = keys.key(content)
            pixels, _ = to_model_input(read_picture(content), *shape)
        except (PictureError, OSError) as error:
            why = error.strerror or "it cannot be opened" if isinstance(error, OSError) else _reason(error)
            if key not in known or not key:
                bad.append(f"{path}: {why}")
                if key:
                    skipped[key] = f"{path.relative_to(layout.folder).as_posix()}: {why}"
        else:
            images[key] = pixels.mul(255).round().to(torch.uint8)
            files.append(PictureFile(path, label, where, key))
        if progress:
            progress(done, len(listed))
    if bad and not options.skip_bad:
        raise DataError(_bad_words(bad, len(listed)))
    gone = set(layout.classes) - {layout.classes[f.label] for f in files}
    if gone:
        raise DataError(f"no picture of {', '.join(map(repr, sorted(gone)))} in {layout.folder} can be read")
    return files, images, skipped


def _reason(error: PictureError) -> str:
    problem = str(error).split(". ")[0].removesuffix(".")
    return f"{problem[0].lower()}{problem[1:]}"


def _bad_words(bad: Sequence[str], count: int) -> str:
    if len(bad) == 1:
        return f"{bad[0]}; replace it or take it away, or have it skipped (skip-bad on the command line)"
    lines = [*bad[:MOST_NAMED], *([f"and {len(bad) - MOST_NAMED} others"] if len(bad) > MOST_NAMED else [])]
    return (
        f"{len(bad)} of {count} pictures cannot be read:\n"
        + "\n".join(f"  {line}" for line in lines)
        + "\nreplace them or take them away, or have them skipped (skip-bad on the command line)"
    )


def _skipped_words(skipped: dict[str, str]) -> list[str]:
    if not skipped:
        return []
    named = list(skipped.values())
    few = "; ".join(named[:3]) + (f"; and {len(named) - 3} others" if len(named) > 3 else "")
    return [f"{len(named)} {'picture' if len(named) == 1 else 'pictures'} that cannot be read left out: {few}"]


def of_config(
    config: TrainConfig,
    root: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    run: Path | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """The data that a config trains on: class folders where it names them, else a named data set under `root`.

    Args:
        config: what is trained.
        root: folder of the named data sets.
        progress: see `load`.
        run: a run folder; where it keeps the split that it began with, its pictures stay in their parts.
        skip_bad: see `Options`.
    """
    if config.data_dir:
        record = read_record(run) if run else None
        begun = run is not None and record is None and (run / "last" / "state.safetensors").exists()
        return load(config.data_dir, config.model.input_shape, progress, Options(record, begun, skip_bad))
    size = config.model.input_shape[1] if config.dataset == "digits" else None
    return data.load(config.dataset, root, size)
