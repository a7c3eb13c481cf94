"""The entropy of f_en before and after an attack, on one scale with the detector's threshold."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from app.figures.palette import ENSEMBLE, FLAG_MARK, NEUTRAL
from app.figures.values import fold, table, to_value

HEIGHT = 156
_ROWS = ("after", "before")  # from the bottom up


def figure(before: dict[str, Any], after: dict[str, Any] | None = None) -> dict[str, Any]:
    """Both entropies (nats) from 0 to ln of the number of classes, the threshold as a line.

    Args:
        before: what `classify` says of the picture.
        after: the same of the adversarial one, None before there is one.
    """
    highest = math.log(len(before["classes"]))
    fig = go.Figure()
    if after:
        ends = dict(x=after["entropy"], ax=before["entropy"], y=0, ay=1)
        arrow = dict(xref="x", yref="y", axref="x", ayref="y", showarrow=True, arrowhead=2, arrowwidth=1.5, opacity=0.7)
        fig.add_annotation(text="", arrowcolor=NEUTRAL, standoff=9, startstandoff=9, **ends, **arrow)
    for name, said in (("before", before), ("after", after)):
        fig.add_trace(_marker(name, said))
    _threshold(fig, before["threshold"], highest)
    fig.update_yaxes(tickvals=[0, 1], ticktext=list(_ROWS), range=[-1.1, 2.1], fixedrange=True, showgrid=False)
    fig.update_xaxes(range=[-0.04 * highest, 1.04 * highest], title=dict(text="nats", font=dict(size=12)))
    fig.update_xaxes(fixedrange=True, zeroline=False)
    fig.update_layout(height=HEIGHT, margin=dict(l=52, r=24, t=22, b=36), showlegend=False, font=dict(size=12))
    return to_value(fig, describe(before, after))


def _marker(name: str, said: dict[str, Any] | None) -> go.Scatter:
    """One state's dot, its number on the side where no arrow is."""
    value = said["entropy"] if said else None
    flag = f" {FLAG_MARK}" if said and said["flagged"] else ""
    symbol, side = ("circle-open", "top center") if name == "before" else ("circle", "bottom center")
    return go.Scatter(
        name=name,
        x=[value],
        y=[_ROWS.index(name)],
        mode="markers+text",
        marker=dict(size=15, color=ENSEMBLE, symbol=symbol, line=dict(width=3, color=ENSEMBLE)),
        text=[f"{value:.2f}{flag}" if value is not None else ""],
        textposition=side,
        cliponaxis=False,
        hovertemplate=f"{name}: %{{x:.4f}} nats<extra></extra>",
    )


def _threshold(fig: go.Figure, threshold: float | None, highest: float) -> None:
    """A line, and shading on the side that is flagged."""
    if threshold is None:
        return
    fig.add_vrect(x0=threshold, x1=1.04 * highest, fillcolor="rgba(200,80,80,0.10)", line_width=0, layer="below")
    fig.add_vline(x=threshold, line=dict(color=NEUTRAL, width=2, dash="dash"))
    right = threshold > 0.6 * highest
    fig.add_annotation(
        x=threshold,
        y=1.0,
        yref="paper",
        yanchor="bottom",
        xanchor="right" if right else "left",
        showarrow=False,
        text=f"flagged above {threshold:.2f}",
    )


def describe(before: dict[str, Any], after: dict[str, Any] | None) -> str:
    """The figure in a sentence."""
    said = f"Entropy of the ensemble: {before['entropy']:.2f} nats before the attack"
    said += f", {after['entropy']:.2f} after it" if after else ""
    if before["threshold"] is not None:
        said += f"; above {before['threshold']:.2f} a picture is flagged"
    return said + "."


def numbers(before: dict[str, Any], after: dict[str, Any] | None) -> str:
    """The table behind the figure, folded."""
    rows = [[name, f"{s['entropy']:.4f}", _word(s)] for name, s in (("before", before), ("after", after)) if s]
    threshold = "none" if before["threshold"] is None else f"{before['threshold']:.4f}"
    rows.append(["threshold", threshold, ""])
    return fold("The numbers", table("Entropy of the ensemble", ["", "nats", "verdict"], rows))


def _word(said: dict[str, Any]) -> str:
    return {True: "flagged", False: "not flagged", None: "no detector"}[said["flagged"]]
