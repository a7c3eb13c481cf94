"""Files that are replaced whole: a reader, or a kill at any moment, sees the old file or the new one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_beside(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A file to write, which takes the place of `path` at the end: a reader or a kill sees the old or the new one.

    Args:
        path: what is replaced.
        folder: where the file lies until then, on the same disk (default: beside `path`).
    """
    beside = (folder or path.parent) / f".{path.name}.{os.getpid()}.part"
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all; see `written_beside`."""
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")
