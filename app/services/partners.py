"""Partners service: two ensembles on the same example, and each member's examples shown to the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from app.services import attacks
from app.services.models import Entry, Registry
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig, default_attack
from cce.evaluation.one_picture import Teller, subset_of

SAME, EACH = "same", "each"
"""What a second ensemble is shown: the example made on the first, or one made on itself."""


def partners(registry: Registry, name: str) -> list[Entry]:
    """The other ensembles that take the same pictures and name the same classes; none of them is loaded for it."""
    mine, broken = registry.get(name), registry.broken()
    wanted = mine.dataset, mine.model.config.input_shape, mine.classes
    return [
        entry
        for entry in registry.entries()
        if (entry.dataset, entry.input_shape, entry.classes) == wanted and entry.id != name and entry.id not in broken
    ]


@dataclass(frozen=True)
class MadeOn:
    """An example made on one member, or on the ensemble: what all say of it, and its subset.

    `target` is `member n` or `ensemble`; `pixels` `(C, H, W)` in [0, 1]; `right` a truth value for each
    member and then for the ensemble.
    """

    target: str
    pixels: Tensor
    said: dict[str, Any]
    subset: str
    right: list[bool]


def per_member(config: AttackConfig, dataset: str) -> AttackConfig:
    """The attack as it can be made on one member: PGD of the same size for those that cannot."""
    if config.info.member:
        return replace(config, objective="probabilities")
    return replace(default_attack(dataset, "pgd", config.norm), epsilon=config.epsilon)


def one_by_one(
    checkpoint: Checkpoint,
    pixels: Tensor,
    label: str,
    config: AttackConfig,
    seed: float = 0,
    tell: Teller | None = None,
) -> list[MadeOn]:
    """Attack each member alone, then the ensemble, and show every example to all.

    The row of member i says whether its example fools member j: Table 6's a(i, j) on one picture.

    Args:
        checkpoint: the ensemble.
        pixels: the picture `(C, H, W)`.
        label: the class it is judged by; `auto` stands for the ensemble's own answer.
        config: an attack that `per_member` gave; its target is not read.
        seed: of random starts.
        tell: called as `tell(what, fraction)` at each step, and may raise to end it.
    """
    rows = []
    targets = [*attacks.targets(checkpoint)[1:], "ensemble"]
    for i, target in enumerate(targets):

        def part(what: str, fraction: float, i: int = i, target: str = target) -> None:
            if tell:
                tell(f"Attacking {target}", (i + fraction) / len(targets))

        made = attacks.attack_in_steps(checkpoint, pixels, label, replace(config, target=target), seed, part)
        said, truth = made.result["adversarial"], made.result["label"]
        subset = subset_of(said, checkpoint.classes.index(truth))
        right = [*(bit == "1" for bit in subset[1:]), said["label"] == truth]
        rows.append(MadeOn(target, made.x_adv, said, subset, right))
    return rows
