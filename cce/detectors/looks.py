"""Looks: the scores of an input that one look gives, from the members' logits; all are differentiable.

The higher, the more suspect. An attacker who knows a detector climbs down its score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cce.config import SCORES, check
from cce.models import entropy, log_mean_probability


def look(name: str, member_logits: Tensor) -> Tensor:
    """The score `name` of each input.

    Args:
        name: one of `SCORES`.
        member_logits: `(N, B, classes)`.

    Returns:
        `(B,)`: entropy H(f_en) in nats; max probability, 1 - max f_en; disagreement, the members' Jensen-Shannon
        divergence H(f_en) - mean_n H(f^n) in nats.

    Raises:
        ConfigError: another name.
    """
    check(name in SCORES, f"score is {name!r}; one look gives {', '.join(SCORES)}")
    log_p = log_mean_probability(member_logits)
    if name == "max probability":
        return -torch.expm1(log_p.amax(-1))
    if name == "entropy":
        return entropy(log_p)
    return (entropy(log_p) - entropy(member_logits.log_softmax(-1)).mean(0)).clamp_min(0)
