"""The attacks there are, by name: what each is, what it reads of its settings, and where its code is.

This module knows no tensors, so that the configuration, the command line and the Studio can list
attacks without loading them. `cce.attacks.gradient.attack` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

NORMS = ("linf", "l2")
OBJECTIVES = ("probabilities", "logits", "worst member", "best member")


@dataclass(frozen=True)
class AttackInfo:
    """What an attack is.

    `title` is short, for a list; `summary` one line of plain words; `group` what it stands under in a
    long list. `module` holds its `run`. `norms`: the balls it knows. `steps`: the usual number, None
    where the attack has a fixed procedure and `AttackConfig.steps` is not read; `step_size`: whether
    `AttackConfig.step_size` is read; `objective`, `restarts`, `targeted`: whether
    `AttackConfig.objective`, `.restarts` and `.toward` are; `member`: whether one member alone can be
    attacked (`AttackConfig.target`).
    `gradient_free`: sees outputs only. `aware`: knows the detector, and takes its threshold.
    `random`: depends on the seed. `grid`: side of the coarse grid of a smooth perturbation.
    `package`: what must be installed besides the requirements. `slow`: a hundred forward passes an
    image or more.
    """

    title: str
    summary: str
    group: str
    module: str
    norms: tuple[str, ...] = ("linf",)
    steps: int | None = 20
    step_size: bool = True
    objective: bool = False
    member: bool = False
    restarts: bool = False
    targeted: bool = False
    gradient_free: bool = False
    aware: bool = False
    random: bool = False
    grid: int | None = None
    package: str | None = None
    slow: bool = False


_FIRST: dict[str, Any] = {
    "group": "Gradient",
    "module": "cce.attacks.gradient",
    "norms": NORMS,
    "objective": True,
    "member": True,
    "targeted": True,
}
_MANY: dict[str, Any] = {
    "group": "Every target",
    "module": "cce.attacks.multi_targeted",
    "norms": NORMS,
    "objective": True,
    "member": True,
    "slow": True,
}
_AUTO: dict[str, Any] = {
    "group": "Auto-Attack",
    "module": "cce.attacks.auto_attack",
    "norms": NORMS,
    "step_size": False,
    "random": True,
    "slow": True,
}
_AWARE: dict[str, Any] = {"group": "Knows the detector", "module": "cce.attacks.adaptive", "aware": True, "slow": True}
_AGREE: dict[str, Any] = _AWARE | {"step_size": False, "steps": 50}

ATTACKS: Mapping[str, AttackInfo] = MappingProxyType(
    {
        "fgsm": AttackInfo("FGSM", "One step of epsilon along the gradient's sign.", **_FIRST | {"steps": None}),
        "pgd": AttackInfo(
            "PGD",
            "Many small steps up the loss, from a random point of the ball.",
            **_FIRST,
            restarts=True,
            random=True,
        ),
        "bim": AttackInfo("BIM", "PGD that starts at the picture itself.", **_FIRST),
        "mim": AttackInfo("MIM", "BIM with momentum: steps along the sum of past gradients.", **_FIRST),
        "mt-pgd": AttackInfo(
            "Multi-targeted PGD", "PGD towards every wrong class; any success counts.", **_MANY, random=True
        ),
        "mt-bim": AttackInfo("Multi-targeted BIM", "BIM towards every wrong class; any success counts.", **_MANY),
        "mt-mim": AttackInfo("Multi-targeted MIM", "MIM towards every wrong class; any success counts.", **_MANY),
        "apgd-ce": AttackInfo(
            "APGD-CE", "PGD that halves its own step where it stalls.", **_AUTO | {"steps": 100, "restarts": True}
        ),
        "apgd-dlr": AttackInfo(
            "APGD-DLR, targeted",
            "APGD on the difference of logits ratio, towards the nine likeliest wrong classes.",
            **_AUTO | {"steps": 100},
        ),
        "fab": AttackInfo(
            "FAB, targeted",
            "Looks for the nearest decision boundary, not for the highest loss.",
            **_AUTO | {"steps": 100, "random": False},
        ),
        "square": AttackInfo(
            "Square",
            "Tries random squares of colour and keeps what helps; sees outputs only.",
            **_AUTO | {"group": "Outputs only", "steps": 5000, "gradient_free": True},
        ),
        "autoattack": AttackInfo(
            "Auto-Attack", "APGD-CE, APGD-DLR, FAB and Square in turn: the field's standard.", **_AUTO | {"steps": None}
        ),
        "autoattack-package": AttackInfo(
            "Auto-Attack (package)",
            "The authors' own code, slower, to check ours against.",
            **_AUTO | {"steps": None, "package": "pyautoattack"},
        ),
        "spsa": AttackInfo(
            "SPSA",
            "Estimates the gradient from outputs at random points nearby; sees outputs only.",
            "Outputs only",
            "cce.attacks.spsa",
            steps=50,
            step_size=False,
            gradient_free=True,
            objective=True,
            member=True,
            targeted=True,
            random=True,
            slow=True,
        ),
        "bb": AttackInfo(
            "B&B",
            "Walks along the decision boundary towards the picture, from a PGD example.",
            "Nearest boundary",
            "cce.attacks.boundary",
            norms=NORMS,
            steps=100,
            step_size=False,
            restarts=True,
            random=True,
            package="numba",
            slow=True,
        ),
        "mora": AttackInfo(
            "MORA",
            "Weighs the members anew at each step by how much each still decides.",
            "Ensemble",
            "cce.attacks.mora",
            steps=100,
            step_size=False,
            slow=True,
            random=True,
            restarts=True,
        ),
        "agree": AttackInfo("Agreeing members", "Drives all members to agree on one wrong class.", **_AGREE),
        "smooth-16": AttackInfo(
            "Smooth 16 x 16", "The same with a smooth perturbation, 16 x 16 values upsampled.", **_AGREE, grid=16
        ),
        "smooth-8": AttackInfo("Smooth 8 x 8", "Smoother still: 8 x 8 values upsampled.", **_AGREE, grid=8),
        "smooth-4": AttackInfo("Smooth 4 x 4", "The smoothest: 4 x 4 values upsampled.", **_AGREE, grid=4),
        "aware-pgd": AttackInfo(
            "Detector-aware PGD",
            "Climbs towards a wrong class and lowers the entropy, with a search for the weight between them.",
            **_AWARE | {"steps": 40},
        ),
        "opgd": AttackInfo(
            "Orthogonal PGD",
            "Lowers the entropy along directions that leave the loss alone, and the converse.",
            **_AWARE | {"steps": 40},
            objective=True,
        ),
    }
)


def titles() -> list[tuple[str, str]]:
    """`(title, name)` of every attack, as a list on screen takes them."""
    return [(info.title, name) for name, info in ATTACKS.items()]
