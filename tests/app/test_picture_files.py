"""Pictures that Gradio hands out as files: whole, or not there."""

import io
import threading
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio import processing_utils
from PIL import Image

from app import picture_files
from app.interface import build
from app.studio import Studio


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_it_is_lossless_and_named_after_what_it_shows(picture: Image.Image, tmp_path: Path):
    path = picture_files.save(picture, str(tmp_path), format="png")
    assert Image.open(path).tobytes() == picture.tobytes()
    assert picture_files.save(picture, str(tmp_path), format="png") == path
    assert picture_files.save(picture.rotate(90), str(tmp_path), format="png") != path
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 2


def test_who_reads_while_others_write_the_same_picture_never_gets_a_part(picture: Image.Image, tmp_path: Path):
    whole = Path(picture_files.save(picture, str(tmp_path), format="png"))
    size, over, seen = whole.stat().st_size, threading.Event(), set()

    def write() -> None:
        for _ in range(40):
            picture_files.save(picture, str(tmp_path), format="png")
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():
        seen.add(len(whole.read_bytes()))
    writer.join()
    assert seen <= {size}
    assert not list(tmp_path.rglob(".*"))


def test_it_is_not_written_again(picture: Image.Image, tmp_path: Path):
    """Gradio's own function truncates the file that others may be reading."""
    whole = Path(picture_files.save(picture, str(tmp_path), format="png"))
    whole.write_bytes(b"marked")
    picture_files.save(picture, str(tmp_path), format="png")
    assert whole.read_bytes() == b"marked"


def test_the_page_s_components_use_it(studio: Studio, picture: Image.Image, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processing_utils, "save_pil_to_cache", processing_utils.save_pil_to_cache)
    build(studio)
    assert processing_utils.save_pil_to_cache is picture_files.save
    with gr.Blocks():
        image = gr.Image(format="png")
        given = image.postprocess(picture)
    assert Image.open(io.BytesIO(Path(given.path).read_bytes())).tobytes() == picture.tobytes()
