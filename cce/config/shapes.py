"""Shapes: what JSON from others must look like, so that what reads it later cannot fail.

A shape is a function of a value and of its place in words. It gives the value back, or raises `Misfit`. Some shapes
leave out parts that do not fit and say so in a list: a figure that does not fit is no reason to lose the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[Any, str, list[str]], Any]
"""`shape(value, where, left_out)`: the value, its place in words, and what was left out so far."""


class Misfit(ValueError):
    """A value of another shape; the message names its place and what belongs there."""


def fit(shape: Shape, value: Any, where: str = "") -> tuple[Any, list[str]]:
    """A value by its shape, and what was left out of it.

    Raises:
        Misfit: the value as a whole does not fit.
    """
    left_out: list[str] = []
    return shape(value, where, left_out), left_out


def shown(value: Any) -> str:
    """A value in a message, in brief."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def number(low: float = -math.inf, high: float = math.inf) -> Shape:
    """A finite number within bounds."""

    def fit(value: Any, where: str, left_out: list[str]) -> Any:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (good and math.isfinite(value) and low <= value <= high):
            within = "" if low == -math.inf else f" from {low:g}" if high == math.inf else f" from {low:g} to {high:g}"
            raise Misfit(f"{where} is {shown(value)}; it must be a number{within}")
        return value

    return fit


def whole(low: int = 0, high: int = 2**53) -> Shape:
    """A whole number within bounds."""

    def fit(value: Any, where: str, left_out: list[str]) -> Any:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Misfit(f"{where} is {shown(value)}; it must be a whole number from {low} to {high}")
        return value

    return fit


def text(value: Any, where: str, left_out: list[str]) -> Any:
    """Text."""
    if not isinstance(value, str):
        raise Misfit(f"{where} is {shown(value)}; it must be text")
    return value


def flag(value: Any, where: str, left_out: list[str]) -> Any:
    """True or false."""
    if not isinstance(value, bool):
        raise Misfit(f"{where} is {shown(value)}; it must be true or false")
    return value


def or_none(shape: Shape) -> Shape:
    """`shape`, or null."""
    return lambda value, where, left_out: None if value is None else shape(value, where, left_out)


def if_fits(shape: Shape) -> Shape:
    """`shape`, or null in the place of what does not fit."""

    def fit(value: Any, where: str, left_out: list[str]) -> Any:
        try:
            return shape(value, where, left_out)
        except Misfit as error:
            left_out.append(str(error))
            return None

    return fit


def one_of(*values: Any) -> Shape:
    """One of these values."""

    def fit(value: Any, where: str, left_out: list[str]) -> Any:
        if not isinstance(value, str) or value not in values:
            raise Misfit(f"{where} is {shown(value)}; it must be one of {', '.join(values)}")
        return value

    return fit


def items(shape: Shape, count: int | None = None) -> Shape:
    """A list whose entries all fit, `count` of them."""

    def fit(value: Any, where: str, left_out: list[str]) -> Any:
        if not isinstance(value, list) or count not in (None, len(value)):
            raise Misfit(f"{where} is {shown(value)}; it must be a list{'' if count is None else f' of {count}'}")
        return [shape(one, f"{where}[{i}]", left_out) for i, one in enumerate(value)]

    return fit


def fitting(shape: Shape) -> Shape:
    """A list without the entries that do not fit."""

    def fit(value: Any, where: str, left_out: list[str]) -> Any:
        if not isinstance(value, list):
            raise Misfit(f"{where} is {shown(value)}; it must be a list")
        kept = []
        for i, one in enumerate(value):
            try:
                kept.append(shape(one, f"{where}[{i}]", left_out))
            except Misfit as error:
                left_out.append(str(error))
        return kept

    return fit


def table(shape: Shape) -> Shape:
    """An object whose values all fit."""

    def fit(value: Any, where: str, left_out: list[str]) -> Any:
        if not isinstance(value, dict):
            raise Misfit(f"{where} is {shown(value)}; it must be an object")
        return {name: shape(one, f"{where}.{name}", left_out) for name, one in value.items()}

    return fit


def record(
    required: Mapping[str, Shape], optional: Mapping[str, Shape] = {}, strict: bool = False, others: bool = True
) -> Shape:
    """An object with these fields.

    Args:
        required: fields without which it does not fit.
        optional: fields that may be missing; one that does not fit is left out and named.
        strict: an optional field that does not fit is a misfit of the whole.
        others: whether fields of other names stay as they are.
    """

    def fit(value: Any, where: str, left_out: list[str]) -> Any:
        if not isinstance(value, dict):
            raise Misfit(f"{where} is {shown(value)}; it must be an object")
        kept = {}
        for name, one in value.items():
            place = f"{where}.{name}" if where else name
            if name in required or (strict and name in optional):
                kept[name] = (required.get(name) or optional[name])(one, place, left_out)
            elif name in optional:
                try:
                    kept[name] = optional[name](one, place, left_out)
                except Misfit as error:
                    left_out.append(str(error))
            elif others:
                kept[name] = one
        missing = next((name for name in required if name not in value), None)
        if missing is not None:
            raise Misfit(f"{where}{'.' if where else ''}{missing} is missing")
        return kept

    return fit
