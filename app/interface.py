"""The interface: the tabs in one page, and what the page is launched with."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from app import link_preview, long_work, memory, model_lists, picture_files, plotly_script, sessions, upload_limit
from app.api import analysis_endpoints, arguments, endpoints
from app.components import COMPUTE, LOOK
from app.doors import Doors, own_names
from app.figures import palette
from app.services import turns
from app.services.zero_gpu import on_gpu
from app.studio import Studio
from app.tabs import attack, detection, hub_models, paper, surface, training, transferability
from app.uploads import Uploads
from cce.runs.background import repeat

TABS = (attack, detection, surface, transferability, paper, training)
"""The tabs in their order; each module has a TITLE and a `build(studio)`."""

SESSIONS = 300
"""Visitors whose page is remembered, the last ones, with their pictures and results."""

_STATIC = Path(__file__).parent / "static"
_SWEEP_SECONDS = 600.0
_KEEP_FILES = (3600, 6 * 3600)  # every hour, files of more than six hours are deleted

HEADER = """
<header class="studio-header"><h1>CCE Studio</h1>
<p>Attack an ensemble of networks: see which member is fooled, and whether it is noticed
(<a href="https://arxiv.org/abs/2009.09612" target="_blank" rel="noopener">Bui et al., AAAI 2021</a>).</p>
</header>
"""


def build(studio: Studio) -> gr.Blocks:
    """The page, ready to be launched with `launch_settings`."""
    picture_files.write_once()
    sessions.remember_little()
    with gr.Blocks(title="CCE Studio", analytics_enabled=False, delete_cache=_KEEP_FILES) as demo:
        gr.HTML(HEADER)
        with gr.Tabs():
            for tab in TABS:
                with gr.Tab(tab.TITLE, id=tab.TITLE.lower()):
                    tab.build(studio)
        hub_models.build(studio)
        endpoints.build(studio)
        analysis_endpoints.build(studio)
        model_lists.keep_current(studio, demo)
        long_work.stop_with_the_page(demo)
    _lend_gpu(demo)
    _looks_go_first(demo)
    _leave_alone(demo)
    arguments.refuse_in_words(demo)
    demo.queue(default_concurrency_limit=4, api_open=False, max_size=64)
    return demo


def _lend_gpu(demo: gr.Blocks) -> None:
    """On ZeroGPU, a GPU for each listener that computes; long work has its own (`app.long_work`)."""
    for listener in demo.fns.values():
        computes = listener.concurrency_id in (COMPUTE["concurrency_id"], LOOK["concurrency_id"])
        if computes and not inspect.isgeneratorfunction(listener.fn):
            listener.fn = on_gpu(listener.fn)


def _looks_go_first(demo: gr.Blocks) -> None:
    """Long work gives way to each short look."""
    for listener in demo.fns.values():
        if listener.concurrency_id == LOOK["concurrency_id"] and listener.fn is not None:
            listener.fn = turns.looking(listener.fn)


def _leave_alone(demo: gr.Blocks) -> None:
    """Where no progress is shown, tell no component of it.

    The page would else tell every output of a listener of each state that its work goes through, and look for each of
    them in the whole tree of components every time: the larger part of what a page load and a tab's opening cost.
    """
    for listener in demo.fns.values():
        if listener.show_progress == "hidden" and listener.show_progress_on is None:
            listener.show_progress_on = []


def launch_settings(
    demo: gr.Blocks | None = None, host: str = "127.0.0.1", names: Sequence[str] = ()
) -> dict[str, Any]:
    """What `launch` needs besides host and port: the looks, our scripts, and nothing that talks to others.

    Args:
        demo: the page, whose own files stay when temporary ones go.
        host: the address it is served on.
        names: further names that it answers to where that is this machine alone.
    """
    link_preview.install()
    files = Uploads(Path(get_upload_folder()), lambda: kept_files(demo))
    doors = Middleware(Doors, names=own_names(host, names), uploads=files)
    if demo is not None:
        repeat(files.sweep, _SWEEP_SECONDS, "temporary files")
        repeat(memory.give_back, memory.EVERY_SECONDS, "memory")
    return dict(
        theme=_theme(),
        css=_style(),
        head=_head(),
        app_kwargs={
            "routes": [plotly_script.route()],
            "middleware": [Middleware(upload_limit.TellTooLarge), doors],
        },
        footer_links=["api", "settings"],
        run_history=False,
        state_session_capacity=SESSIONS,
        enable_monitoring=False,
        max_file_size=f"{upload_limit.MEGABYTES}mb",
        show_error=False,
        ssr_mode=False,
        share=False,
        quiet=True,
        _frontend=False,  # else `launch` asks for its own page and gives up where a busy machine takes three seconds
    )


def kept_files(demo: gr.Blocks | None) -> set[str]:
    """The files that the page itself shows."""
    return {str(f) for b in demo.blocks.values() for f in getattr(b, "keep_in_cache", ())} if demo else set()


def _theme() -> gr.themes.Base:
    """The system's own fonts: nothing to load, and Gradio's semibold file has a few letters only.

    Small print, buttons and chosen tabs are darker than Gradio's (on dark ground, lighter), for a contrast of 4.5 to 1.
    """
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
    theme = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=mono)
    small = {"body_text_color_subdued": "*neutral_500", "block_info_text_color": "*neutral_500"}
    primary = {"color_accent": "*primary_600", "button_primary_background_fill": "*primary_600"}
    primary |= {"button_primary_background_fill_hover": "*primary_700", "slider_color": "*primary_600"}
    return theme.set(**small, **primary, **{f"{name}_dark": "*neutral_400" for name in small})


def _head() -> str:
    data = {"plotly": plotly_script.VERSION, "most-bytes": upload_limit.MOST_BYTES, "too-large": upload_limit.WORDS}
    told = " ".join(f'data-{name}="{escape(str(value))}"' for name, value in data.items())
    return f"<script {told}>{_static('js')}</script>"


def _style() -> str:
    light = _colours(palette.MEMBERS_IN_WORDS, palette.ENSEMBLE_IN_WORDS)
    dark = _colours(palette.MEMBERS_IN_WORDS_ON_DARK, palette.ENSEMBLE_IN_WORDS_ON_DARK)
    return f":root{{{light}}}\n.dark{{{dark}}}\n{_static('css')}"


def _colours(members: Sequence[str], ensemble: str) -> str:
    """The colours of members and ensemble in words, as CSS."""
    return "".join(f"--f{i + 1}:{colour};" for i, colour in enumerate(members)) + f"--f-en:{ensemble};"


def _static(kind: str) -> str:
    """Our scripts or style sheets in one piece: what every tab shares (`studio`) first, then each tab's own."""
    files = sorted(_STATIC.glob(f"*.{kind}"), key=lambda path: (path.stem != "studio", path.stem))
    return "\n".join(path.read_text(encoding="utf-8") for path in files)
