"""The one thread that computes: order, errors, context, and that the whole app keeps to it."""

import contextvars
import threading
from pathlib import Path

import gradio as gr
import pytest

from app import interface
from app.components import COMPUTE
from app.services import one_thread
from app.services.models import Registry
from app.services.training import Training
from app.studio import Studio


def name() -> str:
    return threading.current_thread().name


def test_all_work_is_done_in_one_thread_in_order():
    seen: list[tuple[int, str]] = []
    waiting = [one_thread.submit(lambda i=i: seen.append((i, name()))) for i in range(20)]
    for done in waiting:
        done.result()
    assert [i for i, _ in seen] == list(range(20))
    assert {where for _, where in seen} == {"compute"}
    assert name() != "compute"


def test_what_computes_may_call_what_computes():
    assert one_thread.run(lambda: one_thread.run(lambda: one_thread.briefly(name))) == "compute"


def test_what_must_not_wait_does_not():
    release = threading.Event()
    busy = one_thread.submit(release.wait)
    assert one_thread.briefly(name) == "brief"
    assert not busy.done()
    release.set()
    assert busy.result()


@pytest.mark.parametrize("how", [one_thread.run, one_thread.briefly])
def test_an_error_reaches_the_caller_and_the_thread_goes_on(how):
    with pytest.raises(KeyError, match="lost"):
        how({}.__getitem__, "lost")
    assert how(len, "on") == 2


def test_the_caller_s_context_is_there():
    page = contextvars.ContextVar("page", default="nobody's")
    page.set("mine")
    assert one_thread.run(page.get) == one_thread.briefly(page.get) == "mine"


def test_a_wrapped_function_keeps_its_name_and_signature():
    def attack(steps: int, *, seed: int = 0) -> str:
        return f"{steps} {seed} {name()}"

    wrapped = one_thread.computing(attack)
    assert wrapped(3, seed=4) == "3 4 compute"
    assert wrapped.__name__ == "attack" and wrapped.__wrapped__ is attack


def test_every_listener_that_computes_is_run_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """PyTorch keeps helpers for every thread that ever computed; a second one slows all down on a small machine."""
    monkeypatch.setattr(interface, "on_gpu", lambda function: lambda *given: name())
    demo = interface.build(Studio(Registry(), tmp_path, Training.at(tmp_path / "runs", tmp_path)))
    computing = [f for f in demo.fns.values() if f.concurrency_id == COMPUTE["concurrency_id"]]
    plain = [f for f in computing if not f.types_generator]
    assert len(plain) > 10
    assert {f.fn() for f in plain} == {"compute"}
    assert isinstance(demo, gr.Blocks)


def test_an_ensemble_is_loaded_without_waiting_for_the_work_of_others(monkeypatch: pytest.MonkeyPatch):
    registry = Registry()
    release = threading.Event()
    busy = one_thread.submit(release.wait)
    assert registry.get(registry.entries()[0].id).model is not None
    assert not busy.done()
    release.set()
