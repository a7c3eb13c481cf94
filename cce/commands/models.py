"""`python -m cce models` and `python -m cce data`: what is here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cce import checkpoints, data, presets
from cce.cards import percent, released_table, with_table
from cce.checkpoints import Checkpoint
from cce.commands import Commands, add_data, add_json
from cce.runs import write_atomically


def add(commands: Commands) -> None:
    """Add `models` and `data`."""
    p = commands.add("models", models, "List the released ensembles with their main figures.")
    p.add_argument("--checkpoints", type=Path, help="folder of checkpoint folders (default: those released)")
    p.add_argument("--readme", type=Path, help="also write the table between the marks of this Markdown file")
    add_json(p)

    p = commands.add("data", fetch_data, "Say which data sets are here, or get one.")
    p.add_argument("name", nargs="?", choices=data.DATASETS, help="data set to download; none lists them")
    add_data(p)


def models(options: argparse.Namespace) -> int:
    """`python -m cce models`."""
    found = [checkpoints.load(p) for p in checkpoints.released(options.checkpoints)]
    if options.readme:
        text = options.readme.read_text(encoding="utf-8")
        write_atomically(options.readme, with_table(text, released_table(found)))
    rows = [presets.summary(c) for c in found]
    if options.json:
        print(json.dumps(rows))
        return 0
    for c, r in zip(found, rows, strict=True):
        figures = f"natural {percent(r['natural_accuracy'])}, robust {percent(r['robust_accuracy'])}"
        print(f"{r['id']:32} {r['defense']:9} {r['members']} x {r['architecture']:10} {figures}, {detection(c)}")
    if not rows:
        print("no checkpoints there")
    return 0


def detection(c: Checkpoint) -> str:
    """Detection in a line: the AUC, and beside it the attacker who knows and inputs that attack nothing."""
    area = presets.summary(c)["detection_auc"]
    aware = [r["wrong_and_unflagged"] for r in c.metrics.get("adaptive", []) if "wrong_and_unflagged" in r]
    benign = [r["flagged"] for r in c.metrics.get("benign_corruptions", []) if "flagged" in r]
    if area is None or not aware or not benign:
        return "detection n/a"
    beside = (
        f"detector-aware {percent(max(aware))} wrong and unflagged, benign corruptions {percent(max(benign))} flagged"
    )
    return f"detection AUC {area:.4f} ({beside}, at worst)"


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
