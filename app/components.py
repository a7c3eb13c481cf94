"""Screen parts that every tab uses: the figure that keeps its place, and listeners that speak plainly."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import gradio as gr

from app.services.work import CancelledWork
from cce.checkpoints.folder import CheckpointError
from cce.config import ConfigError
from cce.data.datasets import DataError
from cce.data.pictures import PictureError
from cce.training.run_folder import RunError

log = logging.getLogger(__name__)

OUR_ERRORS = (CheckpointError, ConfigError, DataError, PictureError, RunError)
"""Errors whose message is written for people."""

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
"""For every listener that is not an endpoint."""

COMPUTE: dict[str, Any] = {"concurrency_id": "compute", "concurrency_limit": 1}
"""For all that computes for seconds or minutes: one at a time, in order."""

LOOK: dict[str, Any] = {"concurrency_id": "look", "concurrency_limit": 2}
"""For a short look, as at one picture: it does not wait behind what takes long."""

HOLD: dict[str, Any] = {"fn": None, "js": "() => window.cceStudio.hold()", "api_visibility": "private"}
"""A listener that tells the page: what follows from this event has begun."""

RELEASE: dict[str, Any] = {**HOLD, "js": "() => window.cceStudio.release()"}
"""The listener at the end of what `HOLD` began."""

SETTLED: dict[str, Any] = {**HOLD, "js": "() => window.cceStudio.settled()"}
"""A listener that ends when all that `HOLD` began has ended: what acts on a choice hangs behind it."""

GIVE_UP: dict[str, Any] = {**HOLD, "js": "() => window.cceStudio.giveUp()"}
"""A listener for work that failed: what still waits for it on screen says so."""

_chosen: WeakKeyDictionary[gr.Dropdown, gr.Button] = WeakKeyDictionary()

F = TypeVar("F", bound=Callable[..., Any])


WORKING = "Working it out …"
"""What stands in the place of a figure until it is there."""


def choice_of(dropdown: gr.Dropdown, again: bool = False) -> gr.Button:
    """What is clicked, out of sight, once for every choice of something else in a list; by the visitor alone.

    The list's own `input` comes twice for one choice, and once more whenever the focus leaves the list: what it
    starts would run twice, and undo what was typed since when somebody walks past with the Tab key.

    Args:
        dropdown: the list.
        again: a click on what is chosen already counts too.
    """
    if dropdown not in _chosen:
        name = f"chosen-{dropdown._id}"
        _chosen[dropdown] = gr.Button(visible="hidden", elem_id=name)
        told_by = [(dropdown.focus, "focused"), (dropdown.input, "chose")]
        for event, told in [(dropdown.select, "picked"), *told_by] if again else told_by:
            event(None, [dropdown], None, js=f"(value) => window.cceStudio.{told}({name!r}, value)", **PRIVATE)
    return _chosen[dropdown]


def rest_of(slider: gr.Slider) -> gr.Button:
    """What is clicked, out of sight, once where a slider that the visitor moves comes to rest, by mouse or by keys."""
    name = f"rests-{slider._id}"
    button = gr.Button(visible="hidden", elem_id=name)
    slider.input(None, None, None, js=f"() => window.cceStudio.slid({name!r})", **PRIVATE)
    return button


def figure_template(height: int, waiting: str = WORKING, stacked: int | None = None) -> str:
    """The node that Plotly draws in: as high as the figure, and saying what it waits for until then.

    Args:
        height: in CSS pixels.
        waiting: what it says.
        stacked: the height on a phone, where the panels are below each other; None where it is the same.
    """
    kind, tall = ("", "") if stacked is None else (" stacked", f";--stacked:{stacked}px")
    return (
        f'<div class="studio-figure{kind}" role="img" aria-label="Figure" data-waiting="{escape(waiting)}" '
        f'style="height:{height}px{tall}"></div>'
    )


def waiting(words: str = WORKING, height: float = 2.5) -> str:
    """What stands in the place of a piece of the page until it is there.

    Args:
        words: what is being done.
        height: about that of what will come, in lines, so that nothing below it jumps.
    """
    return f'<p class="studio-waiting" style="min-height:{height * 1.5:g}rem">{escape(words)}</p>'


def figure(value: dict[str, Any], *, height: int, stacked: int | None = None, **kwargs: Any) -> gr.HTML:
    """A Plotly figure that keeps its node, zoom and camera through updates, with a name for screen readers.

    The template never changes: Gradio would otherwise rebuild the node and lose what Plotly drew in it.
    (A subclass of `gr.HTML` would do as well, but Gradio writes a `.pyi` file beside every such class.)

    Args:
        value: what `app.figures.values.to_value` gives; updates are of the same kind.
        height: in CSS pixels.
        stacked: the height on a phone, where that is another.
        kwargs: for `gr.HTML`.
    """
    return gr.HTML(
        value,
        html_template=figure_template(height, stacked=stacked),
        js_on_load="window.cceStudio.mountFigure(element, props, watch);",
        apply_default_css=False,
        **kwargs,
    )


def spoken(listener: F) -> F:
    """A listener whose failures are shown in our own words, never as a traceback."""

    @functools.wraps(listener)
    def speaks(*args: Any, **kwargs: Any) -> Any:
        with speaking(getattr(listener, "__name__", "a listener")):
            return listener(*args, **kwargs)

    return speaks  # type: ignore[return-value]


@contextmanager
def speaking(name: str) -> Iterator[None]:
    """Failures inside become a `gr.Error` in our own words; `name` is for the log."""
    try:
        yield
    except gr.Error:
        raise
    except OUR_ERRORS as error:
        raise gr.Error(sentence(str(error)), print_exception=False) from error
    except CancelledWork as error:
        raise gr.Error("Cancelled: nobody waits for the answer any more.", print_exception=False) from error
    except Exception as error:
        log.exception("%s failed", name)
        raise gr.Error(
            "Something went wrong that should not have. The log of the Studio says what.", print_exception=False
        ) from error


_LONG_WORD = re.compile(r"(\S{80})\S{80,}")


def sentence(text: str) -> str:
    """The message with a capital and a full stop; of an endless word that was typed, the beginning.

    >>> sentence("steps is 0; it must be at least 1")
    'Steps is 0; it must be at least 1.'
    """
    text = _LONG_WORD.sub(r"\1...", text.strip())
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def note(text: str, live: bool = False) -> str:
    """A line of small print; `live`: assistive technology reads it out when it changes."""
    said = ' aria-live="polite"' if live else ""
    return f'<p class="studio-note"{said}>{escape(text)}</p>'


def heading(text: str, level: int = 2) -> gr.HTML:
    """A heading that assistive technology finds."""
    return gr.HTML(f"<h{level}>{text}</h{level}>", elem_classes="studio-heading")
