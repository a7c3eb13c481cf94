"""Configuration, the first stage: what a model, an attack and a training run are made of.

Every class is frozen, checks itself when it is made, and goes to and from plain JSON values.
The command line, the app and the checkpoints all build these same objects.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from dataclasses import dataclass
from typing import Any

from cce.attack_registry import ATTACKS, NORMS, OBJECTIVES, AttackInfo

METHODS = ("nat", "adv-en", "adp", "cce")
READINGS = ("paper", "released")
SCHEDULES = ("constant", "one-cycle", "milestones")
Range = tuple[float, float]


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the setting, its value and the way out."""


def check(holds: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `holds`."""
    if not holds:
        raise ConfigError(message)


def check_pixel_units(name: str, value: float) -> None:
    """Refuse an `epsilon` or `step_size` outside [0, 1] pixel units.

    >>> check_pixel_units("epsilon", 8)
    Traceback (most recent call last):
    ...
    cce.config.ConfigError: epsilon is 8; it is in pixel units from 0 to 1, did you mean 8/255?
    """
    check(math.isfinite(value) and value >= 0, f"{name} is {value}; it must be a number from 0 to 1")
    check(value <= 1, f"{name} is {value:g}; it is in pixel units from 0 to 1, did you mean {value:g}/255?")


LARGEST_L2 = 5.0  # pixel units; published L2 radii are from 0.25 (CIFAR-10) to 3 (ImageNet)


def check_size(name: str, value: float, norm: str) -> None:
    """Refuse a radius or a step that `norm` has no use for; the unit is the pixel's full range."""
    if norm == "linf":
        check_pixel_units(name, value)
        return
    check(math.isfinite(value) and value >= 0, f"{name} is {value}; it must be a number from 0 to {LARGEST_L2:g}")
    check(
        value <= LARGEST_L2,
        f"{name} is {value:g}; it is an L2 length in pixel units from 0 to {LARGEST_L2:g}, did you mean {value:g}/255?",
    )


@dataclass(frozen=True)
class ModelConfig:
    """The ensemble's shape.

    `architecture` is `cnn-mnist`, `cnn-cifar10`, `cnn-cifar100` (Table 8) or `resnetD`, D = 6n + 2;
    `input_shape` is (channels, height, width) in pixels.
    """

    architecture: str
    members: int
    classes: int
    input_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        known = self.architecture in ("cnn-mnist", "cnn-cifar10", "cnn-cifar100") or self.resnet_depth
        check(
            bool(known),
            f"architecture is {self.architecture!r}; there is cnn-mnist, cnn-cifar10, cnn-cifar100 "
            "and resnetD with D = 6n + 2 (resnet20, resnet32, ...)",
        )
        check(self.members >= 1, f"members is {self.members}; an ensemble has at least one")
        check(self.classes >= 2, f"classes is {self.classes}; it must be at least 2")
        check(
            len(self.input_shape) == 3 and min(self.input_shape) >= 1,
            f"input_shape is {self.input_shape}; it is (channels, height, width)",
        )

    @property
    def resnet_depth(self) -> int | None:
        """D of `resnetD` where D = 6n + 2, else None."""
        match = re.fullmatch(r"resnet(\d+)", self.architecture)
        depth = int(match.group(1)) if match else 0
        return depth if depth >= 8 and (depth - 2) % 6 == 0 else None


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
    paper's k=10, 8/255, 2/255 is reach 2.5, and its ResNet setting (step epsilon / 10) is reach 1.

    Two additions of ours keep a detector from learning that only fine noise is an attack. `smooth` is
    the share of each batch that is attacked with smooth perturbations, on a coarse grid whose side is drawn
    from `grids` and upsampled bilinearly inside the same ball. `noise` is the share of benign images that get
    random signs of a size drawn from 0 to the batch's epsilon, and keep their label.
    """

    steps: tuple[int, int] = (10, 10)
    epsilon: Range = (8 / 255, 8 / 255)
    reach: Range = (2.5, 2.5)
    smooth: float = 0.0
    grids: tuple[int, ...] = (4, 8, 16)
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "epsilon", "reach"):
            low, high = getattr(self, name)
            check(low <= high, f"{name} is {low} to {high}; the first must not exceed the second")
        check(self.steps[0] >= 1, f"steps is {self.steps[0]}; it must be at least 1")
        check_pixel_units("epsilon", self.epsilon[0])
        check_pixel_units("epsilon", self.epsilon[1])
        check(self.reach[0] > 0, f"reach is {self.reach[0]}; it must be above 0")
        for name in ("smooth", "noise"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"{name} is {value}; it is a share from 0 to 1")
        check(
            bool(self.grids) and min(self.grids) >= 2,
            f"grids is {self.grids}; it lists the sides of coarse grids, each at least 2",
        )


@dataclass(frozen=True)
class Defense:
    """What the members are trained to minimize.

    `method`: `nat` (clean cross-entropy), `adv-en` (clean and adversarial cross-entropy, the
    examples attack f_en; with one member it is ADV), `adp` (adv-en's terms minus alpha H(f_en) + beta log ED
    on both, Pang et al. 2019, arXiv 1901.08846), `cce` (Eq. 5). `indicator`: `soft` (Eqs. 3-5) or `hard`
    (Eqs. 1-2). `alpha` and `beta` are of no effect outside `adp`.

    `reading` of Eq. 5: `paper`, or `released`, what the authors' released code computes instead: in the
    promoting and demoting terms softmax is applied twice, gradient flows through the indicator, and the
    training examples climb the loss of the label that the attacked member predicts, not of the true one.
    """

    method: str = "cce"
    lambda_pm: float = 1.0
    lambda_dm: float = 1.0
    indicator: str = "soft"
    alpha: float = 2.0
    beta: float = 0.5
    reading: str = "paper"

    def __post_init__(self) -> None:
        check(self.method in METHODS, f"defense method is {self.method!r}; there is {', '.join(METHODS)}")
        for name in ("lambda_pm", "lambda_dm", "alpha", "beta"):
            value = getattr(self, name)
            check(math.isfinite(value) and value >= 0, f"{name} is {value}; it must be 0 or more")
        check(self.indicator in ("soft", "hard"), f"indicator is {self.indicator!r}; it is 'soft' or 'hard'")
        check(self.reading in READINGS, f"reading is {self.reading!r}; it is 'paper' or 'released'")
        check(
            self.reading == "paper" or self.method == "cce",
            f"reading is 'released' with the method {self.method!r}; only cce has two readings",
        )

    @property
    def name(self) -> str:
        """The paper's name where the weights are the paper's: NAT, ADV-EN, ADP, CCE-Base, CCE-RM, CCE-DM.

        The released reading of Eq. 5 is named beside: `CCE-RM (released)`.
        """
        if self.method == "adp" and (self.alpha, self.beta) != (2.0, 0.5):
            return f"ADP({self.alpha:g}, {self.beta:g})"
        if self.method != "cce":
            return self.method.upper()
        named = {(0.0, 0.0): "CCE-Base", (1.0, 1.0): "CCE-RM", (0.0, 5.0): "CCE-DM"}
        name = named.get((self.lambda_pm, self.lambda_dm), f"CCE({self.lambda_pm:g}, {self.lambda_dm:g})")
        return name if self.reading == "paper" else f"{name} (released)"

    def name_with(self, members: int) -> str:
        """The name of an ensemble of so many members: ADV-EN of one is ADV.

        >>> ADV_EN.name_with(1), ADV_EN.name_with(2), CCE_RM.name_with(2)
        ('ADV', 'ADV-EN', 'CCE-RM')
        """
        return "ADV" if self.method == "adv-en" and members == 1 else self.name

    @property
    def targets(self) -> str:
        """Whose loss the training examples climb: `none`, the `ensemble`'s, or each of the `members`'."""
        return {"nat": "none", "cce": "members"}.get(self.method, "ensemble")


NAT = Defense("nat", 0, 0)
ADV_EN = Defense("adv-en", 0, 0)
ADP = Defense("adp", 0, 0)
CCE_BASE = Defense("cce", 0, 0)
CCE_RM = Defense("cce", 1, 1)
CCE_DM = Defense("cce", 0, 5)
DEFENSES = {"nat": NAT, "adv-en": ADV_EN, "adp": ADP, "cce-base": CCE_BASE, "cce-rm": CCE_RM, "cce-dm": CCE_DM}


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one loss, one attack and one learning-rate curve.

    `epochs` may be a fraction. `learning_rate` is the highest of the curve: `constant`; `one-cycle`
    (linear up over the first quarter, then cosine to zero); `milestones` (times 0.1 at each of
    `milestones`, in epochs of the phase).
    """

    name: str
    epochs: float
    defense: Defense
    attack: TrainingAttack = TrainingAttack()
    learning_rate: float = 1e-3
    schedule: str = "constant"
    milestones: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check(self.epochs > 0, f"epochs of phase {self.name!r} is {self.epochs}; it must be above 0")
        check(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; it must be above 0")
        check(self.schedule in SCHEDULES, f"schedule is {self.schedule!r}; there is {', '.join(SCHEDULES)}")

    def rate(self, progress: float) -> float:
        """Learning rate at `progress`, the fraction of the phase done (0 to 1)."""
        if self.schedule == "milestones":
            passed = sum(progress * self.epochs >= m for m in self.milestones)
            return self.learning_rate * 0.1**passed
        if self.schedule == "one-cycle":
            if progress < 0.25:
                return self.learning_rate * (0.04 + 0.96 * progress / 0.25)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - 0.25) / 0.75))
        return self.learning_rate


@dataclass(frozen=True)
class TrainConfig:
    """All that a training run depends on, besides the machine.

    `precision`: `float32`, `bfloat16` (autocast in training, a folded bfloat16 copy to search for
    examples) or `auto` (bfloat16 where the machine computes it natively). `save_every` is in steps,
    `evaluate_every` in epochs. `flip` and `shift` (fraction of the side) augment each batch. `data_dir` is
    a folder of class folders where `dataset` is not one of the named sets.
    """

    dataset: str
    model: ModelConfig
    phases: tuple[Phase, ...]
    batch_size: int = 64
    optimizer: str = "adam"
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    flip: bool = True
    shift: float = 0.1
    seed: int = 0
    precision: str = "auto"
    compile: bool = False
    train_images: int = 0
    save_every: int = 100
    evaluate_every: float = 1.0
    evaluate_images: int = 200
    data_dir: str = ""

    def __post_init__(self) -> None:
        check(len(self.phases) >= 1, "phases is empty; a run has at least one phase")
        check(self.batch_size >= 1, f"batch_size is {self.batch_size}; it must be at least 1")
        check(self.optimizer in ("adam", "sgd"), f"optimizer is {self.optimizer!r}; it is 'adam' or 'sgd'")
        check(
            self.precision in ("auto", "float32", "bfloat16"),
            f"precision is {self.precision!r}; it is 'auto', 'float32' or 'bfloat16'",
        )
        check(0 <= self.shift <= 0.5, f"shift is {self.shift}; it is a fraction of the side from 0 to 0.5")
        check(self.train_images >= 0, f"train_images is {self.train_images}; 0 means all")
        check(self.save_every >= 1, f"save_every is {self.save_every}; it must be at least 1 step")
        for name in ("weight_decay", "clip_norm"):
            value = getattr(self, name)
            check(math.isfinite(value) and value >= 0, f"{name} is {value}; it must be 0 or more")
        check(self.evaluate_images >= 1, f"evaluate_images is {self.evaluate_images}; it must be at least 1")
        check(self.evaluate_every > 0, f"evaluate_every is {self.evaluate_every}; it must be above 0 epochs")
        side = min(self.model.input_shape[1:])
        for phase in self.phases:
            coarse = phase.attack.smooth == 0 or max(phase.attack.grids) <= side
            check(coarse, f"grids of phase {phase.name!r} is {phase.attack.grids}; pictures have {side} pixels a side")

    @property
    def defense(self) -> Defense:
        """The defense of the last phase: what the ensemble is released as."""
        return self.phases[-1].defense

    @property
    def defense_name(self) -> str:
        """The name of what is trained: the last phase's defense with so many members."""
        return self.defense.name_with(self.model.members)

    @property
    def epochs(self) -> float:
        """Epochs of all phases together."""
        return sum(p.epochs for p in self.phases)


def to_json(config: Any) -> dict[str, Any]:
    """Plain JSON values of a config object; `from_json` is its inverse."""
    return dataclasses.asdict(config)


def from_json(kind: type, values: Any, where: str = "config") -> Any:
    """Build `kind`, one of this module's dataclasses, from plain JSON values.

    Raises:
        ConfigError: a missing, unknown or mistyped field, named with its path.
    """
    check(isinstance(values, dict), f"{where} is {type(values).__name__}; it must be an object")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    check(not unknown, f"{where} has an unknown field {unknown[0] if unknown else ''!r}")
    required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
    missing = sorted(required - set(values))
    check(not missing, f"{where} lacks the field {missing[0] if missing else ''!r}")
    return kind(**{n: _value(hints[n], v, f"{where}.{n}") for n, v in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint`: nested dataclasses, tuples and plain scalars."""
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, where)
    if typing.get_origin(hint) is tuple:
        check(isinstance(value, (list, tuple)), f"{where} is {value!r}; it must be a list")
        items = typing.get_args(hint)
        if items[-1] is not Ellipsis:
            check(len(value) == len(items), f"{where} has {len(value)} entries; it must have {len(items)}")
        inner = [items[0]] * len(value) if items[-1] is Ellipsis else items
        return tuple(_value(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if isinstance(hint, types.UnionType):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    check(right, f"{where} is {value!r}; it must be a {hint.__name__}")
    return value
