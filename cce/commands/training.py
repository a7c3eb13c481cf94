"""`python -m cce train`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cce import checkpoints, data, presets
from cce.commands import Commands, add_device_and_data
from cce.config import ConfigError, TrainConfig, check, from_json, to_json
from cce.models import resolve_device
from cce.runs import RunFolder


def add(commands: Commands) -> None:
    """Add `train`."""
    p = commands.add("train", train, "Train an ensemble from a preset, in a run folder that resumes.")
    p.add_argument("preset", nargs="?", help="name of a preset; see --list")
    p.add_argument("--list", action="store_true", help="list the presets and stop")
    p.add_argument("--run", dest="folder", type=Path, help="run folder (default runs/PRESET); resumed where it exists")
    p.add_argument("--name", help="id of the ensemble (default: the preset's name, else the run folder's)")
    p.add_argument("--config", type=Path, help="train this config.json instead of a preset")
    p.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override a field of the config")
    p.add_argument("--seed", type=int, help="overrides the preset's seed")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.add_argument("--estimate", action="store_true", help="measure for two seconds, print time and memory as JSON")
    p.add_argument("--next", action="store_true", help="afterwards start the run that is next in line beside this one")
    add_device_and_data(p)


def train(options: argparse.Namespace) -> int:
    """`python -m cce train`."""
    if options.list or not (options.preset or options.config or options.folder):
        for name in presets.PRESETS:
            config = presets.preset(name)
            print(f"{name:36} {config.defense.name:9} {config.epochs:g} epochs on {config.dataset}")
        return 0
    config = asked_config(options)
    device = resolve_device(options.device)
    if options.estimate:
        from cce.probe import estimate

        print(json.dumps(estimate(config, device)))
        return 0
    folder = RunFolder(options.folder or Path("runs") / (options.preset or options.config.stem))
    try:
        return train_in(folder, config, options.name or options.preset or folder.path.name, device, options)
    finally:
        if options.next:
            from cce.jobs import Jobs

            Jobs(folder.path.parent, options.data).tend(besides=os.getpid())


def train_in(
    folder: RunFolder, config: TrainConfig, name: str, device: torch.device, options: argparse.Namespace
) -> int:
    """Train in a run folder and export the ensemble as `name`; returns the exit status."""
    from cce.training import TrainingError, run

    dataset = data.load(config.dataset, options.data)
    try:
        trainer = run(config, dataset, folder, device, quiet=options.quiet)
    except TrainingError as error:
        print(f"cce train: {error}", file=sys.stderr)
        return 1
    if trainer.step < trainer.total_steps:
        print(f"stopped at step {trainer.step} of {trainer.total_steps}; the same command resumes it")
        return 0
    checkpoint = presets.export(trainer, dataset, name)
    print(checkpoints.save(checkpoint, folder.checkpoint))
    return 0


def asked_config(options: argparse.Namespace) -> TrainConfig:
    """The config of the preset, of `--config`, or of the run folder, with what overrides it.

    Raises:
        ConfigError, RunError: no such preset, a file that cannot be read, or a field that is not there.
    """
    check(not (options.preset and options.config), "a preset and --config cannot both be given")
    if options.preset:
        config = presets.preset(options.preset)
    elif options.config:
        try:
            values = json.loads(options.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"--config {options.config} cannot be read: {error}") from error
        config = from_json(TrainConfig, values)
    else:
        config = from_json(TrainConfig, RunFolder(options.folder).config())
    config = override(config, options.set)
    return config if options.seed is None else dataclasses.replace(config, seed=options.seed)


def override(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """`config` with `field=value` settings; nested fields by dots, `phases.0.epochs=3`."""
    values = json.loads(json.dumps(to_json(config)))
    for setting in settings:
        path, equals, text = setting.partition("=")
        check(bool(equals), f"--set is {setting!r}; it must be FIELD=VALUE")
        *parents, last = path.split(".")
        place: Any = values
        try:
            for key in parents:
                place = place[int(key)] if isinstance(place, list) else place[key]
            last = int(last) if isinstance(place, list) else last
            _ = place[last]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ConfigError(f"--set {setting!r}: the config has no field {path!r}") from None
        try:
            place[last] = json.loads(text)
        except json.JSONDecodeError:
            place[last] = text
    return from_json(TrainConfig, values)
