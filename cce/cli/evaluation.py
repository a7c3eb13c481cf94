"""`python -m cce evaluate`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.checkpoints.measurements import write_measurement
from cce.cli import Commands, add_device_and_data, add_json, add_seed, find_checkpoint, print_json, progress_bar
from cce.cli.datasets import add_data_dir, load_dataset
from cce.config import ATTACKS, AttackConfig, ConfigError, check
from cce.evaluation import presets
from cce.evaluation.own_pictures import home, without_path
from cce.machine.files import write_atomically
from cce.machine.processes import join_processes
from cce.models import fast_dtype, resolve_device
from cce.reporting.cards import measured_rows, percent, sanity_lines, worst_case_lines, write_card

ATTACK_FORM = "NAME[:STEPS[:EPSILON[:STEP_SIZE]]][:FIELD=VALUE]"


def add(commands: Commands) -> None:
    """Add `evaluate`."""
    p = commands.add("evaluate", evaluate, "Measure a checkpoint: natural and robust accuracy, subsets, detection.")
    p.add_argument("checkpoint", help="checkpoint folder, or the name of a released ensemble")
    p.add_argument(
        "--attacks",
        nargs="+",
        metavar=ATTACK_FORM,
        help="by spaces or commas, for example pgd:20:8:2 or pgd:norm=l2:restarts=5, epsilon and step size in 1/255; "
        f"there is {', '.join(ATTACKS)} (default: the data set's suite)",
    )
    # torchrun and accelerate launch take --n for the beginning of an option of their own.
    p.add_argument("--n", "--images", type=int, default=1000, help="number of test images, from the first")
    p.add_argument(
        "--adaptive",
        type=int,
        help="of these, how many get every detector-aware attack; 0: none, and no figures of detection "
        "(default: 200, or 0 with --success any)",
    )
    p.add_argument(
        "--slow",
        type=int,
        default=0,
        metavar="N",
        help="on N of these, also the paper's slow attacks: multi-targeted PGD, BIM and MIM, SPSA, Auto-Attack, and "
        "B&B where numba is installed",
    )
    p.add_argument(
        "--success",
        choices=("last", "any"),
        default="last",
        help="last: attacks run to their end; any: an image is left out as soon as a step fools it, faster, "
        "and of no use for detection. Accuracy at any step is the same with either",
    )
    p.add_argument(
        "--sanity", type=int, nargs="?", const=50, default=0, metavar="N", help="look for masked gradients on N images"
    )
    p.add_argument(
        "--transfer-from",
        nargs="+",
        default=[],
        metavar="CHECKPOINT",
        help="for --sanity: other ensembles of the same data set, whose examples are tried on this one",
    )
    p.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="what examples are searched for in (auto: bfloat16 where the device has it); verdicts are float32",
    )
    p.add_argument("--batch-size", type=int, default=128, help="images at a time; the figures do not depend on it")
    p.add_argument(
        "--fresh",
        action="store_true",
        help="do not take up what a killed run of the same command finished, which lies in "
        "CCE_STUDIO_HOME/evaluations or ~/.cache/cce-studio/evaluations",
    )
    p.add_argument(
        "--write",
        action="store_true",
        help="write metrics.json, the model card and measurements/detection.json into the checkpoint",
    )
    p.add_argument(
        "--add",
        action="store_true",
        help="measure --attacks on --n images, or the attacks of --slow, and write them into the checkpoint beside "
        "what metrics.json holds, which stays",
    )
    add_seed(p, "of random starts and noise")
    add_device_and_data(p)
    add_data_dir(p)
    add_json(p)


def parse_attacks(texts: Sequence[str], base: AttackConfig) -> list[AttackConfig]:
    """Attacks by spaces or commas.

    >>> [a.name for a in parse_attacks(["fgsm,pgd:10", "bim"], AttackConfig())]
    ['fgsm', 'pgd', 'bim']
    """
    return [parse_attack(one, base) for text in texts for one in text.split(",") if one]


def parse_attack(text: str, base: AttackConfig) -> AttackConfig:
    """`NAME[:STEPS[:EPSILON[:STEP_SIZE]]][:FIELD=VALUE]`, epsilon and step size in 1/255, the rest from `base`.

    Steps that are not said are `base`'s for an attack of its kind, else the attack's usual number.

    >>> parse_attack("bim:10:4", AttackConfig()).describe()
    'BIM k=10, epsilon 4/255, step 2/255, on the ensemble'
    >>> parse_attack("pgd:restarts=5:target=member 1", AttackConfig()).restarts
    5
    """
    name, *rest = text.split(":")
    numbers = [part for part in rest if "=" not in part]
    more = dict(part.split("=", 1) for part in rest if "=" in part)
    check(name in ATTACKS, f"attack is {name!r}; there is {', '.join(ATTACKS)}")
    usual = ATTACKS[name].steps or base.steps
    own = base.steps if usual == ATTACKS[base.name].steps else usual
    kinds = {"norm": str, "target": str, "objective": str, "restarts": int, "toward": int, "decay": float}
    unknown = sorted(set(more) - set(kinds))
    check(not unknown, f"attack is {text!r}; {unknown[:1]} is no field of it: there is {', '.join(kinds)}")
    check(len(numbers) <= 3, f"attack is {text!r}; it is {ATTACK_FORM}, as in pgd:20:8:2")
    far = more.get("norm", "linf") != base.norm and len(numbers) < (3 if ATTACKS[name].step_size else 2)
    check(not far, f"attack is {text!r}; another norm needs its own radius and step, as in pgd:20:128:16:norm=l2")
    try:
        found = {k: kinds[k](v) for k, v in more.items()}
        found["steps"] = int(numbers[0]) if numbers else own
        found |= {k: float(v) / 255 for k, v in zip(("epsilon", "step_size"), numbers[1:], strict=False)}
    except ValueError:
        raise ConfigError(f"attack is {text!r}; it is {ATTACK_FORM}, as in pgd:20:8:2") from None
    return replace(base, name=name, **found)


def evaluate(options: argparse.Namespace) -> int:
    """`python -m cce evaluate`."""
    from cce.evaluation.engine import Store
    from cce.evaluation.evaluate import detection_report, detectors, extended, measure, metrics
    from cce.evaluation.sanity import Sanity

    check(options.n >= 1, f"--n is {options.n}; it must be at least 1")
    check(options.sanity >= 0, f"--sanity is {options.sanity}; it is a number of images, 0 for none")
    check(options.sanity > 0 or not options.transfer_from, "--transfer-from is for --sanity; add --sanity")
    usual = 200 if options.success == "last" and not options.add else 0
    adaptive = usual if options.adaptive is None else options.adaptive
    check(adaptive >= 0, f"--adaptive is {adaptive}; it must be 0 or more")
    check(options.slow >= 0, f"--slow is {options.slow}; it is a number of images, 0 for none")
    if options.add:
        check(not (adaptive or options.sanity), "--add is for --attacks and --slow; leave --adaptive and --sanity out")
        check(bool(options.attacks) != bool(options.slow), "--add needs either --attacks or --slow, not both")
    processes = join_processes(resolve_device(options.device))
    device = processes.device or resolve_device(options.device)
    checkpoint = find_checkpoint(options.checkpoint, device)
    base = presets.default_attack(checkpoint.dataset)
    attacks = parse_attacks(options.attacks, base) if options.attacks else presets.attack_suite(checkpoint)
    slow, some = presets.slow_suite(checkpoint.dataset) if options.slow else [], options.slow
    if options.add:
        some = options.n = options.slow or options.n
        attacks, slow = [], slow or attacks
        _check_addition(options, checkpoint, slow, some)
    sources = _sources(options.transfer_from, checkpoint, device)
    dataset = load_dataset(checkpoint, options, processes)
    if options.add:
        on = checkpoint.metrics.get("data", "images that are not stated")
        check(on.endswith(f" of {dataset.name}"), f"--add: {checkpoint.id} was measured on {on}, not on {dataset.name}")
    split = checkpoint.test_split(dataset.detection_test)
    if options.n > len(split) and processes.main:
        print(f"cce evaluate: there are {len(split)} test images; all are used", file=sys.stderr)
    split = split.first(min(options.n, len(split)))
    store = Store(partial_results(), taking_up=not options.fresh)
    search_dtype = fast_dtype(device) if options.precision == "auto" else getattr(torch, options.precision)
    started = time.perf_counter()
    with progress_bar(processes.main) as report:
        try:
            measured = measure(
                checkpoint,
                split.pixels().to(device),
                split.labels.to(device),
                attacks,
                adaptive=min(adaptive, len(split)),
                slow=slow,
                slow_images=min(some, len(split)),
                epsilon=base.epsilon,
                seed=options.seed,
                search_dtype=search_dtype,
                success=options.success,
                sanity=Sanity(base, options.sanity, sources=sources) if options.sanity else None,
                batch_size=options.batch_size,
                store=store,
                processes=processes,
                report=report,
            )
        except KeyboardInterrupt:
            print("cce evaluate: what is finished is kept; the same command goes on from there", file=sys.stderr)
            raise
    if not processes.main:
        store.clear()
        return 0
    taken_up = sum(f.taken_up for f in measured.found)
    made = {
        **_record(options, checkpoint, dataset.name, len(split), adaptive, device),
        "seconds": round(time.perf_counter() - started + taken_up / processes.count, 1),
        "processes": processes.count,
        "versions": {"torch": torch.__version__, "cce": checkpoints.version_of_cce()},
        **({"data_notes": list(dataset.notes)} if dataset.notes else {}),
    }
    if options.add:
        made["search_precision"] = measured.settings["search_precision"]
        record = extended(checkpoint.metrics, measured, checkpoint.detector, made)
    else:
        record = {**made, **metrics(measured, checkpoint.detector)}
    if options.write or options.add:
        _write(checkpoint, without_path(record, options.data_dir))
    if options.write and measured.of("benign") and options.success == "last":
        held = dataset.calibration
        known = detectors(checkpoint, (held.pixels().to(device), held.labels.to(device)))
        about = {k: record[k] for k in ("data", "seed", "device", "command")} | {"n": len(split)}
        found = detection_report(measured, known).to_json()
        about = without_path(about, options.data_dir)
        write_measurement(checkpoint, "detection", {"checkpoint": checkpoint.id, **about, "report": found})
    store.clear()
    if options.json:
        print_json(record)
    else:
        print_figures(record)
    return 0


def _check_addition(
    options: argparse.Namespace, checkpoint: Checkpoint, attacks: Sequence[AttackConfig], images: int
) -> None:
    """Refuse, before the minutes that it takes, to add what has no place beside the figures that a checkpoint has."""
    there = checkpoint.metrics.get("images", 0)
    check(there > 0, f"--add: {checkpoint.id} has no figures yet; evaluate it with --write first")
    check(images <= there, f"--add: {images} images; {checkpoint.id} was measured on {there}, add at most on these")
    for name, now in (("seed", options.seed), ("success", options.success)):
        old = checkpoint.metrics.get(name)
        check(old == now, f"{name} is {now!r}; what is added to was measured with {old!r}: take the same")
    rows = [row for name in ("attacks", "slow", "adaptive") for row in checkpoint.metrics.get(name, [])]
    check(
        all("fooled" in row for row in rows), f"--add: {checkpoint.id} says nothing of single images; evaluate it anew"
    )
    known = [AttackConfig.of(row) for row in checkpoint.metrics.get("attacks", [])]
    for attack in attacks:
        here = f"--add: {attack.describe()}"
        check(not attack.info.aware, f"{here} knows the detector; that takes a whole evaluation, with --adaptive")
        check(attack not in known, f"{here} is there already, on all {there} images")


def partial_results() -> Path:
    """Where evaluations keep what is finished until they end."""
    return home() / "evaluations"


def _sources(names: Sequence[str], checkpoint: Checkpoint, device: torch.device) -> dict[str, Any]:
    """Other ensembles on the same data set, by id."""
    found = {}
    for name in names:
        other = find_checkpoint(name, device)
        check(
            other.dataset == checkpoint.dataset,
            f"--transfer-from: {other.id} is of {other.dataset}; {checkpoint.id} is of {checkpoint.dataset}",
        )
        found[other.id] = other.model
    return found


def _record(
    options: argparse.Namespace, checkpoint: Checkpoint, dataset: str, n: int, adaptive: int, device: torch.device
) -> dict[str, Any]:
    """What an evaluation says of itself."""
    said = ["python", "-m", "cce", "evaluate", _place(checkpoint, options.checkpoint), "--n", str(n)]
    said += [] if options.add else ["--adaptive", str(adaptive)]
    said += ["--seed", str(options.seed)]
    said += ["--slow", str(options.slow)] if options.slow else []
    said += ["--attacks", *options.attacks] if options.attacks else []
    said += ["--success", options.success] if options.success != "last" else []
    said += ["--sanity", str(options.sanity)] if options.sanity else []
    said += ["--transfer-from", *map(_shown, options.transfer_from)] if options.transfer_from else []
    said += ["--precision", options.precision] if options.precision != "auto" else []
    said += ["--data-dir", str(options.data_dir)] if options.data_dir else []
    said += ["--add"] if options.add else []
    return {
        "data": f"the first {n} test images of {dataset}",
        "device": checkpoints.machine_name(device),
        "command": shlex.join(said),
    }


def _place(checkpoint: Checkpoint, name: str) -> str:
    """What a command names a checkpoint by: a released one by its folder in the project, any other as it was typed."""
    ships = checkpoint.folder is not None and checkpoint.folder.resolve() in checkpoints.released()
    return f"checkpoints/{checkpoint.folder.name}" if ships and checkpoint.folder else _shown(name)


def _shown(name: str) -> str:
    """An ensemble as it was named, without where it lies on this machine."""
    return Path(name).name if Path(name).is_absolute() else name


def _write(checkpoint: Checkpoint, record: dict[str, Any]) -> None:
    """`metrics.json` and the model card."""
    checkpoint.metrics = record
    assert checkpoint.folder is not None
    write_atomically(checkpoint.folder / "metrics.json", json.dumps(record, indent=1) + "\n")
    write_card(checkpoint)


def print_figures(record: dict[str, Any]) -> None:
    """A line for each measured row, then the worst case by image, then the sanity checks."""
    for title, row in measured_rows(record):
        attacked = title != "clean" and not title.startswith("not an attack")
        cells = [f"{'robust ' if attacked else ''}accuracy {percent(row['accuracy'])}"]
        if row.get("accuracy_any_step") is not None:
            cells.append(f"at every step {percent(row['accuracy_any_step'])}")
        if "flagged" in row:
            flagged = "detection rate" if attacked else "flagged"
            unnoticed = percent(row["wrong_and_unflagged"])
            cells += [f"{flagged} {percent(row['flagged'])}", f"wrong and unflagged {unnoticed}"]
        if row.get("auc") is not None:
            cells.append(f"AUC {row['auc']:.4f}")
        print(f"{title:58} " + ", ".join(cells))
    for line in worst_case_lines(record) + sanity_lines(record):
        print(line)
