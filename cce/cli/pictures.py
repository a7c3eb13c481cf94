"""`python -m cce attack`: one picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cce.checkpoints.folder import Checkpoint
from cce.cli import (
    Commands,
    add_device_and_data,
    add_json,
    add_seed,
    check_out,
    find_checkpoint,
    print_json,
    whole_number,
)
from cce.cli.datasets import add_data_dir, load_dataset
from cce.config import AttackConfig, check, default_attack
from cce.config.attack_registry import ATTACKS, NORMS, OBJECTIVES
from cce.data.class_names import choices, find_class
from cce.data.datasets import DATASETS, available, samples
from cce.data.pictures import read_picture, to_model_input, to_png
from cce.evaluation.attack_outcome import sentence
from cce.models import resolve_device


def add(commands: Commands) -> None:
    """Add `attack`."""
    p = commands.add("attack", attack, "Attack one picture and say what happened to each member.")
    p.add_argument("checkpoint", help="checkpoint folder, or the name of a released ensemble")
    add_picture_and_attack(p)
    p.add_argument("--out", type=Path, help="write the adversarial picture here, as PNG")
    add_device_and_data(p)
    add_data_dir(p)
    add_json(p)


def add_picture_and_attack(p: argparse.ArgumentParser) -> None:
    """The picture, its label, and the attack's settings."""
    p.add_argument("picture", help="picture file, or test:INDEX for a test image")
    p.add_argument(
        "--label",
        default="auto",
        help="class name or index; auto: the clean prediction, or a test image's own",
    )
    p.add_argument(
        "--crop",
        type=whole_number(0, 100),
        default=50,
        metavar="PERCENT",
        help="which part of a picture file is taken where it is longer on one side: 0 is left or top, 50 the middle, "
        "100 right or bottom",
    )
    p.add_argument("--attack", default="pgd", metavar="NAME", help=f"one of {', '.join(ATTACKS)} (default: pgd)")
    p.add_argument("--epsilon", type=float, help="radius of the ball in 1/255 (default: the data set's)")
    p.add_argument("--step-size", type=float, help="step size in 1/255 (default: the data set's)")
    p.add_argument("--steps", type=int, help="number of steps (default: the attack's and the data set's)")
    p.add_argument("--target", default="ensemble", help="'ensemble' or 'member n'")
    add_seed(p, "of everything random")
    p.add_argument("--norm", choices=NORMS, default="linf", help="ball: linf, or l2 where the attack has it")
    p.add_argument("--restarts", type=int, default=1, help="runs from other random starts; the worst is kept")
    p.add_argument("--toward", metavar="CLASS", help="name or index of the class to be predicted (default: any wrong)")
    p.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="probabilities",
        help="whose cross-entropy is climbed: the mean of probabilities or of logits, or the worst or best member's",
    )


def attack_config(options: argparse.Namespace, dataset: str, classes: Sequence[str] = ()) -> AttackConfig:
    """The attack that was asked for, the data set's own where nothing was said."""
    base = default_attack(dataset, options.attack, options.norm)
    toward = None if options.toward is None else class_index(options.toward, classes, "toward")
    return AttackConfig(
        options.attack,
        base.epsilon if options.epsilon is None else options.epsilon / 255,
        base.step_size if options.step_size is None else options.step_size / 255,
        base.steps if options.steps is None else options.steps,
        options.target,
        norm=options.norm,
        restarts=options.restarts,
        objective=options.objective,
        toward=toward,
    )


def class_index(text: str, classes: Sequence[str], what: str, also: str = "") -> int:
    """Index of a class given by its name or index; the message calls it `what`, and says what else there is."""
    found = find_class(classes, text)
    check(found is not None, f"{what} is {text!r}; it is {also}{choices(classes)}")
    assert found is not None
    return found


def attack(options: argparse.Namespace) -> int:
    """`python -m cce attack`."""
    from cce.evaluation.one_picture import attack_picture

    check_out(options.out, (".png",))
    device = resolve_device(options.device)
    checkpoint = find_checkpoint(options.checkpoint, device)
    config = attack_config(options, checkpoint.dataset, checkpoint.classes)
    x, label = load_input(options, checkpoint)
    x_adv, result = attack_picture(checkpoint, x.to(device), label, config, options.seed)
    if options.out:
        options.out.write_bytes(to_png(x_adv))
    if options.json:
        print_json(result)
        return 0
    print(config.describe())
    for name in ("benign", "adversarial"):
        said = result[name]
        subset = result["benign_subset" if name == "benign" else "subset"]
        print(f"{name:12} {said['label']:12} {subset}  entropy {said['entropy']:.3f} nats  {verdict(said)}")
    print(sentence(result, known=label is not None))
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
        check(options.crop == 50, f"--crop is {options.crop}; a test picture is taken whole, leave it out")
        x, label = _test_picture(options, checkpoint)
    else:
        shape = checkpoint.model.config.input_shape
        x, _ = to_model_input(read_picture(options.picture), *shape, place=options.crop / 100)
    if options.label != "auto":
        label = class_index(options.label, checkpoint.classes, "label", "auto, ")
    return x, label


def _test_picture(options: argparse.Namespace, checkpoint: Checkpoint) -> tuple[torch.Tensor, int]:
    """A test picture and its label; one of those that ship where it is among them and the data set is not here."""
    text = options.picture.removeprefix("test:")
    check(
        text.isascii() and text.isdecimal() and len(text) < 10,
        f"picture is {options.picture!r}; it is a file, or test:0, test:1 and so on",
    )
    index, name = int(text), checkpoint.dataset
    split = None
    if name in DATASETS and name != "digits" and not options.data_dir and not available(name, options.data):
        split = samples(name)
        fits = tuple(split.images.shape[1:]) == checkpoint.model.config.input_shape
        split = split if fits and index < len(split) else None
    split = split or load_dataset(checkpoint, options).test
    check(index < len(split), f"picture is {options.picture!r}; it is test:0 to test:{len(split) - 1}")
    return split.images[index].float().div(255), int(split.labels[index])
