"""Attacks that know the detector: wrong, and with an entropy that is not flagged.

All members driven to agree on one wrong class, with a value a pixel or smoothly; PGD on the loss and
the entropy at once; orthogonal PGD. Of an image's candidates each keeps the misclassified one of
lowest entropy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cce.attacks.ascent import agreement_on, ascend, linf_ball, loss_of, wrong_margin
from cce.attacks.task import Task, check_batch
from cce.models import Ensemble, entropy, evaluating

WRONG_FIRST = 1e3
"""Added to the entropy of an example that is not misclassified: above any entropy."""

AWARE_TARGETS, WEIGHTS = 3, 3
"""Wrong classes that `aware-pgd` drives an image to, and weights it tries for each."""

BELOW = 0.9
"""Part of the threshold that the entropy is brought under: a float32 verdict on a bfloat16 search needs room."""


FACTOR = 1.4
"""Step of the logarithm of that weight while it is not bracketed: a factor of 4."""

CROSSED = 0.05
"""Margin of logits beyond which `opgd` turns to the entropy: the authors'."""


def run(task: Task) -> Tensor:
    """`agree`, `smooth-16`, `smooth-8`, `smooth-4`, `aware-pgd` or `opgd`."""
    if task.config.name == "aware-pgd":
        return aware_pgd(task)
    if task.config.name == "opgd":
        return orthogonal_pgd(task)
    grid = task.config.info.grid
    return agreeing_attack(
        task.model,
        task.x,
        labels=task.labels,
        epsilon=task.config.epsilon,
        steps=task.config.steps,
        grid=None if grid is None else min(grid, *task.x.shape[2:]),
        judge=task.judge,
        progress=lambda done, total: task.tick(done / total),
    )


class Best:
    """The best example of each image so far: misclassified, and of the lowest entropy."""

    def __init__(self, x: Tensor, labels: Tensor) -> None:
        self.labels = labels
        self.x, self.score = x.clone(), torch.full((len(x),), float("inf"), device=x.device)

    @torch.no_grad()
    def see(self, x: Tensor, log_p: Tensor) -> None:
        """Compare with examples `(B, C, H, W)` of which the model says `log_p` `(B, classes)`."""
        wrong = log_p.argmax(1) != self.labels
        score = entropy(log_p) + torch.where(wrong, 0.0, WRONG_FIRST)
        better = score < self.score
        self.x = torch.where(better[:, None, None, None], x, self.x)
        self.score = torch.where(better, score, self.score)


def smooth_perturbation(x: Tensor, epsilon: float) -> Callable[[Tensor], Tensor]:
    """The map from a coarse grid z `(B, C, g, g)` in [-epsilon, epsilon] to a picture near `x`.

    z is upsampled bilinearly and added: a smooth perturbation inside the same L-infinity ball, since
    bilinear weights average.
    """
    size = x.shape[-2:]
    return lambda z: (x + F.interpolate(z, size=size, mode="bilinear", align_corners=False)).clamp(0, 1)


def agreeing_attack(
    model: Ensemble,
    x: Tensor,
    *,
    labels: Tensor,
    epsilon: float,
    steps: int = 50,
    grid: int | None = None,
    targets: int = 3,
    progress: Callable[[int, int], None] | None = None,
    judge: Ensemble | None = None,
) -> Tensor:
    """The attacker who knows the detector: all members driven to agree on one wrong class.

    Minimizes sum_n C(f^n(x'), t) for each of the `targets` likeliest wrong classes t: agreement means
    low entropy, which is what entropy detection trusts. Of an image's results it keeps the
    misclassified one of lowest entropy, else the one of lowest entropy.

    Args:
        model: the ensemble.
        x: `(B, C, H, W)` float32 in [0, 1].
        labels: true labels `(B,)`.
        epsilon: radius of the L-infinity ball, pixel units.
        steps: sign-gradient steps; size 5 epsilon / steps in the first half, a quarter of it in the second.
        grid: side of the coarse grid of a smooth perturbation (see `smooth_perturbation`), or None
            for one value a pixel.
        targets: how many wrong classes are tried.
        progress: called as `progress(done, total)` after each class.
        judge: the float32 model that chooses among an image's results, where `model` is a fast copy of it.

    Returns:
        `(B, C, H, W)` inside the ball and [0, 1].
    """
    check_batch(model, x, labels)
    judge = model if judge is None else judge
    best = Best(x, labels)
    with evaluating(model), evaluating(judge):
        with torch.no_grad():
            ranked = model(x).scatter(1, labels[:, None], -float("inf")).argsort(1, descending=True)
        tried = min(targets, model.config.classes - 1)
        for rank in range(tried):
            candidate = _agree_on(model, x, ranked[:, rank], epsilon, steps, grid)
            with torch.no_grad():
                best.see(candidate, judge(candidate))
            if progress:
                progress(rank + 1, tried)
    return best.x


def _agree_on(model: Ensemble, x: Tensor, target: Tensor, epsilon: float, steps: int, grid: int | None) -> Tensor:
    """`x` moved so that every member says `target`."""
    if grid is None:
        picture, start, project = (lambda z: z), x, linf_ball(x, epsilon)
    else:
        picture = smooth_perturbation(x, epsilon)
        start = x.new_zeros((len(x), x.shape[1], grid, grid))
        project = lambda z: z.clamp(-epsilon, epsilon)  # noqa: E731

    agreement = agreement_on(model, target)

    def objective(z: Tensor) -> Tensor:
        return agreement(picture(z))

    size = 2.5 * epsilon / steps
    z = ascend(objective, start, step_size=2 * size, steps=steps // 2, direction=torch.sign, project=project)
    z = ascend(objective, z, step_size=size / 2, steps=steps - steps // 2, direction=torch.sign, project=project)
    return picture(z).detach()


def aware_pgd(task: Task) -> Tensor:
    """PGD on the loss and the detector at once, the detector's weight searched for each image and target.

    For each of the three likeliest wrong classes t it climbs -C(f_en(x'), t) - w max(0, H(f_en(x')) - h),
    h nine tenths of the threshold (zero without one): a target drives one class up, where climbing
    C(f_en(x'), y) only drives y down and ends in a flat, flagged output. A weight w whose run ends
    misclassified is raised, one whose run does not is lowered, by bisection once there are both, as Carlini
    and Wagner search for their constant (2017, arXiv 1608.04644). The second half of the steps is a quarter as long.
    """
    floor = 0.0 if task.threshold is None else BELOW * task.threshold
    chosen = Best(task.x, task.labels)
    ranked = task.ranked_wrong()[:, :AWARE_TARGETS]
    for i, target in enumerate(ranked.T):
        log_weight = torch.zeros_like(chosen.score)
        low, high = log_weight - float("inf"), log_weight + float("inf")
        for j in range(WEIGHTS):
            best = Best(task.x, task.labels)
            last = _climb_aware(task, target, log_weight.exp(), floor, best)
            with torch.no_grad():
                chosen.see(best.x, task.judge(best.x))
                wrong = task.judge(last).argmax(1) != task.labels
            low, high = torch.where(wrong, log_weight, low), torch.where(wrong, high, log_weight)
            outside = torch.where(wrong, low + FACTOR, high - FACTOR)
            log_weight = torch.where(low.isinf() | high.isinf(), outside, (low + high) / 2)
            task.tick((i * WEIGHTS + j + 1) / (WEIGHTS * ranked.shape[1]))
    return chosen.x


def _climb_aware(task: Task, target: Tensor, weight: Tensor, floor: float, best: Best) -> Tensor:
    """One run of `aware_pgd`; returns its last iterate and shows `best` every one."""
    loss = loss_of(task.model, task.labels, toward=target)

    def objective(x: Tensor) -> Tensor:
        climbed, log_p = loss(x), loss.log_p
        assert log_p is not None
        best.see(x.detach(), log_p.detach())
        return climbed - weight * (entropy(log_p) - floor).clamp_min(0)

    x, half = task.x, task.config.steps // 2
    for steps, part in ((half, 1.0), (task.config.steps - half, 0.25)):
        x = ascend(
            objective,
            x,
            step_size=part * task.config.step_size,
            steps=steps,
            direction=torch.sign,
            project=task.project(),
        )
    with torch.no_grad():
        best.see(x, task.model(x))
    return x


def orthogonal_pgd(task: Task) -> Tensor:
    """Orthogonal PGD (Bryniarski et al. 2021, arXiv 2106.15023), its selective variant's choice and projection.

    While an image is not misclassified by a margin, the step climbs the loss along the part of its gradient
    that is orthogonal to the entropy's; once it is, the step lowers the entropy along the part orthogonal to
    the loss's gradient.
    """
    c, best, project = task.config, Best(task.x, task.labels), task.project()
    x = task.x
    for i in range(c.steps):
        x = x.detach().requires_grad_(True)
        with torch.enable_grad():
            loss = task.objective()
            climbed = loss(x).sum()
            unflagged = -entropy(loss.log_p).sum()
        (up,) = torch.autograd.grad(climbed, x, retain_graph=True)
        (down,) = torch.autograd.grad(unflagged, x)
        log_p = loss.log_p.detach()
        best.see(x.detach(), log_p)
        crossed = wrong_margin(log_p, task.labels) > CROSSED
        along = torch.where(crossed[:, None, None, None], without(down, up), without(up, down))
        x = project(x.detach() + c.step_size * along.sign())
        task.tick((i + 1) / c.steps)
    with torch.no_grad():
        best.see(x, task.model(x))
    return best.x


def without(vector: Tensor, other: Tensor) -> Tensor:
    """`vector` minus its projection on `other`, for each image; `vector` itself where the two are parallel."""
    length, across = vector.square().sum((1, 2, 3), keepdim=True), other.square().sum((1, 2, 3), keepdim=True)
    rest = vector - other * (vector * other).sum((1, 2, 3), keepdim=True) / across.clamp_min(1e-20)
    return torch.where(rest.square().sum((1, 2, 3), keepdim=True) > 1e-6 * length, rest, vector)
