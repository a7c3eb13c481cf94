"""The command line: `python -m cce train | evaluate | attack | models | data`.

Epsilon and step size are typed in 1/255 here; the library takes pixel units. Exit status: 0 done,
1 failed, 2 bad usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cce import checkpoints, data, presets
from cce.cards import measured_rows, model_card, percent
from cce.checkpoints import Checkpoint, CheckpointError
from cce.config import AttackConfig, ConfigError, TrainConfig, check, from_json, to_json
from cce.data import DataError
from cce.models import resolve_device
from cce.pictures import PictureError, read_picture, to_model_input, to_png
from cce.runs import RunError, RunFolder, write_atomically

FAILURES = (CheckpointError, DataError, RunError, PictureError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        return options.run(options)
    except ConfigError as error:
        print(f"cce {options.command}: {error}", file=sys.stderr)
        return 2
    except FAILURES as error:
        print(f"cce {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"cce {options.command}: interrupted", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="python -m cce", description="Train, attack and evaluate CCE ensembles.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        p = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        p.set_defaults(run=run)
        p.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
        return p

    p = command("train", train, "Train an ensemble from a preset, in a run folder that resumes.")
    p.add_argument("preset", nargs="?", help="name of a preset; see --list")
    p.add_argument("--list", action="store_true", help="list the presets and stop")
    p.add_argument("--run", dest="folder", type=Path, help="run folder (default runs/PRESET); resumed where it exists")
    p.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override a field of the config")
    p.add_argument("--seed", type=int, help="overrides the preset's seed")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    _common(p)

    p = command("evaluate", evaluate, "Measure a checkpoint: natural and robust accuracy, subsets, detection.")
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
    p.add_argument("--write", action="store_true", help="write metrics.json and the model card into the checkpoint")
    p.add_argument("--seed", type=int, default=0, help="of random starts and noise")
    _common(p, json_too=True)

    p = command("attack", attack, "Attack one picture and say what happened to each member.")
    p.add_argument("checkpoint", help="checkpoint folder, or the name of a released ensemble")
    p.add_argument("picture", help="picture file, or test:INDEX for a test image")
    p.add_argument(
        "--label",
        default="auto",
        help="class name or index; auto: the clean prediction, or a test image's own",
    )
    p.add_argument("--attack", default="pgd", help="fgsm, pgd, bim or mim")
    p.add_argument("--epsilon", type=float, help="radius of the L-infinity ball in 1/255 (default: the data set's)")
    p.add_argument("--step-size", type=float, help="step size in 1/255 (default: the data set's)")
    p.add_argument("--steps", type=int, help="number of steps (default: the data set's)")
    p.add_argument("--target", default="ensemble", help="'ensemble' or 'member n'")
    p.add_argument("--out", type=Path, help="write the adversarial picture here, as PNG")
    p.add_argument("--seed", type=int, default=0, help="of the random start")
    _common(p, json_too=True)

    p = command("models", models, "List the released ensembles with their main figures.")
    p.add_argument("--checkpoints", type=Path, help="folder of checkpoint folders (default: those released)")
    p.add_argument("--json", action="store_true", help="print JSON")

    p = command("data", fetch_data, "Say which data sets are here, or get one.")
    p.add_argument("name", nargs="?", choices=data.DATASETS, help="data set to download; none lists them")
    p.add_argument("--data", type=Path, help="folder of the data sets (default: CCE_DATA or ~/.cache/cce-studio/data)")
    return parser


def _common(p: argparse.ArgumentParser, json_too: bool = False) -> None:
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    p.add_argument("--data", type=Path, help="folder of the data sets (default: CCE_DATA or ~/.cache/cce-studio/data)")
    if json_too:
        p.add_argument("--json", action="store_true", help="print JSON")


def train(options: argparse.Namespace) -> int:
    """`python -m cce train`."""
    from cce.training import TrainingError, run

    if options.list or not options.preset:
        for name in presets.PRESETS:
            config = presets.preset(name)
            print(f"{name:36} {config.defense.name:9} {config.epochs:g} epochs on {config.dataset}")
        return 0
    config = override(presets.preset(options.preset), options.set)
    if options.seed is not None:
        config = dataclasses.replace(config, seed=options.seed)
    device = resolve_device(options.device)
    folder = RunFolder(options.folder or Path("runs") / options.preset)
    dataset = data.load(config.dataset, options.data)
    try:
        trainer = run(config, dataset, folder, device, quiet=options.quiet)
    except TrainingError as error:
        print(f"cce train: {error}", file=sys.stderr)
        return 1
    if trainer.step < trainer.total_steps:
        print(f"stopped at step {trainer.step} of {trainer.total_steps}; the same command resumes it")
        return 0
    checkpoint = presets.export(trainer, dataset, options.preset)
    print(checkpoints.save(checkpoint, folder.checkpoint))
    return 0


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


def find_checkpoint(name: str, device: torch.device) -> Checkpoint:
    """A checkpoint by its folder, or a released one by its name.

    Raises:
        CheckpointError: neither is there; the message lists the released names.
    """
    if Path(name).is_dir():
        return checkpoints.load(name, device)
    ships = {p.name: p for p in checkpoints.released()}
    if name not in ships:
        raise CheckpointError(f"there is no checkpoint {name!r}; released are: {', '.join(ships) or 'none'}")
    return checkpoints.load(ships[name], device)


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


def attack(options: argparse.Namespace) -> int:
    """`python -m cce attack`."""
    from cce.examples import attack_picture

    device = resolve_device(options.device)
    checkpoint = find_checkpoint(options.checkpoint, device)
    base = presets.default_attack(checkpoint.dataset)
    config = AttackConfig(
        options.attack,
        base.epsilon if options.epsilon is None else options.epsilon / 255,
        base.step_size if options.step_size is None else options.step_size / 255,
        base.steps if options.steps is None else options.steps,
        options.target,
    )
    x, label = load_input(options, checkpoint)
    x_adv, result = attack_picture(checkpoint, x.to(device), label, config, options.seed)
    if options.out:
        options.out.write_bytes(to_png(x_adv))
    if options.json:
        print(json.dumps(result))
        return 0
    print(config.describe())
    for name in ("benign", "adversarial"):
        said = result[name]
        subset = result["benign_subset" if name == "benign" else "subset"]
        print(f"{name:12} {said['label']:12} {subset}  entropy {said['entropy']:.3f} nats  {verdict(said)}")
    print("the ensemble was fooled" if result["succeeded"] else "the ensemble was not fooled")
    return 0


def verdict(said: dict[str, Any]) -> str:
    """The detector's words on one picture."""
    if said["flagged"] is None:
        return "no detector"
    return f"{'flagged' if said['flagged'] else 'not flagged'} (threshold {said['threshold']:.3f})"


def load_input(options: argparse.Namespace, checkpoint: Checkpoint) -> tuple[torch.Tensor, int | None]:
    """The picture at the model's size and its label, from a file or `test:INDEX`."""
    label: int | None = None
    if options.picture.startswith("test:"):
        split = data.load(checkpoint.dataset, options.data).test
        index = options.picture.removeprefix("test:")
        check(
            index.isdigit() and int(index) < len(split),
            f"picture is {options.picture!r}; it is test:0 to test:{len(split) - 1}",
        )
        x, label = split.pixels()[int(index)], int(split.labels[int(index)])
    else:
        x, _ = to_model_input(read_picture(options.picture), *checkpoint.model.config.input_shape)
    if options.label != "auto":
        names = checkpoint.classes
        known = options.label in names or (options.label.isdigit() and int(options.label) < len(names))
        check(
            known,
            f"label is {options.label!r}; it is auto, 0 to {len(names) - 1}, or one of {', '.join(names)}",
        )
        label = names.index(options.label) if options.label in names else int(options.label)
    return x, label


def models(options: argparse.Namespace) -> int:
    """`python -m cce models`."""
    rows = [presets.summary(checkpoints.load(p)) for p in checkpoints.released(options.checkpoints)]
    if options.json:
        print(json.dumps(rows))
        return 0
    for r in rows:
        figures = f"natural {percent(r['natural_accuracy'])}, robust {percent(r['robust_accuracy'])}"
        area = "n/a" if r["detection_auc"] is None else f"{r['detection_auc']:.4f}"
        print(f"{r['id']:32} {r['defense']:9} {r['members']} x {r['architecture']:10} {figures}, detection AUC {area}")
    if not rows:
        print("no checkpoints there")
    return 0


def fetch_data(options: argparse.Namespace) -> int:
    """`python -m cce data`."""
    if options.name is None:
        for name in data.DATASETS:
            here = "here" if data.available(name, options.data) else f"not here: python -m cce data {name}"
            print(f"{name:10} {here}")
        return 0
    if not data.available(options.name, options.data):
        data.download(options.name, options.data, lambda fraction, text: print(f"{100 * fraction:3.0f} % {text}"))
    print(data.data_file(options.name, options.data) if options.name != "digits" else "digits come with scikit-learn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
