"""How the fuzz tests draw: the same examples in every run, no file of examples, and a bound on each one's time."""

from __future__ import annotations

import logging
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, configuration, given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

EXAMPLES = 200
HANG_SECONDS = 120
"""An example takes milliseconds; one that takes so long hangs, on however busy a machine."""

configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "cce-studio-hypothesis")  # tables of Unicode alone
# Hypothesis would also draw constants of the project's modules that are imported by then: other examples each time.
providers._get_local_constants = lambda: providers._local_constants

SEEDS = st.integers(0, 2**32 - 1)
"""For `mutations`, which draws by itself."""

ODD_WORDS = (
    *("", " ", "-1", "0", "1e999", "nan", "-inf", "²", "9" * 30, "0x10", "1_0", "true", "null", "[1, 2]", "{}"),
    *("naïve", "\u202e", "☃", "a\x00b", "\ud800", "x" * 10_000, "<script>alert(1)</script>", "%s%n"),
    *("=", ":", ",", "a=b"),
)
WORDS = st.one_of(st.sampled_from(ODD_WORDS), st.text(max_size=12))
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 2**31, 2**63, 2**70, 1e308, 0.5, float("nan"), float("inf"), -0.0]),
    st.integers(-3, 3),
    st.floats(),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3))


VALUES = st.recursive(st.one_of(st.none(), st.booleans(), NUMBERS, WORDS), _nested, max_leaves=5)
"""What JSON can hold, and some that it cannot."""


def fuzz(examples: int = EXAMPLES, **drawn: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """A test that is called with so many drawn examples, the same ones each time."""

    def decorate(test: Any) -> Any:
        fixed = settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            print_blob=False,
            phases=(Phase.generate,),  # the first one that fails is told as it is
            suppress_health_check=list(HealthCheck),
        )
        return fixed(given(**drawn)(test))

    return decorate


@contextmanager
def bounded(seconds: int = HANG_SECONDS) -> Iterator[None]:
    """Fail what hangs."""

    def hangs(*_: Any) -> None:
        raise AssertionError(f"no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def plain(words: str, *secrets: object) -> None:
    """A refusal is for people: some words, no trace, no object of the program, nothing of `secrets`."""
    assert 10 < len(words) < 2000, words
    for told in ("Traceback", " object at 0x", "Something went wrong", "NoneType", *map(str, secrets)):
        assert told not in words, words


def damaged_bytes(content: bytes, chance: random.Random) -> bytes:
    """A file's content with some of it changed, cut, doubled or taken out."""
    made = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        place, length = chance.randrange(len(made) + 1), chance.choice([1, 1, 2, 4, 30])
        how = chance.choice(["set", "set", "set", "ends", "cut out", "doubled", "cut off", "put in"])
        if how == "set":
            made[place : place + length] = chance.randbytes(length)
        elif how == "ends":
            made[place : place + length] = chance.choice([b"\x00", b"\xff", b"\x7f", b"\x80"]) * length
        elif how == "cut out":
            del made[place : place + length]
        elif how == "doubled":
            made[place:place] = made[place : place + 20 * length]
        elif how == "put in":
            made[place:place] = chance.randbytes(length)
        elif chance.random() < 0.3:
            del made[place:]
    return bytes(made)


class _Traces(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@contextmanager
def without_traces() -> Iterator[None]:
    """No traceback goes to the log."""
    handler = _Traces()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
    assert not handler.found, handler.found
