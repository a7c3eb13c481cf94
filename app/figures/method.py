"""The method page: Eq. 5 term by term, a prediction to move, and what the crossing term does to it."""

from __future__ import annotations

from app.figures.values import fold, table
from app.services.method import CLASSES, SHARE, push
from cce.config import CCE_DM, CCE_RM

_EQUATION = (
    '<div class="studio-equation" role="math" aria-label="Loss of member n: C of f n of x, plus C of f n of x a n, '
    "plus the mean over the other members i of lambda p m times w times C of f n of x a i, minus lambda d m times one "
    'minus w times H of f n of x a i">L<sub>n</sub> = <span>C(f<sup>n</sup>(x), y)</span> + '
    "<span>C(f<sup>n</sup>(x<sub>a</sub><sup>n</sup>), y)</span> + "
    "<sup>1</sup>⁄<sub>N−1</sub> Σ<sub>i≠n</sub> [ "
    '<span class="pm">λ<sub>pm</sub> w C(f<sup>n</sup>(x<sub>a</sub><sup>i</sup>), y)</span> − '
    '<span class="dm">λ<sub>dm</sub> (1 − w) H(f<sup>n</sup>(x<sub>a</sub><sup>i</sup>))</span> ]</div>'
)
_TERMS = (
    ("C(f<sup>n</sup>(x), y)", "Be right on the picture: the cross-entropy with the true class y."),
    ("C(f<sup>n</sup>(x<sub>a</sub><sup>n</sup>), y)", "Be right on one's own adversarial example (direct promoting)."),
    ("w = f<sub>y</sub>", "How right member n is on the example that attacks member i. No gradient flows through it."),
    ("λ<sub>pm</sub> w C", "Promoting: where it is right already, be more right."),
    ("−λ<sub>dm</sub> (1 − w) H", "Demoting: where it is wrong, be unsure (H is the entropy, in nats)."),
    ("CCE-RM", "Robustness mode, λ<sub>pm</sub> = λ<sub>dm</sub> = 1: promote and demote."),
    (
        "CCE-DM",
        "Detection mode, λ<sub>pm</sub> = 0, λ<sub>dm</sub> = 5: demote alone, so that attacks have a high entropy.",
    ),
)
_AT = (0.05, 0.25, 0.5, 0.75, 0.95)


def page() -> str:
    """The whole page; `static/method.js` makes it move."""
    terms = "".join(f"<dt>{sign}</dt><dd>{words}</dd>" for sign, words in _TERMS)
    return (
        f'<div class="studio-method">{_EQUATION}<dl class="studio-terms">{terms}</dl>'
        "<h3>Move f_y: one member on an example that attacks another</h3>"
        f'<div class="parts"><div>{_controls()}{_numbers()}</div><div>{_drawings()}</div></div>'
        f"{_finding()}{_table()}</div>"
    )


def _controls() -> str:
    return (
        "<fieldset><legend>Mode</legend>"
        '<label><input type="radio" name="method-mode" value="CCE-RM" checked> CCE-RM</label>'
        '<label><input type="radio" name="method-mode" value="CCE-DM"> CCE-DM</label></fieldset>'
        '<label>f_y, the probability of the true class: <b data-part="fy-value"></b>'
        '<input type="range" min="0.01" max="0.99" step="0.01" value="0.3" data-part="fy"></label>'
        '<label>Of the rest, on one wrong class: <b data-part="share-value"></b>'
        f'<input type="range" min="0.12" max="1" step="0.01" value="{SHARE}" data-part="share"></label>'
        '<div class="weights" aria-hidden="true"><i data-part="w"></i></div>'
        '<div class="weight-words"><span data-part="w-words"></span><span data-part="dw-words"></span></div>'
    )


def _numbers() -> str:
    rows = (
        ("C, cross-entropy with y", "C", ""),
        ("H, entropy", "H", ""),
        ('promoting: λ<sub>pm</sub> w C, with λ<sub>pm</sub> = <span data-part="pm"></span>', "promoting", ""),
        ('demoting: −λ<sub>dm</sub> (1 − w) H, with λ<sub>dm</sub> = <span data-part="dm"></span>', "demoting", ""),
        ("both, what is minimized", "total", ""),
        ("push on the true class: minus the gradient at its logit", "descent", ""),
    )
    body = "".join(f'<tr><th scope="row">{name}</th><td data-part="{part}"></td></tr>' for name, part, _ in rows)
    return f'<table class="studio-table method-numbers"><tbody>{body}</tbody></table>'


def _drawings() -> str:
    return (
        '<p class="verdict" data-part="verdict" aria-live="polite"></p>'
        '<p class="studio-note">The prediction; an arrow says where a step of training moves a class.</p>'
        '<svg viewBox="0 0 360 172" role="img" data-part="bars"></svg>'
        '<p class="studio-note">The push on the true class over f_y: CCE-RM solid, CCE-DM dashed.</p>'
        '<svg viewBox="0 0 360 196" role="img" aria-label="The push on the true class at every f_y" '
        'data-part="curves"></svg>'
    )


def _finding() -> str:
    low, mid = (f"{push(f_y, CCE_DM).descent[0]:+.3f}".replace("-", "−") for f_y in (0.05, 0.5))
    words = (
        "Demoting does not always lower f_y. A sure wrong answer is made unsure by raising the other classes, and the "
        f"true class is one of them: in detection mode, with {SHARE:.0%} of the rest on one wrong class, the push on "
        f"it is {low} at f_y = 0.05 and {mid} at 0.50. The code that the authors released lets the gradient flow "
        "through w and applies softmax twice; in robustness mode its crossing term then lowers f_y, from 0.05 to 0.95. "
        "What is shown here is Eq. 5 as printed; each checkpoint says which reading it was trained with."
    )
    return f"<h3>What the gradient says</h3><p>{words}</p>"


def _table() -> str:
    rows = []
    for defense in (CCE_RM, CCE_DM):
        for f_y in _AT:
            at = push(f_y, defense)
            values = (at.cross_entropy, at.entropy, at.promoting, at.demoting, at.total)
            rows.append([f"{defense.name}, {f_y:.2f}", *(f"{v + 0.0:.3f}" for v in values), f"{at.descent[0]:+.3f}"])
    head = ["mode, f_y", "C", "H", "promoting", "demoting", "both", "push on y"]
    caption = (
        f"By automatic differentiation of the library's loss; {CLASSES} classes, {SHARE:.0%} of the rest on one wrong"
    )
    return fold("The numbers", table(caption, head, rows))
