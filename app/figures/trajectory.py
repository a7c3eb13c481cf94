"""The way of an attack: the true class's probability and the ensemble's entropy after each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.palette import ENSEMBLE, NEUTRAL, voices
from app.figures.values import fold, table, to_value

HEIGHT = 300


def figure(label: str, names: Sequence[str], said: Sequence[dict[str, Any]], members: int) -> dict[str, Any]:
    """Probability of the label by voice above, entropy (nats) below, over the places of a replay.

    Args:
        label: the class the picture is judged by.
        names: of the places, as `Replay.name` gives them.
        said: what `classify` says at each place; empty before an attack.
        members: how many members there are.
    """
    fig = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.1, row_heights=[0.55, 0.45])
    places = list(range(len(said)))
    rows = [[*s["members"], s["ensemble"]] for s in said]
    for i, (name, colour) in enumerate(voices(members)):
        fig.add_trace(
            go.Scatter(
                name=name,
                x=places,
                y=[row[i][s["classes"].index(label)] for row, s in zip(rows, said, strict=True)],
                mode="lines+markers",
                line=dict(color=colour, width=2.5 if name == "ensemble" else 1.8),
                marker=dict(size=5),
                customdata=list(names),
                hovertemplate="%{customdata}: %{y:.3f}<extra>" + name + "</extra>",
            ),
            row=1,
            col=1,
        )
    fig.add_trace(
        go.Scatter(
            name="entropy",
            x=places,
            y=[s["entropy"] for s in said],
            mode="lines+markers",
            line=dict(color=ENSEMBLE, width=2.5),
            marker=dict(size=5),
            customdata=list(names),
            hovertemplate="%{customdata}: %{y:.3f} nats<extra>entropy</extra>",
        ),
        row=2,
        col=1,
    )
    _lay_out(fig, label, said)
    return to_value(fig, describe(label, said))


def _lay_out(fig: go.Figure, label: str, said: Sequence[dict[str, Any]]) -> None:
    highest = math.log(len(said[0]["classes"])) if said else math.log(10)
    last = max(1, len(said) - 1)
    fig.update_xaxes(range=[-0.02 * last, 1.02 * last], fixedrange=True, showgrid=False, showticklabels=False)
    fig.update_yaxes(fixedrange=True, automargin=True)
    fig.update_yaxes(range=[-0.04, 1.06], tickvals=[0, 0.5, 1], ticktext=["0", ".5", "1"], row=1)
    fig.update_yaxes(range=[-0.06 * highest, 1.08 * highest], row=2)
    # The first shape is where the slider stands.
    fig.add_shape(type="line", x0=last, x1=last, y0=0, y1=1, xref="x", yref="paper", line=dict(color=NEUTRAL, width=2))
    if said and said[0]["threshold"] is not None:
        fig.add_hline(y=said[0]["threshold"], line=dict(color=NEUTRAL, width=1.5, dash="dash"), row=2, col=1)
    fig.update_layout(
        height=HEIGHT, margin=dict(l=44, r=14, t=22, b=14), showlegend=False, font=dict(size=12), hovermode="closest"
    )
    titles = ((1.0, f"probability of {label}"), (0.41, "entropy, nats (dashed: the threshold)"))
    for y, text in titles:
        fig.add_annotation(
            text=text, xref="paper", yref="paper", x=0, y=y, xanchor="left", yanchor="bottom", showarrow=False
        )
    if not said:
        fig.add_annotation(text="Press Attack", xref="paper", yref="paper", x=0.5, y=0.55, showarrow=False, opacity=0.6)


def describe(label: str, said: Sequence[dict[str, Any]]) -> str:
    """The figure in a sentence."""
    if not said:
        return "The way of the attack, step by step: nothing yet."
    first, last = said[0], said[-1]
    p = [s["ensemble"][s["classes"].index(label)] for s in (first, last)]
    return (
        f"From the attack's start to its result, the ensemble's probability of {label} goes from {p[0]:.2f} to "
        f"{p[1]:.2f}, its entropy from {first['entropy']:.2f} to {last['entropy']:.2f} nats."
    )


def numbers(label: str, names: Sequence[str], said: Sequence[dict[str, Any]], subsets: Sequence[str]) -> str:
    """The table behind the figure, folded."""
    if not said:
        return fold("The numbers", '<p class="studio-note">Press Attack.</p>')
    spoken = [name for name, _ in voices(len(said[0]["members"]))]
    header = ["", *(f"{name}: {label}" for name in spoken), "entropy", "subset"]
    rows = []
    for name, s, subset in zip(names, said, subsets, strict=True):
        place = s["classes"].index(label)
        cells = [f"{row[place]:.4f}" for row in (*s["members"], s["ensemble"])]
        rows.append([name, *cells, f"{s['entropy']:.4f}", subset])
    return fold("The numbers", table("Probability of the class and entropy in nats, step by step", header, rows))
