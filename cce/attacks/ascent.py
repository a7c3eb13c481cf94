"""Ascent: the projected-ascent loop that gradient attacks share, its balls, directions and objectives.

The loop takes the objective to climb, a start, a direction and a projection. Gradients are taken with
respect to the input only. Images are `(B, C, H, W)` float32 in [0, 1]; epsilon and step_size are in
pixel units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cce.models import Ensemble, log_mean_probability

Objective = Callable[[Tensor], Tensor]  # x (B, C, H, W) -> loss of each example (B,)
Direction = Callable[[Tensor], Tensor]  # gradient (B, C, H, W) -> direction to step along
Projection = Callable[[Tensor], Tensor]  # puts points back into the allowed set
Watcher = Callable[[int, Tensor], None]  # step from 0, x_adv after that step


def ascend(
    objective: Objective,
    start: Tensor,
    *,
    step_size: float | Tensor,
    steps: int,
    direction: Direction,
    project: Projection,
    watch: Watcher | None = None,
) -> Tensor:
    """Projected ascent: `x <- project(x + step_size * direction(grad objective(x)))`, `steps` times.

    Args:
        objective: loss of each example `(B,)`, climbed; examples must not depend on one another.
        start: where to begin, `(B, C, H, W)`.
        step_size: length of a step, pixel units.
        steps: number of steps.
        direction: makes a step's direction from the gradient; may keep state (momentum).
        project: puts points back into the allowed set.
        watch: called as `watch(i, x)`: with the start as i = 0, then after each step.

    Returns:
        The last iterate, detached.
    """
    x = start.detach()
    if watch:
        watch(0, x)
    for i in range(steps):
        x.requires_grad_(True)
        with torch.enable_grad():
            loss = objective(x).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            x = project(x.detach() + step_size * direction(gradient))
        if watch:
            watch(i + 1, x)
    return x


def linf_ball(center: Tensor, epsilon: float | Tensor) -> Projection:
    """Projection on the L-infinity ball of radius `epsilon` around `center`, within [0, 1]."""
    low, high = (center - epsilon).clamp(0, 1), (center + epsilon).clamp(0, 1)
    return lambda x: torch.minimum(torch.maximum(x, low), high)


def l2_ball(center: Tensor, epsilon: float) -> Projection:
    """Into the L2 ball of radius `epsilon` around `center`, and [0, 1].

    Scaling comes first: cutting to [0, 1] only shortens what is left of a perturbation of a picture.
    """

    def project(x: Tensor) -> Tensor:
        delta = x - center
        scale = (epsilon / l2_norm(delta).clamp_min(1e-12)).clamp(max=1)
        return (center + delta * scale).clamp(0, 1)

    return project


def ball(center: Tensor, epsilon: float, norm: str) -> Projection:
    """The projection on the ball of `norm`, `linf` or `l2`, within [0, 1]."""
    return (linf_ball if norm == "linf" else l2_ball)(center, epsilon)


def l2_norm(x: Tensor) -> Tensor:
    """L2 norm of each picture, `(B, 1, 1, 1)`."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)


def size_of(delta: Tensor, norm: str) -> Tensor:
    """Size of each perturbation `(B, C, H, W)` in `norm`, `(B,)`, pixel units."""
    return delta.abs().amax((1, 2, 3)) if norm == "linf" else l2_norm(delta).flatten()


def steepest(norm: str) -> Direction:
    """The direction of length one in `norm` along which the loss rises fastest: the sign, or the unit gradient."""
    return torch.sign if norm == "linf" else lambda gradient: gradient / l2_norm(gradient).clamp_min(1e-12)


class Momentum:
    """MIM's direction: along the decayed sum of L1-normalized gradients (Dong et al. 2018, arXiv 1710.06081)."""

    def __init__(self, decay: float, norm: str = "linf") -> None:
        self.decay, self.along = decay, steepest(norm)
        self.velocity: Tensor | float = 0.0

    def __call__(self, gradient: Tensor) -> Tensor:
        """The direction after one more gradient `(B, C, H, W)`."""
        scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        self.velocity = self.decay * self.velocity + gradient / scale
        return self.along(self.velocity)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the examples only."""
        if isinstance(self.velocity, Tensor):
            self.velocity = self.velocity[rows]


def momentum(decay: float, norm: str = "linf") -> Momentum:
    """MIM's direction, at rest."""
    return Momentum(decay, norm)


def uniform_start(x: Tensor, epsilon: float, generator: torch.Generator | None = None) -> Tensor:
    """`x` plus uniform noise in [-epsilon, epsilon], clipped to [0, 1]."""
    noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return (x + epsilon * (2 * noise - 1)).clamp(0, 1)


class Loss:
    """What an attack climbs: C(f_en(x), y), or another of `AttackConfig`'s objectives.

    `log_p` is log f_en at the last call, `(B, classes)`, still differentiable, and `said` its label, `(B,)`;
    None where one member is attacked. `toward` may give each image its own class, `(B,)`.
    """

    def __init__(
        self,
        model: Ensemble,
        labels: Tensor,
        member: int | None = None,
        objective: str = "probabilities",
        toward: int | Tensor | None = None,
    ) -> None:
        self.model, self.member, self.objective = model, member, objective
        self.sign = 1 if toward is None else -1
        self.wanted = labels if toward is None else torch.zeros_like(labels) + toward
        self.log_p: Tensor | None = None

    @property
    def said(self) -> Tensor | None:
        """The ensemble's label of each image at the last call."""
        return None if self.log_p is None else self.log_p.detach().argmax(1)

    def __call__(self, x: Tensor) -> Tensor:
        """The loss of each example, `(B,)`."""
        if self.member is not None:
            logits = self.model.members[self.member](x).float()
            return self.sign * F.cross_entropy(logits, self.wanted, reduction="none")
        if self.objective == "probabilities":
            self.log_p = self.model(x)
            return self.sign * F.nll_loss(self.log_p, self.wanted, reduction="none")
        logits = self.model.member_logits(x)
        self.log_p = log_mean_probability(logits)
        if self.objective == "logits":
            return self.sign * F.cross_entropy(logits.mean(0), self.wanted, reduction="none")
        each = member_losses(logits, self.wanted)
        chosen = each.amax(0) if self.objective == "worst member" else each.amin(0)
        return self.sign * chosen


def loss_of(
    model: Ensemble,
    labels: Tensor,
    member: int | None = None,
    objective: str = "probabilities",
    toward: int | Tensor | None = None,
) -> Loss:
    """The objective of an attack.

    Args:
        model: the ensemble.
        labels: true labels `(B,)`.
        member: index of the one member to attack, C(f^member(x), y); None for the ensemble.
        objective: `probabilities`, C of the mean softmax; `logits`, C of the mean logits;
            `worst member` and `best member`, max_n and min_n C(f^n(x), y).
        toward: the class t to be predicted, one or `(B,)`; -C(., t) is climbed in the place of C(., y).
    """
    return Loss(model, labels, member, objective, toward)


def agreement_on(model: Ensemble, target: Tensor) -> Objective:
    """-sum_n C(f^n(x), t), `(B,)`: climbing it makes all members predict `target` `(B,)` and lowers the entropy."""
    return lambda x: -member_losses(model.member_logits(x), target).sum(0)


def wrong_margin(log_p: Tensor, labels: Tensor) -> Tensor:
    """The highest wrong class's log-probability minus the right one's, `(B,)`."""
    right = log_p.gather(1, labels[:, None])
    return (log_p.scatter(1, labels[:, None], -float("inf")).amax(1, keepdim=True) - right)[:, 0]


def member_losses(member_logits: Tensor, labels: Tensor) -> Tensor:
    """C(f^n(x), y) of each member, `(N, B)`, from logits `(N, B, classes)`."""
    n, count, _ = member_logits.shape
    return F.cross_entropy(member_logits.flatten(0, 1), labels.repeat(n), reduction="none").view(n, count)


def pgd_sign(objective: Objective, x: Tensor, start: Tensor, *, epsilon: float, step_size: float, steps: int) -> Tensor:
    """Sign-gradient PGD (Madry et al. 2018, arXiv 1706.06083) around `x` from `start`: training's attack."""
    return ascend(
        objective,
        start,
        step_size=step_size,
        steps=steps,
        direction=torch.sign,
        project=linf_ball(x, epsilon),
    )
