"""Monitoring: the evaluations of a model in training, and how one of them ranks against another."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from cce.attacks.gradient import loss_of, pgd_sign, uniform_start
from cce.config import AttackConfig, Defense
from cce.data.datasets import Dataset, Split
from cce.evaluation.detection import auc
from cce.evaluation.outcomes import Outcome, outcome
from cce.evaluation.transferability import total_transferability
from cce.models import Ensemble
from cce.training.parallel import ALONE, Team

UNIFORM = 0.98
"""Predictions count as uniform where their mean entropy is above this fraction of ln M, M classes."""


def monitoring_split(dataset: Dataset, count: int) -> Split:
    """Images evaluated during training, which choose the best state: the last `count` of the detection test split.

    They are at most half of it, so that images are left that had no part in the choice (`Checkpoint.test_split`).
    """
    test = dataset.detection_test
    return test.last(min(count, max(1, len(test) // 2)))


def monitoring_figures(
    model: Ensemble, search: Ensemble, split: Split, attack: AttackConfig, batch_size: int, team: Team = ALONE
) -> dict[str, Any]:
    """Figures of one evaluation of a model in training: searched on `search`, judged by `model` in float32.

    The ensemble is attacked, and each member alone, for T (see `Transferability`).

    Returns:
        For `natural` and `robust` (the examples that attack the ensemble): `_accuracy`,
        `_member_accuracy`, `_subsets` (Table 1), `_entropy` in nats; `transferability` T;
        `detection_auc` of the entropy, robust against natural; `images`.
    """
    device = next(model.parameters()).device
    labels = team.share(split.labels).to(device)
    whole = split.pixels()
    start = team.share(uniform_start(whole, attack.epsilon, torch.Generator().manual_seed(0))).to(device)
    x = team.share(whole).to(device)

    def seen(images: Tensor) -> Outcome:
        return _gathered(outcome(model, images, labels), team, device)

    def attacked(member: int | None) -> Outcome:
        return seen(_examples(search, x, start, labels, member, attack, batch_size))

    n = len(model.members)
    clean, robust = seen(x), attacked(None)
    own = [attacked(member).member_accuracy for member in range(n)] if n > 1 else [robust.member_accuracy]
    return {
        **_prefixed("natural", clean),
        **_prefixed("robust", robust),
        "transferability": total_transferability(own, n),
        "detection_auc": auc(clean.entropy.cpu().numpy(), robust.entropy.cpu().numpy()),
        "images": len(split),
    }


def _examples(
    search: Ensemble, x: Tensor, start: Tensor, labels: Tensor, member: int | None, attack: AttackConfig, size: int
) -> Tensor:
    """PGD on f_en, or on a member, `size` images at a time."""
    shape = {"epsilon": attack.epsilon, "step_size": attack.step_size, "steps": attack.steps}
    parts = [slice(i, i + size) for i in range(0, len(x), size)]
    found = [pgd_sign(loss_of(search, labels[p], member), x[p], start[p], **shape) for p in parts]
    return torch.cat(found) if found else x


def _gathered(mine: Outcome, team: Team, device: torch.device) -> Outcome:
    """What every process saw, as one outcome."""
    if team.count == 1:
        return mine
    own = {f.name: getattr(mine, f.name) for f in fields(Outcome)}
    found = team.gather({name: value.cpu() for name, value in own.items()})
    along = {"member_labels": 1, "member_entropy": 1}  # (N, B)
    return Outcome(**{k: torch.cat([one[k] for one in found], along.get(k, 0)).to(device) for k in own})


def _prefixed(name: str, result: Outcome) -> dict[str, Any]:
    return {
        f"{name}_accuracy": result.accuracy,
        f"{name}_member_accuracy": result.member_accuracy,
        f"{name}_subsets": result.subset_counts(),
        f"{name}_entropy": result.entropy.mean().item(),
    }


def monitor_line(row: dict[str, Any]) -> str:
    """One line for people of an evaluation row."""

    def accuracy(name: str) -> str:
        members = ", ".join(f"{a:.3f}" for a in row[f"{name}_member_accuracy"])
        return f"{row[f'{name}_accuracy']:.3f} (members {members})"

    return (
        f"step {row['step']}: natural {accuracy('natural')}, PGD-10 {accuracy('robust')}, "
        f"T {row['transferability']:.2f}, entropy clean {row['natural_entropy']:.2f}, "
        f"attacked {row['robust_entropy']:.2f} nats ({row['images']} images)"
    )


def criterion(defense: Defense) -> str:
    """What the best state is chosen by, in words; see `standing`."""
    if defense.method == "nat":
        return "natural accuracy"
    if defense.detects:
        return "natural accuracy plus the AUC of entropy detection"
    return "robust accuracy"


def standing(row: dict[str, Any], defense: Defense) -> float:
    """How good an evaluation of a model is, by its defense's aim; the highest is the best.

    NAT: natural accuracy. An ensemble that demotes more than it promotes (detection mode): natural accuracy
    plus the AUC of telling PGD examples by their entropy, as either alone is easily had. All others:
    robust accuracy.
    """
    if defense.method == "nat":
        return row["natural_accuracy"]
    if defense.detects:
        return row["natural_accuracy"] + row["detection_auc"]
    return row["robust_accuracy"]
