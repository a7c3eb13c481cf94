"""A short look goes before long work: work waits at its steps while somebody looks, and never for long."""

import threading
import time

import pytest

from app import interface
from app.components import LOOK
from app.services import turns
from app.services.work import CancelledWork, Work


def test_work_waits_at_its_next_step_until_the_look_is_over():
    begun, go_on, order = threading.Event(), threading.Event(), []

    @turns.looking
    def look():
        begun.set()
        assert go_on.wait(20)
        order.append("look")
        return 7

    def work():
        turns.give_way(20)
        order.append("work")

    answers = []
    looker = threading.Thread(target=lambda: answers.append(look()))
    looker.start()
    assert begun.wait(20)
    worker = threading.Thread(target=work)
    worker.start()
    worker.join(0.2)
    assert worker.is_alive() and not order
    go_on.set()
    looker.join(20)
    worker.join(20)
    assert order == ["look", "work"] and answers == [7]


def test_a_look_without_an_end_delays_a_step_and_stops_nothing():
    waiting, end = threading.Event(), threading.Event()

    @turns.looking
    def look():
        waiting.set()
        end.wait(60)

    looker = threading.Thread(target=look)
    looker.start()
    assert waiting.wait(20)
    work = Work()
    begun = time.monotonic()
    work.tell("step", 0.5)  # comes back, though the look goes on
    assert looker.is_alive() and work.fraction == 0.5 and time.monotonic() - begun >= turns.MOST_SECONDS
    work.cancel()
    with pytest.raises(CancelledWork):
        work.tell("step", 0.6)
    end.set()
    looker.join(20)


def test_a_look_does_not_wait_for_itself():
    @turns.looking
    def look():
        begun = time.monotonic()
        turns.give_way(20)
        return time.monotonic() - begun

    assert look() < 10


def test_a_look_that_fails_holds_nobody_up():
    @turns.looking
    def look():
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        look()
    assert turns._looks == 0


def test_every_short_look_of_the_page_goes_first(studio):
    demo = interface.build(studio)
    looks = [fn for fn in demo.fns.values() if fn.concurrency_id == LOOK["concurrency_id"] and fn.fn is not None]
    assert {"classify", "models"} <= {fn.api_name for fn in looks}
    assert all("looking" in fn.fn.__qualname__ or fn.fn.__code__.co_name == "looks" for fn in looks)
