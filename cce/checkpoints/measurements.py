"""Measurements: what was measured on a checkpoint when it was released, and ships in its `measurements` folder."""

from __future__ import annotations

import json
from typing import Any

from cce.checkpoints.folder import Checkpoint
from cce.checkpoints.record import MEASUREMENTS as SHAPES
from cce.config import check
from cce.config.json_files import JsonError, read_json
from cce.config.shapes import Misfit, fit, record
from cce.machine.files import write_atomically

MEASUREMENTS = "measurements"
"""Folder of a checkpoint with what `detect --write` and `transfer --write` measured."""

EQUAL_TERMS = "equal-terms"
"""An ensemble beside those that the same recipe made with other losses (see `cce.paper.equal_terms`)."""

BLACK_BOX = "black-box"
"""Tables 12 and 13's measure: `{"records": [...]}`, one for each attack and group of ensembles."""


def has_measurement(checkpoint: Checkpoint, name: str) -> bool:
    """Whether `measurements/NAME.json` ships with a checkpoint, whatever is in it."""
    return bool(checkpoint.folder) and (checkpoint.folder / MEASUREMENTS / f"{name}.json").is_file()


def read_measurement(checkpoint: Checkpoint, name: str) -> dict[str, Any] | None:
    """What ships with a checkpoint under `measurements/NAME.json`; None where nothing does.

    Raises:
        ConfigError: a file that is damaged.
    """
    if not has_measurement(checkpoint, name):
        return None
    assert checkpoint.folder is not None
    path = checkpoint.folder / MEASUREMENTS / f"{name}.json"
    try:
        return fit(SHAPES.get(name, record({})), read_json(path, finite=True), "it")[0]
    except (OSError, JsonError, Misfit) as error:
        check(False, f"{path} cannot be read: {error}; measure again or delete it")
        raise


def write_measurement(checkpoint: Checkpoint, name: str, values: dict[str, Any]) -> None:
    """Write `measurements/NAME.json` into the checkpoint's folder."""
    assert checkpoint.folder is not None
    folder = checkpoint.folder / MEASUREMENTS
    folder.mkdir(exist_ok=True)
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))  # a tenth of every score's bytes is spaces
    write_atomically(folder / f"{name}.json", text + "\n")


def add_black_box(checkpoint: Checkpoint, made: dict[str, Any]) -> None:
    """Add a black-box record, in the place of those of the same attack that it says all of: no other ensembles."""
    made = json.loads(json.dumps(made))  # as it is read back: lists for tuples
    new = made["black_box"]

    def stays(one: dict[str, Any]) -> bool:
        old = one["black_box"]
        return old["attack"] != new["attack"] or not set(old["names"]) <= set(new["names"])

    records = (read_measurement(checkpoint, BLACK_BOX) or {}).get("records", [])
    write_measurement(checkpoint, BLACK_BOX, {"records": [*filter(stays, records), made]})
