"""The Figures part of the Paper tab: the eight figures of the paper, drawn from what ships."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.components import figure
from app.figures import paper_figures as drawn
from app.services import paper_figures as service
from app.studio import Studio

_PARTS = {"figure5": 3}
"""How many drawings a figure has, where it is not one."""

_GO = """
element.addEventListener('click', (event) => {
  const wanted = event.target.closest('[data-tab]')?.dataset.tab;
  if (!wanted) return;
  // On a narrow page the last tabs are in a menu, as plain buttons.
  for (const tab of document.querySelectorAll('button[role=tab], .overflow-dropdown button'))
    if (tab.textContent.trim() === wanted) { tab.click(); window.scrollTo(0, 0); return; }
});
"""


def build() -> list[Any]:
    """Lay the eight figures out; returns the components that `fill` fills, in order."""
    components: list[Any] = []
    for name in service.TITLES:
        with gr.Column(elem_classes="studio-paper-figure", elem_id=f"paper-{name}"):
            components.append(gr.HTML(f"<h3>{service.TITLES[name]}</h3><p>{service.PRINTED[name]}</p>"))
            for i in range(_PARTS.get(name, 1)):
                height, stacked = drawn.heights(name)
                components.append(gr.HTML(elem_id=f"{name}-caption-{i}"))
                components.append(figure({}, height=height, stacked=stacked, elem_id=f"{name}-drawing-{i}"))
            components.append(gr.HTML(js_on_load=_GO, elem_id=f"{name}-foot"))
    return components


def fill(studio: Studio) -> list[Any]:
    """What the components show."""
    values: list[Any] = []
    for shown in service.figures(studio):
        values.append(drawn.head(shown))
        parts, captions = drawn.drawn(shown), drawn.captions(shown)
        for i in range(_PARTS.get(shown.id, 1)):
            values.append(captions[i] if i < len(captions) else "")
            values.append(parts[i] if i < len(parts) else gr.HTML(visible=False))
        values.append(drawn.foot(shown))
    return values
