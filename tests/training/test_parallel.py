"""Two CPU processes train as one: the same losses, the same weights, each image once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cce import kernels
from cce.__main__ import main
from cce.config import CCE_RM, ConfigError, Phase, TrainingAttack, to_json
from cce.training.parallel import ALONE, Team, share_batch_size
from cce.training.run_folder import RunFolder
from cce.training.trainer import Trainer
from tiny_runs import tiny_config

CONFIG = tiny_config(
    phases=(Phase("crossing", 1, CCE_RM, TrainingAttack((2, 2), (0.1, 0.1), (2.0, 2.0)), 1e-3, "one-cycle"),),
    batch_size=16,
    train_images=128,
    evaluate_every=1.0,
    evaluate_images=41,
    clip_norm=5.0,
)


@pytest.fixture
def teams(digits, tmp_path):
    """A trainer of each of two processes, and one that is alone."""
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    return [Trainer(CONFIG, digits, folder, "cpu", team) for team in (ALONE, Team(0, 2), Team(1, 2))]


def test_each_image_of_a_batch_goes_to_one_process(teams):
    for step in (0, 5):
        shown = [t.batch(step, torch.Generator().manual_seed(step)) for t in teams]
        whole, first, second = (x for x, _ in shown)
        assert len(first) == len(second) == 8
        assert torch.equal(whole[0::2], first) and torch.equal(whole[1::2], second)
        assert torch.equal(shown[0][1][1::2], shown[2][1])


def test_random_numbers_are_those_of_the_whole_batch():
    cpu, teams = torch.device("cpu"), (ALONE, Team(0, 2), Team(1, 2))
    drawn = [t.rand((8 // t.count, 3), torch.Generator().manual_seed(1), cpu) for t in teams]
    assert torch.equal(drawn[0][0::2], drawn[1]) and torch.equal(drawn[0][1::2], drawn[2])


def test_a_batch_that_cannot_be_shared_is_refused():
    assert share_batch_size(16, Team(0, 4)) == 4
    with pytest.raises(ConfigError, match="batch_size is 16; 3 processes cannot share it evenly"):
        share_batch_size(16, Team(0, 3))


def launched(words: list[str]) -> None:
    """Run `python -m cce` in two processes by torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cce"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = Path(__file__).parents[2]
    done = subprocess.run([*launcher, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


MORE = {"ema_decay": 0.9, "awp_gamma": 0.01, "awp_start": 0.5, "label_smoothing": 0.1}
"""An average, and weights perturbed from the fifth step on; before it a step is the plain one."""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, monkeypatch):
    """With PyTorch's convolutions: the smaller their rounding, the fewer signs of PGD's gradients turn on it."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(to_json(CONFIG) | MORE))
    words = ["train", "--config", str(path), "--quiet", "--device", "cpu", "--run-folder"]
    monkeypatch.setenv("CCE_STUDIO_NATIVE", "0")
    with kernels.turned_off():
        assert main([*words, str(tmp_path / "one")]) == 0
    launched([*words, str(tmp_path / "two")])
    one, two = (RunFolder(tmp_path / name) for name in ("one", "two"))
    assert two.status()["state"] == "finished"
    a, b = one.metrics(), two.metrics()
    assert [r["step"] for r in a] == [r["step"] for r in b]
    for first, second in zip(a, b, strict=True):
        if first["kind"] == "training":
            for name in ("loss", "natural", "direct", "promoting", "demoting", "entropy_clean"):
                assert second[name] == pytest.approx(first[name], rel=2e-3, abs=2e-3), name
        else:
            assert second["images"] == 41
            assert second["natural_accuracy"] == pytest.approx(first["natural_accuracy"], abs=0.05)
            assert second["robust_accuracy"] == pytest.approx(first["robust_accuracy"], abs=0.1)
    mine, theirs = (f.load_state()[0] for f in (one, two))
    for name in mine:
        if name.startswith(("model/", "average/")):
            near = 2e-2 if "running" in name else 5e-3
            torch.testing.assert_close(theirs[name].float(), mine[name].float(), atol=near, rtol=5e-2)
    assert (two.checkpoint / "model.safetensors").exists()
