"""Surface service: the loss and the label around a picture or its adversarial example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from app.services import attacks
from app.services.attacks import is_number, typed
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig, check
from cce.evaluation import surfaces
from cce.evaluation.one_picture import Teller
from cce.evaluation.surfaces import Surface

RESOLUTIONS = (21, 41, 61)
"""What can be chosen on screen."""

RESOLUTION, MOST = 41, 101
"""Points along an axis: the paper's, and at most here, since others wait in line while it computes."""


@dataclass(frozen=True)
class Drawn:
    """A surface with the picture in its middle.

    `pixels` is that picture; `result` what `attack_picture` says of it, None where nothing was attacked;
    `said` what `classify` says of the picture before the attack.
    """

    surface: Surface
    pixels: Tensor
    said: dict[str, Any]
    result: dict[str, Any] | None

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """What `/surface` gives: the axes, offsets in 1/255, and loss and label of every view."""
        return {**self.surface.to_json(), "label": classes[self.surface.label], "classes": list(classes)}


def usual_extent(config: AttackConfig) -> float:
    """Twice epsilon, in pixel units: the ball fills the middle of the plane."""
    return min(1.0, 2 * config.epsilon)


def draw(
    checkpoint: Checkpoint,
    pixels: Tensor,
    label: str | int | None,
    config: AttackConfig | None,
    extent: float,
    resolution: float,
    seed: float = 0,
    tell: Teller | None = None,
) -> Drawn:
    """Attack a picture and look around what came of it.

    Args:
        checkpoint: the ensemble.
        pixels: `(C, H, W)` on the 1/255 grid.
        label: its class; `auto` for the clean prediction.
        config: the attack; None looks around the picture itself.
        extent: largest change of a pixel at the end of an axis, in 1/255.
        resolution: points along an axis.
        seed: of the attack's random start and of the axis v.
        tell: hears what is being done and the fraction done; raising in it stops the work.

    Raises:
        ConfigError: a value that cannot be used, in the units of the screen; a picture with no gradient.
    """
    check(is_number(extent) and 0 < extent <= 255, f"The extent is {typed(extent)}; it is above 0, at most 255.")
    good = is_number(resolution) and resolution == int(resolution) and 2 <= resolution <= MOST
    check(good, f"The resolution is {typed(resolution)}; it is a whole number from 2 to {MOST}.")
    seed = attacks.check_seed(seed)
    index = attacks.label_index(checkpoint, label)
    said = attacks.classify(checkpoint, pixels)
    index = checkpoint.classes.index(said["label"]) if index is None else index
    middle, result = pixels, None
    if config is not None:
        attacked = attacks.attack_in_steps(checkpoint, pixels, index, config, seed, tell)
        middle, result = attacked.x_adv, attacked.result
    device = next(checkpoint.model.parameters()).device
    found = surfaces.surface(
        checkpoint.model,
        middle.to(device),
        index,
        extent=extent / 255,
        resolution=int(resolution),
        seed=seed,
        report=tell and (lambda fraction: tell("Looking around", fraction)),
    )
    return Drawn(found, middle, said, result)
