"""One picture, before and after an attack: what the Attack tab, the endpoints and `python -m cce attack` show."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cce.attacks.gradient import attack, to_grid
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig, check
from cce.evaluation.attack_outcome import outcome_of
from cce.evaluation.outcomes import finite
from cce.models import entropy, evaluating, log_mean_probability

Teller = Callable[[str, float], None]  # what is being done, and the fraction done of all
_AT_A_TIME = 64  # pictures of one forward pass: well below a second on one core


def subset_name(member_right: list[bool]) -> str:
    """Table 1's name of an example's place: a bit for each member, 1 where it is right.

    >>> subset_name([False, True])
    'S01'
    """
    return "S" + "".join("1" if right else "0" for right in member_right)


@dataclass(frozen=True)
class AttackedPicture:
    """One picture under attack, step by step.

    `x_adv` `(C, H, W)` on the 1/255 grid; `result` what `attack_picture` tells; `path` `(S, C, H, W)`
    the iterates that the attack showed, from its start on, and `said` what `classify` says of each;
    both empty where the attack shows none.
    """

    x_adv: Tensor
    result: dict[str, Any]
    path: Tensor
    said: list[dict[str, Any]]


def classify(checkpoint: Checkpoint, x: Tensor) -> dict[str, Any]:
    """What an ensemble says of one picture.

    Args:
        checkpoint: the ensemble.
        x: `(C, H, W)` float32 in [0, 1].

    Returns:
        JSON values: `classes`, `members` (probabilities `[[p]]`), `ensemble` `[p]`, `label` (a class
        name), `entropy` (nats), `threshold` (nats or None), `flagged` (None without a detector).
    """
    return classify_all(checkpoint, x[None])[0]


def classify_all(checkpoint: Checkpoint, x: Tensor, tell: Teller | None = None) -> list[dict[str, Any]]:
    """What an ensemble says of each of several pictures `(B, C, H, W)`; see `classify`.

    `tell` is called as `tell("Looking at the steps", fraction)` now and then, and may raise to end it.
    """
    wanted = checkpoint.model.config.input_shape
    check(
        tuple(x.shape[1:]) == wanted,
        f"the picture has the shape {tuple(x.shape[1:])}; {checkpoint.id} takes {wanted}",
    )
    said = []
    for i in range(0, len(x), _AT_A_TIME):
        with torch.no_grad(), evaluating(checkpoint.model):
            logits = finite(checkpoint.model.member_logits(x[i : i + _AT_A_TIME]))
        said += answers(checkpoint, logits)
        if tell:
            tell("Looking at the steps", min(1.0, (i + _AT_A_TIME) / len(x)))
    return said


def answers(checkpoint: Checkpoint, logits: Tensor) -> list[dict[str, Any]]:
    """`classify`'s answers from the members' logits `(N, B, classes)`."""
    log_p = log_mean_probability(logits)
    members, ensemble = logits.softmax(-1).transpose(0, 1).tolist(), log_p.exp().tolist()
    entropies, labels = entropy(log_p).tolist(), log_p.argmax(-1).tolist()
    threshold = checkpoint.detector.threshold if checkpoint.detector else None
    return [
        {
            "classes": list(checkpoint.classes),
            "members": members[i],
            "ensemble": ensemble[i],
            "label": checkpoint.classes[labels[i]],
            "entropy": value,
            "threshold": threshold,
            "flagged": None if threshold is None else value > threshold,
        }
        for i, value in enumerate(entropies)
    ]


def subset_of(said: dict[str, Any], index: int) -> str:
    """The subset of a picture whose true class has that index, from what `classify` says of it."""
    return subset_name([max(range(len(row)), key=row.__getitem__) == index for row in said["members"]])


def attack_picture(
    checkpoint: Checkpoint, x: Tensor, label: int | None, config: AttackConfig, seed: int = 0
) -> tuple[Tensor, dict[str, Any]]:
    """Attack one picture and say what happened to each member.

    Args:
        checkpoint: the ensemble.
        x: `(C, H, W)` float32 on the 1/255 grid, so that the result can be saved as a PNG.
        label: index of the true class, or None for the clean prediction.
        config: the attack.
        seed: of the random start.

    Returns:
        The adversarial picture `(C, H, W)`, on the 1/255 grid and inside the ball, and JSON values:
        `label` (name), `benign` and `adversarial` (see `classify`), `benign_subset`, `subset`,
        `succeeded` (f_en right before, wrong after), `outcome` (see `cce.evaluation.attack_outcome`),
        `toward` (the class aimed for), `linf` (pixel units), `trajectory`: for the
        start and after each step `{step, entropy, probability, subset}`.
    """
    attacked = attack_in_steps(checkpoint, x, label, config, seed)
    return attacked.x_adv, attacked.result


def attack_in_steps(
    checkpoint: Checkpoint,
    x: Tensor,
    label: int | None,
    config: AttackConfig,
    seed: int = 0,
    tell: Teller | None = None,
) -> AttackedPicture:
    """`attack_picture`, with what the attack passed through.

    Args:
        checkpoint: the ensemble.
        x: see `attack_picture`.
        label: see `attack_picture`.
        config: see `attack_picture`.
        seed: see `attack_picture`.
        tell: called as `tell(what, fraction done)` at each step; the attack ends where it raises.
    """
    benign = classify(checkpoint, x)
    index = checkpoint.classes.index(benign["label"]) if label is None else label
    target = _target(checkpoint, index, config)
    labels = torch.tensor([index], device=x.device)
    path: list[Tensor] = []
    threshold = checkpoint.detector.threshold if checkpoint.detector else None
    passes = _expected_passes(config)
    members = checkpoint.model.members
    counted = members[min(config.target_member or 0, len(members) - 1)]  # `attack` refuses one that is not there
    with _counting(counted, lambda n: tell("Attacking", 0.9 * min(1.0, n / passes)) if tell else None):
        x_adv = attack(
            checkpoint.model,
            x[None],
            labels,
            config,
            seed=seed,
            watch=lambda _, z: path.append(z.detach().clone()),
            threshold=threshold,
            on_grid=True,
        )
    x_adv = to_grid(x_adv.detach(), x[None], config.epsilon, config.norm)
    adversarial = classify(checkpoint, x_adv[0])  # alone, as it is when the picture comes back
    seen = torch.cat(path) if path else x_adv[:0]
    later = (lambda what, fraction: tell(what, 0.9 + 0.1 * fraction)) if tell else None
    said = classify_all(checkpoint, seen, later)
    result = {
        "label": checkpoint.classes[index],
        "benign": benign,
        "adversarial": adversarial,
        "benign_subset": subset_of(benign, index),
        "subset": subset_of(adversarial, index),
        "succeeded": benign["label"] == checkpoint.classes[index] != adversarial["label"],
        "outcome": outcome_of(checkpoint.classes[index], benign["label"], adversarial["label"], target),
        "toward": target,
        "linf": (x_adv[0] - x).abs().max().item(),
        "trajectory": [
            {"step": i, "entropy": s["entropy"], "probability": s["ensemble"][index], "subset": subset_of(s, index)}
            for i, s in enumerate(said)
        ],
    }
    return AttackedPicture(x_adv[0], result, seen, said)


def _target(checkpoint: Checkpoint, label: int, config: AttackConfig) -> str | None:
    """The class that a targeted attack aims for.

    Raises:
        ConfigError: one that the ensemble does not have, or the picture's own.
    """
    if config.toward is None:
        return None
    count = len(checkpoint.classes)
    check(config.toward < count, f"toward is {config.toward}; {checkpoint.id} has the classes 0 to {count - 1}")
    name = checkpoint.classes[config.toward]
    check(config.toward != label, f"toward is {name!r}, which is the picture's label; choose another class")
    return name


# Forward passes of one picture that no attack fools, a step of the attack; one where nothing is said. Measured
# on ten classes, and no more than a guide for the time left: an attack that succeeds is done sooner.
_PASSES_A_STEP = {
    **dict.fromkeys(("mt-pgd", "mt-bim", "mt-mim", "mora"), 10.0),
    **dict.fromkeys(("agree", "smooth-16", "smooth-8", "smooth-4"), 3.1),
    **{"apgd-dlr": 9.3, "fab": 12.6, "spsa": 2.0, "bb": 2.0, "aware-pgd": 6.5},
}
_PASSES_OF_ALL = {"autoattack": 7300.0, "autoattack-package": 7300.0}


def _expected_passes(config: AttackConfig) -> float:
    """About how many forward passes of each member an attack takes at most."""
    if config.name in _PASSES_OF_ALL:
        return _PASSES_OF_ALL[config.name]
    steps = 1 if config.info.steps is None else config.steps
    return _PASSES_A_STEP.get(config.name, 1.0) * steps * config.restarts


@contextmanager
def _counting(member: nn.Module, count: Callable[[int], None]) -> Iterator[None]:
    """Call `count(n)` at the n-th forward pass of `member` that this thread begins; it may raise to end the work.

    Whatever an attack does, it asks the members: so every one can be followed, and left.
    """
    mine, passes = threading.get_ident(), 0

    def begun(*_: Any) -> None:
        nonlocal passes
        if threading.get_ident() == mine:
            passes += 1
            count(passes)

    hook = member.register_forward_pre_hook(begun)
    try:
        yield
    finally:
        hook.remove()
