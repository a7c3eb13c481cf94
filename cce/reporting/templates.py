"""Templates: the one place where HTML is made, for reports, and by way of `renderer` for the page.

Every value is escaped unless it is HTML already (`Markup`), as what a template returns is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent / "templates"

Render = Callable[..., Markup]
"""Called with the name of a template and its values by name."""


@cache
def environment(*folders: Path) -> Environment:
    """Jinja2's environment for the templates in some folders; the first that has a name counts."""
    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def renderer(*folders: Path) -> Render:
    """What fills the templates in some folders, which may include those of reports."""
    found = environment(*folders, _FOLDER)

    def render(template: str, /, **values: Any) -> Markup:
        return Markup(found.get_template(template).render(values))

    return render


render = renderer()
"""Fills the templates of reports.

Raises:
    jinja2.UndefinedError: a value that the template needs is not given.
"""
