"""Shards: parts shared among threads come out as one after the other, and end together."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from cce.config import ConfigError
from cce.machine import shards

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    shards.use(3)
    yield
    shards.use(None)


def test_results_come_in_the_parts_order_from_several_threads():
    together = threading.Barrier(3)

    def work(part: int) -> tuple[int, str, int]:
        together.wait(60)  # passes only where three are under way at once
        return part, threading.current_thread().name, torch.get_num_threads()

    found = shards.each(work, range(6), CPU)
    assert [part for part, _, _ in found] == list(range(6))
    assert len({name for _, name, _ in found}) == 3
    assert {cores for _, _, cores in found} == {1}


def test_one_part_or_another_device_stays_in_the_calling_thread():
    own = threading.current_thread()
    assert shards.each(lambda _: threading.current_thread(), [0], CPU) == [own]
    assert shards.each(lambda _: threading.current_thread(), [0, 1], torch.device("cuda")) == [own, own]
    shards.use(1)
    assert shards.each(lambda _: threading.current_thread(), [0, 1], CPU) == [own, own]


def test_parts_of_parts_are_not_shared_again():
    def inner(_: int) -> str:
        return threading.current_thread().name

    for names in shards.each(lambda _: (inner(0), *shards.each(inner, [0, 1], CPU)), range(4), CPU):
        assert len(set(names)) == 1


def test_the_callers_number_of_threads_is_left_alone():
    before = torch.get_num_threads()
    shards.each(lambda _: None, range(6), CPU)
    assert torch.get_num_threads() == before
    found: list[int] = []
    fresh = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert found == [before]


def test_where_one_part_fails_the_others_end():
    begun = threading.Barrier(2)
    ended: list[bool] = []

    def work(part: int) -> None:
        if part > 1:
            return
        begun.wait(60)
        if part == 0:
            raise ConfigError("part 0 is bad")
        try:
            while True:
                shards.go_on()
                time.sleep(0.01)
        except shards.Left:
            ended.append(True)
            raise

    with pytest.raises(ConfigError, match="part 0 is bad"):
        shards.each(work, range(20), CPU)
    assert ended == [True]


def test_outside_of_a_part_nothing_is_left():
    shards.go_on()
