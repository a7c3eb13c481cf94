"""SPSA (Uesato et al. 2018, arXiv 1802.05666): gradients estimated from outputs at random points nearby.

The constants are cleverhans' defaults, which the paper used: 128 outputs a step, points one hundredth
away, Adam at 0.01, the margin as the loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cce.attacks.task import Task
from cce.models import log_mean_probability

SAMPLES = 128
"""Outputs that one step looks at: 64 points and their mirror images."""

NEARBY = 0.01
"""How far each pixel of those points is, pixel units."""

LEARNING_RATE = 0.01
"""Of Adam, pixel units."""


def at_once(device: torch.device) -> int:
    """How many images are taken at a time: a CPU core is busy with one."""
    return 1 if device.type == "cpu" else 32


def run(task: Task) -> Tensor:
    """SPSA, a few images at a time. An image rests once it fools the judge."""
    found = []
    for part in torch.arange(len(task.x)).split(at_once(task.x.device)):
        found.append(_some(task.only(part)))
        task.tick((int(part[-1]) + 1) / len(task.x))
    return torch.cat(found)


@torch.no_grad()
def _some(task: Task) -> Tensor:
    """`(B, C, H, W)` from `config.steps` steps on each image."""
    found = task.random_start()
    first, second = torch.zeros_like(task.x), torch.zeros_like(task.x)
    left = torch.arange(len(task.x), device=task.x.device)
    for i in range(task.config.steps):
        stands = ~task.only(left).fooled(found[left])
        left, first, second = left[stands], first[stands], second[stands]
        if not len(left):
            break
        here, x = task.only(left), found[left]
        signs = here.draw("signs", SAMPLES // 2, *x.shape[1:])
        signs = torch.cat([signs, -signs], 1)
        loss = margin(here, (x[:, None] + NEARBY * signs).flatten(0, 1)).view(len(left), SAMPLES)
        gradient = (loss[:, :, None, None, None] * signs).mean(1) / NEARBY
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        unbiased, scale = first / (1 - 0.9 ** (i + 1)), (second / (1 - 0.999 ** (i + 1))).sqrt()
        found[left] = here.project()(x + LEARNING_RATE * unbiased / (scale + 1e-8))
    return found


def margin(task: Task, x: Tensor) -> Tensor:
    """What is climbed at the points `x`, as many near each image in turn, one number a point.

    The highest wrong logit minus the right one's; towards a class its logit minus the highest other. Logits are
    log f_en's; `config.objective` and `config.target` choose others as everywhere.
    """
    c = task.config
    wanted = task.labels if c.toward is None else torch.full_like(task.labels, c.toward)
    wanted = wanted.repeat_interleave(len(x) // len(wanted))
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
    right = logits.gather(-1, wanted[None, :, None].expand(len(logits), -1, -1))[..., 0]
    gaps = logits.masked_fill(mine, -float("inf")).amax(-1) - right  # (N or 1, points)
    return sign * (gaps.amin(0) if c.objective == "best member" else gaps.amax(0))
