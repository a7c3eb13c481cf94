"""Losses: Eq. 5 for any number of members, its special cases, and the baselines, ADP among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cce.config import Defense, check
from cce.models import entropy, log_mean_probability

DIVERSITY_OFFSET = 1e-6
"""Added to the diagonal of ADP's Gram matrix, so that equal members have a finite logarithm."""


@dataclass(frozen=True)
class LossTerms:
    """The parts of a loss, batch means summed over members, weights not yet applied; `total` applies them.

    `natural` C(f(x), y); `direct` C(f(x_a), y), dPO; `promoting` w C(f(x_a^i), y), cPO; `demoting`
    (1 - w) H(f(x_a^i)), DO, the last two averaged over i != n; `ensemble_entropy` H(f_en) and
    `log_diversity` log ED of ADP, summed over x and x_a.
    """

    natural: Tensor
    direct: Tensor
    promoting: Tensor
    demoting: Tensor
    ensemble_entropy: Tensor
    log_diversity: Tensor

    def total(self, defense: Defense) -> Tensor:
        """The scalar to minimize."""
        crossing = defense.lambda_pm * self.promoting - defense.lambda_dm * self.demoting
        jointly = defense.alpha * self.ensemble_entropy + defense.beta * self.log_diversity
        return self.natural + self.direct + crossing - jointly


def _terms(natural: Tensor, **others: Tensor) -> LossTerms:
    """Terms with zero for what a method does not have."""
    names = ("direct", "promoting", "demoting", "ensemble_entropy", "log_diversity")
    return LossTerms(natural, **{name: others.get(name, natural.new_zeros(())) for name in names})


def joint_members(defense: Defense, members: int) -> list[list[int]]:
    """Which members' losses need one another's predictions, as groups that can be taken one after the other.

    Only ADP's terms join the members. Elsewhere each is alone, and its activations are gone before the
    next one's forward pass.
    """
    return [list(range(members))] if defense.method == "adp" else [[n] for n in range(members)]


def needed_examples(defense: Defense, members: Sequence[int], count: int) -> list[int]:
    """Which of `count` sets of examples the losses of a group of members depend on: CCE-Base's, on its own alone."""
    alone = defense.method == "cce" and defense.lambda_pm == defense.lambda_dm == 0
    return list(members) if alone else list(range(count))


def loss_terms(
    members: Sequence[int], logits: Tensor, labels: Tensor, defense: Defense, smoothing: float = 0.0
) -> LossTerms:
    """The terms of a group of members (see `joint_members`), summed over it.

    Args:
        members: which ones, from 0.
        logits: theirs, `(len(members), 1 + K, B, classes)`: on x, then on the K sets of examples (none
            for NAT, f_en's for ADV-EN and ADP, every member's for CCE; for CCE-Base its own will do).
        labels: `(B,)`.
        defense: the method and its weights.
        smoothing: label smoothing s, the same in every cross-entropy:
            C(f, y) becomes (1 - s) C(f, y) + s mean over classes c of C(f, c).
    """
    if defense.method == "adp":
        return adp_terms(logits[:, 0], logits[:, 1], labels, smoothing)
    (member,), (own,) = members, logits
    if defense.method == "cce":
        if len(own) == 2:  # one member, or CCE-Base: nothing crosses
            return pair_terms(own[0], own[1], labels, smoothing)
        return cce_terms(member, own[0], own[1:], labels, defense, smoothing)
    return pair_terms(own[0], own[1] if len(own) > 1 else None, labels, smoothing)


def cce_terms(
    member: int, clean: Tensor, attacked: Tensor, labels: Tensor, defense: Defense, smoothing: float = 0.0
) -> LossTerms:
    """Terms of L_n, Eq. 5 (Eqs. 3-4 for N = 2).

    Args:
        member: n, from 0.
        clean: f^n's logits on x, `(B, classes)`.
        attacked: f^n's logits on every member's examples, `(N, B, classes)`; row i is x_a^i.
        labels: `(B,)`.
        defense: its indicator: `soft`, w = f^n_y(x_a^i), or `hard`, w = [argmax f^n(x_a^i) = y]
            (Eqs. 1-2). Its reading: as in `paper`, no gradient flows through w; as `released`, it does, and
            cross-entropy and entropy take softmax(f) where they should take f.
        smoothing: see `loss_terms`.

    Returns:
        The terms. Without other members (N = 1) the crossing terms are zero.
    """
    n = attacked.shape[0]
    check(0 <= member < n, f"member is {member}; there are examples of {n} members")
    natural = F.cross_entropy(clean, labels, label_smoothing=smoothing)
    direct = F.cross_entropy(attacked[member], labels, label_smoothing=smoothing)
    if n == 1 or defense.lambda_pm == defense.lambda_dm == 0:
        return _terms(natural, direct=direct)
    others = torch.cat([attacked[:member], attacked[member + 1 :]])  # a list as an index would wait for the device
    log_p = F.log_softmax(others, dim=-1)  # (N - 1, B, classes)
    index = labels.expand(n - 1, -1)[..., None]
    weight = indicator(log_p, index, defense.indicator)  # (N - 1, B)
    if defense.reading == "released":
        p = log_p.exp()
        log_q = F.log_softmax(p, dim=-1)  # the second softmax
        cross_entropies, entropies = _cross_entropies(log_q, index, smoothing), -(p * log_q).sum(-1)
    else:
        weight = weight.detach()
        cross_entropies, entropies = _cross_entropies(log_p, index, smoothing), entropy(log_p)
    promoting, demoting = (weight * cross_entropies).mean(), ((1 - weight) * entropies).mean()
    return _terms(natural, direct=direct, promoting=promoting, demoting=demoting)


def _cross_entropies(log_p: Tensor, index: Tensor, smoothing: float) -> Tensor:
    """Of each prediction, `(N - 1, B)`, from log-probabilities `(N - 1, B, classes)`."""
    plain = -log_p.gather(-1, index)[..., 0]
    return torch.lerp(plain, -log_p.mean(-1), smoothing) if smoothing else plain


def indicator(log_p: Tensor, index: Tensor, kind: str) -> Tensor:
    """W of Eq. 5, `(N - 1, B)`: the probability of y, or 1 where y (in `index`, `(N - 1, B, 1)`) is the argmax."""
    if kind == "soft":
        return log_p.gather(-1, index)[..., 0].exp()
    return (log_p.argmax(-1) == index[..., 0]).to(log_p.dtype)


def pair_terms(clean: Tensor, attacked: Tensor | None, labels: Tensor, smoothing: float = 0.0) -> LossTerms:
    """Terms of NAT (`attacked` None) and ADV-EN: clean and adversarial cross-entropy of one member."""
    natural = F.cross_entropy(clean, labels, label_smoothing=smoothing)
    if attacked is None:
        return _terms(natural)
    return _terms(natural, direct=F.cross_entropy(attacked, labels, label_smoothing=smoothing))


def adp_terms(clean: Tensor, attacked: Tensor, labels: Tensor, smoothing: float = 0.0) -> LossTerms:
    """Terms of ADP with adversarial training (Pang et al. 2019, arXiv 1901.08846, Eq. 5 and section 4.4).

    ADV-EN's cross-entropies, and on x and on x_a alike the entropy of f_en and log ED.

    Args:
        clean: all members' logits on x, `(N, B, classes)`.
        attacked: the same on x_a, which attacks f_en.
        labels: `(B,)`.
        smoothing: see `loss_terms`.
    """
    natural, direct = (_summed_cross_entropy(logits, labels, smoothing) for logits in (clean, attacked))
    entropies = [entropy(log_mean_probability(logits)).mean() for logits in (clean, attacked)]
    diversities = [log_ensemble_diversity(logits, labels).mean() for logits in (clean, attacked)]
    return _terms(natural, direct=direct, ensemble_entropy=sum(entropies), log_diversity=sum(diversities))


def _summed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Sum over members of the batch means, of `(N, B, classes)`."""
    repeated = labels.repeat(len(logits))
    return F.cross_entropy(logits.flatten(0, 1), repeated, label_smoothing=smoothing) * len(logits)


def log_ensemble_diversity(logits: Tensor, labels: Tensor) -> Tensor:
    """Log ED = log det(M^T M + offset I) of each example, `(B,)` (arXiv 1901.08846, Eqs. 2-3).

    Column n of M is member n's softmax without the true label's entry, scaled to length 1, so that ED is the
    squared volume that the members span: 1 where they are perpendicular, 0 where two agree.

    Args:
        logits: of all members, `(N, B, classes)`.
        labels: `(B,)`.
    """
    n, count, classes = logits.shape
    others = torch.arange(classes - 1, device=logits.device).expand(count, -1)
    others = others + (others >= labels[:, None])  # (B, classes - 1): every class but the true one
    rest = logits.gather(-1, others.expand(n, -1, -1)).transpose(0, 1)  # (B, N, classes - 1)
    # A softmax over the rest differs from the true entries by a factor, which the length takes out again.
    columns = F.normalize(F.softmax(rest, dim=-1), dim=-1)
    gram = columns @ columns.transpose(1, 2)
    offset = DIVERSITY_OFFSET * torch.eye(n, dtype=gram.dtype, device=gram.device)
    return torch.linalg.slogdet(gram + offset).logabsdet
