"""Class names: which class is meant by a name or an index."""

from __future__ import annotations

from collections.abc import Sequence


def find_class(classes: Sequence[str], text: str) -> int | None:
    """The index of a class given by its name or its index; None where no class, or more than one, is meant.

    Where classes are named by numbers, a number is a name.

    >>> find_class(("ant", "cat"), "cat"), find_class(("ant", "cat"), "0"), find_class(("1", "2"), "0")
    (1, 0, None)
    """
    if text in classes:
        return classes.index(text)
    numbered = any(name.isdecimal() for name in classes)
    if numbered or not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) >= len(classes):
        return None
    return int(text)


def choices(classes: Sequence[str], most: int = 10) -> str:
    """What can be typed for a class, for a message."""
    known = ", ".join(classes[:most]) + (", ..." if len(classes) > most else "")
    numbered = any(name.isdecimal() for name in classes)
    return f"one of {known}" if numbered else f"one of {known}, or an index from 0 to {len(classes) - 1}"
