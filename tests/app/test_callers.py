"""Calls through a Studio that is served in this process: the line, the caps, and callers that go away."""

import json
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from app import callers
from app.interface import build, launch_settings
from app.services import detection
from app.studio import Studio


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    demo = build(studio)
    _, url, _ = demo.launch(prevent_thread_lock=True, server_port=None, **launch_settings())
    yield url
    demo.close()


@pytest.fixture
def hog(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Detection takes two minutes here, a step every tenth of a second; the event is set once it has ended."""
    begun, ended = threading.Event(), threading.Event()

    def measure(checkpoint, pictures, configs, count, aware, tell):
        begun.set()
        try:
            for i in range(1200):
                time.sleep(0.1)
                tell("Attacking", i / 1200)
            raise AssertionError("nobody stopped it")
        finally:
            ended.set()

    monkeypatch.setattr(detection, "measure", measure)
    ended.begun = begun
    yield ended


def join(address: str, name: str, data: list, session: str) -> None:
    """Put a call in line as a page does."""
    config = json.load(urllib.request.urlopen(f"{address}config"))
    number = next(d["id"] for d in config["dependencies"] if d["api_name"] == name)
    body = json.dumps({"fn_index": number, "data": data, "session_hash": session}).encode()
    request = urllib.request.Request(f"{address}gradio_api/queue/join", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request).read()


def test_a_look_does_not_wait_behind_long_work_which_ends_with_its_caller(address: str, hog, digit_png: Path):
    session = uuid.uuid4().hex
    join(address, "detection", ["tiny-two", ["pgd"], None, 5], session)
    stream = urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session}")
    assert hog.begun.wait(60)
    client = Client(address, verbose=False)
    said = client.predict(handle_file(digit_png), "tiny-two", api_name="/classify")
    assert said["label"] in "0123456789" and client.predict(api_name="/models")
    assert not hog.is_set()
    waiting = client.submit(handle_file(digit_png), "auto", "tiny-two", api_name="/attack")
    end = time.monotonic() + 60
    while waiting.status().rank is None:  # told its place in line
        assert time.monotonic() < end and not waiting.done()
        time.sleep(0.05)
    assert waiting.status().rank == 0
    stream.close()
    assert hog.wait(60)
    assert waiting.result(60)[1]["label"] in "0123456789"


def test_a_caller_who_never_listens_is_not_waited_for(address: str, hog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(callers, "UNREAD_SECONDS", 1.0)
    join(address, "detection", ["tiny-two", ["pgd"], None, 5], uuid.uuid4().hex)
    assert hog.begun.wait(60) and hog.wait(60)


def test_outside_of_a_call_nothing_stops_the_work():
    work = callers.CalledWork()
    work.tell("x", 0.5)
    assert work.fraction == 0.5


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("/detection", ["tiny-two", ["pgd", "bim", "mim", "fgsm"], list(range(1, 201)), 1000], "too much work"),
        ("/detection", ["tiny-two", ["pgd"], 8.0, 5], "The epsilons are 8; they are a list"),
        ("/transferability", ["tiny-two", 2000, "pgd", 8, 2, 500, 0], "too much work"),
    ],
)
def test_the_work_of_a_call_is_capped_in_words(address: str, name: str, given: list, words: str):
    with pytest.raises(AppError, match=words):
        Client(address, verbose=False).predict(*given, api_name=name)
