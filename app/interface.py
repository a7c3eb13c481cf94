"""The interface: the tabs in one page, and what the page is launched with."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gradio as gr
import plotly
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from app import analysis_endpoints, endpoints, long_work, model_lists
from app.components import COMPUTE
from app.figures import palette
from app.services.zero_gpu import on_gpu
from app.studio import Studio
from app.tabs import attack, detection, hub_models, paper, surface, training, transferability

TABS = (attack, detection, surface, transferability, paper, training)
"""The tabs in their order; each module has a TITLE and a `build(studio)`."""

_STATIC = Path(__file__).parent / "static"
_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_KEEP_FILES = (3600, 6 * 3600)  # every hour, files of more than six hours are deleted

HEADER = """
<header class="studio-header"><h1>CCE Studio</h1>
<p>Attack an ensemble of networks that were trained together: see which member is fooled, and whether the attack is
noticed. The method is <a href="https://arxiv.org/abs/2009.09612" target="_blank" rel="noopener">Bui et al., AAAI
2021</a>.</p>
</header>
"""


def build(studio: Studio) -> gr.Blocks:
    """The page, ready to be launched with `launch_settings`."""
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
    demo.queue(default_concurrency_limit=4, api_open=False, max_size=64)
    return demo


def _lend_gpu(demo: gr.Blocks) -> None:
    """On ZeroGPU, a GPU for each listener that computes; long work has its own (`app.long_work`)."""
    for listener in demo.fns.values():
        if listener.concurrency_id == COMPUTE["concurrency_id"] and not inspect.isgeneratorfunction(listener.fn):
            listener.fn = on_gpu(listener.fn)


def launch_settings() -> dict[str, Any]:
    """What `launch` needs besides host and port: the looks, our scripts, and nothing that talks to others."""
    return dict(
        theme=gr.themes.Default(primary_hue="indigo", neutral_hue="slate"),
        css=_style(),
        head=_head(),
        app_kwargs={"routes": [Route("/studio/plotly.min.js", _plotly)]},
        footer_links=["api", "settings"],
        run_history=False,
        enable_monitoring=False,
        max_file_size="25mb",
        show_error=False,
        ssr_mode=False,
        share=False,
        quiet=True,
    )


async def _plotly(request: Request) -> FileResponse:
    """Plotly's own script, from the installed package: its version is in the address."""
    forever = {"Cache-Control": "public, max-age=31536000, immutable"}
    return FileResponse(_PLOTLY, media_type="text/javascript", headers=forever)


def _head() -> str:
    return f'<script data-plotly="{version("plotly")}">{_static("js")}</script>'


def _style() -> str:
    colours = "".join(f"--f{i + 1}:{colour};" for i, colour in enumerate(palette.MEMBERS))
    return f":root{{{colours}--f-en:{palette.ENSEMBLE};}}\n{_static('css')}"


def _static(kind: str) -> str:
    """Our scripts or style sheets in one piece: what every tab shares (`studio`) first, then each tab's own."""
    files = sorted(_STATIC.glob(f"*.{kind}"), key=lambda path: (path.stem != "studio", path.stem))
    return "\n".join(path.read_text(encoding="utf-8") for path in files)
