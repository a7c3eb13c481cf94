"""Training runs of a second, and programs that fork and kill them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cce.config import CCE_RM, NAT, ModelConfig, Phase, TrainConfig, TrainingAttack, to_json
from cce.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
ATTACK = TrainingAttack((1, 2), (0.05, 0.1), (1.0, 2.0))


def tiny_config(**changes) -> TrainConfig:
    """Eight steps an epoch of 8 images; 8 steps of NAT, then 20 of CCE-RM; lines are logged every 20 steps."""
    settings = {
        "dataset": "digits",
        "model": ModelConfig("resnet8", 2, 10, (1, 8, 8)),
        "phases": (
            Phase("natural", 1, NAT, learning_rate=2e-3),
            Phase("crossing", 2.5, CCE_RM, ATTACK, 1e-3, "one-cycle"),
        ),
        "batch_size": 8,
        "flip": False,
        "precision": "float32",
        "train_images": 64,
        "save_every": 7,
        "evaluate_every": 0.5,
        "evaluate_images": 10,
    }
    return TrainConfig(**settings | changes)


# How a program begins that trains in processes of its own: it is given a folder and a config.
PREAMBLE = """
import json, os, random, signal, sys, time
import torch, torch._dynamo  # an optimizer imports it at its first step: once here, not in every fork
torch.set_num_threads(1)
from pathlib import Path
from cce.data import datasets as data
from cce.training import run_folder as runs
from cce.training import trainer as training
from cce.config import TrainConfig, from_json
from cce.training.run_folder import RunFolder

root = Path(sys.argv[1])
config = from_json(TrainConfig, json.loads(sys.argv[2]))
dataset = data.load("digits", size=8)
"""


def run_program(program: str, folder: Path, config: TrainConfig) -> list[str]:
    """Run `PREAMBLE` and `program` in a new Python process; the lines that it printed."""
    words = [sys.executable, "-c", PREAMBLE + program, str(folder), json.dumps(to_json(config))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def look(step: int) -> dict[str, Any]:
    """What was measured while a run of two members was trained."""
    found: dict[str, Any] = {"kind": "evaluation", "step": step, "images": 10, "transferability": 0.1}
    for kind in ("natural", "robust"):
        found |= {f"{kind}_accuracy": 0.5, f"{kind}_member_accuracy": [0.5, 0.4], f"{kind}_entropy": 1.0}
        found |= {f"{kind}_subsets": {"S11": 0.25, "S10": 0.25, "S01": 0.25, "S00": 0.25}}
    return found


def write_stopped_run(folder: Path, checkpoint: Path) -> None:
    """The folder of a run that was stopped, with curves and an ensemble, which is copied from `checkpoint`."""
    run = RunFolder(folder)
    run.create(to_json(tiny_config()))
    for step in range(1, 6):
        run.log_metrics({"kind": "training", "step": step, "epoch": step / 8, "phase": "natural", "loss": 2.0})
    run.log_metrics(look(3))
    run.log_metrics(look(5))
    status = {"state": "stopped", "pid": 4, "pid_start": 1.0, "heartbeat": 9.0, "step": 5, "total_steps": 28}
    (folder / "status.json").write_text(json.dumps(status))
    record = {"created": 8.0, "state": "started", "started_at": 8.0, "device": "cpu", "command": ["true"], "pid": 4}
    (folder / "job.json").write_text(json.dumps(record | {"pid_start": 1.0, "leads": True, "stop_asked": 9.0}))
    (folder / "machines.json").write_text('["a machine"]')
    (folder / "log.txt").write_text("trained\n")
    shutil.copytree(checkpoint, folder / "checkpoint")
