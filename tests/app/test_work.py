"""Long work: how far it is, the time left, and that Cancel ends the thread that computes."""

import threading
import time
from concurrent.futures import Future

import pytest

from app import long_work
from app.services.work import MOST_STEPS, CancelledWork, Work, check_work
from cce.config import ConfigError


def test_the_time_left_follows_from_the_time_taken():
    now = [100.0]
    work = Work(clock=lambda: now[0])
    now[0] = 130.0  # waited in line
    work.begin()
    work.tell("Attacking", 0.01)
    assert work.left() == ""
    now[0] = 140.0
    work.tell("Attacking", 0.25)
    assert (work.what, work.fraction, work.left()) == ("Attacking", 0.25, "about 30 s left")


def test_a_cancelled_work_ends_where_it_next_says_how_far_it_is():
    work = Work()
    work.tell("x", 0.5)
    work.cancel()
    with pytest.raises(CancelledWork):
        work.tell("x", 0.6)
    assert work.fraction == 0.5


def test_leaving_the_page_stops_the_work():
    work, started, stopped = Work(), threading.Event(), threading.Event()

    def compute(work: Work) -> list:
        started.set()
        try:
            for i in range(10_000):
                time.sleep(0.005)
                work.tell("Counting", i / 10_000)
        finally:
            stopped.set()
        return []

    done = long_work._started(compute, work, ())
    lines = long_work.watched(work, done)
    assert 'role="progressbar"' in next(lines)
    assert started.wait(20)
    lines.close()  # as when the page is closed
    assert stopped.wait(20)  # it would count for 50 s
    with pytest.raises(CancelledWork):
        done.result(5)


def test_what_fails_in_the_thread_is_raised_where_it_is_watched():
    def compute(work: Work) -> list:
        raise ValueError("no")

    done: Future = long_work._started(compute, Work(), ())
    with pytest.raises(ValueError, match="no"):
        done.result(5)


def test_a_page_has_one_work_in_a_place_and_a_new_one_stops_the_old():
    first = long_work.fresh("place", "page")
    assert long_work.current("place", "page") is first
    second = long_work.fresh("place", "page")
    other = long_work.fresh("place", "another page")
    assert first.cancelled and not second.cancelled
    long_work.forget("page")
    assert second.cancelled and not other.cancelled
    long_work.forget("another page")


def test_the_bar_is_escaped_and_says_how_far_it_is():
    shown = long_work.bar("<b>", 0.256, "about 3 s left")
    assert "<b>" not in shown and 'aria-valuenow="26"' in shown and "26 %, about 3 s left" in shown


def test_pages_that_vanish_leave_no_more_works_than_the_table_holds():
    running = long_work.fresh("place", "at work")
    running.begin()
    for i in range(5000):
        long_work.fresh("place", f"page {i}")
        long_work.current("other place", f"page {i}")
    assert len(long_work._works) == long_work.MOST_WORKS
    assert long_work.current("place", "at work") is running and not running.cancelled
    for i in range(5000):
        long_work.forget(f"page {i}")
    long_work.forget("at work")
    assert not long_work._works


def test_a_call_has_an_end_to_its_work():
    check_work(MOST_STEPS, "x")
    with pytest.raises(ConfigError, match=r"400,000,000 steps \(4 attacks\); at most 200,000"):
        check_work(4e8, "4 attacks")
