"""One picture, before and after an attack: what the Attack tab, the endpoints and `python -m cce attack` show."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cce.attacks import attack, to_grid
from cce.checkpoints import Checkpoint
from cce.config import AttackConfig, check
from cce.evaluation import Outcome, outcome
from cce.models import evaluating, log_mean_probability


def subset_name(member_right: list[bool]) -> str:
    """Table 1's name of an example's place: a bit for each member, 1 where it is right.

    >>> subset_name([False, True])
    'S01'
    """
    return "S" + "".join("1" if right else "0" for right in member_right)


def classify(checkpoint: Checkpoint, x: Tensor) -> dict[str, Any]:
    """What an ensemble says of one picture.

    Args:
        checkpoint: the ensemble.
        x: `(C, H, W)` float32 in [0, 1].

    Returns:
        JSON values: `classes`, `members` (probabilities `[[p]]`), `ensemble` `[p]`, `label` (a class
        name), `entropy` (nats), `threshold` (nats or None), `flagged` (None without a detector).
    """
    wanted = checkpoint.model.config.input_shape
    check(
        tuple(x.shape) == wanted,
        f"the picture has the shape {tuple(x.shape)}; {checkpoint.id} takes {wanted}",
    )
    with torch.no_grad(), evaluating(checkpoint.model):
        logits = checkpoint.model.member_logits(x[None])
    result = Outcome(log_mean_probability(logits), logits.argmax(-1), torch.zeros(1, dtype=torch.long))
    value = result.entropy.item()
    threshold = checkpoint.detector.threshold if checkpoint.detector else None
    return {
        "classes": list(checkpoint.classes),
        "members": logits.softmax(-1)[:, 0].tolist(),
        "ensemble": result.log_probability[0].exp().tolist(),
        "label": checkpoint.classes[result.label.item()],
        "entropy": value,
        "threshold": threshold,
        "flagged": None if threshold is None else value > threshold,
    }


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
        `succeeded` (f_en right before, wrong after), `linf` (pixel units), `trajectory`: for the
        start and after each step `{step, entropy, probability, subset}`.
    """
    benign = classify(checkpoint, x)
    index = checkpoint.classes.index(benign["label"]) if label is None else label
    labels = torch.tensor([index], device=x.device)
    path: list[Tensor] = []
    x_adv = attack(checkpoint.model, x[None], labels, config, seed=seed, watch=lambda _, z: path.append(z.clone()))
    x_adv = to_grid(x_adv.detach(), x[None], config.epsilon)
    adversarial = classify(checkpoint, x_adv[0])
    places = outcome(checkpoint.model, torch.cat([x[None], x_adv, *path]).detach(), labels.repeat(2 + len(path)))
    subsets = [subset_name(row) for row in places.member_right.T.tolist()]
    probability = places.log_probability[:, index].exp().tolist()
    trajectory = [
        {"step": i, "entropy": e, "probability": p, "subset": s}
        for i, (e, p, s) in enumerate(zip(places.entropy[2:].tolist(), probability[2:], subsets[2:], strict=True))
    ]
    return x_adv[0], {
        "label": checkpoint.classes[index],
        "benign": benign,
        "adversarial": adversarial,
        "benign_subset": subsets[0],
        "subset": subsets[1],
        "succeeded": bool(places.right[0]) and not bool(places.right[1]),
        "linf": (x_adv[0] - x).abs().max().item(),
        "trajectory": trajectory,
    }
