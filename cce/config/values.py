"""What every configuration is made with: checks that name the way out, and the way to and from JSON."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

Range = tuple[float, float]

_KINDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
"""What JSON calls the values of Python's types."""


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the setting, its value and the way out."""


def check(holds: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `holds`."""
    if not holds:
        raise ConfigError(message)


def check_pixel_units(name: str, value: float) -> None:
    """Refuse an `epsilon` or `step_size` outside [0, 1] pixel units.

    >>> check_pixel_units("epsilon", 8)
    Traceback (most recent call last):
    ...
    cce.config.values.ConfigError: epsilon is 8; it is in pixel units from 0 to 1, did you mean 8/255?
    """
    check(math.isfinite(value) and value >= 0, f"{name} is {value}; it must be a number from 0 to 1")
    check(value <= 1, f"{name} is {value:g}; it is in pixel units from 0 to 1, did you mean {value:g}/255?")


LARGEST_L2 = 5.0  # pixel units; published L2 radii are from 0.25 (CIFAR-10) to 3 (ImageNet)


def check_size(name: str, value: float, norm: str) -> None:
    """Refuse a radius or a step that `norm` has no use for; the unit is the pixel's full range."""
    if norm == "linf":
        check_pixel_units(name, value)
        return
    check(math.isfinite(value) and value >= 0, f"{name} is {value}; it must be a number from 0 to {LARGEST_L2:g}")
    check(
        value <= LARGEST_L2,
        f"{name} is {value:g}; it is an L2 length in pixel units from 0 to {LARGEST_L2:g}, did you mean {value:g}/255?",
    )


def to_json(config: Any) -> dict[str, Any]:
    """Plain JSON values of a config object; `from_json` is its inverse."""
    return dataclasses.asdict(config)


def from_json(kind: type, values: Any, where: str = "config") -> Any:
    """Build `kind`, one of this package's dataclasses, from plain JSON values.

    Raises:
        ConfigError: a missing, unknown or mistyped field, named with its path.
    """
    check(isinstance(values, dict), f"{where} is {_KINDS.get(type(values), 'something else')}; it must be an object")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    check(not unknown, f"{where} has an unknown field {unknown[0] if unknown else ''!r}")
    required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
    missing = sorted(required - set(values))
    check(not missing, f"{where} lacks the field {missing[0] if missing else ''!r}")
    try:
        return kind(**{n: _value(hints[n], v, f"{where}.{n}") for n, v in values.items()})
    except ConfigError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:  # a value that only a class's own checks trip over
        raise ConfigError(f"{where} cannot be used: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint`: nested dataclasses, tuples and plain scalars."""
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, where)
    if typing.get_origin(hint) is tuple:
        check(isinstance(value, (list, tuple)), f"{where} is {value!r}; it must be a list")
        items = typing.get_args(hint)
        if items[-1] is not Ellipsis:
            check(len(value) == len(items), f"{where} has {len(value)} entries; it must have {len(items)}")
        inner = [items[0]] * len(value) if items[-1] is Ellipsis else items
        return tuple(_value(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if isinstance(hint, types.UnionType):
        return _one_of(typing.get_args(hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    check(right, f"{where} is {value!r}; it must be a {hint.__name__}")
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """`value` as the first of `kinds` that takes it, as in `int | None`."""
    for kind in kinds:
        try:
            return _value(kind, value, where)
        except ConfigError:
            continue
    names = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in kinds)
    raise ConfigError(f"{where} is {value!r}; it must be a {names}")
