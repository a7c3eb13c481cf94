"""The visual language: a colour for each member and one for the ensemble, marks for right and wrong.

The colours are told apart by colour-blind eyes too (after Okabe and Ito) and stand out on white and
on dark ground; they are never the only way in which something is told.
"""

MEMBERS = ("#1f77c4", "#d9730d", "#0f9d76", "#5aa9dd", "#a07800", "#8a6a4f")
"""Colours of f1, f2, ..., repeated where there are more members."""

ENSEMBLE = "#b5478f"
"""Colour of f_en."""

MEMBERS_IN_WORDS = ("#1b6cb3", "#a85400", "#0b7d5e", "#2a74a8", "#7d5d00", "#7d5f46")
MEMBERS_IN_WORDS_ON_DARK = ("#5ea6e6", "#f0923a", "#35c49a", "#8cc5ee", "#d0a52a", "#c09a78")
"""The members' colours for letters, which need more contrast than bars: at least 4.5 to 1."""

ENSEMBLE_IN_WORDS, ENSEMBLE_IN_WORDS_ON_DARK = "#b5478f", "#dc7cbb"

SUBSETS = {"S11": "#0f9d76", "S01": "#5aa9dd", "S10": "#1f77c4", "S00": "#c25a50"}
"""Colours of Table 1's subsets, from all members right to all wrong."""

_BETWEEN = ("#5aa9dd", "#1f77c4", "#8d7cc9", "#c99a3c")

NEUTRAL = "#8a8f98"
"""Lines that belong to neither."""

RIGHT_MARK, WRONG_MARK, FLAG_MARK = "✓", "✗", "⚑"
ENSEMBLE_NAME = "ensemble"


def member_name(i: int) -> str:
    """What member i, from 0, is called.

    >>> member_name(0)
    'f1'
    """
    return f"f{i + 1}"


def member_colour(i: int) -> str:
    """Colour of member i, from 0."""
    return MEMBERS[i % len(MEMBERS)]


def voices(members: int) -> list[tuple[str, str]]:
    """Name and colour of every member and then of the ensemble."""
    return [(member_name(i), member_colour(i)) for i in range(members)] + [(ENSEMBLE_NAME, ENSEMBLE)]


def mark(right: bool) -> str:
    """The mark and the word.

    >>> mark(True)
    '✓ right'
    """
    return f"{RIGHT_MARK} right" if right else f"{WRONG_MARK} wrong"


def subset_colour(name: str) -> str:
    """Colour of a subset of any number of members: by how many are right.

    >>> subset_colour("S111") == SUBSETS["S11"], subset_colour("S000") == SUBSETS["S00"]
    (True, True)
    """
    if name in SUBSETS:
        return SUBSETS[name]
    right, members = name.count("1"), len(name) - 1
    if right in (0, members):
        return SUBSETS["S11" if right else "S00"]
    return _BETWEEN[right % len(_BETWEEN)]
