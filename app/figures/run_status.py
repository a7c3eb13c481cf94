"""A run's state in words: how far it is, what it measured last, why it failed, and the end of its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from app.figures.values import fold, table


def panel(
    name: str, words: str, state: str, progress: float, facts: Sequence[tuple[str, str]], problem: str = ""
) -> str:
    """State, progress bar and facts.

    Args:
        name: the run's.
        words: its state in words.
        state: one of `cce.training.run_folder.STATES`; colours the bar.
        progress: fraction done.
        facts: what else is known, each as title and value.
        problem: what went wrong; empty where nothing did.
    """
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    told = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    percent = f"{100 * progress:.0f}"
    return (
        f'<div class="studio-run {escape(state)}">'
        f'<p class="state"><b>{escape(name)}</b> <span>{escape(words)}</span></p>'
        f'<div class="bar" role="progressbar" aria-label="Progress of {escape(name)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
        f"{told}<dl>{cells}</dl></div>"
    )


def nothing(words: str) -> str:
    """In the place of the panel while there is no run."""
    return f'<p class="studio-note">{escape(words)}</p>'


def left_out(folders: Mapping[str, str]) -> str:
    """The run folders that cannot be shown, by name, with the reason; empty where there are none."""
    if not folders:
        return ""
    rows = "".join(f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in folders.items())
    return (
        '<div class="studio-run"><p class="problem" role="alert">These run folders cannot be read and are left out. '
        f"Mend or remove them; the other runs go on.</p><ul>{rows}</ul></div>"
    )


def log(lines: Sequence[str]) -> str:
    """The end of the log."""
    text = escape("\n".join(lines)) or "The log is empty so far."
    return f'<pre class="studio-log" tabindex="0" aria-label="End of the log">{text}</pre>'


def phases(rows: Sequence[Sequence[str]]) -> str:
    """What will be trained, phase by phase, folded."""
    header = ["phase", "epochs", "loss", "attack", "learning rate"]
    return fold("Phases of this run", table("One after the other", header, rows))
