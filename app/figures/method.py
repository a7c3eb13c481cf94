"""The method page: Eq. 5 term by term, a prediction to move, and what the crossing term does to it."""

from __future__ import annotations

from markupsafe import Markup

from app.figures.templates import render
from app.services.method import CLASSES, SHARE, push
from cce.config import CCE_DM, CCE_RM

_AT = (0.05, 0.25, 0.5, 0.75, 0.95)


def page() -> Markup:
    """The whole page; `static/method.js` makes it move."""
    caption = (
        f"By automatic differentiation of the library's loss; {CLASSES} classes, {SHARE:.0%} of the rest on one wrong"
    )
    header = ["mode, f_y", "C", "H", "promoting", "demoting", "both", "push on y"]
    return render("method.html", share=SHARE, finding=_finding(), caption=caption, header=header, rows=_rows())


def _finding() -> str:
    """What the gradient says, with its figures."""
    low, mid = (f"{push(f_y, CCE_DM).descent[0]:+.3f}".replace("-", "−") for f_y in (0.05, 0.5))
    return (
        "Demoting does not always lower f_y. A sure wrong answer is made unsure by raising the other classes, and the "
        f"true class is one of them: in detection mode, with {SHARE:.0%} of the rest on one wrong class, the push on "
        f"it is {low} at f_y = 0.05 and {mid} at 0.50. The code that the authors released lets the gradient flow "
        "through w and applies softmax twice; in robustness mode its crossing term then lowers f_y, from 0.05 to 0.95. "
        "What is shown here is Eq. 5 as printed; each checkpoint says which reading it was trained with."
    )


def _rows() -> list[list[str]]:
    """The terms in both modes at a few probabilities of the true class."""
    rows = []
    for defense in (CCE_RM, CCE_DM):
        for f_y in _AT:
            at = push(f_y, defense)
            values = (at.cross_entropy, at.entropy, at.promoting, at.demoting, at.total)
            rows.append([f"{defense.name}, {f_y:.2f}", *(f"{v + 0.0:.3f}" for v in values), f"{at.descent[0]:+.3f}"])
    return rows
