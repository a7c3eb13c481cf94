"""Odd calls of the endpoints and odd links: an answer that can be sent, or a refusal in words.

A call goes the whole way in this process: arguments read, the listener, the answer made ready to be sent.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import orjson
import pytest
import torch
from gradio.state_holder import SessionState
from gradio.utils import get_upload_folder
from hypothesis import strategies as st

from app import interface
from app.services import links
from app.services.training import Policy, Training
from app.studio import Studio
from cce.data.pictures import to_png
from cce.runs.queue import Jobs
from fuzzing import ODD_WORDS, SEEDS, VALUES, bounded, damaged_bytes, fuzz, plain, without_traces
from tiny_runs import write_stopped_run

USUAL: dict[str, list[Any]] = {
    "models": [],
    "classify": ["picture", "tiny-two", 0],
    "attack": ["picture", "auto", "tiny-two", "pgd", 8, 2, 2, "ensemble", 0, 25],
    "surface": ["picture", "auto", "tiny-two", "pgd", 8, 2, 1, "ensemble", 0, 16, 5, 100],
    "detection": ["tiny-two", ["pgd"], [8], 3],
    "transferability": ["tiny-two", 3, "pgd", 8, 2, 1, 0],
    "runs": [],
    "run": ["stopped"],
}
"""A call of each endpoint that is answered."""

FILES = ("/etc/passwd", "http://127.0.0.1:1/x.png", "../../etc/passwd", "/proc/self/environ", "/dev/zero", "")
LIKELY = (
    *("tiny-two", "tiny-three", "pgd", "fgsm", "bim", "auto", "ensemble", "member 1", "member 3", "5", "stopped"),
    *(0, 1, 2, 3, 8, 8.5, [8], [], ["fgsm", "bim"], [0, 255]),
)
ARGUMENTS = st.one_of(
    VALUES,
    st.sampled_from(LIKELY),
    st.sampled_from(LIKELY),
    st.sampled_from(FILES),
    st.builds(lambda path: {"path": path, "meta": {"_type": "gradio.FileData"}}, st.sampled_from(FILES)),
    st.builds(lambda path: {"url": path, "path": path, "meta": {"_type": "gradio.FileData"}}, st.sampled_from(FILES)),
    st.just("picture"),
)


class Page:
    """A built page whose listeners are called as the queue calls them."""

    def __init__(self, demo: gr.Blocks, root: Path, picture: bytes) -> None:
        self.demo, self.root, self.picture = demo, root, picture
        self.loop, self.state = asyncio.new_event_loop(), SessionState(demo)
        demo.has_launched, demo.allowed_paths, demo.blocked_paths = True, [], []  # as it is where it is served
        self.uploads = Path(get_upload_folder()) / "fuzz"
        self.uploads.mkdir(parents=True, exist_ok=True)

    def listener(self, name: str) -> Any:
        """An endpoint by its name, or one of the page's own by its function's."""
        return next(
            fn
            for fn in self.demo.fns.values()
            if (fn.api_visibility == "public" and fn.api_name == name) or getattr(fn.fn, "__name__", "") == name
        )

    def upload(self, content: bytes) -> dict[str, Any]:
        """A file as it is after an upload."""
        path = self.uploads / "picture.png"
        path.write_bytes(content)
        return {"path": str(path), "meta": {"_type": "gradio.FileData"}}

    def call(self, listener: Any, given: list[Any]) -> Any:
        """The answer as it would be sent; None where the call is refused, in words."""
        with bounded(), without_traces():
            try:
                going = self.demo.process_api(listener, given, state=self.state)
                answer = self.loop.run_until_complete(going)
            except gr.Error as error:
                assert error.print_exception is False
                plain(str(error.message), self.root, "root:")
                return None
        return answer["data"]


@pytest.fixture(scope="module")
def page(registry, tiny_checkpoints, tmp_path_factory) -> Iterator[Page]:
    root = tmp_path_factory.mktemp("fuzz")
    write_stopped_run(root / "runs" / "stopped", tiny_checkpoints / "tiny-two")
    studio = Studio(registry, root / "data", Training(Jobs(root / "runs"), Policy()))
    made = Page(interface.build(studio), root, to_png(torch.rand(3, 12, 16)))
    yield made
    made.loop.close()


def test_every_usual_call_is_answered(page: Page):
    for name, given in USUAL.items():
        sent = [page.upload(page.picture) if v == "picture" else v for v in given]
        assert page.call(page.listener(name), sent) is not None, name


@fuzz(
    examples=400,
    name=st.sampled_from([*USUAL, "classify", "attack"]),
    odd=st.lists(st.tuples(st.integers(0, 10), ARGUMENTS), max_size=2),
    count=st.integers(-12, 1),
    seed=SEEDS,
)
def test_odd_calls_of_the_endpoints(page: Page, name: str, odd: list[tuple[int, Any]], count: int, seed: int):
    given, chance = list(USUAL[name]), random.Random(seed)
    for place, value in odd:
        if given:
            given[place % len(given)] = value
    given = given[:count] if count == -1 else given + [None] * max(0, count)
    content = page.picture if chance.random() < 0.5 else damaged_bytes(page.picture, chance)
    answer = page.call(page.listener(name), [page.upload(content) if v == "picture" else v for v in given])
    if answer is not None:
        text = sent(answer)
        assert str(page.root) not in text and "root:" not in text
        finite(answer)


def sent(answer: list[Any]) -> str:
    """An answer as it is written to the caller."""
    text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY, default=lambda value: value.model_dump()).decode()
    return text.replace(get_upload_folder(), "")


def finite(value: Any) -> None:
    """No number of an answer is infinite or none at all, which JSON has no word for."""
    if isinstance(value, (dict, list, tuple)):
        for one in value.values() if isinstance(value, dict) else value:
            finite(one)
    assert not isinstance(value, float) or math.isfinite(value)


LINKED = ("test:3", "test:²", "test:999999999", "same", "each", "linf", "l2", "logits", "3")
LINK_WORDS = st.one_of(
    st.sampled_from([*ODD_WORDS, *map(str, LIKELY), *LINKED]),
    st.text(max_size=20),
)
PAIRS = st.lists(st.tuples(st.sampled_from([*links.KEYS, "__theme", "x"]), LINK_WORDS), max_size=8)


def written(pairs: list[tuple[str, str]]) -> str:
    return "?" + "&".join(f"{key}={quote(value.encode('utf-8', 'surrogatepass'))}" for key, value in pairs)


@fuzz(search=st.one_of(PAIRS.map(written), st.text(max_size=60).map("?".__add__)))
def test_odd_links(page: Page, search: str):
    answer = page.call(page.listener("opened"), [search])
    assert answer is not None, "a link that cannot be used is told beside the page, which opens all the same"
    text = sent(answer)
    assert "<script>" not in text and str(page.root) not in text
