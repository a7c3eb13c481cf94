"""Method service: what Eq. 5's crossing term does to a prediction, from the library's own loss and its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cce.config import Defense
from cce.training.losses import cce_terms

CLASSES = 10
SHARE = 0.8
"""Of what the true class leaves, the part of one wrong class, where an attack has gone."""


@dataclass(frozen=True)
class Push:
    """The crossing term of one member on one example of another.

    `p` is the prediction `(10,)`: the true class, the wrong class that the attack favours, the others. `w` and
    `1 - w` weigh `cross_entropy` C and `entropy` H (nats); `promoting` and `demoting` are the terms of the loss,
    lambda included, and `total` is their sum. `descent` is minus the gradient of the total with respect to each
    logit: where it is positive, a step of training raises that class.
    """

    p: tuple[float, ...]
    w: float
    cross_entropy: float
    entropy: float
    promoting: float
    demoting: float
    total: float
    descent: tuple[float, ...]


def prediction(f_y: float, share: float = SHARE) -> list[float]:
    """A prediction with probability `f_y` of the true class and `share` of the rest on one wrong class."""
    rest = 1 - f_y
    return [f_y, rest * share, *[rest * (1 - share) / (CLASSES - 2)] * (CLASSES - 2)]


def push(f_y: float, defense: Defense, share: float = SHARE) -> Push:
    """The crossing term at a prediction, and its gradient by autograd through `cce.training.losses.cce_terms`."""
    p = torch.tensor(prediction(f_y, share), dtype=torch.float64)
    logits = p.log().requires_grad_(True)
    labels = torch.zeros(1, dtype=torch.long)
    clean = torch.zeros(1, CLASSES, dtype=torch.float64)  # its terms do not depend on the crossing example
    attacked = torch.stack([clean, logits[None]])
    terms = cce_terms(0, clean, attacked, labels, defense)
    promoting, demoting = defense.lambda_pm * terms.promoting, -defense.lambda_dm * terms.demoting
    (gradient,) = torch.autograd.grad(promoting + demoting, logits)
    w = f_y if defense.indicator == "soft" else float(p.argmax() == 0)
    return Push(
        tuple(p.tolist()),
        w,
        -float(p[0].log()),
        -float((p * p.log()).sum()),
        promoting.item(),
        demoting.item(),
        (promoting + demoting).item(),
        tuple((-gradient).tolist()),
    )
