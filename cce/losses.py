"""Losses: Eq. 5 for any number of members, its special cases, and the baselines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cce.config import Defense, check
from cce.models import entropy


@dataclass(frozen=True)
class LossTerms:
    """The parts of a member's loss, batch means, weights not yet applied; `total` applies them.

    `natural` C(f(x), y); `direct` C(f(x_a), y), dPO; `promoting` w C(f(x_a^i), y), cPO; `demoting`
    (1 - w) H(f(x_a^i)), DO, the last two averaged over i != n.
    """

    natural: Tensor
    direct: Tensor
    promoting: Tensor
    demoting: Tensor

    def total(self, defense: Defense) -> Tensor:
        """The scalar to minimize."""
        crossing = defense.lambda_pm * self.promoting - defense.lambda_dm * self.demoting
        return self.natural + self.direct + crossing


def cce_terms(member: int, clean: Tensor, attacked: Tensor, labels: Tensor, defense: Defense) -> LossTerms:
    """Terms of L_n, Eq. 5 (Eqs. 3-4 for N = 2).

    Args:
        member: n, from 0.
        clean: f^n's logits on x, `(B, classes)`.
        attacked: f^n's logits on every member's examples, `(N, B, classes)`; row i is x_a^i.
        labels: `(B,)`.
        defense: its indicator: `soft`, w = f^n_y(x_a^i), or `hard`, w = [argmax f^n(x_a^i) = y]
            (Eqs. 1-2). No gradient flows through w.

    Returns:
        The terms. Without other members (N = 1) the crossing terms are zero.
    """
    n = attacked.shape[0]
    check(0 <= member < n, f"member is {member}; there are examples of {n} members")
    natural = F.cross_entropy(clean, labels)
    direct = F.cross_entropy(attacked[member], labels)
    others = [i for i in range(n) if i != member]
    zero = natural.new_zeros(())
    if not others or defense.lambda_pm == defense.lambda_dm == 0:
        return LossTerms(natural, direct, zero, zero)
    log_p = F.log_softmax(attacked[others], dim=-1)  # (N - 1, B, classes)
    log_p_y = log_p.gather(-1, labels.expand(len(others), -1)[..., None])[..., 0]  # (N - 1, B)
    weight = indicator(log_p, log_p_y, labels, defense.indicator)
    return LossTerms(natural, direct, (weight * -log_p_y).mean(), ((1 - weight) * entropy(log_p)).mean())


@torch.no_grad()
def indicator(log_p: Tensor, log_p_y: Tensor, labels: Tensor, kind: str) -> Tensor:
    """W of Eq. 5, `(N - 1, B)`, without gradient: the probability of y, or 1 where y is the argmax."""
    return log_p_y.exp() if kind == "soft" else (log_p.argmax(-1) == labels).to(log_p.dtype)


def pair_terms(clean: Tensor, attacked: Tensor | None, labels: Tensor) -> LossTerms:
    """Terms of NAT (`attacked` None) and ADV-EN: clean and adversarial cross-entropy of one member."""
    natural = F.cross_entropy(clean, labels)
    zero = natural.new_zeros(())
    direct = zero if attacked is None else F.cross_entropy(attacked, labels)
    return LossTerms(natural, direct, zero, zero)
