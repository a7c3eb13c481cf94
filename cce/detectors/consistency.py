"""Consistency: an input is accepted only where a push inside a small ball does not change the answer.

Chen et al. 2023 (arXiv 2305.01139): where an accepted answer is constant within r, an attack of size epsilon that is
wrong and accepted puts a wrong answer within epsilon - r of the clean image too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cce.attacks.ascent import loss_of, pgd_sign
from cce.config import default_attack
from cce.config.detectors import check_push
from cce.models import Ensemble, evaluating

RADII = tuple(r / 255 for r in (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 8))
"""The radii that are tried by default: CIFAR-10's, up to the usual attack's epsilon."""
STEPS = 10
"""Steps of the push at each radius, by default."""
STEADY = 1.0
"""The radius of an input whose answer no push changed: it is somewhere up to the whole range of a pixel."""


def usual_radii(dataset: str) -> tuple[float, ...]:
    """`RADII` in proportion to the usual attack's epsilon on a data set, pixel units."""
    scale = default_attack(dataset).epsilon / RADII[-1]
    return tuple(scale * radius for radius in RADII)


def smallest_radius(
    model: Ensemble,
    x: Tensor,
    radii: Sequence[float] = RADII,
    steps: int = STEPS,
    *,
    unanimity: bool = False,
    search: Ensemble | None = None,
) -> Tensor:
    """The smallest of `radii` within which the answer on each input can be changed.

    Sign-gradient ascent from x itself on the loss of the answer on x: at each radius `steps` steps of 2 r / steps,
    from where the radius before ended. No random number is drawn.

    Args:
        model: judges in float32, in evaluation mode; modes come back as they were.
        x: `(B, C, H, W)` in [0, 1].
        radii: rising, pixel units.
        steps: at each radius; 50 or 200 push harder, and cost as much more.
        unanimity: the answer is the members' one class: it is changed as soon as one of them differs, and the push
            climbs the worst member's loss. Else it is the ensemble's class and loss.
        search: a fast copy to push on (default: `model`).

    Returns:
        `(B,)`, pixel units; 0 where the members do not agree on x (with unanimity), `STEADY` where no push changed it.

    Raises:
        ConfigError: radii that do not rise, or no steps.
    """
    check_push(tuple(radii), steps)
    search = model if search is None else search
    with evaluating(model), evaluating(search):
        found = torch.full((len(x),), STEADY, device=x.device)
        label = _label(model, x)
        first = _changed(model, x, label, unanimity)
        found[first] = 0.0
        left = (~first).nonzero()[:, 0]
        pushed = x[left]
        for radius in radii:
            if not len(left):
                break
            climb = loss_of(search, label[left], objective="worst member" if unanimity else "probabilities")
            size = {"epsilon": radius, "step_size": 2 * radius / steps, "steps": steps}
            pushed = pgd_sign(climb, x[left], pushed, **size)
            changed = _changed(model, pushed, label[left], unanimity)
            found[left[changed]] = radius
            left, pushed = left[~changed], pushed[~changed]
    return found


@torch.no_grad()
def _label(model: Ensemble, x: Tensor) -> Tensor:
    return model(x).argmax(-1)


@torch.no_grad()
def _changed(model: Ensemble, x: Tensor, label: Tensor, unanimity: bool) -> Tensor:
    """Where the answer is not `label` `(B,)`: any member's with unanimity, else the ensemble's."""
    if not unanimity:
        return _label(model, x) != label
    return (model.member_logits(x).argmax(-1) != label).any(0)
