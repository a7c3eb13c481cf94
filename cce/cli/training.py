"""`python -m cce train`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from cce.cli import Commands, add_device_and_data, add_seed, find_checkpoint, print_json
from cce.cli.datasets import add_skip_bad, tell
from cce.config import READINGS, ConfigError, ModelConfig, TrainConfig, check, from_json, recipes
from cce.config.overrides import override, with_loss
from cce.data import class_folders
from cce.data.datasets import Dataset
from cce.evaluation import presets
from cce.evaluation.own_pictures import remember
from cce.models import resolve_device
from cce.reporting.cards import save_with_card
from cce.runs.queue import Snapshot, is_run_name
from cce.training.monitoring import criterion
from cce.training.parallel import Team, join
from cce.training.run_folder import RunError, RunFolder
from cce.training.state import Start

_LOSS_FIELDS = ("lambda_pm", "lambda_dm", "indicator", "reading")
_CONFIG_FIELDS = ("label_smoothing", "ema_decay", "awp_gamma", "init", "seed")


def add(commands: Commands) -> None:
    """Add `train`."""
    p = commands.add("train", train, "Train an ensemble from a preset, in a run folder that resumes.")
    p.add_argument("preset", nargs="?", help="name of a preset; see --list")
    p.add_argument("--list", action="store_true", help="list the presets and stop")
    # torchrun takes --run for the beginning of options of its own, wherever it stands.
    p.add_argument(
        "--run",
        "--run-folder",
        dest="folder",
        type=Path,
        help="run folder (default runs/PRESET); resumed where it exists. Under torchrun, write --run-folder",
    )
    p.add_argument("--name", help="id of the ensemble (default: the preset's name, else the run folder's)")
    p.add_argument("--config", type=Path, help="train this config.json instead of a preset")
    p.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override a field of the config")
    p.add_argument(
        "--data-dir",
        type=Path,
        metavar="FOLDER",
        help="train on your own pictures: a folder with a subfolder for each class, or train/ and test/ (or val/) with "
        "these",
    )
    add_skip_bad(p)
    p.add_argument("--members", type=int, help="networks in the ensemble; ADV-EN of one is ADV")
    p.add_argument("--lambda-pm", type=float, help="weight of promoting, in every CCE phase; 1 in robustness mode")
    p.add_argument("--lambda-dm", type=float, help="weight of demoting, in every CCE phase; 5 in detection mode")
    p.add_argument("--indicator", choices=("soft", "hard"), help="w of Eq. 5: Eqs. 3-5 or Eqs. 1-2")
    p.add_argument("--reading", choices=READINGS, help="of Eq. 5: the paper's, or what the authors' code computes")
    p.add_argument("--architecture", help="of each member: resnet20, wider ones as resnet20-w32, cnn-cifar10, ...")
    p.add_argument("--label-smoothing", type=float, help="share of each target spread over all classes; 0: none")
    p.add_argument("--ema-decay", type=float, help="average the weights with this decay a step, as 0.999; 0: do not")
    p.add_argument("--awp-gamma", type=float, help="adversarial weight perturbation (AWP), as 0.005; 0: none")
    p.add_argument("--init", metavar="CHECKPOINT", help="start from its weights: a released name, a folder or a Hub id")
    add_seed(p, "overrides the preset's seed", None)
    p.add_argument(
        "--weights",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="what the ensemble's weights are rounded to at the end: half the bytes, or a quarter",
    )
    p.add_argument("--half", dest="weights", action="store_const", const="float16", help="short for --weights float16")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.add_argument("--tensorboard", action="store_true", help="also write event files to the run folder's tensorboard/")
    p.add_argument("--keep-going", action="store_true", help="go on where predictions look collapsed to uniform")
    p.add_argument("--estimate", action="store_true", help="measure for two seconds, print time and memory as JSON")
    p.add_argument("--next", action="store_true", help="afterwards start the run that is next in line beside this one")
    add_device_and_data(p)


def train(options: argparse.Namespace) -> int:
    """`python -m cce train`."""
    if options.list or not (options.preset or options.config or options.folder):
        check(options.list or not options.data_dir, "--data-dir takes a preset or --config beside it")
        print(listed())
        return 0
    config = asked_config(options)
    device = resolve_device(options.device)
    if options.estimate:
        from cce.training.probe import estimate

        print_json(estimate(config, device))
        return 0
    folder = RunFolder(options.folder or Path("runs") / (options.preset or options.config.stem))
    name = folder.path.resolve().name
    check(
        is_run_name(name) or (folder.path / "config.json").exists(),
        f"--run is {str(folder.path)!r}; the Studio lists no run of that name: a run folder's name has at most 60 "
        "letters without accents, digits, dots, _ and -, and no dot first",
    )
    team = join(device)
    try:
        name = options.name or options.preset or folder.path.name
        return train_in(folder, config, name, team.device or device, options, team)
    finally:
        if options.next and team.main:
            from cce.runs.queue import Jobs

            Jobs(folder.path.parent, options.data).tend(besides=os.getpid())


def listed() -> str:
    """The presets under their headings, a line each."""
    lines = []
    for heading, names in recipes.grouped().items():
        width = max(map(len, names))
        lines += [heading, *(f"  {name:{width}} {_described(presets.preset(name))}" for name in names), ""]
    return "\n".join([*lines, "Train one: python -m cce train PRESET. Any field can be set: --set phases.0.epochs=3"])


def _described(config: TrainConfig) -> str:
    model = f"{config.model.members} x {config.model.architecture}"
    return f"{config.defense_name:9} {model:16} {config.epochs:g} epochs"


def train_in(
    folder: RunFolder, config: TrainConfig, name: str, device: torch.device, options: argparse.Namespace, team: Team
) -> int:
    """Train in a run folder and export the ensembles, `name` of the last step and `name-best` of the best.

    Returns:
        The exit status.
    """
    from cce.training.trainer import TrainingError, run

    dataset = read_data(config, options, team, folder.path)
    if team.main and dataset.record is not None:
        remember(dataset.record, config.data_dir)
        tell("train", dataset)
    try:
        begin = (options.tensorboard, lambda: starting_weights(config), options.keep_going)
        trainer = run(config, dataset, folder, device, options.quiet, team, *begin)
    except TrainingError as error:
        print(f"cce train: {error}", file=sys.stderr)
        return 1
    if not team.main:
        return 0
    if trainer.step < trainer.total_steps:
        print(f"stopped at step {trainer.step} of {trainer.total_steps}; the same command resumes it")
        return 0
    try:
        print(save_with_card(presets.export(trainer, dataset, name, weights=options.weights), folder.checkpoint))
        best = trainer.best_model()
        if best is not None:
            place = (device, trainer.machines, trainer.started_from)
            made = Snapshot(best, config, trainer.best_step, trainer.seconds, *place)
            chosen_on = trainer.monitored.selection()
            exported = presets.export(made, dataset, f"{name}-best", weights=options.weights, selected_on=chosen_on)
            where = save_with_card(exported, folder.best_checkpoint)
            print(f"{where}: step {trainer.best_step}, the best {criterion(config.defense)}")
    except SafetensorError as error:
        raise RunError(f"the ensemble cannot be saved: {error}; make room and run the same command again") from error
    return 0


def starting_weights(config: TrainConfig) -> Start:
    """The weights of `config.init`.

    Raises:
        CheckpointError: it is not there or damaged.
        ConfigError: an ensemble of another shape.
    """
    found = find_checkpoint(config.init, torch.device("cpu"))
    check(
        found.model.config == config.model,
        f"init is {config.init!r}, {_shape(found.model.config)}; this run trains {_shape(config.model)}",
    )
    record = {"id": found.id, "defense": found.defense_name, "images_seen": found.training.get("images_seen")}
    return Start(found.model.state_dict(), record)


def _shape(model: ModelConfig) -> str:
    size = " x ".join(map(str, model.input_shape))
    return f"{model.members} x {model.architecture} on {model.classes} classes of {size} pixels"


def read_data(config: TrainConfig, options: argparse.Namespace, team: Team, run: Path) -> Dataset:
    """What the config trains on; the main process goes first, as it may have to download it."""
    if not team.main:
        team.gather(None)
    with tqdm(unit="picture", desc="reading", disable=options.quiet or not (config.data_dir and team.main)) as bar:
        dataset = class_folders.of_config(config, options.data, lambda done, total: bar.update(), run, options.skip_bad)
    if team.main:
        team.gather(None)
    return dataset


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
    return override(with_flags(config, options), options.set)


def with_flags(config: TrainConfig, options: argparse.Namespace) -> TrainConfig:
    """`config` with what the flags say; weights and the like go to every phase that has Eq. 5.

    Raises:
        ConfigError: a flag that nothing in this config takes.
        DataError: class folders that cannot be used.
    """
    loss = {name: getattr(options, name) for name in _LOSS_FIELDS if getattr(options, name) is not None}
    crossing = [phase for phase in config.phases if phase.defense.method == "cce"]
    if loss:
        flag = next(iter(loss)).replace("_", "-")
        check(bool(crossing), f"--{flag} is given, but no phase of this preset has Eq. 5; take a cce preset")
        config = with_loss(config, loss)
    whole = {name: getattr(options, name) for name in _CONFIG_FIELDS if getattr(options, name) is not None}
    if Path(whole.get("init") or "missing").is_dir():
        whole["init"] = str(Path(whole["init"]).resolve())
    config = dataclasses.replace(config, **whole)
    model = config.model
    if options.members is not None:
        model = dataclasses.replace(model, members=options.members)
    if options.architecture is not None:
        model = dataclasses.replace(model, architecture=options.architecture)
    if options.data_dir is not None:
        where = options.data_dir.expanduser().resolve()
        model = dataclasses.replace(model, classes=len(class_folders.read_layout(where).classes))
        config = dataclasses.replace(config, dataset=class_folders.name_of(where), data_dir=str(where))
    return dataclasses.replace(config, model=model)
