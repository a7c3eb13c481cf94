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
    if _numbered(classes) or not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) >= len(classes):
        return None
    return int(text)


def _numbered(classes: Sequence[str]) -> bool:
    """Whether a number could mean one class by its name and another by its index."""
    return any(name.isdecimal() and name != str(i) for i, name in enumerate(classes))


def choices(classes: Sequence[str]) -> str:
    """What can be typed for a class, for a message.

    >>> choices(("ant", "cat")), choices(("1", "2"))
    ('0 to 1, or one of ant, cat', 'one of 1, 2')
    """
    known = f"one of {', '.join(classes)}"
    return known if _numbered(classes) else f"0 to {len(classes) - 1}, or {known}"


def few_choices(classes: Sequence[str], most: int = 10) -> str:
    """The same with the first names alone, for a message on screen."""
    known = f"one of {', '.join(classes[:most])}" + (", ..." if len(classes) > most else "")
    return known if _numbered(classes) else f"{known}, or an index from 0 to {len(classes) - 1}"
