"""Figures of a run: losses, accuracies, the transferring flow, entropies, speed; and several runs in one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from app.figures.palette import ENSEMBLE, MEMBERS, NEUTRAL, SUBSETS, voices
from app.figures.values import fold, table, to_value

HEIGHT = 270
Curves = Mapping[str, Mapping[str, list[Any]]]

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_LOSSES = (
    ("loss", "sum", NEUTRAL),
    ("natural", "natural", MEMBERS[0]),
    ("direct", "direct", MEMBERS[1]),
    ("promoting", "promoting", MEMBERS[2]),
    ("demoting", "demoting", ENSEMBLE),
)


def losses(curves: Curves, run: str = "") -> dict[str, Any]:
    """The terms of Eq. 5 over epochs, summed over the members, each before its weight."""
    points = curves.get("training", {})
    fig = go.Figure()
    said = []
    for i, (key, name, colour) in enumerate(_LOSSES):
        values = points.get(key, [])
        if any(values):
            _line(fig, name, points["epoch"], values, colour, _DASHES[i])
            said.append(f"{name} {_last(values):.3f}")
    _phases(fig, points)
    return _finish(fig, "loss", run, "Loss terms at the last step: " + ", ".join(said), bool(said))


def accuracies(curves: Curves, run: str = "") -> dict[str, Any]:
    """Natural accuracy (solid) and accuracy under attack (dashed), of members and ensemble."""
    points = curves.get("evaluation", {})
    fig = go.Figure()
    said = []
    for kind, dash in (("natural", "solid"), ("robust", "dash")):
        members = points.get(f"{kind}_member_accuracy", [])
        count = len(members[-1]) if members else 0
        for i, (name, colour) in enumerate(voices(count) if count else []):
            of_ensemble = i == count
            values = points[f"{kind}_accuracy"] if of_ensemble else [m[i] for m in members]
            _line(fig, f"{name}, {kind}", points["epoch"], values, colour, dash, width=3 if of_ensemble else 1.5)
            fig.data[-1].update(showlegend=kind == "natural", legendgroup=name)  # a click hides both kinds
            said += [f"{name} {kind} {values[-1]:.2f}"]
    fig.update_yaxes(range=[-0.02, 1.02])
    return _finish(fig, "accuracy", run, "Accuracy at the last look: " + ", ".join(said), bool(said))


def flow(curves: Curves, run: str = "") -> dict[str, Any]:
    """The transferring flow: which members are right on attacked images, as shares stacked over epochs."""
    points = curves.get("evaluation", {})
    looks = [_grouped(look) for look in points.get("robust_subsets", [])]
    fig = go.Figure()
    names = list(looks[-1]) if looks else []
    for i, name in enumerate(names):
        colour = SUBSETS.get(name) or MEMBERS[i % len(MEMBERS)]
        fig.add_trace(
            go.Scatter(
                name=name,
                x=points["epoch"],
                y=[look.get(name, 0) for look in looks],
                stackgroup="all",
                mode="lines+markers" if len(looks) == 1 else "lines",
                line=dict(color=colour, width=1),
                hovertemplate="%{y:.3f}",
            )
        )
    fig.update_yaxes(range=[0, 1])
    said = ", ".join(f"{name} {looks[-1][name]:.2f}" for name in names)
    return _finish(fig, "share", run, f"Share of attacked images in each subset at the last look: {said}", bool(looks))


def _grouped(look: Mapping[str, float]) -> dict[str, float]:
    """Subsets as they are for up to two members, else by how many members are right."""
    first = next(iter(look), "S")
    if len(first) <= 3:
        order = [name for name in SUBSETS if name in look] or list(look)
        return {name: look[name] for name in order}
    members = len(first) - 1
    groups = {f"{n} of {members} right": 0.0 for n in range(members, -1, -1)}
    for name, share in look.items():
        groups[f"{name.count('1')} of {members} right"] += share
    return groups


def entropies(curves: Curves, run: str = "", classes: int = 10) -> dict[str, Any]:
    """Mean entropy of f_en on clean and on attacked images, in nats; at most ln of the number of classes."""
    points = curves.get("evaluation", {})
    fig = go.Figure()
    said = []
    kinds = (("clean", "natural_entropy", MEMBERS[0], "solid"), ("attacked", "robust_entropy", MEMBERS[1], "dash"))
    for name, key, colour, dash in kinds:
        values = points.get(key, [])
        if values:
            _line(fig, name, points["epoch"], values, colour, dash)
            said.append(f"{name} {values[-1]:.2f} nats")
    fig.update_yaxes(range=[-0.05, 1.05 * math.log(classes)])
    return _finish(fig, "nats", run, "Mean entropy at the last look: " + ", ".join(said), bool(said))


def speed(curves: Curves, run: str = "") -> dict[str, Any]:
    """Images a second in training."""
    points = curves.get("training", {})
    values = points.get("images_per_second", [])
    fig = go.Figure()
    values = values if any(values) else []
    if values:
        _line(fig, "images/s", points["epoch"], values, MEMBERS[0], "solid")
    fig.update_yaxes(rangemode="tozero")
    words = f"Training speed: {_last(values):,.0f} images a second at the last step" if values else ""
    return _finish(fig, "images/s", run, words, bool(values))


COMPARED: dict[str, tuple[str, Callable[[Curves], list[Any]], str]] = {
    "natural accuracy": ("accuracy", lambda c: c["evaluation"].get("natural_accuracy", []), "evaluation"),
    "robust accuracy": ("accuracy", lambda c: c["evaluation"].get("robust_accuracy", []), "evaluation"),
    "entropy, clean": ("nats", lambda c: c["evaluation"].get("natural_entropy", []), "evaluation"),
    "entropy, attacked": ("nats", lambda c: c["evaluation"].get("robust_entropy", []), "evaluation"),
    "loss": ("loss", lambda c: c["training"].get("loss", []), "training"),
    "images/s": ("images/s", lambda c: c["training"].get("images_per_second", []), "training"),
}
"""What runs are compared by: unit, the values of a run's curves, and which of its points they belong to."""


def compare(runs: Mapping[str, Curves], measure: str) -> dict[str, Any]:
    """One measure of several runs over epochs."""
    unit, read, points = COMPARED[measure]
    fig = go.Figure()
    said = []
    for i, (name, curves) in enumerate(runs.items()):
        values = read(curves)
        if any(value is not None for value in values):
            _line(fig, name, curves[points]["epoch"], values, MEMBERS[i % len(MEMBERS)], _DASHES[i % len(_DASHES)])
            said.append(f"{name} {_last(values):.3g}")
    words = f"{measure.capitalize()} of each run, last value: " + ", ".join(said)
    return _finish(fig, unit, f"{measure}:{','.join(runs)}", words, bool(said))


def _last(values: Sequence[float | None]) -> float:
    """The last value that is there."""
    return next((value for value in reversed(values) if value is not None), 0.0)


def _line(
    fig: go.Figure, name: str, x: Sequence[Any], y: Sequence[Any], colour: str, dash: str, width: float = 2
) -> None:
    few = len(x) <= 30
    fig.add_trace(
        go.Scatter(
            name=name,
            x=list(x),
            y=list(y),
            mode="lines+markers" if few else "lines",
            line=dict(color=colour, dash=dash, width=width),
            marker=dict(size=5),
            hovertemplate="%{y:.4g}",
        )
    )


def _phases(fig: go.Figure, points: Mapping[str, list[Any]]) -> None:
    """A thin line where a phase begins, with its name."""
    names = points.get("phase", [])
    begins = [i for i in range(len(names)) if i and names[i] != names[i - 1]]
    for i in begins:
        fig.add_vline(x=points["epoch"][i - 1], line=dict(color=NEUTRAL, width=1, dash="dot"))
    for i in [0, *begins] if begins else []:
        at = points["epoch"][i - 1] if i else 0
        place = dict(x=at, y=1, yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
        fig.add_annotation(text=names[i], font=dict(size=10), **place)


def _finish(fig: go.Figure, unit: str, run: str, words: str, any_points: bool) -> dict[str, Any]:
    """Axes and legend; words in the place of curves that are not there yet."""
    if not any_points:
        waiting = dict(x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, opacity=0.7)
        fig.add_annotation(text="Nothing to draw yet", **waiting)
        fig.update_xaxes(showticklabels=False, showgrid=False, zeroline=False)
        fig.update_yaxes(showticklabels=False, showgrid=False, zeroline=False)
    fig.update_xaxes(title=dict(text="epoch", font=dict(size=12), standoff=6), zeroline=False)
    fig.update_yaxes(title=dict(text=unit, font=dict(size=12), standoff=6), automargin=True)
    fig.update_layout(
        height=HEIGHT,
        margin=dict(l=8, r=10, t=20, b=40),
        hovermode="x unified",
        showlegend=any_points,
        legend=dict(orientation="h", y=-0.24, x=0, font=dict(size=11)),
        font=dict(size=12),
        uirevision=run or "none",
    )
    return to_value(fig, f"{words}." if any_points else "Nothing to draw yet.")


def numbers(curves: Curves) -> str:
    """The table behind the figures, folded: a row for each look."""
    points = curves.get("evaluation", {})
    header = ["epoch", "natural", "robust", "entropy, clean", "entropy, attacked"]
    keys = ("natural_accuracy", "robust_accuracy", "natural_entropy", "robust_entropy")
    rows = [[f"{epoch:.2f}", *(f"{points[k][i]:.3f}" for k in keys)] for i, epoch in enumerate(points.get("epoch", []))]
    return fold("The numbers", table("Each look at the test images", header, rows)) if rows else ""
