"""`python -m cce detect | transfer | surface | reproduce`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint, common_test_split
from cce.checkpoints.measurements import add_black_box, read_measurement, write_measurement
from cce.cli import (
    Commands,
    add_device_and_data,
    add_json,
    add_seed,
    check_out,
    find_checkpoint,
    print_json,
    progress_bar,
)
from cce.cli.datasets import add_data_dir, load_dataset
from cce.cli.evaluation import ATTACK_FORM, parse_attack, parse_attacks
from cce.cli.pictures import add_picture_and_attack, attack_config, load_input
from cce.config import SCORES, ConfigError, check
from cce.data import datasets as data
from cce.evaluation import presets
from cce.evaluation.detection import DetectionReport, report_from_json
from cce.evaluation.detector_curve import curves
from cce.evaluation.own_pictures import check_classes, without_path
from cce.machine.files import write_atomically
from cce.models import resolve_device
from cce.reporting import figures, report
from cce.reporting.cards import curve_lines, percent

_FIGURES: dict[str, Callable[[DetectionReport, str], figures.Figure]] = {
    "roc": figures.roc_curves,
    "histogram": figures.histogram,
    "auc": figures.auc_by_epsilon,
    "curve": lambda found, score: figures.detector_curves(list(curves(found).items())),
}
_OUT = "write the figure here, as .html (interactive, opens without network) or .png"


def add(commands: Commands) -> None:
    """Add `detect`, `transfer`, `surface` and `reproduce`."""
    p = commands.add("detect", detect, "Detection: attacks, detector-aware attacks and inputs that are not attacks.")
    p.add_argument("checkpoint", help="checkpoint folder, or the name of a released ensemble")
    p.add_argument(
        "--attacks", nargs="+", metavar=ATTACK_FORM, help="epsilon and step size in 1/255 (default: Figures 3, 4's)"
    )
    p.add_argument("--score", choices=SCORES, default="entropy", help="what an input is judged by")
    p.add_argument("--figure", choices=tuple(_FIGURES), default="roc", help="what --out shows")
    p.add_argument(
        "--n",
        "--images",
        type=int,
        default=200,
        help="number of test images, from the first; 0: only what was measured at release",
    )
    p.add_argument("--adaptive", type=int, default=50, help="of these, how many get the detector-aware attacks")
    p.add_argument("--rate", type=float, default=5.0, help="false positives that thresholds are set for, in percent")
    _add_common(p)

    p = commands.add(
        "transfer", transfer, "Transferability among members, and between ensembles where several are named."
    )
    p.add_argument("checkpoints", nargs="+", help="checkpoint folders, or names of released ensembles")
    p.add_argument("--attack", metavar=ATTACK_FORM, help="epsilon and step size in 1/255 (default: the data set's)")
    p.add_argument("--n", "--images", type=int, default=200, help="number of test images, from the first")
    _add_common(p)

    p = commands.add(
        "surface", surface, "The loss surface around a picture or its adversarial example (Figures 6 to 8)."
    )
    p.add_argument("checkpoint", help="checkpoint folder, or the name of a released ensemble")
    add_picture_and_attack(p)
    p.add_argument("--benign", action="store_true", help="around the picture itself, without an attack")
    p.add_argument(
        "--extent", type=float, help="largest change of a pixel along an axis, in 1/255 (default: 2 epsilon)"
    )
    p.add_argument("--resolution", type=int, default=41, help="points along an axis")
    p.add_argument("--out", type=Path, help=_OUT)
    add_device_and_data(p)
    add_data_dir(p)
    add_json(p)

    p = commands.add("reproduce", reproduce, "The paper's tables and figures, measured on the checkpoints there are.")
    p.add_argument("items", nargs="+", metavar="ITEM", help="table3 to table13, figure1 to figure8, or all")
    p.add_argument(
        "--checkpoints", nargs="+", type=Path, help="checkpoint folders, or folders of them (default: released)"
    )
    p.add_argument(
        "--n",
        "--images",
        type=int,
        default=200,
        help="test images of a measurement; 0: only what was measured at release",
    )
    p.add_argument("--steps", type=int, default=20, help="no attack takes more steps; 0: the paper's own number")
    p.add_argument("--slow", action="store_true", help="run slow attacks too (Auto-Attack, SPSA, B&B, multi-targeted)")
    p.add_argument("--adaptive", type=int, default=50, help="of the images, how many get the detector-aware attacks")
    p.add_argument("--out", type=Path, default=Path("reproduction.html"), help="the report; the JSON goes beside it")
    add_seed(p, "of random starts and noise")
    add_device_and_data(p)
    add_json(p)


def _add_common(p: argparse.ArgumentParser) -> None:
    p.add_argument("--out", type=Path, help=_OUT)
    p.add_argument(
        "--write", action="store_true", help="keep the figures in the checkpoint's folder, under measurements/"
    )
    add_seed(p, "of random starts and noise")
    add_device_and_data(p)
    add_data_dir(p)
    add_json(p)


def detect(options: argparse.Namespace) -> int:
    """`python -m cce detect`."""
    check_out(options.out, (".html", ".png"))
    check(0 <= options.rate <= 100, f"--rate is {options.rate}; it is from 0 to 100 percent")
    check(options.adaptive >= 1, f"--adaptive is {options.adaptive}; at least 1, since detection is judged by them too")
    device = resolve_device(options.device)
    checkpoint = find_checkpoint(options.checkpoint, device)
    if options.n:
        found, record = _measured_detection(options, checkpoint, device)
    else:
        found, record = _released_detection(options, checkpoint)
    rows = found.rows(options.score)
    if options.out:
        figure = _FIGURES[options.figure](found, options.score)
        report.write(figure, options.out, f"Detection, {checkpoint.id}", report.detection_table(rows))
    if options.json:
        shown = {"scores": {s: found.rows(s) for s in SCORES}, "roc": _roc_points(found)}
        print_json({**record, **shown, "curves": {s: one.to_json() for s, one in curves(found).items()}})
        return 0
    for row in rows:
        keys = ("accuracy", "auc", "auc_successful", "flagged", "wrong_and_unflagged")
        said = ", ".join(
            f"{k.replace('_', ' ')} {report.detection_value(k, row[k])}" for k in keys if row.get(k) is not None
        )
        print(f"{row['kind']:9} {row['name']:58} n = {row['images']}: {said}")
    for line in curve_lines(curves(found).values()):
        print(line)
    return 0


def _released_detection(options: argparse.Namespace, checkpoint: Checkpoint) -> tuple[DetectionReport, dict[str, Any]]:
    """The report that ships with a checkpoint, and where it is from."""
    check(not options.write, "--write keeps what is measured; with --n 0 nothing is")
    record = read_measurement(checkpoint, "detection")
    if record is None:
        raise ConfigError(f"no detection was measured at the release of {checkpoint.id}; leave out --n 0 to measure it")
    return report_from_json(record["report"]), {k: v for k, v in record.items() if k != "report"}


def _measured_detection(
    options: argparse.Namespace, checkpoint: Checkpoint, device: torch.device
) -> tuple[DetectionReport, dict[str, Any]]:
    """Measured now, and what the record says of the measurement."""
    from cce.evaluation.evaluate import detect as measure

    base = presets.default_attack(checkpoint.dataset)
    texts = options.attacks
    attacks = parse_attacks(texts, base) if texts else presets.figure_attacks(checkpoint.dataset)
    dataset = load_dataset(checkpoint, options)
    x, labels = _images(checkpoint.test_split(dataset.detection_test), options.n, "detect")
    held = dataset.calibration
    with progress_bar() as tell:
        found = measure(
            checkpoint,
            x.to(device),
            labels.to(device),
            attacks,
            adaptive=min(options.adaptive, len(x)),
            epsilon=base.epsilon,
            calibration=(held.pixels().to(device), held.labels.to(device)),
            false_positive_rate=options.rate / 100,
            seed=options.seed,
            report=tell,
        )
    record = _record(options, [checkpoint], dataset.name, len(x), device)
    if options.write:
        write_measurement(checkpoint, "detection", _shared({**record, "report": found.to_json()}, options))
    return found, record


def _roc_points(found: DetectionReport) -> dict[str, Any]:
    by_kind = {}
    for kind, s in found.samples():
        for score in SCORES:
            false_positive, true_positive = (rates.round(5).tolist() for rates in found.roc(s, score))
            by_kind.setdefault(kind, {}).setdefault(s.name, {})[score] = [false_positive, true_positive]
    return by_kind


def transfer(options: argparse.Namespace) -> int:
    """`python -m cce transfer`."""
    from cce.evaluation.transferability import black_box, transferability

    check_out(options.out, (".html", ".png"))
    device = resolve_device(options.device)
    made = [find_checkpoint(name, device) for name in options.checkpoints]
    datasets = {c.dataset for c in made}
    check(len(datasets) == 1, f"the ensembles are of different data sets: {', '.join(sorted(datasets))}")
    check(len({c.id for c in made}) == len(made), "the same ensemble is named twice")
    base = presets.default_attack(made[0].dataset)
    config = parse_attack(options.attack, base) if options.attack else base
    dataset = load_dataset(made[0], options)
    for other in made[1:]:
        check_classes(other, dataset.classes, dataset.name)
        shape = other.model.config.input_shape
        check(shape == dataset.input_size, f"{other.id} takes pictures of {shape}, {made[0].id} {dataset.input_size}")
    x, labels = _images(common_test_split(made, dataset.detection_test), options.n, "transfer")
    x, labels = x.to(device), labels.to(device)
    alone = len(made) == 1
    with progress_bar() as tell:

        def ticks(done: int, total: int) -> None:
            tell(config.describe(), done / total)

        if alone:
            found = transferability(made[0].model, x, labels, config, seed=options.seed, progress=ticks)
            figure, square, names = figures.transfer(found), found.a, found.names
        else:
            models = {c.id: c.model for c in made}
            found = black_box(models, x, labels, config, seed=options.seed, progress=ticks)
            figure, square, names = figures.black_box(found), found.a, list(found.names)
    told = _record(options, made, dataset.name, len(x), device)
    record = {**told, "transferability": found.to_json()}
    if options.write and alone:
        write_measurement(made[0], "transferability", _shared(record, options))
    elif options.write:
        for c in made:
            add_black_box(c, _shared({**told, "black_box": found.to_json()}, options))
    if options.out:
        report.write(figure, options.out, f"Transferability, {', '.join(c.id for c in made)}")
    if options.json:
        print_json(record)
        return 0
    print(f"{config.describe()}, n = {len(x)}; robust accuracy, rows: who is attacked, columns: who sees it")
    wide = max(8, *(len(n) for n in names)) + 2
    print(" " * wide + "".join(f"{n:>{wide}}" for n in names))
    for name, row in zip(names, square, strict=True):
        print(f"{name:{wide}}" + "".join(f"{percent(v):>{wide}}" for v in row))
    if alone:
        said = found.to_json()
        print(", ".join(f"{k} {percent(v)}" for k, v in said["subsets"].items()))
        print(", ".join(f"{k} {percent(said[k])}" for k in ("T", "nT", "a_single")))
    return 0


def surface(options: argparse.Namespace) -> int:
    """`python -m cce surface`."""
    from cce.evaluation.one_picture import attack_picture, classify
    from cce.evaluation.surfaces import surface as measure

    check_out(options.out, (".html", ".png"))
    device = resolve_device(options.device)
    checkpoint = find_checkpoint(options.checkpoint, device)
    config = attack_config(options, checkpoint.dataset)
    x, label = load_input(options, checkpoint)
    x = x.to(device)
    label = checkpoint.classes.index(classify(checkpoint, x)["label"]) if label is None else label
    if not options.benign:
        x, _ = attack_picture(checkpoint, x, label, config, options.seed)
    extent = min(1.0, 2 * config.epsilon) if options.extent is None else options.extent / 255
    resolution = options.resolution
    found = measure(checkpoint.model, x, label, extent=extent, resolution=resolution, seed=options.seed)
    if options.out:
        around = "the picture itself" if options.benign else config.describe()
        title = (
            f"{checkpoint.id}, {options.picture}, {around}: {checkpoint.classes[label]}, extent {255 * extent:.4g}/255"
        )
        report.write(figures.surface(found, checkpoint.classes, title), options.out, f"Loss surface, {checkpoint.id}")
    if options.json:
        print_json(found.to_json())
        return 0
    for name, loss, labels in zip(found.views, found.loss, found.labels, strict=True):
        right = (labels == label).float().mean().item()
        span = f"{loss.min():.3f} to {loss.max():.3f}"
        print(f"{name}: loss {span} nats, right on {percent(right)} of {labels.numel()} points")
    return 0


def reproduce(options: argparse.Namespace) -> int:
    """`python -m cce reproduce`."""
    from cce.paper import printed as paper
    from cce.paper.bench import Bench
    from cce.paper.cells import STATUSES
    from cce.reporting.reproduction import left_out
    from cce.reporting.reproduction import reproduce as measure

    chosen = paper.choose(options.items)
    check(options.out.suffix == ".html", f"--out is {str(options.out)!r}; it must end in .html")
    device = resolve_device(options.device)
    folders = _folders(options.checkpoints)
    made = [checkpoints.load(folder, device) for folder in folders]
    bench = Bench(made, options.data, options.n, options.steps, options.adaptive, options.seed, options.slow)
    for line in left_out(bench):
        print(f"cce reproduce: {line}", file=sys.stderr)
    with progress_bar() as tell:
        result = measure(chosen, bench, tell)
    record = {k: result[k] for k in ("settings", "counts", "checkpoints", "left_out")}
    record |= {k: [item.to_json() for item in result[k]] for k in ("items", "others")}
    record |= {k: [asdict(one) for one in result[k]] for k in ("orders", "families")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, report.reproduction(result))
    beside = options.out.with_suffix(".json")
    write_atomically(beside, json.dumps(record, indent=1, allow_nan=False) + "\n")
    if options.json:
        print_json(record)
        return 0
    for item in result["items"] + result["others"]:
        for c in item.cells:
            if c.measured is not None:
                printed = "" if c.printed is None else f"printed {c.printed}, "
                print(f"{c.id:58} {printed}measured {c.measured} (n = {c.n}, {c.status}, {c.checkpoint})")
    for order in result["orders"]:
        print(order.describe())
    for family in result["families"]:
        print(f"On equal terms: {family.describe()}")
        for one in family.comparisons:
            print(one.describe())
    print(", ".join(f"{result['counts'][s]} {s}" for s in STATUSES if result["counts"][s]))
    print(f"{options.out} and {beside}")
    return 0


def _folders(given: Sequence[Path] | None) -> list[Path]:
    """Checkpoint folders from folders of either kind; the released ones where none is given."""
    if given is None:
        return checkpoints.released()
    found: list[Path] = []
    for folder in given:
        inside = [folder] if (folder / "config.json").is_file() else checkpoints.released(folder)
        check(bool(inside), f"{folder} is no checkpoint folder and holds none")
        found += inside
    return found


def _shared(record: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A record as it may leave this machine."""
    return without_path(record, options.data_dir)


def _images(split: data.Split, n: int, command: str) -> tuple[Tensor, Tensor]:
    check(n >= 1, f"--n is {n}; it must be at least 1")
    if n > len(split):
        print(f"cce {command}: there are {len(split)} test images; all are used", file=sys.stderr)
    split = split.first(min(n, len(split)))
    return split.pixels(), split.labels


def _record(
    options: argparse.Namespace, made: Sequence[Checkpoint], dataset: str, n: int, device: Any
) -> dict[str, Any]:
    """What a measurement says of itself."""
    names = [c.id for c in made]
    said = ["python", "-m", "cce", options.command, *names, "--n", str(n), "--seed", str(options.seed)]
    for name in ("attacks", "attack"):
        value = getattr(options, name, None)
        said += [f"--{name}", *([value] if isinstance(value, str) else value)] if value else []
    said += ["--data-dir", str(options.data_dir)] if options.data_dir else []
    return {
        "checkpoint": ", ".join(names),
        "data": f"the first {n} test images of {dataset}",
        "n": n,
        "seed": options.seed,
        "device": checkpoints.machine_name(device),
        "command": shlex.join(said),
    }
