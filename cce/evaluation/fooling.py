"""Fooling: which images an attack's search fooled at any of its steps, judged in float32, and dropping them.

An attack is run on a `WatchedEnsemble`, which stands in for the ensemble that examples are searched on
and sees every point that the attack asks about: its own forward passes tell who may be fooled, so that
watching costs no pass but the float32 one that confirms it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cce.attacks.gradient import attack
from cce.config import AttackConfig
from cce.evaluation.outcomes import Outcome, outcome
from cce.models import Ensemble, log_mean_probability

STEPWISE = ("fgsm", "pgd", "bim", "mim")
"""Attacks that ask about one point an image and step, all images of the batch at once, and where no image
depends on another: only these can be watched, and images be left out of them."""


class WatchedEnsemble(Ensemble):
    """Stands in for `search` in an attack on `x`; notes the first fooling point of each image.

    A point fools where `search` gives it a wrong label, it lies in the ball, and `judge`, in float32,
    finds it wrong too; an image that `search` alone takes for fooled goes on.

    Args:
        search: the copy that examples are searched on.
        judge: the ensemble itself, whose float32 verdict counts.
        x: the images `(B, C, H, W)` float32 in [0, 1].
        labels: true labels `(B,)`.
        config: the attack; its ball.
        fooled: where an image counts as fooled already, `(B,)`; its point is `x`.
        tick: called after each forward pass with their number.
    """

    def __init__(
        self,
        search: Ensemble,
        judge: Ensemble,
        x: Tensor,
        labels: Tensor,
        config: AttackConfig,
        *,
        fooled: Tensor | None = None,
        tick: Callable[[int], None] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.config, self.members = search.config, search.members
        self.right = lambda points, y: outcome(judge, points, y).right
        self.x, self.labels, self.attack, self.tick = x, labels, config, tick
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device) if fooled is None else fooled.clone()
        self.points = x.clone()
        self.passes = 0

    def member_logits(self, z: Tensor) -> Tensor:
        """`search`'s logits `(N, B, classes)`."""
        self.passes += 1
        if self.tick:
            self.tick(self.passes)
        logits = super().member_logits(z)
        if len(z) == len(self.x):  # else a part of the batch, and which part is not known
            self._note(z.detach(), logits.detach())
        return logits

    @torch.no_grad()
    def _note(self, points: Tensor, logits: Tensor) -> None:
        """Take down who is fooled first at `points`."""
        rows = ((log_mean_probability(logits).argmax(-1) != self.labels) & ~self.fooled).nonzero().flatten()
        if not len(rows):
            return
        points = points[rows]
        confirmed = ~self.right(points, self.labels[rows]) & inside_ball(points, self.x[rows], self.attack)
        self.fooled[rows[confirmed]] = True
        self.points[rows[confirmed]] = points[confirmed]


def inside_ball(points: Tensor, x: Tensor, config: AttackConfig) -> Tensor:
    """Where a point is in [0, 1] and in the attack's ball around its image, `(B,)`, but for rounding."""
    change = (points - x).flatten(1)
    reach = change.norm(dim=1) if config.norm == "l2" else change.abs().amax(1)
    return (reach <= config.epsilon + 1e-5) & (points.flatten(1).amin(1) >= 0) & (points.flatten(1).amax(1) <= 1)


@dataclass(frozen=True)
class Attacked:
    """What an attack made of B images.

    `examples` `(B, C, H, W)`: the attack's result, or with dropping the first point that fooled;
    `outcome`: the float32 verdict on them; `fooled` `(B,)`: wrong without an attack, at any step, or in the end.
    """

    examples: Tensor
    outcome: Outcome
    fooled: Tensor


def run_attack(
    judge: Ensemble,
    search: Ensemble,
    x: Tensor,
    labels: Tensor,
    config: AttackConfig,
    *,
    wrong: Tensor | None = None,
    drop: bool = False,
    watch: bool = True,
    threshold: float | None = None,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    tick: Callable[[float], None] | None = None,
) -> Attacked:
    """Attack `search`, judge in float32 by `judge`: at every step where the attack can be watched, else its result.

    Args:
        judge: the ensemble.
        search: what examples are searched on: `judge`, or a `SearchCopy` of it.
        x: `(B, C, H, W)` float32 in [0, 1].
        labels: true labels `(B,)`.
        config: the attack.
        wrong: where the ensemble is wrong on `x` itself, `(B,)`: these count as fooled.
        drop: leave an image out as soon as it is fooled. `fooled` comes out the same; the examples do
            not, and are no base for a detection figure.
        watch: judge steps; off where `search` is not a copy of `judge`.
        threshold: of the detector, nats; for attacks that know it.
        seed: of everything random.
        numbers: the images' numbers in the whole set, which their random numbers depend on.
        tick: called with the fraction done.
    """
    wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device) if wrong is None else wrong
    tick = tick or (lambda fraction: None)
    numbers = range(len(x)) if numbers is None else numbers
    given = {"seed": seed, "batch_size": max(1, len(x)), "judge": judge, "threshold": threshold}

    def progress(done: int, total: int) -> None:
        tick(done / max(1, total))

    if not (watch and stepwise(config)):
        examples = attack(search, x, labels, config, progress=progress, numbers=numbers, **given)
        return judged(judge, examples, labels, wrong)
    if drop and config.toward is None:  # an attack towards a class rests at that class alone, not at any wrong one
        examples, left = x.clone(), (~wrong).nonzero().flatten()
        mine = [numbers[i] for i in left.tolist()]
        examples[left] = attack(
            search, x[left], labels[left], config, early=True, progress=progress, numbers=mine, **given
        )
        return judged(judge, examples, labels, wrong)

    def passed(done: int) -> None:
        tick(min(1.0, done / config.steps))

    watched = WatchedEnsemble(search, judge, x, labels, config, fooled=wrong, tick=passed)
    examples = attack(watched, x, labels, config, numbers=numbers, **given)
    if drop:
        examples = torch.where(watched.fooled[:, None, None, None], watched.points, examples)
    return judged(judge, examples, labels, watched.fooled)


def judged(judge: Ensemble, examples: Tensor, labels: Tensor, fooled: Tensor) -> Attacked:
    """`examples` with the float32 verdict on them; `fooled` `(B,)`: who is fooled whatever that says."""
    seen = outcome(judge, examples, labels)
    return Attacked(examples, seen, fooled | ~seen.right)


def stepwise(config: AttackConfig) -> bool:
    """Whether every step of the attack can be watched, and fooled images be left out of it."""
    return config.name in STEPWISE and config.target == "ensemble" and config.restarts == 1
