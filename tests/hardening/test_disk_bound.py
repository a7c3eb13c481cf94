"""Temporary files: visitors fill the disk bound several times over, and it holds; what goes is what is oldest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file

from app import interface, uploads
from app.studio import Studio
from app.uploads import Uploads

pytestmark = pytest.mark.slow

MOST, EACH, COUNT = 3_000_000, 200_000, 60


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def served(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A Studio with a bound of 3 MB, and the folder of its temporary files."""
    place = tmp_path / "temporary"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(place))
    monkeypatch.setattr(uploads, "_SPARED_SECONDS", 0.0)  # this test is quicker than any visitor
    monkeypatch.setattr(interface, "Uploads", partial(Uploads, most_all=MOST, most_request=2 * EACH))
    demo = interface.build(studio)
    _, address, _ = demo.launch(prevent_thread_lock=True, **interface.launch_settings(demo))
    yield address, place
    demo.close()


def test_the_bound_holds_while_visitors_upload_four_times_as_much(served: tuple[str, Path], digit_png: Path):
    address, place = served
    paths: list[Path] = []
    with httpx.Client() as visitor:
        for i in range(COUNT):
            content = os.urandom(EACH)
            said = visitor.post(f"{address}gradio_api/upload", files={"files": (f"{i}.png", content)}, timeout=60)
            assert said.status_code == 200, said.text
            paths.append(Path(said.json()[0]))
            os.utime(paths[-1], (time.time() - COUNT + i, time.time() - COUNT + i))  # a second after the one before
            assert place in paths[-1].parents and size_of(place) <= MOST
    there = [path.exists() for path in paths]
    assert there == sorted(there) and any(there) and not all(there)  # the oldest ones are gone
    assert not any(path.parent.exists() for path, here in zip(paths, there, strict=True) if not here)
    said = Client(address, verbose=False).predict(handle_file(digit_png), "tiny-two", api_name="/classify")
    assert said["label"] in "0123456789" and size_of(place) <= MOST


def test_what_the_studio_makes_itself_counts_too(served: tuple[str, Path], tmp_path: Path):
    address, place = served
    for i in range(20):
        made = place / f"made-{i}"
        made.mkdir(parents=True)
        (made / "run.zip").write_bytes(bytes(EACH))
        os.utime(made / "run.zip", (time.time() - 100 + i, time.time() - 100 + i))
    assert size_of(place) > MOST
    with httpx.Client() as visitor:
        said = visitor.post(f"{address}gradio_api/upload", files={"files": ("a.png", bytes(EACH))}, timeout=60)
    assert said.status_code == 200 and size_of(place) <= MOST
    assert not (place / "made-0").exists() and (place / "made-19").exists()
