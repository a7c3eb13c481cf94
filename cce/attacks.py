"""Attacks: one projected-ascent loop, and FGSM, PGD, BIM and MIM as its settings.

The loop takes the objective to climb, a start, a direction and a projection; each attack is a choice
of these. Gradients are taken with respect to the input only. Images are `(B, C, H, W)` float32 in
[0, 1]; epsilon and step_size are in pixel units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cce.config import AttackConfig, check
from cce.models import Ensemble, entropy, evaluating

Objective = Callable[[Tensor], Tensor]  # x (B, C, H, W) -> loss of each example (B,)
Direction = Callable[[Tensor], Tensor]  # gradient (B, C, H, W) -> direction to step along
Watcher = Callable[[int, Tensor], None]  # step from 0, x_adv after that step


def ascend(
    objective: Objective,
    start: Tensor,
    *,
    step_size: float,
    steps: int,
    direction: Direction,
    project: Callable[[Tensor], Tensor],
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


def linf_ball(center: Tensor, epsilon: float) -> Callable[[Tensor], Tensor]:
    """Projection on the L-infinity ball of radius `epsilon` around `center`, within [0, 1]."""
    low, high = (center - epsilon).clamp(0, 1), (center + epsilon).clamp(0, 1)
    return lambda x: torch.minimum(torch.maximum(x, low), high)


def momentum(decay: float) -> Direction:
    """MIM's direction: the sign of decayed L1-normalized gradients (Dong et al. 2018, arXiv 1710.06081)."""
    velocity: Tensor | float = 0.0

    def direction(gradient: Tensor) -> Tensor:
        nonlocal velocity
        scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        velocity = decay * velocity + gradient / scale
        return velocity.sign()

    return direction


def uniform_start(x: Tensor, epsilon: float, generator: torch.Generator | None = None) -> Tensor:
    """`x` plus uniform noise in [-epsilon, epsilon], clipped to [0, 1]."""
    noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return (x + epsilon * (2 * noise - 1)).clamp(0, 1)


def loss_of(model: Ensemble, labels: Tensor, member: int | None = None) -> Objective:
    """The objective of an untargeted attack: C(f_en(x), y), or C(f^member(x), y)."""
    if member is None:
        return lambda x: F.nll_loss(model(x), labels, reduction="none")
    return lambda x: F.cross_entropy(model.members[member](x).float(), labels, reduction="none")


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


def attack(
    model: Ensemble,
    x: Tensor,
    labels: Tensor,
    config: AttackConfig,
    *,
    seed: int = 0,
    batch_size: int = 256,
    watch: Watcher | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Adversarial examples of `x` against the ensemble or one of its members.

    FGSM takes one step of epsilon from x; BIM starts at x; MIM starts at x with momentum; PGD starts
    at a uniform point of the ball (Table 3's attacks). The model is attacked in evaluation mode; its
    mode and `requires_grad` come back as they were.

    Args:
        model: the ensemble; log f_en from `forward`.
        x: `(B, C, H, W)` float32 in [0, 1].
        labels: true labels `(B,)` int64, whose loss is climbed.
        config: the attack.
        seed: seeds the random start; the noise of image i depends on `seed` and i alone, not on the batch size.
        batch_size: images attacked at a time; the result does not depend on it.
        watch: see `ascend`; only with one batch.
        progress: called as `progress(done, total)` after each batch.

    Returns:
        `(B, C, H, W)` float32, inside the ball and [0, 1].

    Raises:
        ConfigError: images outside [0, 1] or not 4-D, labels that do not fit, a member that is not there.
    """
    check_batch(model, x, labels)
    member = config.target_member
    check(
        member is None or member < len(model.members),
        f"target is {config.target!r}; this ensemble has {len(model.members)} members",
    )
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.rand(x.shape[1:], generator=generator) for _ in range(len(x))] if config.name == "pgd" else []
    results = []
    with evaluating(model):
        for i in range(0, len(x), batch_size):
            part, y = x[i : i + batch_size], labels[i : i + batch_size]
            start = part
            if noise:
                unit = torch.stack(noise[i : i + batch_size]).to(part)
                start = (part + config.epsilon * (2 * unit - 1)).clamp(0, 1)
            results.append(_attack_batch(loss_of(model, y, member), part, start, config, watch))
            if progress:
                progress(min(i + batch_size, len(x)), len(x))
    return torch.cat(results) if results else x.clone()


def _attack_batch(
    objective: Objective, x: Tensor, start: Tensor, config: AttackConfig, watch: Watcher | None
) -> Tensor:
    single = config.name == "fgsm"
    return ascend(
        objective,
        start,
        step_size=config.epsilon if single else config.step_size,
        steps=1 if single else config.steps,
        direction=momentum(config.decay) if config.name == "mim" else torch.sign,
        project=linf_ball(x, config.epsilon),
        watch=watch,
    )


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


def to_grid(x_adv: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """`x_adv` rounded to the 1/255 grid, never leaving the ball around `x`: what a PNG can hold.

    A pixel that rounding would push out of `[x - epsilon, x + epsilon]` is rounded inwards.
    """
    slack = 1e-4
    low = torch.ceil((x - epsilon).clamp(0, 1) * 255 - slack)
    high = torch.floor((x + epsilon).clamp(0, 1) * 255 + slack)
    rounded = torch.minimum(torch.maximum(torch.round(x_adv * 255), low), high)
    return rounded / 255


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

    Returns:
        `(B, C, H, W)` inside the ball and [0, 1].
    """
    check_batch(model, x, labels)
    best, best_score = x.clone(), torch.full((len(x),), float("inf"), device=x.device)
    with evaluating(model):
        with torch.no_grad():
            ranked = model(x).scatter(1, labels[:, None], -float("inf")).argsort(1, descending=True)
        tried = min(targets, model.config.classes - 1)
        for rank in range(tried):
            candidate = _agree_on(model, x, ranked[:, rank], epsilon, steps, grid)
            with torch.no_grad():
                log_p = model(candidate)
            wrong = log_p.argmax(1) != labels
            score = entropy(log_p) + torch.where(wrong, 0.0, 1e3)
            better = score < best_score
            best = torch.where(better[:, None, None, None], candidate, best)
            best_score = torch.where(better, score, best_score)
            if progress:
                progress(rank + 1, tried)
    return best


def _agree_on(model: Ensemble, x: Tensor, target: Tensor, epsilon: float, steps: int, grid: int | None) -> Tensor:
    """`x` moved so that every member says `target`."""
    if grid is None:
        picture, start, project = (lambda z: z), x, linf_ball(x, epsilon)
    else:
        picture = smooth_perturbation(x, epsilon)
        start = x.new_zeros((len(x), x.shape[1], grid, grid))
        project = lambda z: z.clamp(-epsilon, epsilon)  # noqa: E731

    def objective(z: Tensor) -> Tensor:
        logits = model.member_logits(picture(z))
        losses = F.cross_entropy(logits.flatten(0, 1), target.repeat(len(logits)), reduction="none")
        return -losses.view(len(logits), -1).sum(0)

    size = 2.5 * epsilon / steps
    z = ascend(objective, start, step_size=2 * size, steps=steps // 2, direction=torch.sign, project=project)
    z = ascend(objective, z, step_size=size / 2, steps=steps - steps // 2, direction=torch.sign, project=project)
    return picture(z).detach()
