"""What other sites show of a link to the Studio: its own name and words, where Gradio's page has Gradio's."""

from __future__ import annotations

import re

from gradio.routes import templates
from jinja2 import BaseLoader, ChoiceLoader, Environment, FunctionLoader

TITLE = "CCE Studio"
WORDS = "Attack an ensemble of networks: see which member is fooled, and whether the attack is noticed."

_PAGE = "frontend/index.html"
_PICTURES = re.compile(r'<meta\s+(?:property|name)="(?:og:image|twitter:image|twitter:creator)"[^>]*/>\s*')


def install() -> None:
    """Let Gradio's page be made with our words from now on."""
    environment = templates.env
    loader = environment.loader
    if loader is None or isinstance(loader, ChoiceLoader):
        return
    environment.loader = ChoiceLoader([FunctionLoader(lambda name: _ours(environment, loader, name)), loader])


def _ours(environment: Environment, loader: BaseLoader, name: str) -> str | None:
    return rewritten(loader.get_source(environment, name)[0]) if name == _PAGE else None


def rewritten(page: str) -> str:
    """A page with our title and words in its preview, and nobody else's picture.

    >>> rewritten('<meta property="og:title" content="Gradio" />')
    '<meta property="og:title" content="CCE Studio" />'
    """
    page = _PICTURES.sub("", page)
    page = page.replace('content="Gradio"', f'content="{TITLE}"')
    return page.replace("Click to try out the app!", WORDS).replace("summary_large_image", "summary")
