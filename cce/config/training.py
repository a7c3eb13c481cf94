"""Defenses, and a training run in phases."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from cce.config.attacks import TrainingAttack
from cce.config.ensembles import ModelConfig
from cce.config.values import check

METHODS = ("nat", "adv-en", "adp", "cce")
READINGS = ("paper", "released")
SCHEDULES = ("constant", "one-cycle", "milestones")
OPTIMIZERS = ("adam", "adamw", "sgd")


def mirror_keeps_class(dataset: str) -> bool:
    """Whether the mirror image of a picture keeps its class: true of the photographs, not of the digits.

    >>> mirror_keeps_class("cifar10"), mirror_keeps_class("mnist")
    (True, False)
    """
    return dataset.startswith("cifar")


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
    def detects(self) -> bool:
        """Whether members are trained to flag attacks, detection mode: demoting weighs more than promoting.

        >>> CCE_DM.detects, CCE_RM.detects, NAT.detects
        (True, False, False)
        """
        return self.lambda_dm > self.lambda_pm

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
    examples) or `auto` (bfloat16 where the machine computes it natively). `compile`: by `torch.compile`,
    half a minute at the start; an H200 then takes the paper's CIFAR-10 CNN in 0.74 of the time. `save_every` is in
    steps, `evaluate_every` in epochs. `flip` and `shift` (fraction of the side) augment each batch. `data_dir` is
    a folder of class folders where `dataset` is not one of the named sets.

    `label_smoothing` is the share of every cross-entropy's target that is spread over all classes (Szegedy et al. 2016,
    arXiv 1512.00567); the training attacks climb the plain loss. `ema_decay` above 0 keeps an exponential moving
    average of the weights, by the step, and evaluates and releases it (see `cce.training.averaging`). `awp_gamma`
    above 0 is the size of adversarial weight perturbation, as a fraction of each layer's norm, from epoch `awp_start`
    on (Wu et al. 2020, arXiv 2004.05884). `init` is a checkpoint whose weights the run starts from: a released one's
    name, a folder, or a Hub id.
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
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    awp_gamma: float = 0.0
    awp_start: float = 0.0
    init: str = ""

    def __post_init__(self) -> None:
        check(len(self.phases) >= 1, "phases is empty; a run has at least one phase")
        check(self.batch_size >= 1, f"batch_size is {self.batch_size}; it must be at least 1")
        check(self.optimizer in OPTIMIZERS, f"optimizer is {self.optimizer!r}; it is one of {', '.join(OPTIMIZERS)}")
        check(
            self.precision in ("auto", "float32", "bfloat16"),
            f"precision is {self.precision!r}; it is 'auto', 'float32' or 'bfloat16'",
        )
        check(abs(self.seed) < 2**63, f"seed is {self.seed}; it must be from -2^63 to 2^63")
        check(0 <= self.shift <= 0.5, f"shift is {self.shift}; it is a fraction of the side from 0 to 0.5")
        check(self.train_images >= 0, f"train_images is {self.train_images}; 0 means all")
        check(self.save_every >= 1, f"save_every is {self.save_every}; it must be at least 1 step")
        for name in ("label_smoothing", "ema_decay"):
            value = getattr(self, name)
            check(0 <= value < 1, f"{name} is {value}; it is a fraction from 0 (none) to below 1")
        check(0 <= self.awp_gamma <= 1, f"awp_gamma is {self.awp_gamma}; it is a fraction of a layer's norm, 0 to 1")
        for name in ("weight_decay", "clip_norm", "awp_start"):
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

    def phase_ends(self, steps_per_epoch: int) -> list[int]:
        """The step that each phase ends at; a phase has one step at least."""
        lengths = (max(1, round(phase.epochs * steps_per_epoch)) for phase in self.phases)
        return list(itertools.accumulate(lengths))
