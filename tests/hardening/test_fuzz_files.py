"""Damaged and invented files: read, or refused in words that name the file, by the project's own errors."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

import mutations
from app.services import training
from app.services.models import card, one_line
from cce.__main__ import build_parser
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import CheckpointError
from cce.cli.training import asked_config
from cce.config import ConfigError, TrainConfig, from_json, to_json
from cce.data import datasets as data
from cce.data.datasets import DataError
from cce.data.pictures import PictureError, read_picture, to_model_input
from cce.evaluation import one_picture
from cce.evaluation.presets import summary
from cce.runs.queue import Jobs
from cce.training.run_folder import RunError, RunFolder
from fuzzing import SEEDS, VALUES, WORDS, bounded, damaged_bytes, fuzz, plain, without_traces
from tiny_runs import tiny_config, write_stopped_run

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


def drawn(kind: str, mode: str, size: tuple[int, int], chance: random.Random) -> bytes:
    """A picture file of noise; in RGB where the format has not the mode."""
    pixels = np.frombuffer(chance.randbytes(size[0] * size[1] * 4), np.uint8).reshape(size[1], size[0], 4)
    picture, content = Image.fromarray(pixels, "RGBA"), io.BytesIO()
    try:
        picture.convert(mode).save(content, kind)
    except (OSError, ValueError, KeyError):
        content = io.BytesIO()
        picture.convert("RGB").save(content, kind)
    return content.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:Saving I mode:DeprecationWarning")
@fuzz(
    kind=st.sampled_from(FORMATS),
    mode=st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F", "LAB", "YCbCr"]),
    size=st.tuples(st.integers(1, 40), st.integers(8, 40)),
    seed=SEEDS,
)
def test_pictures(kind: str, mode: str, size: tuple[int, int], seed: int):
    chance = random.Random(seed)
    content = drawn(kind, mode, size, chance)
    content = content if chance.random() < 0.2 else damaged_bytes(content, chance)
    content = content[8:] if chance.random() < 0.02 else content
    with bounded():
        try:
            picture = read_picture(content)
        except PictureError as error:
            return plain(str(error))
        pixels, crop = to_model_input(picture, 3, 16, 16)
    assert picture.mode == crop.mode == "RGB" and pixels.shape == (3, 16, 16)
    assert pixels.min() >= 0 and pixels.max() <= 1


@fuzz(seed=SEEDS)
def test_checkpoint_folders(tiny_checkpoints: Path, tmp_path: Path, seed: int):
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_checkpoints / "tiny-two", folder)
    chance = random.Random(seed)
    mutations.damage(folder, ["config.json", "config.json", "model.safetensors"], seed)
    if chance.random() < 0.5:
        mutations.damage(folder, ["metrics.json"], seed)
    with bounded(), without_traces():
        try:
            checkpoint = checkpoints.load(folder)
            summary(checkpoint), one_line(checkpoint), card(checkpoint)
            pixels = torch.zeros(checkpoint.model.config.input_shape)
            json.dumps(one_picture.classify(checkpoint, pixels), allow_nan=False)
        except CheckpointError as error:
            plain(str(error))
            assert "damaged" in str(error)


FIELDS = ["seed", "batch_size", "phases.0.epochs", "model.members", "phases", "model", "x", "flip", "model.input_shape"]
SETTINGS = st.lists(st.tuples(st.sampled_from(FIELDS), WORDS), max_size=2)


@fuzz(seed=SEEDS, settings=SETTINGS, value=VALUES)
def test_configs(tmp_path: Path, seed: int, settings: list[tuple[str, str]], value: Any):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(tiny_config())))
    if seed % 20 == 0:
        file.write_text(json.dumps(value))
    else:
        mutations.damage(tmp_path, ["config.json"], seed)
    words = [f"--set={name}={text}" for name, text in settings]
    options = build_parser().parse_args(["train", "--config", str(file), *words])
    with bounded():
        try:
            config = asked_config(options)
            assert from_json(TrainConfig, to_json(config)) == config
        except ConfigError as error:
            plain(str(error))
    if file.is_dir():
        file.rmdir()


ARRAYS = {"x_train": (12, 28, 28), "y_train": (12,), "x_test": (20, 28, 28), "y_test": (20,)}


def write_npz(path: Path, chance: random.Random) -> None:
    """A file of MNIST's arrays, now and then of another shape, kind or number, or one less or more."""
    made = {}
    for name, shape in ARRAYS.items():
        if chance.random() < 0.1:
            shape = chance.choice([(), (0,), shape[1:], (*shape, 1), (*shape, 3), (5, *shape[1:]), (0, *shape[1:])])
        kind = chance.choice([*["uint8"] * 20, "float32", "int64", "bool", "complex64", "U3", "M8[s]", "V4", "object"])
        made[name] = np.zeros(shape, kind)
    for name in list(made):
        if chance.random() < 0.02:
            made[f"{name}_"] = made.pop(name)
    with zipfile.ZipFile(path, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])) as z:
        for name, array in made.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=True)
            text = content.getvalue()
            if chance.random() < 0.2:  # where numpy's own header is
                place = chance.randrange(128)
                text = text[:place] + damaged_bytes(text[place : place + 40], chance) + text[place + 40 :]
            z.writestr(f"{name}.npy", text)


@fuzz(examples=300, seed=SEEDS)
def test_npz_files(tmp_path: Path, seed: int):
    chance, path = random.Random(seed), tmp_path / "mnist.npz"
    write_npz(path, chance)
    if chance.random() < 0.5:
        path.write_bytes(damaged_bytes(path.read_bytes(), chance))
    with bounded():
        try:
            found = data.load("mnist", tmp_path)
        except DataError as error:
            plain(str(error))
            assert "mnist.npz" in str(error)
        else:
            assert found.test.images.dtype == torch.uint8 and len(found.detection_test)
    path.unlink()


@pytest.fixture(scope="module")
def stopped_run(tiny_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped, with a state to resume from."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    write_stopped_run(folder, tiny_checkpoints / "tiny-two")
    RunFolder(folder).save_state({"weight": torch.zeros(3, 2)}, 5)
    (folder / "init.json").write_text('{"id": "tiny-two", "defense": "CCE-DM", "images_seen": 640}')
    return folder


RUN_FILES = [
    *("config.json", "job.json", "status.json", "metrics.jsonl", "machines.json", "init.json", "log.txt"),
    *("last/state.safetensors", "checkpoint/config.json"),
]


@fuzz(seed=SEEDS)
def test_run_folders(stopped_run: Path, tmp_path: Path, seed: int):
    root = tmp_path / "runs"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(stopped_run, root / "run")
    mutations.damage(root / "run", RUN_FILES, seed)
    with bounded(), without_traces():
        jobs = Jobs(root)
        for words in training.left_out(jobs).values():
            plain(words, root)
        for job in jobs.all():
            json.dumps([training.row(job), training.detail(job)], allow_nan=False, ensure_ascii=False).encode()
            training.title(job), training.stamp([job]), training.left_out_lines(job)
        folder = RunFolder(root / "run")
        folder.machines(), folder.status()
        json.dumps(folder.started_from(), allow_nan=False)
        for read in (folder.config, folder.load_state, folder.metrics, lambda: folder.create(to_json(tiny_config()))):
            try:
                read()
            except RunError as error:
                plain(str(error))
                assert "runs/run" in str(error)
