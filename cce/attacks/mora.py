"""MORA (Yu, Gao and Xu 2022, arXiv 2211.08008): attack the members that still decide.

A sure member's softmax has no gradient, so the mean of probabilities hides which member to move. MORA
climbs the cross-entropy of a mixture of two sets of logits: the ensemble's, log f_en scaled to a margin
of 10, and the members', weighted by how much each would move the ensemble's margin. The weight is taken
from softened probabilities and is zero for members that are already wrong. Five mixtures are tried in
turn; an image rests once one of them has fooled the judge.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cce.attacks.apgd import MOMENTUM
from cce.attacks.ascent import ascend
from cce.attacks.task import Task
from cce.models import log_mean_probability

MIXTURES = (0.5, 0.0, 0.25, 0.75, 1.0)
"""Shares of the members' logits, in the authors' order."""

SOFTENING = 0.2
"""Factor on logits before the softmax that weights are taken from."""

MARGIN = 10.0
"""Largest margin of logits that is climbed: beyond it float32's cross-entropy has no gradient."""


def run(task: Task) -> Tensor:
    """MORA with `config.steps` steps for each mixture."""
    return task.until_fooled([lambda part, share=share: _climb(part, share) for share in MIXTURES])


def _climb(task: Task, share: float) -> Tensor:
    """Steps from 2 epsilon down to nothing along a cosine, with APGD's momentum; images rest once fooled."""
    epsilon, steps = task.config.epsilon, task.config.steps
    result, rows = task.x.clone(), torch.arange(len(task.x), device=task.x.device)
    part, x = task, task.random_start()
    old = x
    for i in range(steps + 1):
        fooled = part.fooled(x)
        result[rows] = x
        rows, part, x, old = rows[~fooled], part.only(~fooled), x[~fooled], old[~fooled]
        if i == steps or not len(rows):
            break
        project = part.project()
        target = ascend(
            lambda z, part=part: mixed_loss(part.model.member_logits(z), part.labels, share),
            x,
            step_size=epsilon * (1 + math.cos(math.pi * i / steps)),
            steps=1,
            direction=torch.sign,
            project=project,
        )
        along = MOMENTUM if i else 1.0
        x, old = project(x + along * (target - x) + (1 - along) * (x - old)), x
    return result


def mixed_loss(member_logits: Tensor, labels: Tensor, share: float) -> Tensor:
    """C of `(1 - share)` of the ensemble's scaled log f_en and `share` of the members' weighted logits, `(B,)`."""
    log_f = log_mean_probability(member_logits)
    ensemble = log_f * (MARGIN / margin_of(log_f.detach()).clamp_min(1e-6))
    largest = margin_of(member_logits.detach()).amax(0)  # (B, 1)
    members = member_logits * (MARGIN / largest.clamp_min(MARGIN))
    weights = member_weights(member_logits.detach(), labels)[..., None]
    weighted = (weights * members).sum(0) / weights.sum(0).clamp_min(1e-8)
    return F.cross_entropy((1 - share) * ensemble + share * weighted, labels, reduction="none")


def member_weights(member_logits: Tensor, labels: Tensor) -> Tensor:
    """How much each member's margin moves that of log f_en, `(N, B)`, from logits `(N, B, classes)`.

    With q the member's and f the ensemble's softened probabilities, y the label and t the likeliest wrong
    class: d(log f_t - log f_y) / d z_t = q_t (q_y / f_y + (1 - q_t) / f_t), up to 1 / N.
    """
    q = (SOFTENING * member_logits).softmax(-1)
    f = q.mean(0)
    right = labels[:, None]
    wrong = log_mean_probability(member_logits).scatter(1, right, -float("inf")).argmax(1, keepdim=True)
    q_y, q_t = (q.gather(2, index.expand(len(q), -1, -1))[..., 0] for index in (right, wrong))
    weights = q_t * (q_y / f.gather(1, right)[:, 0] + (1 - q_t) / f.gather(1, wrong)[:, 0])
    standing = member_logits.argmax(-1) == labels
    return weights * torch.where(standing.any(0), standing, True)


def margin_of(logits: Tensor) -> Tensor:
    """The highest logit minus the second, `(..., 1)`."""
    top = logits.topk(2, dim=-1).values
    return top[..., :1] - top[..., 1:]
