"""A process apart: it works, says what is wrong, stays for the next one, and is ended at once."""

import os
import time
from collections.abc import Callable, Iterator

import pytest

from app.services import apart, attacks
from app.services.apart import Apart
from app.services.models import Registry
from app.services.work import CancelledWork, Work
from cce.config import AttackConfig, ConfigError

# What runs there: found by its name in this module.


def squared(number: int, tell: Callable[[str, float], None]) -> tuple[int, int]:
    tell("Squaring", 0.5)
    return number**2, os.getpid()


def refuse(tell: Callable[[str, float], None]) -> None:
    raise ConfigError("steps is 0; it must be at least 1")


def break_off(tell: Callable[[str, float], None]) -> None:
    raise KeyError("inside")


def never_end(tell: Callable[[str, float], None]) -> None:
    tell("Compiling", 0.25)
    while True:
        pass


def be_lost(tell: Callable[[str, float], None]) -> None:
    os._exit(3)


@pytest.fixture(scope="module")
def process() -> Iterator[Apart]:
    one = Apart()
    yield one
    one.end()


def test_it_works_tells_and_stays(process: Apart):
    told = []
    found, there = process.run(squared, 7, tell=lambda what, fraction: told.append((what, fraction)))
    assert found == 49 and there != os.getpid()
    assert told[0] == ("Getting ready", 0.0) and told[-1] == ("Squaring", 0.5)
    assert process.run(squared, 3) == (9, there)


def test_what_is_wrong_is_said_and_it_goes_on(process: Apart, caplog: pytest.LogCaptureFixture):
    _, there = process.run(squared, 1)
    with pytest.raises(ConfigError, match="steps is 0; it must be at least 1"):
        process.run(refuse)
    with pytest.raises(RuntimeError, match="the work apart failed"):
        process.run(break_off)
    assert "KeyError: 'inside'" in caplog.text
    assert process.run(squared, 1) == (1, there)


def test_told_to_stop_it_frees_the_processor_at_once(process: Apart):
    work = Work()

    def tell(what: str, fraction: float) -> None:
        if what == "Compiling":
            work.cancel()
            tell.at = time.perf_counter()
        work.tell(what, fraction)

    with pytest.raises(CancelledWork):
        process.run(never_end, tell=tell)
    assert time.perf_counter() - tell.at < 1
    assert process._process is None


def test_a_lost_process_is_said_and_replaced(process: Apart):
    with pytest.raises(RuntimeError, match="the process that worked apart was lost"):
        process.run(be_lost)
    assert process.run(squared, 2)[0] == 4


def test_with_nothing_to_do_it_ends(process: Apart, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(apart, "IDLE", 0.05)
    process.run(squared, 2)
    for _ in range(100):
        if process._process is None:
            return
        time.sleep(0.05)
    raise AssertionError("it is still there")


def test_an_attack_that_compiles_runs_apart_and_no_other(registry: Registry, digits, monkeypatch: pytest.MonkeyPatch):
    class Heard(Exception):
        pass

    def run(function, checkpoint, x, label, config, seed, tell):
        raise Heard(function.__name__, config.name)

    monkeypatch.setattr(attacks._apart, "run", run)
    checkpoint, x = registry.get("tiny-two"), digits.test.pixels()[0]
    with pytest.raises(Heard, match="attack_in_steps.*bb"):
        attacks.attack_in_steps(checkpoint, x, None, AttackConfig("bb", 0.1, 0.01, 5))
    assert attacks.attack_in_steps(checkpoint, x, None, AttackConfig("fgsm", 0.1)).result["linf"] <= 0.1 + 1e-6
