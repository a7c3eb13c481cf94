"""Attacks, for evaluation and for training."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any

from cce.config.attack_registry import ATTACKS, NORMS, OBJECTIVES, AttackInfo
from cce.config.values import Range, check, check_pixel_units, check_size


@dataclass(frozen=True)
class AttackConfig:
    """An attack for evaluation, by its name in `ATTACKS`: `epsilon` and `step_size` in pixel units.

    `target` is `ensemble` or `member n` (counted from 1): whose loss is climbed.
    `decay` is MIM's momentum decay (Dong et al. 2018). `norm`: `linf`, or `l2`, where `epsilon` is the
    length of the whole perturbation. `restarts`: runs from other random starts, the worst kept for each image.
    `objective`, for the ensemble's loss: the cross-entropy of the mean of `probabilities` (the ensemble
    itself) or of `logits`, or of each member, taking the `worst member` (highest loss) or the
    `best member` (lowest). `toward`: the class to be predicted, None for any wrong one.
    An attack reads what its entry in `ATTACKS` says.
    """

    name: str = "pgd"
    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 20
    target: str = "ensemble"
    decay: float = 1.0
    norm: str = "linf"
    restarts: int = 1
    objective: str = "probabilities"
    toward: int | None = None

    def __post_init__(self) -> None:
        check(self.name in ATTACKS, f"attack is {self.name!r}; there is {', '.join(ATTACKS)}")
        check(self.norm in NORMS, f"norm is {self.norm!r}; there is {', '.join(NORMS)}")
        known = self.info.norms
        check(self.norm in known, f"norm is {self.norm!r}; {self.info.title} has {' and '.join(known)}")
        for name in ("epsilon", "step_size"):
            check_size(name, getattr(self, name), self.norm)
        check(1 <= self.steps <= 10_000, f"steps is {self.steps}; it must be from 1 to 10000")
        check(
            self.target == "ensemble" or self.target_member is not None,
            f"target is {self.target!r}; it is 'ensemble' or 'member n', n from 1",
        )
        check(
            self.target == "ensemble" or self.info.member,
            f"target is {self.target!r}; {self.info.title} attacks the ensemble",
        )
        check(math.isfinite(self.decay) and self.decay >= 0, f"decay is {self.decay}; it must be 0 or more")
        check(1 <= self.restarts <= 100, f"restarts is {self.restarts}; it must be from 1 to 100")
        check(self.objective in OBJECTIVES, f"objective is {self.objective!r}; there is {', '.join(OBJECTIVES)}")
        for name, usual in (("restarts", 1), ("objective", "probabilities"), ("toward", None)):
            flag = "targeted" if name == "toward" else name
            value = getattr(self, name)
            check(
                value == usual or getattr(self.info, flag), f"{name} is {value!r}; {self.info.title} does not take one"
            )
        check(self.toward is None or self.toward >= 0, f"toward is {self.toward}; it is the index of a class, from 0")

    @property
    def info(self) -> AttackInfo:
        """What the attack is."""
        return ATTACKS[self.name]

    @property
    def target_member(self) -> int | None:
        """Index from 0 of the attacked member, None for the ensemble."""
        match = re.fullmatch(r"member ([1-9]\d*)", self.target)
        return int(match.group(1)) - 1 if match else None

    @classmethod
    def of(cls, row: dict[str, Any]) -> AttackConfig:
        """The attack of a row of `metrics.json`: its own fields are taken, the others passed over."""
        return cls(**{k: v for k, v in row.items() if k in cls.__dataclass_fields__})

    def describe(self) -> str:
        """A line for people, in 1/255.

        >>> AttackConfig().describe()
        'PGD k=20, epsilon 8/255, step 2/255, on the ensemble'
        >>> AttackConfig("autoattack", 0.5, norm="l2").describe()
        'Auto-Attack, L2 epsilon 127.5/255, on the ensemble'
        """
        info = self.info
        parts = [info.title if info.steps is None else f"{info.title} k={self.steps}"]
        parts.append(f"{'L2 ' if self.norm == 'l2' else ''}epsilon {255 * self.epsilon:.4g}/255")
        parts += [f"step {255 * self.step_size:.4g}/255"] if info.step_size and info.steps is not None else []
        parts += [f"{self.restarts} restarts"] if self.restarts > 1 else []
        parts += [f"towards class {self.toward}"] if self.toward is not None else []
        parts.append(f"on {'the ensemble' if self.target == 'ensemble' else self.target}")
        said = ", ".join(parts)
        return said if self.objective == "probabilities" else f"{said} ({self.objective})"


# What each data set is attacked with unless told otherwise: the paper's (CIFAR-10, CIFAR-100), the usual
# 0.3 for MNIST, and the size that the digits presets train against.
_DEFAULT_ATTACKS = {
    "cifar10": AttackConfig("pgd", 8 / 255, 2 / 255, 20),
    "cifar100": AttackConfig("pgd", 0.01, 0.001, 20),
    "mnist": AttackConfig("pgd", 0.3, 0.03, 20),
    "digits": AttackConfig("pgd", 0.15, 0.0375, 20),
}
_DEFAULT_L2 = {"mnist": 2.0, "digits": 1.0}  # elsewhere 0.5, RobustBench's for CIFAR (arXiv 2010.09670)


def default_attack(dataset: str, name: str = "pgd", norm: str = "linf") -> AttackConfig:
    """The attack `name` as a data set's ensembles are shown under it: PGD first.

    The steps are PGD's where the attack is of PGD's kind, else the attack's usual number.
    """
    check(name in ATTACKS, f"attack is {name!r}; there is {', '.join(ATTACKS)}")
    base = _DEFAULT_ATTACKS.get(dataset, AttackConfig())
    if norm == "l2":
        epsilon = _DEFAULT_L2.get(dataset, 0.5)
        base = dataclasses.replace(base, norm=norm, epsilon=epsilon, step_size=epsilon / 8)
    return dataclasses.replace(base, name=name, norm=norm, steps=ATTACKS[name].steps or base.steps)


@dataclass(frozen=True)
class TrainingAttack:
    """PGD settings drawn anew for each training batch, uniformly from closed ranges.

    `steps` k, `epsilon` (pixel units), and `reach`: the step size is `reach * epsilon / k`, so the
    paper's k=10, 8/255, 2/255 is reach 2.5, and its ResNet setting (step epsilon / 10) is reach 1. No steps leave the
    random start alone: noise, uniform in the ball.

    Four additions of ours keep a detector from learning that only fine noise is an attack. `smooth` is
    the share of each batch that is attacked with smooth perturbations, on a coarse grid whose side is drawn
    from `grids` and upsampled bilinearly inside the same ball. `momentum` is the share that MIM attacks, with
    the same steps. `aware` is the share, of the smooth ones and of the others, whose examples drive all members
    to agree on one wrong class, as a detector-aware attacker does (`cce.attacks.gradient.agreement_on`). `noise`
    is the share of benign images that get random signs of a size drawn from 0 to the batch's epsilon, and keep
    their label.
    """

    steps: tuple[int, int] = (10, 10)
    epsilon: Range = (8 / 255, 8 / 255)
    reach: Range = (2.5, 2.5)
    smooth: float = 0.0
    grids: tuple[int, ...] = (4, 8, 16)
    noise: float = 0.0
    momentum: float = 0.0
    aware: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "epsilon", "reach"):
            low, high = getattr(self, name)
            check(low <= high, f"{name} is {low} to {high}; the first must not exceed the second")
        check(self.steps[0] >= 0, f"steps is {self.steps[0]}; it must be 0 or more")
        check(self.steps[0] > 0 or not self.momentum, "steps is 0 with momentum; MIM has no random start: at least 1")
        check_pixel_units("epsilon", self.epsilon[0])
        check_pixel_units("epsilon", self.epsilon[1])
        check(self.reach[0] > 0, f"reach is {self.reach[0]}; it must be above 0")
        for name in ("smooth", "noise", "momentum", "aware"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"{name} is {value}; it is a share from 0 to 1")
        both = self.smooth + self.momentum
        check(both <= 1, f"smooth and momentum are {self.smooth} and {self.momentum}; they share a batch, so at most 1")
        check(
            bool(self.grids) and min(self.grids) >= 2,
            f"grids is {self.grids}; it lists the sides of coarse grids, each at least 2",
        )
