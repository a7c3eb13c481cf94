"""`python -m cce compare`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint, common_test_split
from cce.cli import Commands, add_device_and_data, add_json, add_seed, find_checkpoint, print_json, progress_bar
from cce.cli.datasets import add_data_dir, load_dataset
from cce.cli.evaluation import ATTACK_FORM, parse_attack, partial_results
from cce.config import check
from cce.evaluation import presets
from cce.models import fast_dtype, resolve_device
from cce.paper.equal_terms import Family, families, groups, keep, measured_together
from cce.reporting.cards import percent, write_card


def add(commands: Commands) -> None:
    """Add `compare`."""
    p = commands.add("compare", compare, "Ensembles that one recipe made, the loss apart, on the same images.")
    p.add_argument("checkpoints", nargs="*", help="checkpoint folders, or names of released ensembles (default: all)")
    p.add_argument(
        "--n",
        "--images",
        type=int,
        default=0,
        help="test images to attack, from the first; 0: only what was measured before",
    )
    p.add_argument("--attack", metavar=ATTACK_FORM, help="epsilon and step size in 1/255 (default: the data set's)")
    p.add_argument("--write", action="store_true", help="keep the comparison in their folders, for their cards")
    add_seed(p, "of random starts")
    add_device_and_data(p)
    add_data_dir(p)
    add_json(p)


def compare(options: argparse.Namespace) -> int:
    """`python -m cce compare`."""
    check(options.n >= 0, f"--n is {options.n}; it is a number of images, or 0 for what was measured before")
    check(options.n > 0 or not options.attack, "--attack is for --n; add the number of images")
    device = resolve_device(options.device)
    released = [p.name for p in checkpoints.released()]
    made = [find_checkpoint(name, device) for name in options.checkpoints or released]
    names = [c.id for c in made]
    twice = next((name for name in names if names.count(name) > 1), "")
    check(not twice, f"{twice!r} is named twice")
    found = families(made)
    if options.n:
        found = [_measure(group, options, device) for group in groups(made)]
    if options.write:
        for family in found:
            _keep(family, made, options, device)
    if options.json:
        print_json([asdict(f) for f in found])
        return 0
    for family in found:
        _print(family)
    if not found:
        print("no two of them were made by one recipe and measured under the same attack on as many images")
    return 0


def _measure(group: Sequence[Checkpoint], options: argparse.Namespace, device: Any) -> Family:
    """Attack every ensemble of a group on the same images; what is finished is kept until all are."""
    from cce.evaluation.engine import Store
    from cce.evaluation.evaluate import measure

    base = presets.default_attack(group[0].dataset)
    attack = parse_attack(options.attack, base) if options.attack else base
    split = common_test_split(group, load_dataset(group[0], options).detection_test)
    if options.n > len(split):
        print(f"cce compare: there are {len(split)} test images; all are used", file=sys.stderr)
    split = split.first(min(options.n, len(split)))
    images, labels = split.pixels().to(device), split.labels.to(device)
    stores, verdicts = [], {}
    with progress_bar() as tell:
        for i, c in enumerate(group):

            def report(what: str, fraction: float, i: int = i, name: str = c.id) -> None:
                tell(f"{name}, {what}", (i + fraction) / len(group))

            stores.append(Store(partial_results()))
            settings = {"seed": options.seed, "search_dtype": fast_dtype(device)}
            found = measure(c, images, labels, [attack], store=stores[-1], report=report, **settings)
            verdicts[c.id] = found.clean, found.of("attack")[0].outcome
    made = measured_together(group, verdicts, attack)
    for store in stores:
        store.clear()
    return made


def _keep(family: Family, made: Sequence[Checkpoint], options: argparse.Namespace, device: Any) -> None:
    """The family in its ensembles' folders, and their cards with it."""
    its = [c for c in made if c.id in {s.id for s in family.standings}]
    said = ["python", "-m", "cce", "compare", *(c.id for c in its)]
    said += ["--n", str(family.images), "--seed", str(options.seed)] if options.n else []
    said += ["--attack", options.attack] if options.attack else []
    keep(family, its, {"command": shlex.join(said), "device": checkpoints.machine_name(device)})
    for c in its:
        write_card(c)


def _print(family: Family) -> None:
    print(family.describe())
    for s in family.standings:
        figures = f"natural {percent(s.natural)}, robust {percent(s.robust)}, S1..1 {percent(s.all_right)}"
        print(f"  {s.id:32} {s.defense:9} {figures}, {s.took} minutes")
    print("".join(f"  {one.describe()}\n" for one in family.comparisons))
