"""`python -m cce evaluate`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from typing import Any

import torch
from tqdm import tqdm

from cce import checkpoints, data, presets
from cce.cards import measured_rows, model_card, percent
from cce.commands import Commands, add_device_and_data, add_json, find_checkpoint
from cce.config import AttackConfig, ConfigError, check
from cce.models import fast_dtype, resolve_device
from cce.runs import write_atomically


def add(commands: Commands) -> None:
    """Add `evaluate`."""
    p = commands.add("evaluate", evaluate, "Measure a checkpoint: natural and robust accuracy, subsets, detection.")
    p.add_argument("checkpoint", help="checkpoint folder, or the name of a released ensemble")
    p.add_argument(
        "--attacks",
        nargs="+",
        metavar="NAME[:STEPS[:EPSILON[:STEP_SIZE]]]",
        help="for example pgd:20:8:2, epsilon and step size in 1/255 (default: the data set's suite)",
    )
    p.add_argument("--n", type=int, default=1000, help="number of test images, from the first")
    p.add_argument(
        "--adaptive", type=int, default=200, help="of these, how many get the detector-aware attacks; 0: none"
    )
    p.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="what examples are searched for in (auto: bfloat16 where the device has it); verdicts are float32",
    )
    p.add_argument("--write", action="store_true", help="write metrics.json and the model card into the checkpoint")
    p.add_argument("--seed", type=int, default=0, help="of random starts and noise")
    add_device_and_data(p)
    add_json(p)


def parse_attack(text: str, base: AttackConfig) -> AttackConfig:
    """`NAME[:STEPS[:EPSILON[:STEP_SIZE]]]`, the last two in 1/255, the rest from `base`.

    >>> parse_attack("bim:10:4", AttackConfig()).describe()
    'BIM k=10, epsilon 4/255, step 2/255, on the ensemble'
    """
    name, *numbers = text.split(":")
    try:
        steps = int(numbers[0]) if numbers else base.steps
        epsilon = float(numbers[1]) / 255 if len(numbers) > 1 else base.epsilon
        step_size = float(numbers[2]) / 255 if len(numbers) > 2 else base.step_size
    except ValueError:
        raise ConfigError(f"attack is {text!r}; it is NAME[:STEPS[:EPSILON[:STEP_SIZE]]], as in pgd:20:8:2") from None
    return AttackConfig(name, epsilon, step_size, steps)


def evaluate(options: argparse.Namespace) -> int:
    """`python -m cce evaluate`."""
    from cce.evaluation import evaluate as measure

    device = resolve_device(options.device)
    checkpoint = find_checkpoint(options.checkpoint, device)
    base = presets.default_attack(checkpoint.dataset)
    if options.attacks:
        attacks = [parse_attack(text, base) for text in options.attacks]
    else:
        attacks = presets.attack_suite(checkpoint)
    check(options.n >= 1, f"--n is {options.n}; it must be at least 1")
    split = data.load(checkpoint.dataset, options.data).detection_test
    if options.n > len(split):
        print(f"cce evaluate: there are {len(split)} test images; all are used", file=sys.stderr)
    split = split.first(min(options.n, len(split)))
    search_dtype = fast_dtype(device) if options.precision == "auto" else getattr(torch, options.precision)
    started = time.perf_counter()
    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:

        def report(what: str, fraction: float) -> None:
            bar.set_description(what)
            bar.update(100 * fraction - bar.n)

        figures = measure(
            checkpoint,
            split.pixels().to(device),
            split.labels.to(device),
            attacks,
            adaptive=min(options.adaptive, len(split)),
            epsilon=base.epsilon,
            seed=options.seed,
            search_dtype=search_dtype,
            report=report,
        )
    said = ["python", "-m", "cce", "evaluate", f"checkpoints/{checkpoint.id}", "--n", str(len(split))]
    said += ["--adaptive", str(options.adaptive), "--seed", str(options.seed)]
    said += ["--attacks", *options.attacks] if options.attacks else []
    record = {
        "data": f"the first {len(split)} test images of {checkpoint.dataset}",
        "device": checkpoints.machine_name(device),
        "seconds": round(time.perf_counter() - started, 1),
        "command": shlex.join(said),
        **figures,
    }
    if options.write:
        checkpoint.metrics = record
        assert checkpoint.folder is not None
        write_atomically(checkpoint.folder / "metrics.json", json.dumps(record, indent=1) + "\n")
        write_atomically(checkpoint.folder / "README.md", model_card(checkpoint))
    if options.json:
        print(json.dumps(record))
    else:
        print_figures(record)
    return 0


def print_figures(record: dict[str, Any]) -> None:
    """A line for each measured row."""
    for title, row in measured_rows(record):
        cells = [f"accuracy {percent(row['accuracy'])}"]
        if "flagged" in row:
            cells += [
                f"flagged {percent(row['flagged'])}",
                f"wrong and unflagged {percent(row['wrong_and_unflagged'])}",
            ]
        if row.get("auc") is not None:
            cells.append(f"AUC {row['auc']:.4f}")
        print(f"{title:58} " + ", ".join(cells))
