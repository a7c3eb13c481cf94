"""Who is right on whose examples: a square of accuracies with its numbers, for members and for ensembles."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.figures.templates import render
from app.figures.values import fold, table, to_value

HEIGHT = 330
_LIGHT, _DARK = (0xF3, 0xF0, 0xFC), (0x3B, 0x2F, 0x86)  # one hue, darker is higher: readable without colour


def figure(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    y: str,
    x: str,
    colours: Sequence[str] = (),
) -> dict:
    """Accuracies (fractions) as a heat map with a number, in percent, in every cell.

    Args:
        values: a row for each of `rows`.
        rows: who is attacked.
        columns: who sees the examples.
        y: what the rows are.
        x: what the columns are.
        colours: of the columns' names, where they have one.
    """
    percent = [[100 * v for v in row] for row in values]
    fig = go.Figure(
        go.Heatmap(
            z=percent,
            x=list(range(len(columns))),
            y=list(range(len(rows))),
            zmin=0,
            zmax=100,
            colorscale=[[0, _css(_LIGHT)], [1, _css(_DARK)]],
            showscale=False,
            xgap=2,
            ygap=2,
            customdata=[[f"{row}<br>seen by {column}" for column in columns] for row in rows],
            hovertemplate="%{customdata}: right on %{z:.1f} %<extra></extra>",
        )
    )
    named = [_coloured(n, colours[i] if i < len(colours) else "") for i, n in enumerate(columns)]
    ticks = dict(tickmode="array", fixedrange=True, showgrid=False, zeroline=False)
    fig.update_xaxes(tickvals=list(range(len(columns))), ticktext=named, side="top", title=dict(text=x), **ticks)
    top_down = [len(rows) - 0.5, -0.5]
    fig.update_yaxes(tickvals=list(range(len(rows))), ticktext=list(rows), range=top_down, autorange=False, **ticks)
    fig.update_yaxes(automargin=True, title=dict(text=y, standoff=8))
    fig.update_xaxes(automargin=True)
    for i, row in enumerate(percent):
        for j, value in enumerate(row):
            font = dict(size=14, color=_ink(value / 100))
            fig.add_annotation(x=j, y=i, text=f"{value:.1f}", showarrow=False, font=font)
    fig.update_layout(height=HEIGHT, margin=dict(l=10, r=10, t=60, b=12), font=dict(size=13))
    fig.update_layout(uirevision=f"{rows}{columns}")
    return to_value(fig, describe(values, rows, columns))


def square(caption: str, values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]) -> str:
    """The same as an HTML table, for any number of names: it scrolls, and the rows' names stay in view.

    Args:
        caption: what is in the cells.
        values: accuracies (fractions), a row for each of `rows`.
        rows: who is attacked; those that are columns too have their number.
        columns: who sees the examples; only their numbers are shown above.
    """
    numbers = {name: i for i, name in enumerate(columns, 1)}
    shown = [
        {
            "label": f"{numbers[row]}. {row}" if row in numbers else row,
            "shown": [
                {"background": _css(_mixed(v)), "ink": _ink(v), "own": row == name, "text": f"{100 * v:.1f}"}
                for name, v in zip(columns, found, strict=True)
            ],
        }
        for row, found in zip(rows, values, strict=True)
    ]
    return str(render("square.html", caption=caption, columns=columns, rows=shown))


def describe(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]) -> str:
    """The square in a sentence."""
    said = [
        f"{row}: " + ", ".join(f"{c} {100 * v:.1f}" for c, v in zip(columns, r, strict=True))
        for row, r in zip(rows, values, strict=True)
    ]
    return f"Accuracy in percent. {'; '.join(said)}."


def numbers(caption: str, values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]) -> str:
    """The table behind the figure, folded."""
    cells = [[row, *(f"{100 * v:.1f}" for v in r)] for row, r in zip(rows, values, strict=True)]
    return fold("The numbers", table(caption, ["", *columns], cells))


def waiting(words: str) -> dict:
    """The figure's place before anything was measured."""
    fig = go.Figure()
    fig.add_annotation(text=words, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, opacity=0.7)
    for update in (fig.update_xaxes, fig.update_yaxes):
        update(visible=False, fixedrange=True)
    fig.update_layout(height=HEIGHT, margin=dict(l=10, r=10, t=10, b=10))
    fig.update_layout(uirevision="waiting")
    return to_value(fig, words)


def _mixed(share: float) -> tuple[float, ...]:
    """The scale's colour at a share from 0 to 1."""
    return tuple(a + (b - a) * share for a, b in zip(_LIGHT, _DARK, strict=True))


def _css(colour: tuple[float, ...]) -> str:
    return f"rgb({', '.join(f'{part:.0f}' for part in colour)})"


def _ink(share: float) -> str:
    """Black or white, whichever stands out more on the scale's colour.

    >>> _ink(0.2), _ink(0.9)
    ('#111', '#fff')
    """
    linear = [(part / 255) ** 2.2 for part in _mixed(share)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#111" if (luminance + 0.05) / 0.055 > 1.05 / (luminance + 0.05) else "#fff"


def _coloured(name: str, colour: str) -> str:
    return f'<span style="color:{colour}"><b>{name}</b></span>' if colour else name
