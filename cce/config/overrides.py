"""Overrides: a training config with single settings changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cce.config.training import Phase, TrainConfig
from cce.config.values import ConfigError, check, from_json, to_json


def with_loss(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """`config` with `changes` to the `Defense` of every phase that has Eq. 5, such as `lambda_dm`.

    A phase that is named after its defense gets the new defense's name.
    """
    return replace(config, phases=tuple(_with_loss(phase, changes) for phase in config.phases))


def _with_loss(phase: Phase, changes: Mapping[str, Any]) -> Phase:
    if phase.defense.method != "cce":
        return phase
    made = replace(phase.defense, **changes)
    name = made.name if phase.name == phase.defense.name else phase.name
    return replace(phase, defense=made, name=name)


def override(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """`config` with `FIELD=VALUE` settings; nested fields by dots, `phases.0.epochs=3`.

    Raises:
        ConfigError: a setting of another form, a field that is not there, or a value that cannot be used.
    """
    values = json.loads(json.dumps(to_json(config)))
    for setting in settings:
        path, equals, text = setting.partition("=")
        check(bool(equals), f"{setting!r} is not a setting; it must be FIELD=VALUE")
        *parents, last = path.split(".")
        place: Any = values
        try:
            for key in parents:
                place = place[int(key)] if isinstance(place, list) else place[key]
            last = int(last) if isinstance(place, list) else last
            _ = place[last]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ConfigError(f"{setting!r}: the config has no field {path!r}") from None
        try:
            place[last] = json.loads(text)
        except json.JSONDecodeError:
            place[last] = text
    return from_json(TrainConfig, values)
