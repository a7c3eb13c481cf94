"""The pictures that Gradio hands out as files: each is written once, and never seen half-written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gradio import processing_utils
from PIL import Image


def write_once() -> None:
    """Let every picture that a component shows go through `save`.

    Gradio 6.31 names the file after the picture and writes it again each time that the same one comes up: who is just
    reading it, another page or another caller of `/attack` with the same settings, gets a part of it or an error.
    """
    processing_utils.save_pil_to_cache = save


def save(img: Image.Image, cache_dir: str, name: str = "image", format: str = "webp") -> str:
    """`gradio.processing_utils.save_pil_to_cache`, with a file that is either not there or whole.

    Args:
        img: the picture.
        cache_dir: Gradio's folder for it.
        name: of the file, without ending.
        format: as Pillow calls it; also the file's ending.
    """
    content = processing_utils.encode_pil_to_bytes(img, format)
    folder = Path(cache_dir).resolve() / processing_utils.hash_bytes(content)
    path = folder / f"{name}.{format}"
    try:
        os.utime(path)  # in use: not to be deleted by its age
        return str(path)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
    handle, staged = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(staged, path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise
    return str(path)
