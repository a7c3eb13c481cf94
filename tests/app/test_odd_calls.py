"""Odd calls of the public endpoints: what the words name. `tests/hardening/test_fuzz_page.py` draws many more."""

import asyncio

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from app import interface
from app.api import arguments

USUAL = {
    "classify": [None, "tiny-two"],
    "attack": [None, "auto", "tiny-two", "pgd", 8, 2, 3, "ensemble", 0],
    "surface": [None, "auto", "tiny-two", "pgd", 8, 2, 2, "ensemble", 0, 16, 3],
    "detection": ["tiny-two", ["fgsm"], [8], 1],
    "transferability": ["tiny-two", 3, "pgd", 8, 2, 2, 0],
    "run": ["x"],
}


@pytest.fixture(scope="module")
def page(registry, tmp_path_factory):
    from app.services.training import Policy, Training
    from app.studio import Studio
    from cce.runs.queue import Jobs

    return interface.build(Studio(registry, training=Training(Jobs(tmp_path_factory.mktemp("runs")), Policy())))


@pytest.fixture(scope="module")
def state(page):
    """One caller's state: it copies the whole page."""
    return SessionState(page)


def listener(page, name):
    return next(f for f in page.fns.values() if f.api_name == name and f.api_visibility == "public")


@pytest.fixture(scope="module")
def call(page, state):
    """Calls an endpoint with arguments as they come: they are read, then used."""

    def answer(name, given):
        fn = listener(page, name)
        return fn.fn(*asyncio.run(page.preprocess_data(fn, given, state)))

    return answer


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [
        ("attack", 4, [1, 2], r"epsilon is \[1, 2\]; it takes a number\."),
        ("attack", 4, float("nan"), "epsilon is nan; it takes a number"),
        ("attack", 0, "/etc/passwd", "image is '/etc/passwd'; it takes a picture file that was uploaded first"),
        ("attack", 2, {}, r"model is \{\}; it takes text"),
        ("detection", 1, ["none"], r"attacks is \['none'\]; it takes a list of some of pgd"),
        ("detection", 2, 5, "The epsilons are 5; they are a list"),
    ],
)
def test_the_words_name_the_argument_and_what_it_takes(name, place, value, words, call):
    given = list(USUAL[name])
    given[place] = value
    with pytest.raises(gr.Error, match=words):
        call(name, given)


def test_too_few_arguments_are_named(call):
    with pytest.raises(gr.Error, match=r"/run takes 1 arguments \(id\); 0 came"):
        call("run", [])
    with pytest.raises(gr.Error, match=r"/classify takes 2 arguments \(image, model\); 1 came"):
        call("classify", [None])


def test_what_gradio_itself_cannot_read_is_told_too(call):
    path = {"path": "/nowhere/at all.png", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(gr.Error, match="An argument of /classify cannot be read. It takes: image, model"):
        call("classify", [path, "tiny-two"])


def test_a_value_that_fits_is_left_alone(page, state):
    fn = listener(page, "attack")
    assert arguments.problem(fn, USUAL["attack"]) is None
    assert asyncio.run(page.preprocess_data(fn, USUAL["attack"], state)) == USUAL["attack"]
