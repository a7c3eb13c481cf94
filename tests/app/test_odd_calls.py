"""Odd calls of the public endpoints: each is answered in words that name the argument, without a traceback."""

import asyncio
import random

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from app import interface
from app.api import arguments

ODD = (
    *(None, "", -1, 0, 1e308, float("inf"), float("nan"), "NaN", "../../etc/passwd", "x" * 10_000, [], {}, [1, 2]),
    *(True, "ünïcode☃", "<script>", "²", 2**70, "1e5", 0.1, "pgd", {"path": "/etc/passwd"}, [[[[]]]]),
    *({"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, {"url": "http://127.0.0.1:1/x"}, "http://x/y.png"),
)
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


@pytest.mark.parametrize("name", USUAL)
def test_every_odd_argument_is_answered_in_words(name, call, capfd):
    chance = random.Random(name)
    for _ in range(100):
        given = list(USUAL[name])
        given[chance.randrange(len(given))] = chance.choice(ODD)
        given = given[:-1] if chance.random() < 0.1 else given
        try:
            call(name, given)
        except gr.Error as error:
            assert len(error.message) > 10 and error.print_exception is False
            assert "Something went wrong" not in error.message and "root:" not in error.message
            assert len(error.message) < 1000
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out


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
