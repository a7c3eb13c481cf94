"""JSON from files that others may have written, read so that no content can stop the reader.

Python's own reader raises RecursionError for deep nesting and ValueError for a number of 5,000 digits, and takes
`1e999` and lone surrogates that fail much later, where they are used or sent.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MOST_BYTES = 64_000_000
"""A larger file is refused."""

MOST_DEPTH = 32
"""Deeper nesting is refused."""

_DIGITS = 18


class JsonError(ValueError):
    """JSON that cannot be used; the message says why."""


class NotJson(JsonError):
    """Text that is no JSON at all, as a file that was cut off is."""


def parse_json(text: str | bytes, finite: bool = False) -> Any:
    """The value of a JSON text; integers past 18 digits become floats, and past all bounds infinite.

    Args:
        text: the JSON.
        finite: refuse numbers that are not finite.

    Raises:
        NotJson: no JSON, or not UTF-8.
        JsonError: nested too deeply, text with half a character in it, or a number that is not finite.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    >>> parse_json("[" * 100 + "]" * 100)
    Traceback (most recent call last):
    ...
    cce.config.json_files.JsonError: it is nested more than 32 deep
    """
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise JsonError(f"it is nested more than {MOST_DEPTH} deep") from None
    except ValueError as error:
        raise NotJson(str(error)) from error
    check_json(value, finite)
    return value


def read_json(path: Path, finite: bool = False) -> Any:
    """The value of a JSON file; see `parse_json`.

    Raises:
        FileNotFoundError: no such file.
        JsonError: it cannot be read, is too large, or see `parse_json`.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise JsonError(f"it has {size / 1e6:,.0f} MB; at most {MOST_BYTES / 1e6:,.0f} MB are read")
        if not path.is_file():
            raise JsonError("it is not a file")
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise JsonError(error.strerror or str(error)) from error
    return parse_json(content, finite)


def _integer(digits: str) -> int | float:
    if len(digits.lstrip("-")) <= _DIGITS:
        return int(digits)
    return float(digits)  # infinite beyond 308 digits


def check_json(value: Any, finite: bool = True) -> None:
    """Refuse deep nesting, half a character, and with `finite` numbers that are not; without recursion.

    Raises:
        JsonError: see `parse_json`.
    """
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MOST_DEPTH + 1:
            raise JsonError(f"it is nested more than {MOST_DEPTH} deep")
        below: list[Any] = []
        for one in level:
            if isinstance(one, float):  # most of what there is
                if finite and not math.isfinite(one):
                    raise JsonError("it holds a number that is not finite")
            elif isinstance(one, dict):
                below += one.values()
                below += one.keys()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str):
                if not one.isascii() and any("\ud800" <= c <= "\udfff" for c in one):
                    raise JsonError("it holds half a character")
        level = below
