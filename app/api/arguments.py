"""Arguments of the public endpoints: one that cannot be read is told by its name and what it takes, without a trace.

Gradio reads arguments before a listener of ours is called. What fails there it answers with `{"error": null}` and a
traceback in the log; here it is refused in words first.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction

log = logging.getLogger(__name__)

_SHOWN = 60
"""Characters of an odd value that are shown."""


def refuse_in_words(demo: gr.Blocks) -> None:
    """Let every listener of a page refuse arguments that cannot be read in words.

    Args:
        demo: the page; its method that reads arguments is wrapped. (A subclass would make Gradio write a `.pyi` file.)
    """
    read = demo.preprocess_data

    async def reads(block_fn: BlockFunction, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        if words := problem(block_fn, inputs):
            raise _refusal(block_fn, words)
        try:
            return await read(block_fn, inputs, *args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            names = ", ".join(names_of(block_fn))
            words = f"An argument of {_title(block_fn)} cannot be read. It takes: {names}. A picture is uploaded first."
            raise _refusal(block_fn, words) from error

    demo.preprocess_data = reads  # type: ignore[method-assign]


def _refusal(block_fn: BlockFunction, words: str) -> gr.Error:
    log.info("%s refused: %s", _title(block_fn), words)
    return gr.Error(words, print_exception=False)


def _title(block_fn: BlockFunction) -> str:
    name = block_fn.api_name if isinstance(block_fn.api_name, str) else None
    return f"/{name}" if name and block_fn.api_visibility == "public" else "this part of the page"


def problem(block_fn: BlockFunction, inputs: Any) -> str | None:
    """What is wrong with the arguments of a call, in words; None where nothing is seen."""
    blocks = block_fn.inputs
    given = [i for i, block in enumerate(blocks) if not getattr(block, "stateful", False)]
    if not isinstance(inputs, Sequence) or isinstance(inputs, str) or len(inputs) < len(blocks):
        count = len(inputs) if isinstance(inputs, Sequence) and not isinstance(inputs, str) else 0
        names = ", ".join(names_of(block_fn))
        return f"{_title(block_fn)} takes {len(blocks)} arguments ({names}); {count} came."
    if block_fn.api_visibility != "public":
        return None  # the page's own components may have changed since they were built
    for i in given:
        if i in block_fn.component_prop_inputs:
            continue
        if takes := _unlike(blocks[i], inputs[i]):
            return f"{names_of(block_fn)[i]} is {_shown(inputs[i])}; it takes {takes}."
    return None


def names_of(block_fn: BlockFunction) -> list[str]:
    """What the arguments of a listener are called: by its function, else by how the components' labels begin."""
    names = list(inspect.signature(block_fn.fn).parameters) if callable(block_fn.fn) else []
    if len(names) == len(block_fn.inputs):
        return names
    return [
        str(getattr(b, "label", None) or "an argument").partition(":")[0].partition(",")[0] for b in block_fn.inputs
    ]


def _unlike(block: Any, value: Any) -> str | None:
    """What a component takes, where the value is nothing of that kind."""
    if value is None:
        return None
    if isinstance(block, gr.Number):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if number and abs(value) != float("inf") and value == value else "a number"
    if isinstance(block, gr.Textbox):
        return None if isinstance(value, (str, int, float)) else "text"
    if isinstance(block, gr.File) and block.file_count == "single":
        whole = isinstance(value, dict) and isinstance(value.get("path"), str) and "meta" in value
        return None if whole else "a picture file that was uploaded first, as the page and gradio_client send it"
    if isinstance(block, gr.CheckboxGroup):
        known = [choice[1] for choice in block.choices]
        fits = isinstance(value, list) and all(isinstance(v, (str, int, float)) and v in known for v in value)
        return None if fits else f"a list of some of {', '.join(map(str, known))}"
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
