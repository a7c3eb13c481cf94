"""Long work on a page: a button that starts it, a bar with the time left, and a Cancel that frees the processor."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from app.components import COMPUTE, PRIVATE, SETTLED, speaking
from app.services import zero_gpu
from app.services.work import CancelledWork, Work, done_in, short_time

_EVERY = 0.4
"""Seconds between two looks at how far the work is."""

MOST_WORKS = 500
"""Works that are remembered, a few a page: pages that vanish without a word leave theirs behind."""

_lock = threading.Lock()
_works: dict[tuple[str, str], Work] = {}  # by page (session) and tab, the newest last


@dataclass
class LongWork:
    """The components; `wire` connects them."""

    name: str
    go: gr.Button
    stop: gr.Button
    line: gr.HTML

    def wire(
        self, compute: Callable[..., list[Any]], inputs: list[Any], outputs: list[Any], **settings: Any
    ) -> gr.events.Dependency:
        """Run `compute(work, *inputs)` on a press of the button; it calls `work.tell` often, and gives `outputs`.

        A second press, Cancel, and closing the page stop it at its next `tell`. What is on screen stays until the
        work is done.

        Returns:
            The event of the work itself, for what follows.
        """
        buttons = [self.go, self.stop, self.line]
        compute = _with_gpu(compute)

        def begin(request: gr.Request) -> list[Any]:
            fresh(self.name, request.session_hash)
            return [gr.Button(interactive=False), gr.Button(interactive=True), ended("Waiting in line.")]

        def working(request: gr.Request, *given: Any) -> Iterator[list[Any]]:
            work = current(self.name, request.session_hash)
            skips = [gr.skip() for _ in outputs]
            with speaking(self.name):
                for line in watched(work, done := _started(compute, work, given)):
                    yield [line, *skips]
                try:
                    found = done.result()
                except CancelledWork:
                    yield [ended(f"Cancelled after {short_time(work.seconds)}."), *skips]
                    return
                yield [ended(f"Done in {done_in(work.seconds)}."), *found]

        def cancel(request: gr.Request) -> gr.Button:
            current(self.name, request.session_hash).cancel()
            return gr.Button(interactive=False)

        def ready() -> list[Any]:
            return [gr.Button(interactive=True), gr.Button(interactive=False)]

        quiet = {**PRIVATE, "show_progress": "hidden", "queue": False}
        begun = self.go.click(**SETTLED).then(begin, None, buttons, **quiet)
        event = begun.then(
            working,
            inputs,
            [self.line, *outputs],
            show_progress="minimal",
            show_progress_on=[self.line],
            **(PRIVATE | COMPUTE | settings),
        )
        back = {**PRIVATE, "js": f"() => window.cceStudio.refocus('{self.go.elem_id}', '{self.stop.elem_id}')"}
        event.success(ready, None, [self.go, self.stop], **quiet).then(None, None, None, **back)
        event.failure(lambda: [*ready(), ended("It stopped.")], None, buttons, **quiet).then(None, None, None, **back)
        self.stop.click(cancel, None, [self.stop], **quiet)
        return event


def build(name: str, words: str, note: str = "") -> LongWork:
    """Lay out the two buttons and the line below them.

    Args:
        name: begins the components' ids: `NAME-go`, `NAME-cancel`, `NAME-progress`.
        words: on the button that starts.
        note: what the line says before the first start.
    """
    with gr.Row(elem_classes="studio-actions"):
        go = gr.Button(words, variant="primary", elem_id=f"{name}-go")
        stop = gr.Button("Cancel", interactive=False, elem_id=f"{name}-cancel")
    return LongWork(name, go, stop, gr.HTML(ended(note), elem_id=f"{name}-progress"))


def fresh(name: str, page: str | None) -> Work:
    """New work for a page; what the page has under way in this place is told to stop."""
    with _lock:
        key = (str(page), name)
        if key in _works:
            _works[key].cancel()
            del _works[key]
        _works[key] = Work()
        for old in _superfluous():
            _works.pop(old).cancel()
        return _works[key]


def current(name: str, page: str | None) -> Work:
    """The page's work; where there is none, one that is not kept."""
    with _lock:
        return _works.get((str(page), name)) or Work()


def _superfluous() -> list[tuple[str, str]]:
    """What goes where there are more than `MOST_WORKS`: the oldest, and none that computes while others do not."""
    over = len(_works) - MOST_WORKS
    by_age = sorted(list(_works)[:-1], key=lambda key: _works[key].running) if over > 0 else []
    return by_age[: max(0, over)]


def forget(page: str | None) -> None:
    """The page is closed: all its work stops."""
    with _lock:
        for key in [k for k in _works if k[0] == str(page)]:
            _works.pop(key).cancel()


def stop_with_the_page(demo: gr.Blocks) -> None:
    """Stop a page's work when it is closed or loaded anew."""

    def closed(request: gr.Request) -> None:
        forget(request.session_hash)

    demo.unload(closed)


def _with_gpu(compute: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """On ZeroGPU the computation runs in a process of its own, out of reach: it tells nothing until it is done."""
    if zero_gpu.decorator() is None:
        return compute

    def alone(*given: Any) -> list[Any]:
        return compute(Work(), *given)

    lent = zero_gpu.on_gpu(alone)

    def there(work: Work, *given: Any) -> list[Any]:
        work.tell("Computing on a GPU", 0.0)
        found = lent(*given)
        work.tell("Computing on a GPU", 1.0)
        return found

    return there


def _started(compute: Callable[..., list[Any]], work: Work, given: tuple[Any, ...]) -> Future[list[Any]]:
    """The computation in a thread of its own."""
    done: Future[list[Any]] = Future()

    def run() -> None:
        try:
            work.begin()
            work.tell("Getting ready", 0.0)
            done.set_result(compute(work, *given))
        except BaseException as error:
            done.set_exception(error)
        finally:
            work.end()

    context = contextvars.copy_context()  # whose page it is: ZeroGPU asks
    threading.Thread(target=context.run, args=(run,), name="long work", daemon=True).start()
    return done


def watched(work: Work, done: Future[Any]) -> Iterator[str]:
    """The bar, time and again until the work is done; leaving off early stops the work."""
    finished = threading.Event()
    done.add_done_callback(lambda _: finished.set())
    try:
        while True:
            yield bar(work.what, work.fraction, work.left())
            if finished.wait(_EVERY):
                return
    finally:
        if not done.done():
            work.cancel()


def bar(what: str, fraction: float, left: str = "") -> str:
    """A progress bar with its words."""
    percent = f"{100 * fraction:.0f}"
    words = f"{what}: {percent} %" + (f", {left}" if left else "")
    return (
        f'<div class="studio-work"><div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" aria-label="{escape(what)}"><i style="width:{percent}%"></i></div>'
        f'<p class="studio-note">{escape(words)}</p></div>'
    )


def ended(words: str) -> str:
    """The same place without work."""
    said = f'<p class="studio-note" aria-live="polite">{escape(words)}</p>'
    return f'<div class="studio-work idle"><div class="bar"></div>{said}</div>'
