"""`python -m cce models | data | push | pull`: what is here, and what goes to the Hub or comes from it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from cce.checkpoints import folder as checkpoints
from cce.checkpoints import hub
from cce.checkpoints.folder import Checkpoint, CheckpointError
from cce.cli import Commands, add_data, add_json, find_checkpoint, print_json
from cce.config import check
from cce.data import datasets as data
from cce.evaluation import presets
from cce.machine.files import write_atomically
from cce.reporting.cards import percent, released_table, with_table


def add(commands: Commands) -> None:
    """Add `models`, `data`, `push` and `pull`."""
    p = commands.add("models", models, "List the released ensembles with their main figures.")
    p.add_argument("--checkpoints", type=Path, help="folder of checkpoint folders (default: those released)")
    p.add_argument("--readme", type=Path, help="also write the table between the marks of this Markdown file")
    p.add_argument("--only", nargs="+", metavar="NAME", help="of these ensembles (default: all)")
    add_json(p)

    p = commands.add("data", fetch_data, "Say which data sets are here, or get one.")
    p.add_argument("name", nargs="?", choices=data.DATASETS, help="data set to download; none lists them")
    add_data(p)

    token = "The access token is read from HF_TOKEN, or from `hf auth login`; it is kept nowhere."
    p = commands.add("push", push, f"Push an ensemble with its card to the Hugging Face Hub. {token}")
    p.add_argument("checkpoint", help="checkpoint folder, or the name of a released ensemble")
    p.add_argument("repository", metavar="OWNER/NAME", help="repository on the Hub; made where it is not there")
    p.add_argument("--public", action="store_true", help="make a new repository public; without it, only you see it")
    add_json(p)

    p = commands.add("pull", pull, f"Get an ensemble from the Hugging Face Hub into a folder. {token}")
    p.add_argument("repository", metavar="OWNER/NAME", help="repository on the Hub")
    p.add_argument("folder", nargs="?", type=Path, help="where to, not there yet (default: NAME, here)")
    p.add_argument("--revision", help="branch, tag or commit (default: main)")
    add_json(p)


def models(options: argparse.Namespace) -> int:
    """`python -m cce models`: those that can be used, and on standard error those that cannot; then the status is 1."""
    found, unusable = [], []
    for folder in checkpoints.released(options.checkpoints):
        try:
            found.append(checkpoints.load(folder))
        except CheckpointError as error:
            unusable.append(str(error))
    if options.readme and unusable:
        raise CheckpointError(f"the table would lack an ensemble: {unusable[0]}")
    if options.only:
        there = {c.id: c for c in found}
        missing = [name for name in options.only if name not in there]
        check(not missing, f"there is no {missing[0] if missing else ''!r} here; there is {', '.join(there)}")
        found = [there[name] for name in options.only]
    if options.readme and found:
        text = options.readme.read_text(encoding="utf-8")
        folder = found[0].folder
        assert folder is not None
        place = os.path.relpath(folder.resolve().parent, options.readme.resolve().parent)
        table = released_table(found, "" if place == "." else f"{Path(place).as_posix()}/")
        write_atomically(options.readme, with_table(text, table))
    rows = [presets.summary(c) for c in found]
    if options.json:
        print_json(rows)
    for c, r in () if options.json else zip(found, rows, strict=True):
        figures = f"natural {percent(r['natural_accuracy'])}, robust {percent(r['robust_accuracy'])}"
        print(f"{r['id']:32} {r['defense']:9} {r['members']} x {r['architecture']:10} {figures}, {detection(c)}")
    if not rows and not options.json:
        print("no checkpoints there")
    for words in [*unusable, *(f"{c.folder}: left out: {one}" for c in found for one in c.left_out)]:
        print(f"cce models: {words}", file=sys.stderr)
    return 1 if unusable else 0


def detection(c: Checkpoint) -> str:
    """Detection in a line: the AUC, and beside it detector-aware attacks and benign corruptions."""
    row = presets.summary(c)
    if row["detection_auc"] is None:
        return "detection n/a"
    beside = (
        f"detector-aware {percent(row['wrong_and_unflagged'])} wrong and unflagged, "
        f"benign corruptions {percent(row['benign_flagged'])} flagged"
    )
    return f"detection AUC {row['detection_auc']:.4f} ({beside}, at worst)"


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


def push(options: argparse.Namespace) -> int:
    """`python -m cce push`."""
    from huggingface_hub import get_token

    checkpoint = find_checkpoint(options.checkpoint, torch.device("cpu"))  # whole, or it is not sent
    assert checkpoint.folder is not None
    address = hub.push(checkpoint.folder, options.repository, get_token() or "", private=not options.public)
    if options.json:
        print_json({"id": checkpoint.id, "address": address})
    else:
        print(address)
    return 0


def pull(options: argparse.Namespace) -> int:
    """`python -m cce pull`."""
    repository = hub.check_repository(options.repository)
    folder = hub.pull(
        repository, options.folder or Path(repository.partition("/")[2]), checkpoints.load, options.revision
    )
    found = presets.summary(checkpoints.load(folder))
    if options.json:
        print_json({**found, "folder": str(folder)})
    else:
        print(folder)
    return 0
