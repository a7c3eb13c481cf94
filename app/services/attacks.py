"""Attack service: a picture in, what each member says of it before and after an attack out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from cce import examples
from cce.checkpoints import Checkpoint
from cce.config import ATTACKS, AttackConfig, check, default_attack
from cce.pictures import read_picture, to_model_input

MAX_STEPS = 500
"""Most steps of one attack here: others wait in line while it computes."""

AUTO = "auto"
"""The label that stands for the clean prediction."""


@dataclass(frozen=True)
class Picture:
    """A picture at a model's size.

    `pixels` `(C, H, W)` in [0, 1] on the 1/255 grid; `label` the true class where it is known;
    `name` what it is called on screen; `dataset` where it comes from, None for an upload; `crop` the
    part of an upload that is used, and `size` the upload's own, width and height.
    """

    pixels: Tensor
    label: str | None
    name: str
    dataset: str | None = None
    crop: Image.Image | None = None
    size: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return tuple(self.pixels.shape)


def open_upload(source: bytes | Path | str, shape: tuple[int, int, int], name: str = "your picture") -> Picture:
    """An uploaded file as a model takes it: cropped about its centre and resized, or untouched if it fits.

    Raises:
        PictureError: a file that cannot be used, in words for the person who uploaded it.
    """
    image = read_picture(source)
    pixels, crop = to_model_input(image, *shape)
    return Picture(pixels, None, name, crop=crop, size=image.size)


def refit(picture: Picture, shape: tuple[int, int, int]) -> Picture:
    """An upload for another model's size, from the crop that was kept."""
    assert picture.crop is not None
    pixels, crop = to_model_input(picture.crop, *shape)
    return Picture(pixels, None, picture.name, crop=crop, size=picture.size)


def settings(attack: str, epsilon: float, step_size: float, steps: float, target: str) -> AttackConfig:
    """An attack from what is typed on screen: `epsilon` and `step_size` in 1/255.

    Raises:
        ConfigError: a value that cannot be used; the message is in the units of the screen.
    """
    name = str(attack).lower()
    check(name in ATTACKS, f"The attack is {attack!r}; there is {', '.join(ATTACKS)}.")
    for what, value in (("Epsilon", epsilon), ("The step size", step_size)):
        good = _is_number(value) and 0 <= value <= 255
        check(good, f"{what} is {_typed(value)}; it is a number from 0 to 255, in 1/255.")
    good = _is_number(steps) and steps == int(steps) and 1 <= steps <= MAX_STEPS
    check(good, f"The number of steps is {_typed(steps)}; it is a whole number from 1 to {MAX_STEPS}.")
    return AttackConfig(name, epsilon / 255, step_size / 255, int(steps), str(target))


def check_seed(seed: float) -> int:
    """The seed as an integer.

    Raises:
        ConfigError: not a whole number from 0 to 2^32 - 1.
    """
    good = _is_number(seed) and seed == int(seed) and 0 <= seed < 2**32
    check(good, f"The seed is {_typed(seed)}; it is a whole number from 0 to {2**32 - 1}.")
    return int(seed)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _typed(value: Any) -> str:
    if value is None:
        return "empty"
    return f"{value:g}" if _is_number(value) else repr(value)


def label_index(checkpoint: Checkpoint, label: str | int | None) -> int | None:
    """Index of a class given by name or index; None for `auto`.

    Raises:
        ConfigError: the model has no such class.
    """
    if label is None or label == AUTO:
        return None
    text = str(label)
    if text in checkpoint.classes:
        return checkpoint.classes.index(text)
    known = ", ".join(checkpoint.classes[:10]) + (", ..." if len(checkpoint.classes) > 10 else "")
    check(
        text.isdigit() and int(text) < len(checkpoint.classes),
        f"The label is {text!r}; it is 'auto', one of {known}, or an index from 0 to {len(checkpoint.classes) - 1}.",
    )
    return int(text)


def check_target(checkpoint: Checkpoint, config: AttackConfig) -> None:
    """Refuse a member that the ensemble does not have."""
    member, count = config.target_member, checkpoint.model.config.members
    check(member is None or member < count, f"The target is {config.target!r}; this ensemble has {count} members.")


def targets(checkpoint: Checkpoint) -> list[str]:
    """What can be attacked: the ensemble, or one member."""
    return ["ensemble", *(f"member {i + 1}" for i in range(checkpoint.model.config.members))]


def defaults(checkpoint: Checkpoint) -> AttackConfig:
    """The attack that this ensemble is shown under first."""
    return default_attack(checkpoint.dataset)


def classify(checkpoint: Checkpoint, pixels: Tensor) -> dict[str, Any]:
    """What an ensemble says of one picture; see `cce.examples.classify`."""
    return examples.classify(checkpoint, pixels.to(_device(checkpoint)))


def attack(
    checkpoint: Checkpoint, pixels: Tensor, label: str | int | None, config: AttackConfig, seed: float = 0
) -> tuple[Tensor, dict[str, Any]]:
    """Attack one picture; see `cce.examples.attack_picture`. The result is on the CPU.

    Raises:
        ConfigError: a label, member or seed that is not there.
    """
    index = label_index(checkpoint, label)
    check_target(checkpoint, config)
    seed = check_seed(seed)
    x_adv, result = examples.attack_picture(checkpoint, pixels.to(_device(checkpoint)), index, config, seed)
    return x_adv.cpu(), result


def _device(checkpoint: Checkpoint) -> Any:
    return next(checkpoint.model.parameters()).device


def in_255ths(value: float) -> float:
    """A size in pixel units as it is typed and shown, in 1/255.

    >>> in_255ths(8 / 255)
    8.0
    """
    return round(255 * value, 4)


def describe(config: AttackConfig) -> str:
    """The attack in a line, in 1/255.

    >>> describe(AttackConfig("fgsm"))
    'FGSM, epsilon 8/255, on the ensemble'
    """
    if config.name != "fgsm":
        return config.describe()
    on = "the ensemble" if config.target == "ensemble" else config.target
    return f"FGSM, epsilon {in_255ths(config.epsilon):g}/255, on {on}"
