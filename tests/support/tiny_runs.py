"""Training runs of a second, and programs that fork and kill them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from cce.config import CCE_RM, NAT, ModelConfig, Phase, TrainConfig, TrainingAttack, to_json

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
