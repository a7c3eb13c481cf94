"""Run records: the shapes of a run folder's JSON files, which others may have written or damaged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cce.config.json_files import JsonError, NotJson, parse_json, read_json
from cce.config.shapes import (
    Misfit,
    Shape,
    fit,
    flag,
    if_fits,
    items,
    number,
    one_of,
    or_none,
    record,
    table,
    text,
    whole,
)

STATES = ("queued", "running", "stopping", "stopped", "finished", "failed")

_TIME = number(0, 1e11)  # seconds since 1970
_PID = or_none(whole(1, 2**31 - 1))
_SHARE = number(0, 1)

_REMOTE = record(
    {},
    {
        **dict.fromkeys(("stage", "job_id", "repository", "flavor"), text),
        **dict.fromkeys(("message", "problem", "address"), or_none(text)),
        **dict.fromkeys(("seen", "stop_asked"), _TIME),
    },
    strict=True,
)

JOB = record(
    {},
    {
        "state": one_of("waiting", "started", "stopped", "remote"),
        **dict.fromkeys(("created", "asked_at", "started_at", "stop_asked"), _TIME),
        **dict.fromkeys(("device", "error"), text),
        "command": items(text),
        "pid": _PID,
        "pid_start": or_none(number()),
        "leads": flag,
        "remote": _REMOTE,
    },
    strict=True,
)
"""`job.json`: what was asked for, and the process that was started."""

STATUS = record(
    {},
    {
        "state": one_of(*STATES),
        "pid": _PID,
        "pid_start": or_none(number()),
        "heartbeat": _TIME,
        **dict.fromkeys(("step", "total_steps"), whole()),
        "error": text,
        **dict.fromkeys(("epoch", "seconds", "seconds_left"), if_fits(number(0))),
    },
    strict=True,
)
"""`status.json`: the trainer's own word on its last step."""

_LOSSES = ("loss", "natural", "direct", "promoting", "demoting", "entropy_clean", "learning_rate", "images_per_second")
_TRAINING = record(
    {"step": whole(1), "epoch": number(0)}, {"phase": text, **dict.fromkeys(_LOSSES, number())}, strict=True
)
_SEEN = {"accuracy": _SHARE, "entropy": number(0), "member_accuracy": items(_SHARE), "subsets": table(_SHARE)}
_EVALUATION = record(
    {"step": whole(), **{f"{kind}_{what}": shape for kind in ("natural", "robust") for what, shape in _SEEN.items()}},
    {"transferability": or_none(number()), "detection_auc": or_none(_SHARE), "images": whole()},
    strict=True,
)
_ROW = record({"step": whole()})


def metrics_row(value: Any) -> dict[str, Any]:
    """A line of `metrics.jsonl`.

    Raises:
        Misfit: it has another shape.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    shape: Shape = {"training": _TRAINING, "evaluation": _EVALUATION}.get(kind, _ROW) if _is_text(kind) else _ROW
    row, _ = fit(shape, value)
    if shape is _EVALUATION:
        members = {len(row[f"{name}_member_accuracy"]) for name in ("natural", "robust")}
        subsets = [key for name in ("natural", "robust") for key in row[f"{name}_subsets"]]
        names = re.compile(rf"S[01]{{{max(members)}}}")
        if len(members) > 1 or 0 in members or not all(names.fullmatch(key) for key in subsets):
            raise Misfit("its figures do not agree on the number of members")
    return row


def metrics_rows(lines: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of `metrics.jsonl`, and for each line that does not fit why; a half-written last line is passed over.

    All looks tell of as many members as the first.
    """
    rows, left_out, members = [], [], None
    for number_, line in enumerate(lines, 1):
        try:
            row = metrics_row(parse_json(line))
            if row.get("kind") == "evaluation":
                count = len(row["natural_member_accuracy"])
                members = members or count
                if count != members:
                    raise Misfit(f"it has {count} members, the lines before have {members}")
            rows.append(row)
        except NotJson as error:
            if number_ < len(lines):
                left_out.append(f"line {number_} of metrics.jsonl: {error}")
        except (JsonError, Misfit) as error:
            left_out.append(f"line {number_} of metrics.jsonl: {error}")
    return rows, left_out


def read_record(path: Path, shape: Shape) -> dict[str, Any]:
    """A run folder's JSON file by its shape; empty where it is missing or was cut off.

    Raises:
        Misfit: it is JSON of another shape; the message names the file.
    """
    try:
        value = read_json(path)
    except (FileNotFoundError, NotJson):
        return {}
    except JsonError as error:
        raise Misfit(f"{path.name}: {error}") from error
    if not isinstance(value, dict):
        return {}
    try:
        return fit(shape, value)[0]
    except Misfit as error:
        raise Misfit(f"{path.name}: {error}") from error


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
