"""One batch to attack: images, labels, settings, and each image's own random numbers.

What an image becomes must not depend on the images beside it, so every random number is drawn from a
generator of that image's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cce.attacks.ascent import Direction, Loss, Projection, Watcher, ball, l2_norm, loss_of, momentum, steepest
from cce.attacks.start_noise import StartNoise
from cce.config import AttackConfig, check
from cce.models import Ensemble


@dataclass(frozen=True)
class Task:
    """What an attack is given.

    `model` is searched for gradients; `judge` says what is fooled. `x` `(B, C, H, W)` in [0, 1],
    `labels` `(B,)`. `generators` are the images' own, on the CPU. `noise` is what PGD's random start is
    drawn from, at the first use. `threshold`: the detector flags above
    this entropy (nats). `early` lets an image rest once it is fooled; `on_grid` judges what a PNG can
    hold of it (see `to_grid`). `tick(fraction)` reports how far
    this batch is.
    """

    model: Ensemble
    judge: Ensemble
    x: Tensor
    labels: Tensor
    config: AttackConfig
    generators: Sequence[torch.Generator]
    noise: StartNoise | None = None
    threshold: float | None = None
    early: bool = False
    on_grid: bool = False
    watch: Watcher | None = None
    tick: Callable[[float], None] = lambda fraction: None

    def only(self, rows: Tensor) -> Task:
        """The task on some of its images; `rows` is `(B,)` bool or indices."""
        index = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        mine = [self.generators[i] for i in index.tolist()]
        noise = None if self.noise is None else self.noise.only(index.tolist())
        return replace(self, x=self.x[index], labels=self.labels[index], generators=mine, noise=noise, watch=None)

    def named(self, name: str, steps: int) -> Task:
        """The same images under another attack of the same ball."""
        config = AttackConfig(name, self.config.epsilon, self.config.step_size, steps, norm=self.config.norm)
        return replace(self, config=config, watch=None, tick=lambda fraction: None)

    def draw(self, kind: str, *shape: int) -> Tensor:
        """`(B, *shape)` on the images' device: `uniform` in [0, 1), `normal`, or `signs` of -1 and 1."""
        rows = []
        for generator in self.generators:
            if kind == "normal":
                rows.append(torch.randn(shape, generator=generator))
            else:
                uniform = torch.rand(shape, generator=generator)
                rows.append(uniform if kind == "uniform" else (uniform < 0.5).float() * 2 - 1)
        return torch.stack(rows).to(self.x) if rows else self.x.new_zeros((0, *shape))

    def random_start(self) -> Tensor:
        """PGD's start: uniform in the ball, within [0, 1]."""
        epsilon = self.config.epsilon
        if self.config.norm == "linf":
            assert self.noise is not None
            return (self.x + epsilon * self.noise.draw(self.x.shape[1:]).to(self.x)).clamp(0, 1)
        normal = self.draw("normal", *self.x.shape[1:])
        radius = self.draw("uniform", 1, 1, 1) ** (1 / max(1, self.x[0].numel()))
        return (self.x + epsilon * radius * normal / l2_norm(normal).clamp_min(1e-12)).clamp(0, 1)

    @torch.no_grad()
    def fooled(self, x_adv: Tensor) -> Tensor:
        """Where the judge says what the attacker wants of `x_adv`, `(B,)` bool."""
        c = self.config
        shown = to_grid(x_adv, self.x, c.epsilon, c.norm) if self.on_grid else x_adv
        return self._wanted(self.judge(shown).argmax(1))

    def _wanted(self, said: Tensor) -> Tensor:
        toward = self.config.toward
        return said != self.labels if toward is None else said == toward

    def confirmed(self, x_adv: Tensor, said: Tensor | None) -> Tensor:
        """`fooled`, asking the judge only where the searched model's own label `said` is wrong, `(B,)` bool."""
        if said is None:
            return self.fooled(x_adv)
        fooled = self._wanted(said)
        if fooled.any() and (self.on_grid or self.judge is not self.model):
            fooled[fooled.clone()] = self.only(fooled).fooled(x_adv[fooled])
        return fooled

    def inside(self, x_adv: Tensor) -> Tensor:
        """Where `x_adv` lies in the ball, to float32's rounding, `(B,)` bool."""
        delta = x_adv - self.x
        size = delta.abs().amax((1, 2, 3)) if self.config.norm == "linf" else l2_norm(delta).flatten()
        return size <= self.config.epsilon * (1 + 1e-6) + 1e-7

    def project(self) -> Projection:
        """The projection on the ball around the images."""
        return ball(self.x, self.config.epsilon, self.config.norm)

    def direction(self) -> Direction:
        """MIM's direction, or the steepest."""
        if self.config.name.endswith("mim"):
            return momentum(self.config.decay, self.config.norm)
        return steepest(self.config.norm)

    def objective(self) -> Loss:
        """What the settings say is climbed."""
        c = self.config
        return loss_of(self.model, self.labels, c.target_member, c.objective, c.toward)

    @torch.no_grad()
    def ranked_wrong(self) -> Tensor:
        """The wrong classes of each image, likeliest first, `(B, classes - 1)`."""
        log_p = self.model(self.x).scatter(1, self.labels[:, None], -float("inf"))
        return log_p.argsort(1, descending=True)[:, :-1]

    def towards_each(self, attempt: Callable[[Task, Tensor], Tensor], count: int) -> Tensor:
        """`attempt(task, targets)` for the `count` likeliest wrong classes; the first result that fools is kept.

        Where few images stand, several classes are tried at once, each an image of its own: a batch of one
        costs nearly as much as one of eight. What comes back is the same as one class after another.
        """
        ranked = self.ranked_wrong()[:, :count]
        result, left, rank = self.x.clone(), torch.arange(len(self.x), device=self.x.device), 0
        while rank < ranked.shape[1] and len(left):
            width = min(ranked.shape[1] - rank, max(1, PAIRS // len(left)))
            rows = left.repeat_interleave(width)
            ranks = torch.arange(rank, rank + width, device=left.device).repeat(len(left))
            pairs = self.only(rows)
            own = [_child(g, r) for g, r in zip(pairs.generators, ranks.tolist(), strict=True)]
            pairs = replace(pairs, generators=own)
            found = attempt(pairs, ranked[rows, ranks])
            fools = (pairs.fooled(found) & pairs.inside(found)).view(len(left), width)
            done = fools.any(1)
            kept = torch.where(done, fools.int().argmax(1), width - 1)
            result[left] = found.view(len(left), width, *found.shape[1:])[torch.arange(len(left)), kept]
            left, rank = left[~done], rank + width
            self.tick(rank / ranked.shape[1])
        return result

    def until_fooled(self, attempts: Sequence[Callable[[Task], Tensor]]) -> Tensor:
        """The first attempt's result that fools, image by image; the last that was tried where none does."""
        result, left = self.x.clone(), torch.ones(len(self.x), dtype=torch.bool, device=self.x.device)
        for i, attempt in enumerate(attempts):
            part = self.only(left)
            if not len(part.x):
                break
            found = attempt(part)
            result[left] = found
            left[left.clone()] = ~(part.fooled(found) & part.inside(found))
            self.tick((i + 1) / len(attempts))
        return result


def to_grid(x_adv: Tensor, x: Tensor, epsilon: float, norm: str = "linf") -> Tensor:
    """`x_adv` rounded to the 1/255 grid, never leaving the ball around `x`: what a PNG can hold.

    A pixel that rounding would push out of `[x - epsilon, x + epsilon]` is rounded inwards. In L2, of the
    pixels that rounding moved outwards, those that were nearest to the middle between two values are
    rounded inwards, as many as it takes. `x` itself must be on the grid for that to suffice.
    """
    slack = 1e-4
    if norm == "linf":
        low = torch.ceil((x - epsilon).clamp(0, 1) * 255 - slack)
        high = torch.floor((x + epsilon).clamp(0, 1) * 255 + slack)
        rounded = torch.minimum(torch.maximum(torch.round(x_adv * 255), low), high)
        return rounded / 255
    center, wanted = (255 * x).flatten(1), (255 * x_adv.clamp(0, 1)).flatten(1)
    nearest = torch.round(wanted)
    inwards = torch.where(wanted > center, torch.floor(wanted + slack), torch.ceil(wanted - slack))
    saved = (nearest - center) ** 2 - (inwards - center) ** 2
    order = (nearest - wanted).abs().masked_fill(saved <= 0, -1).argsort(dim=1, descending=True)
    excess = ((nearest - center) ** 2).sum(1) - (255 * epsilon) ** 2
    spent = saved.clamp_min(0).gather(1, order).cumsum(1)
    turned = (spent - saved.clamp_min(0).gather(1, order)) < excess[:, None] + slack
    turn = torch.zeros_like(turned).scatter(1, order, turned & (excess > 0)[:, None])
    return (torch.where(turn, inwards, nearest) / 255).view_as(x)


PAIRS = 32
"""Images times target classes that `towards_each` puts into one batch, where there are fewer images."""


def _child(generator: torch.Generator, rank: int) -> torch.Generator:
    """The stream of one image's target: it depends on the image's own and on the rank alone."""
    return torch.Generator().manual_seed(_mixed(generator.initial_seed(), rank + 1))


def generators_for(seed: int, numbers: Sequence[int], run: int = 0) -> list[torch.Generator]:
    """A generator for each image number, of its own; another for each `run`."""
    return [torch.Generator().manual_seed(_mixed(seed, run, number)) for number in numbers]


def _mixed(*values: int) -> int:
    """One seed from several numbers (the mixing step of SplitMix64), so that neighbours share no stream."""
    state = 0
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state % 2**63


def check_batch(model: Ensemble | nn.Module, x: Tensor, labels: Tensor) -> None:
    """Refuse images and labels that no figure should be made from."""
    check(x.dim() == 4, f"images have the shape {tuple(x.shape)}; it must be (B, C, H, W)")
    check(x.is_floating_point(), f"images are {x.dtype}; they must be float32 in [0, 1]")
    check(labels.shape == (len(x),), f"labels have the shape {tuple(labels.shape)}; it must be ({len(x)},)")
    if not len(x):
        return
    low, high = x.min().item(), x.max().item()
    check(low >= 0 and high <= 1, f"images range from {low:g} to {high:g}; pixels must be in [0, 1] and finite")
    classes = model.config.classes
    low, high = labels.min().item(), labels.max().item()
    check(
        0 <= low and high < classes,
        f"labels range from {low} to {high}; they must be from 0 to {classes - 1}",
    )


def check_weights(model: nn.Module) -> None:
    """Refuse a model whose weights or running statistics are NaN or infinite: no figure means anything then."""
    for name, value in model.state_dict().items():
        good = not value.is_floating_point() or bool(torch.isfinite(value).all())
        check(good, f"the weights {name!r} hold NaN or infinite values; this model cannot be attacked, load another")
