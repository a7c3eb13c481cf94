"""The ensemble: members and their mean probability."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cce.config import ModelConfig
from cce.models.members import build_member


class Ensemble(nn.Module):
    """N members and their mean: f_en = (1/N) sum_n softmax(logits_n).

    `forward` returns **log f_en**, which is its own log-softmax: a library that expects logits
    attacks the right function, with no second softmax.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(build_member(config) for _ in range(config.members))

    def member_logits(self, x: Tensor) -> Tensor:
        """Logits of every member, `(N, B, classes)` float32, for `x` `(B, C, H, W)` in [0, 1]."""
        return torch.stack([member(x).float() for member in self.members])

    def forward(self, x: Tensor) -> Tensor:
        """Log f_en(x), `(B, classes)`."""
        return log_mean_probability(self.member_logits(x))


def log_mean_probability(member_logits: Tensor) -> Tensor:
    """Log of the members' mean softmax: `(N, B, classes)` logits to `(B, classes)`.

    >>> log_mean_probability(torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]])).exp()
    tensor([[0.5000, 0.5000]])
    """
    n = member_logits.shape[0]
    return torch.logsumexp(F.log_softmax(member_logits, dim=-1), dim=0) - math.log(n)


def entropy(log_probability: Tensor) -> Tensor:
    """Shannon entropy in nats over the last dimension, of log-probabilities."""
    finite = log_probability.clamp_min(torch.finfo(log_probability.dtype).min)  # 0 * -inf would be NaN
    return -(log_probability.exp() * finite).sum(-1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode, parameters without gradient; both come back as they were."""
    modes = [(m, m.training) for m in model.modules()]
    needs = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, need in needs:
            parameter.requires_grad_(need)
