"""The public endpoints of runs, to look at only: `/runs` and `/run`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.components import spoken
from app.services import training
from app.studio import Studio


def build(studio: Studio) -> None:
    """Add the endpoints."""

    def runs() -> list[dict[str, Any]]:
        """The training runs: state, progress, time left in seconds, and what was measured last."""
        return [training.row(job) for job in studio.training.jobs.all()]

    def run(id: str) -> dict[str, Any]:
        """One run with its config, its curves over epochs, and the end of its log."""
        return training.detail(studio.training.jobs.get(id))

    gr.api(spoken(runs), api_name="runs", concurrency_limit=4)
    gr.api(spoken(run), api_name="run", concurrency_limit=4)
