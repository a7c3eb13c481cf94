"""One training step: the batch's examples, every member's loss, and the optimizer.

`train_step` is all that depends on the defense. Random draws come from the generator it is given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor, nn

from cce.attacks.gradient import Objective, agreement_on, ascend, linf_ball, loss_of, momentum, smooth_perturbation
from cce.config import Defense, Phase, TrainConfig, TrainingAttack
from cce.fast import SearchCopy
from cce.machine.cuda_graphs import Graphs, side_by_side
from cce.models import Ensemble, entropy, log_mean_probability
from cce.training.draws import uniform
from cce.training.losses import LossTerms, joint_members, loss_terms, needed_examples
from cce.training.parallel import ALONE, Team
from cce.training.weight_perturbation import perturbed


def draw_attack(attack: TrainingAttack, generator: torch.Generator) -> tuple[int, float, float]:
    """(steps, epsilon, step_size) of one batch, uniform over the config's ranges."""
    u = torch.rand(3, generator=generator).tolist()
    low, high = attack.steps
    steps = min(high, low + int(u[0] * (high - low + 1)))
    epsilon = attack.epsilon[0] + u[1] * (attack.epsilon[1] - attack.epsilon[0])
    reach = attack.reach[0] + u[2] * (attack.reach[1] - attack.reach[0])
    return steps, epsilon, reach * epsilon / max(1, steps)


def draw_grid(attack: TrainingAttack, generator: torch.Generator) -> int:
    """Side of the coarse grid on which a batch's smooth share is attacked."""
    return attack.grids[int(torch.rand((), generator=generator).item() * len(attack.grids))]


def draw_rank(generator: torch.Generator, among: int = 3) -> int:
    """The rank of the class that a batch's detector-aware attack aims for: 0 is the likeliest wrong one."""
    return int(torch.rand((), generator=generator).item() * among)


@dataclass(frozen=True)
class Drawn:
    """The random draws of a batch.

    `steps`, `grid` and `rank` say what is computed; `sizes` `(2,)` holds epsilon and step_size, `coarse` and `fine`
    a start in [0, 1] for each target, all three on the images' device: what a recording takes anew at every step.
    """

    steps: int
    grid: int
    rank: int
    sizes: Tensor
    coarse: tuple[Tensor, ...]
    fine: tuple[Tensor, ...]


def draw(x: Tensor, targets: int, attack: TrainingAttack, generator: torch.Generator, team: Team = ALONE) -> Drawn:
    """The draws for a batch of which `x` `(B, C, H, W)` is this process's share, and for so many targets."""
    steps, epsilon, step_size = draw_attack(attack, generator)
    whole = len(x) * team.count
    smooth = round(attack.smooth * whole)
    grid = draw_grid(attack, generator) if smooth else 0
    rank = draw_rank(generator) if attack.aware else 0
    coarse, fine = [], []
    for _ in range(targets):  # for the whole batch, whatever of it is this process's: the generators stay in step
        coarse.append(team.share(uniform((smooth, x.shape[1], grid, grid), generator, x.device)))
        fine.append(team.share(uniform((whole - smooth, *x.shape[1:]), generator, x.device), first=smooth))
    sizes = torch.tensor([epsilon, step_size]).to(x.device, non_blocking=True)
    return Drawn(steps, grid, rank, sizes, tuple(coarse), tuple(fine))


def make_examples(
    search: Ensemble,
    x: Tensor,
    labels: Tensor,
    defense: Defense,
    attack: TrainingAttack,
    generator: torch.Generator,
    team: Team = ALONE,
    rows: int = sys.maxsize,
    graphs: Graphs | None = None,
    refresh: Callable[[], object] = lambda: None,
) -> Tensor:
    """The examples that a defense trains on: none (NAT), on f_en (ADV-EN, ADP), on each member (CCE).

    The first `attack.smooth` of the whole batch, whose order is random, get smooth perturbations, the next
    `attack.momentum` MIM's, the rest PGD's: every batch holds all kinds, as batch norm could tell batches of one kind
    from those of another.

    Args:
        search: the copy that is attacked; its parameters take no gradient.
        x: `(B, C, H, W)` in [0, 1].
        labels: true labels `(B,)`.
        defense: which examples; as `released`, they climb the loss of the predicted labels.
        attack: ranges of the settings.
        generator: of the draws (CPU).
        team: whose share of the batch x is.
        rows: how many images are attacked at a time, at most; what is found does not depend on it.
        graphs: records the search, all its steps as one launch.
        refresh: brings `search` up to date, first of all.

    Returns:
        `(K, B, C, H, W)` with K = 0, 1 or N.
    """
    targets: list[int | None] = {"none": [], "ensemble": [None], "members": list(range(len(search.members)))}[
        defense.targets
    ]
    drawn = draw(x, len(targets), attack, generator, team)
    if not targets:
        return x.new_empty((0, *x.shape))

    def found(x: Tensor, labels: Tensor, sizes: Tensor, *starts: Tensor) -> Tensor:
        refresh()
        epsilon, step_size = sizes.unbind()
        wanted = likely_wrong(search, x, labels, drawn.rank) if attack.aware else labels
        settings = (defense, attack, team, rows, drawn.steps, epsilon, step_size)
        coarse, fine = starts[: len(targets)], starts[len(targets) :]
        return torch.stack(
            side_by_side(
                [
                    partial(target_examples, search, x, labels, wanted, member, *each, *settings)
                    for member, *each in zip(targets, coarse, fine, strict=True)
                ]
            )
        )

    given = (x, labels, drawn.sizes, *drawn.coarse, *drawn.fine)
    if graphs is None:
        return found(*given)
    return graphs.run(("examples", defense, attack, drawn.steps, drawn.grid, drawn.rank), found, *given)


def target_examples(
    search: Ensemble,
    x: Tensor,
    labels: Tensor,
    wanted: Tensor,
    member: int | None,
    coarse: Tensor,
    fine: Tensor,
    defense: Defense,
    attack: TrainingAttack,
    team: Team,
    rows: int,
    steps: int,
    epsilon: Tensor,
    step_size: Tensor,
) -> Tensor:
    """`make_examples` on one target, f_en (`member` None) or a member, from its starts: `(B, C, H, W)`."""
    whole = len(x) * team.count
    smooth = round(attack.smooth * whole)

    def own(end: int) -> int:
        """How many rows of x, this process's, are among the first `end` of the whole batch."""
        return len(range(whole)[:end][team.index :: team.count])

    middle, end = own(smooth), own(whole)
    mims = own(smooth + round(attack.momentum * whole))
    knowing = [own(last - round(attack.aware * count)) for last, count in ((smooth, smooth), (whole, whole - smooth))]
    climbed = labels if defense.reading == "paper" else predicted(search, x, member)
    size, found = (steps, epsilon, step_size), []
    for part in in_turn(0, middle, rows):
        climb = _loss(search, climbed, wanted, member, part, knowing[0])
        found.append(smooth_examples(climb, x[part], coarse[part], *size))
    for part in in_turn(middle, end, rows):
        climb = _loss(search, climbed, wanted, member, part, knowing[1])
        noise = fine[part.start - middle : part.stop - middle]
        found.append(fine_examples(climb, x[part], noise, *size, mims=max(0, mims - part.start)))
    return torch.cat(found) if len(found) > 1 else found[0]


def in_turn(start: int, stop: int, rows: int) -> list[slice]:
    """The rows from `start` to `stop`, at most `rows` at a time.

    >>> in_turn(3, 10, 4)
    [slice(3, 7, None), slice(7, 10, None)]
    """
    return [slice(first, min(first + rows, stop)) for first in range(start, stop, min(rows, max(1, stop - start)))]


def _loss(search: Ensemble, labels: Tensor, wanted: Tensor, member: int | None, part: slice, knowing: int) -> Objective:
    """What the rows `part` climb: their target's loss, from the row `knowing` on agreement on the class `wanted`."""
    knowing = max(knowing, part.start)
    alone = loss_of(search, labels[part.start : min(knowing, part.stop)], member)
    if knowing >= part.stop:
        return alone
    first, together = knowing - part.start, agreement_on(search, wanted[knowing : part.stop])
    return lambda z: torch.cat([alone(z[:first]), together(z[first:])]) if first else together(z)


@torch.no_grad()
def likely_wrong(search: Ensemble, x: Tensor, labels: Tensor, rank: int = 0) -> Tensor:
    """Each image's wrong class of that rank, `(B,)`: 0 for the likeliest."""
    ranked = search(x).scatter(1, labels[:, None], -float("inf")).argsort(1, descending=True)
    return ranked[:, min(rank, ranked.shape[1] - 2)]


def fine_examples(
    objective: Objective,
    x: Tensor,
    noise: Tensor,
    steps: int,
    epsilon: float | Tensor,
    step_size: float | Tensor,
    mims: int = 0,
) -> Tensor:
    """PGD on every pixel, from the random start that `noise` `(B, C, H, W)` in [0, 1] gives; MIM on the first `mims`.

    MIM starts at the images themselves (Table 3's has no random start).
    """
    noise = noise.to(x, memory_format=torch.channels_last)
    start = (x + epsilon * (2 * noise - 1)).clamp(0, 1)
    start[:mims] = x[:mims]
    along = momentum(1.0)

    def direction(gradient: Tensor) -> Tensor:
        return torch.cat([along(gradient[:mims]), gradient[mims:].sign()]) if mims else gradient.sign()

    project = linf_ball(x, epsilon)
    return ascend(objective, start, step_size=step_size, steps=steps, direction=direction, project=project)


def smooth_examples(
    objective: Objective,
    x: Tensor,
    noise: Tensor,
    steps: int,
    epsilon: float | Tensor,
    step_size: float | Tensor,
) -> Tensor:
    """PGD on a coarse grid (see `smooth_perturbation`), from the start that `noise` `(B, C, g, g)` in [0, 1] gives."""
    picture = smooth_perturbation(x, epsilon)
    coarse = ascend(
        lambda z: objective(picture(z)),
        epsilon * (2 * noise.to(x) - 1),
        step_size=step_size,
        steps=steps,
        direction=torch.sign,
        project=lambda z: z.clamp(-epsilon, epsilon),
    )
    return picture(coarse).detach()


@torch.no_grad()
def predicted(search: Ensemble, x: Tensor, member: int | None) -> Tensor:
    """The class that f_en, or a member, gives to each image, `(B,)`."""
    return (search(x) if member is None else search.members[member](x)).argmax(-1)


def noisy(x: Tensor, attack: TrainingAttack, generator: torch.Generator, team: Team = ALONE) -> Tensor:
    """Benign images as they are trained on: a share of them with random signs of up to epsilon."""
    if not attack.noise:
        return x
    most = attack.epsilon[0] + torch.rand((), generator=generator).item() * (attack.epsilon[1] - attack.epsilon[0])
    draws = team.rand((len(x), 2), generator, x.device)
    size = most * draws[:, 1] * (draws[:, 0] < attack.noise)
    signs = team.rand(tuple(x.shape), generator, x.device) - 0.5
    signs = signs.sign().contiguous(memory_format=torch.channels_last)
    return (x + size[:, None, None, None] * signs).clamp(0, 1)


def train_step(
    forwards: list[Callable[[Tensor], Tensor]],
    search: SearchCopy,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
    phase: Phase,
    generator: torch.Generator,
    *,
    autocast: bool = False,
    clip_norm: float = 0.0,
    label_smoothing: float = 0.0,
    awp_gamma: float = 0.0,
    team: Team = ALONE,
) -> dict[str, Tensor]:
    """One optimizer step on one batch: the defense's loss summed over the members.

    Clean images and all examples pass each member in one batch, so that batch norm sees the mixture
    it will be evaluated on and cannot tell clean from attacked by the batch. Members whose losses do not
    need one another go one after the other, each backward before the next one's forward. Without batch norm an image
    does not depend on the others: examples that a member's loss does not need are left out, and the batch is taken a
    few images at a time where that is faster. With `awp_gamma` the gradient is that at the perturbed weights (see
    `cce.training.weight_perturbation`), on the same examples.

    Returns:
        Detached scalars: loss, the terms (see `LossTerms`), and entropy_clean of f_en, at the weights
        themselves. With several processes they are of this one's share.
    """
    graphs = search.graphs if team.count == 1 else None
    given = (x, labels, phase.defense, phase.attack, generator, team, search.search_rows)
    if graphs is None:
        examples = make_examples(search.refresh(), *given)
    else:
        examples = make_examples(search.model, *given, graphs, search.refresh)
    benign = noisy(x, phase.attack, generator, team)
    weights = [p for g in optimizer.param_groups for p in g["params"]]

    def gradients_here(benign: Tensor, labels: Tensor, examples: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=graphs is None)
        batch = (benign, labels, examples)
        sums = accumulate_gradients(forwards, search, *batch, phase.defense, autocast, label_smoothing)
        team.average_gradients(weights)
        return sums

    def gradients(benign: Tensor, labels: Tensor, examples: Tensor) -> Tensor:
        sums = gradients_here(benign, labels, examples)
        if awp_gamma:
            with perturbed(search.source, awp_gamma):
                gradients_here(benign, labels, examples)
        if clip_norm:
            nn.utils.clip_grad_norm_(weights, clip_norm)
        return sums

    if graphs is None:
        sums = gradients(benign, labels, examples)
    else:
        for weight in weights:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        changes = [*(w.grad for w in weights), *search.source.buffers()]
        key = ("gradients", phase.defense, autocast, clip_norm, label_smoothing, awp_gamma)
        sums = graphs.run(key, gradients, benign, labels, examples, changes=changes, tolerance=ROUNDING)
    optimizer.step()
    return dict(zip(SCALARS, sums.unbind(), strict=True))


SCALARS = (*(f.name for f in fields(LossTerms)), "loss", "entropy_clean")
"""The scalars that `train_step` returns."""
ROUNDING = 0.02
"""How far two gradients of one batch may be apart in bfloat16, as a fraction of the largest."""


def accumulate_gradients(
    forwards: list[Callable[[Tensor], Tensor]],
    search: SearchCopy,
    benign: Tensor,
    labels: Tensor,
    examples: Tensor,
    defense: Defense,
    autocast: bool = False,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Add the gradient of the members' losses to their weights' own; returns `SCALARS`, detached, `(8,)`."""
    sums: dict[str, Tensor] = {}
    entropies = []
    for part in in_turn(0, len(benign), search.step_rows):
        share = (part.stop - part.start) / len(benign)  # every term is a mean over images
        clean = []
        for group in joint_members(defense, len(forwards)):
            sets = needed_examples(defense, group, len(examples)) if search.apart else range(len(examples))
            inputs = torch.cat([benign[part], *(examples[k, part] for k in sets)])
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            with torch.autocast(benign.device.type, torch.bfloat16, enabled=autocast):
                logits = torch.stack([forwards[member](inputs).float() for member in group])
            logits = logits.view(len(group), 1 + len(sets), part.stop - part.start, -1)
            terms = loss_terms(group, logits, labels[part], defense, label_smoothing)
            loss = share * terms.total(defense)
            loss.backward()
            clean.append(logits[:, 0].detach())
            for name, value in vars(terms).items():
                sums[name] = sums.get(name, 0) + share * value.detach()
            sums["loss"] = sums.get("loss", 0) + loss.detach()
        entropies.append(entropy(log_mean_probability(torch.cat(clean))))
    sums["entropy_clean"] = torch.cat(entropies).mean()
    return torch.stack([sums[name] for name in SCALARS])


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, AdamW, or SGD with Nesterov momentum 0.9; weight decay on convolution and linear weights only.

    Adam adds the decay to the gradient, AdamW takes it from the weights (arXiv 1711.05101).
    """
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=1e-3, momentum=0.9, nesterov=True, fused=fused)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(groups, lr=1e-3, fused=fused)
