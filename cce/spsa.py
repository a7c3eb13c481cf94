"""SPSA (Uesato et al. 2018, arXiv 1802.05666): gradients estimated from outputs at random points nearby.

The constants are cleverhans' defaults, which the paper used: 128 outputs a step, points one hundredth
away, Adam at 0.01, the margin as the loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cce.attack_task import Task
from cce.models import log_mean_probability

SAMPLES = 128
"""Outputs that one step looks at: 64 points and their mirror images."""

NEARBY = 0.01
"""How far each pixel of those points is, pixel units."""

LEARNING_RATE = 0.01
"""Of Adam, pixel units."""


def run(task: Task) -> Tensor:
    """SPSA, image by image: each step is a batch of its own. An image rests once it fools the judge."""
    found = []
    for i in range(len(task.x)):
        found.append(_one(task.only(torch.tensor([i]))))
        task.tick((i + 1) / len(task.x))
    return torch.cat(found)


@torch.no_grad()
def _one(task: Task) -> Tensor:
    """`(1, C, H, W)` from `config.steps` steps on one image."""
    first, second = torch.zeros_like(task.x), torch.zeros_like(task.x)
    project, x = task.project(), task.random_start()
    for i in range(task.config.steps):
        if bool(task.fooled(x)):
            break
        signs = task.draw("signs", SAMPLES // 2, *task.x.shape[1:])[0]
        signs = torch.cat([signs, -signs])
        loss = margin(task, x + NEARBY * signs)
        gradient = (loss[:, None, None, None] * signs).mean(0, keepdim=True) / NEARBY
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        unbiased, scale = first / (1 - 0.9 ** (i + 1)), (second / (1 - 0.999 ** (i + 1))).sqrt()
        x = project(x + LEARNING_RATE * unbiased / (scale + 1e-8))
    return x


def margin(task: Task, x: Tensor) -> Tensor:
    """What is climbed at the points `x` near one image, `(B,)`: the highest wrong logit minus the right one's.

    Towards a class: its logit minus the highest other. Logits are log f_en's; `config.objective` and
    `config.target` choose others as everywhere.
    """
    c = task.config
    wanted = task.labels[0] if c.toward is None else torch.tensor(c.toward, device=x.device)
    sign = 1 if c.toward is None else -1
    if c.target_member is not None:
        logits = task.model.members[c.target_member](x).float()[None]
    else:
        logits = task.model.member_logits(x)
        if c.objective == "probabilities":
            logits = log_mean_probability(logits)[None]
        elif c.objective == "logits":
            logits = logits.mean(0, keepdim=True)
    mine = F.one_hot(wanted, logits.shape[-1]).bool()
    gaps = logits.masked_fill(mine, -float("inf")).amax(-1) - logits[..., wanted]  # (N or 1, B)
    return sign * (gaps.amin(0) if c.objective == "best member" else gaps.amax(0))
