"""Figures 1 and 5: what each member and the ensemble make of a picture, before and after an attack."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.palette import RIGHT_MARK, voices
from app.figures.values import fold, table, to_value

HEIGHT = 380
MOST_CLASSES = 10
BEFORE, AFTER = "Before the attack", "After the attack"


def figure(
    label: str | None, before: dict[str, Any], after: dict[str, Any] | None = None, known: bool = True
) -> dict[str, Any]:
    """Bars of probability for each class, grouped by member; before on the left, after on the right.

    Args:
        label: name of the true class, marked on the axis; None where it is not known.
        before: what `classify` says of the picture.
        after: the same of the adversarial one; None leaves its half empty.
        known: whether the label is the true class: else it is among those shown, and not marked.
    """
    shown = shown_classes(label, before, after)
    label = label if known else None
    fig = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=(BEFORE, AFTER))
    for column, said in ((1, before), (2, after)):
        for i, (name, colour) in enumerate(voices(len(before["members"]))):
            fig.add_trace(_bars(said, i, name, colour, shown), row=1, col=column)
    if label in shown:
        place = shown.index(label)
        fig.add_hrect(y0=place - 0.5, y1=place + 0.5, fillcolor="rgba(127,127,127,0.16)", line_width=0, layer="below")
    _lay_out(fig, shown, label, waiting=after is None)
    return to_value(fig, describe(label, before, after))


def _bars(said: dict[str, Any] | None, i: int, name: str, colour: str, shown: list[str]) -> go.Bar:
    """One voice's bars."""
    values = [_rows(said)[i][said["classes"].index(c)] for c in shown] if said else [None] * len(shown)
    return go.Bar(
        name=name,
        x=values,
        y=list(range(len(shown))),
        orientation="h",
        marker=dict(color=colour),
        customdata=shown,
        hovertemplate="%{customdata}: %{x:.3f}<extra>" + name + "</extra>",
    )


def _rows(said: dict[str, Any] | None) -> list[list[float]]:
    return [*said["members"], said["ensemble"]] if said else []


def _lay_out(fig: go.Figure, shown: list[str], label: str | None, waiting: bool) -> None:
    names = [f"<b>{RIGHT_MARK} {c}</b>" if c == label else c for c in shown]
    fig.update_yaxes(
        autorange="reversed", tickmode="array", tickvals=list(range(len(shown))), ticktext=names, fixedrange=True
    )
    fig.update_yaxes(showgrid=False, automargin=True)
    fig.update_xaxes(range=[0, 1.02], tickvals=[0, 0.5, 1], ticktext=["0", ".5", "1"], fixedrange=True)
    fig.update_layout(
        barmode="group",
        bargap=0.22,
        bargroupgap=0,
        height=HEIGHT,
        margin=dict(l=8, r=14, t=26, b=28),
        showlegend=False,
        font=dict(size=12),
    )
    for title in fig.layout.annotations:
        title.font.size = 13
    if waiting:
        fig.add_annotation(
            text="Press Attack", xref="x2 domain", yref="y2 domain", x=0.5, y=0.5, showarrow=False, opacity=0.6
        )


def shown_classes(label: str | None, before: dict[str, Any], after: dict[str, Any] | None) -> list[str]:
    """All classes where they are few, else the likeliest ones and the true one, in the model's order."""
    names = before["classes"]
    if len(names) <= MOST_CLASSES:
        return list(names)
    rows = _rows(before) + _rows(after)
    highest = {name: max(row[i] for row in rows) for i, name in enumerate(names)}
    chosen = set(sorted(highest, key=lambda n: (n != label, -highest[n]))[:MOST_CLASSES])
    return [name for name in names if name in chosen]


def legend(members: int) -> str:
    """Whose colour is whose."""
    items = "".join(f'<span><i style="background:{colour}"></i>{name}</span>' for name, colour in voices(members))
    return f'<p class="studio-legend">{items}</p>'


def describe(label: str | None, before: dict[str, Any], after: dict[str, Any] | None) -> str:
    """The figure in a sentence, for those who cannot see it."""
    true = f" The true class is {label}." if label else ""
    said = "Probability of each class by member and ensemble. Before the attack: " + _tops(before) + "."
    return said + (f" After it: {_tops(after)}." if after else "") + true


def _tops(said: dict[str, Any]) -> str:
    names = [name for name, _ in voices(len(said["members"]))]
    tops = [(max(row), said["classes"][row.index(max(row))]) for row in _rows(said)]
    return ", ".join(f"{name} {top} at {p:.2f}" for name, (p, top) in zip(names, tops, strict=True))


def numbers(before: dict[str, Any], after: dict[str, Any] | None) -> str:
    """The table behind the figure, folded."""
    names = [name for name, _ in voices(len(before["members"]))]
    header = ["class", *(f"{n}, before" for n in names)]
    columns = _rows(before)
    if after:
        header += [f"{n}, after" for n in names]
        columns = columns + _rows(after)
    rows = [[c, *(f"{column[i]:.4f}" for column in columns)] for i, c in enumerate(before["classes"])]
    return fold("The numbers", table("Probability of each class", header, rows))
