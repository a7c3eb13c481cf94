"""Checkpoint records: the shapes of a checkpoint's JSON files, which strangers may have written.

What describes the weights must fit, or nothing is loaded. Of what was measured, figures that do not fit are left out
and named; the rest stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cce.config import AttackConfig, ConfigError, TrainConfig, from_json
from cce.config.json_files import JsonError, check_json
from cce.config.shapes import (
    Misfit,
    Shape,
    fit,
    fitting,
    flag,
    items,
    number,
    one_of,
    or_none,
    record,
    shown,
    table,
    text,
    whole,
)

MOST_MEMBERS = 16
"""Subsets are counted for at most so many members."""

_SHARE = number(-1e-6, 1 + 1e-6)  # fractions, rounded by float32

_TRAINING = record(
    {"config": record({}), "images_seen": whole(), "seconds": number(0), "machine": text, "versions": table(text)}
)

_FIGURE = record({"name": text, "accuracy": _SHARE, "images": whole(1)}, {"white_box_accuracy": or_none(_SHARE)})
_CHECK = record({"name": text, "holds": flag, "figures": items(_FIGURE)}, {"warning": text})
_SOURCE = record(dict.fromkeys(("command", "device", "search_precision"), text), {"data": text, "seed": whole()})
_WORST = record(
    {"norm": one_of("linf", "l2"), "epsilon": number(0), "images": whole(1)},
    {"attacks": whole(), "accuracy": _SHARE, "wrong_and_unflagged": _SHARE},
)
_ABOUT = {
    **dict.fromkeys(("data", "device", "command", "search_precision", "success"), text),
    **dict.fromkeys(("images", "batch_size", "processes"), whole(1)),
    "seed": whole(),
    "epsilon": number(0),
    "seconds": number(0),
    "versions": table(text),
}

MEASUREMENTS: Mapping[str, Shape] = {
    "detection": record({"report": record({}), "data": text}),
    "transferability": record({"transferability": record({}), "data": text, "n": whole(1)}),
    "black-box": record(
        {"records": items(record({"black_box": record({"names": items(text), "attack": record({})})}, {"data": text}))}
    ),
    "equal-terms": record({"family": record({})}),
}
"""What the files in `measurements/` hold at least, by name."""


def fit_training(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The record of how a checkpoint was made, and what was left out: all of it, where it does not fit."""
    if not values:
        return {}, []
    try:
        check_json(values)
        found, left_out = fit(_TRAINING, values, "training")
        from_json(TrainConfig, found["config"], "training.config")
    except (JsonError, Misfit, ConfigError) as error:
        return {}, [f"config.json: {error}"]
    return found, left_out


def fit_metrics(values: Any, members: int) -> tuple[dict[str, Any], list[str]]:
    """The content of `metrics.json`, and in words each figure that was left out.

    Args:
        values: what the file holds.
        members: how many the ensemble has, for figures of each member and of subsets.
    """
    row = {
        "member_accuracy": items(_SHARE, members),
        "subsets": _subsets(members),
        "mean_entropy": number(0),
        "images": whole(1),
        "fooled": text,
        "unnoticed": text,
        "source": _SOURCE,
        **dict.fromkeys(("flagged", "wrong_and_unflagged", "auc", "auc_successful"), or_none(_SHARE)),
        **dict.fromkeys(("accuracy_any_step", "seconds"), number(0)),
    }
    named = {"name": text, "accuracy": _SHARE}
    shape = record(
        {},
        {
            **_ABOUT,
            "natural": record({"accuracy": _SHARE}, row),
            "attacks": fitting(_attack(record(named, row))),
            "slow": fitting(record(named | {"attack": _attack(record({}))}, row)),
            "adaptive": fitting(record(named, row | {"attack": _attack(record({}))})),
            "benign_corruptions": fitting(record(named, row)),
            "worst_case": fitting(_WORST),
            "sanity": record({"attack": text, "checks": items(_with_warning(_CHECK))}),
        },
    )
    try:
        metrics, left_out = fit(shape, values)
    except Misfit as error:
        return {}, [f"metrics.json{error}"]
    if "images" not in metrics:  # a figure says on how many images it was measured
        for part in ("attacks", "slow", "adaptive"):
            without = [r for r in metrics.get(part, []) if "images" not in r]
            if without:
                metrics[part] = [r for r in metrics[part] if "images" in r]
                left_out.append(f"{part} without a number of images")
    return metrics, [f"metrics.json: {words}" for words in left_out]


def _subsets(members: int) -> Shape:
    """The share of every subset of members that are right, from all of them to none."""
    name = re.compile(rf"S[01]{{{members}}}")

    def check(value: Any, where: str, left_out: list[str]) -> Any:
        found = table(_SHARE)(value, where, left_out)
        whole_ = members <= MOST_MEMBERS and len(found) == 2**members
        if not whole_ or not all(name.fullmatch(key) for key in found):
            raise Misfit(f"{where} is {shown(value)}; it must have a share for every subset of {members} members")
        return dict(sorted(found.items(), reverse=True))

    return check


def _attack(shape: Shape) -> Shape:
    """`shape`, whose fields are an attack's settings too."""

    def check(value: Any, where: str, left_out: list[str]) -> Any:
        found = shape(value, where, left_out)
        settings = {k: v for k, v in found.items() if k in AttackConfig.__dataclass_fields__}
        or_none(whole())(settings.get("toward"), f"{where}.toward", left_out)
        try:
            from_json(AttackConfig, settings, where)
        except ConfigError as error:
            raise Misfit(str(error)) from error
        return found

    return check


def _with_warning(shape: Shape) -> Shape:
    """A check that says what is wrong where it does not hold."""

    def check(value: Any, where: str, left_out: list[str]) -> Any:
        found = shape(value, where, left_out)
        if not found["holds"] and "warning" not in found:
            raise Misfit(f"{where}.warning is missing")
        return found

    return check
