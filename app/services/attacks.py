"""Attack service: a picture in, what each member says of it before and after an attack out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from app.services.apart import Apart
from app.services.work import check_work
from cce.checkpoints.folder import Checkpoint
from cce.config import ATTACKS, LARGEST_L2, NORMS, AttackConfig, check, default_attack
from cce.data.class_names import few_choices as class_choices
from cce.data.class_names import find_class
from cce.data.pictures import MIDDLE, movable, read_picture, to_model_input
from cce.evaluation import one_picture as examples
from cce.evaluation.one_picture import AttackedPicture, Teller

MAX_STEPS = 500
"""Most steps of one attack here, where the attack's usual number is not larger: others wait in line."""

MAX_RESTARTS = 20
"""Most restarts of one attack here."""

_apart = Apart()
"""Where attacks run that compile themselves at their first use, for seconds in which nothing could stop them here."""

WHOLE_PIXELS = 1_000_000
"""Most pixels that are kept of an upload whose crop can be moved."""

AUTO = "auto"
"""The label that stands for the clean prediction."""


@dataclass(frozen=True)
class Picture:
    """A picture at a model's size.

    `pixels` `(C, H, W)` in [0, 1] on the 1/255 grid; `label` the true class where it is known;
    `name` what it is called on screen; `dataset` where it comes from, None for an upload; `crop` the
    part of an upload that is used, and `size` the upload's own, width and height. `key` is what a link
    calls it: `test:5`, or an example's name; None for a visitor's own picture. `said` is the class that a
    visitor says it shows, where nothing else tells. `whole` is the upload where `place` can be another, that is where
    it is longer on one side than the model's pictures: at most `WHOLE_PIXELS`, so a large one is made smaller.
    """

    pixels: Tensor
    label: str | None
    name: str
    dataset: str | None = None
    crop: Image.Image | None = None
    size: tuple[int, int] | None = None
    key: str | None = None
    said: str | None = None
    whole: Image.Image | None = None
    place: float = MIDDLE

    @property
    def judged(self) -> str:
        """The class it is judged by: the true one, the one that was said, or `auto`, the ensemble's own answer."""
        return self.label or self.said or AUTO

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return tuple(self.pixels.shape)


def open_upload(
    source: bytes | Path | str,
    shape: tuple[int, int, int],
    name: str = "your picture",
    key: str | None = None,
    crop: float = 100 * MIDDLE,
) -> Picture:
    """An uploaded file as a model takes it: cropped and resized, or untouched if it fits.

    Args:
        source: the file or its content.
        shape: channels, height and width of the model's pictures.
        name: what it is called on screen.
        key: what a link calls it.
        crop: where it is cropped, in percent; see `place_of`.

    Raises:
        PictureError: a file that cannot be used, in words for the person who uploaded it.
        ConfigError: a place that is none.
    """
    place = place_of(crop)
    image = read_picture(source)
    pixels, shown = to_model_input(image, *shape, place=place)
    whole = None
    if movable(image.size, shape[2] / shape[1]):
        whole, over = image, math.sqrt(image.width * image.height / WHOLE_PIXELS)
        if over > 1:
            whole = image.resize((max(1, int(image.width / over)), max(1, int(image.height / over))), reducing_gap=3.0)
    return Picture(pixels, None, name, crop=shown, size=image.size, key=key, whole=whole, place=place)


def refit(picture: Picture, shape: tuple[int, int, int]) -> Picture:
    """An upload for another model's size, from what was kept of it; what it was said to show was said for the other."""
    assert picture.crop is not None
    pixels, crop = to_model_input(picture.whole or picture.crop, *shape, place=picture.place)
    return replace(picture, pixels=pixels, crop=crop, said=None)


def move_crop(picture: Picture, crop: float) -> Picture:
    """An upload cropped at another place, in percent; itself where all of it is taken.

    Raises:
        ConfigError: a place that is none.
    """
    place = place_of(crop)
    if picture.whole is None:
        return picture
    pixels, shown = to_model_input(picture.whole, *picture.shape, place=place)
    return replace(picture, pixels=pixels, crop=shown, place=place)


def place_of(crop: Any) -> float:
    """Where a picture is cropped, as `to_model_input` takes it, from percent.

    Raises:
        ConfigError: no number from 0 to 100.
    """
    good = is_number(crop) and 0 <= crop <= 100
    check(good, f"The crop is {typed(crop)}; it is from 0 (left or top) to 100 (right or bottom), 50 is the middle.")
    return float(crop) / 100


def settings(
    attack: str,
    epsilon: float,
    step_size: float,
    steps: float,
    target: str = "ensemble",
    norm: str = "linf",
    objective: str = "probabilities",
    restarts: float = 1,
    toward: int | None = None,
) -> AttackConfig:
    """An attack from what is typed on screen: `epsilon` and `step_size` in 1/255.

    Raises:
        ConfigError: a value that cannot be used; the message is in the units of the screen.
    """
    name = str(attack).lower()
    check(name in ATTACKS, f"The attack is {attack!r}; there is {', '.join(ATTACKS)}.")
    check(norm in NORMS, f"The norm is {norm!r}; there is {' and '.join(NORMS)}.")
    highest = most_epsilon(norm)
    for what, value in (("Epsilon", epsilon), ("The step size", step_size)):
        good = is_number(value) and 0 <= value <= highest
        check(good, f"{what} is {typed(value)}; it is a number from 0 to {highest:g}, in 1/255.")
    most = most_steps(name)
    good = is_number(steps) and steps == int(steps) and 1 <= steps <= most
    check(good, f"The number of steps is {typed(steps)}; it is a whole number from 1 to {most}.")
    good = is_number(restarts) and restarts == int(restarts) and 1 <= restarts <= MAX_RESTARTS
    check(good, f"The number of restarts is {typed(restarts)}; it is a whole number from 1 to {MAX_RESTARTS}.")
    return AttackConfig(
        name,
        epsilon / 255,
        step_size / 255,
        int(steps),
        str(target),
        norm=norm,
        restarts=int(restarts),
        objective=str(objective),
        toward=toward,
    )


def used_settings(attack: str, **given: Any) -> AttackConfig:
    """`settings` from controls of which an attack reads some: the rest count as left alone."""
    info = ATTACKS.get(str(attack).lower())
    if info is not None:
        usual = {
            "steps": None if info.steps is not None else 1,
            "target": None if info.member else "ensemble",
            "objective": None if info.objective else "probabilities",
            "restarts": None if info.restarts else 1,
            "norm": None if given.get("norm") in info.norms else info.norms[0],
        }
        given |= {key: value for key, value in usual.items() if value is not None}
        if not info.targeted:
            given["toward"] = None
        if not info.step_size or info.steps is None:
            given["step_size"] = 0
    return settings(attack, **given)


def most_steps(attack: str) -> int:
    """Most steps of an attack here."""
    return max(MAX_STEPS, ATTACKS[attack].steps or 0)


def most_epsilon(norm: str) -> float:
    """Largest radius of a ball here, in 1/255: all of [0, 1], or an L2 length of 5."""
    return 255 if norm == "linf" else 255 * LARGEST_L2


def choices() -> list[tuple[str, str]]:
    """The attacks that can run here, as a list on screen takes them; slow ones say so."""
    return [
        (f"{info.title} (slow)" if info.slow else info.title, name)
        for name, info in ATTACKS.items()
        if not info.package or find_spec(info.package.replace("-", "_"))
    ]


def explain(attack: str) -> str:
    """An attack in a line, with a warning where it takes long."""
    info = ATTACKS[attack]
    slow = " Slow: from some seconds to minutes. Cancel stops it." if info.slow else ""
    return f"{info.group}. {info.summary}{slow}"


def check_seed(seed: float) -> int:
    """The seed as an integer.

    Raises:
        ConfigError: not a whole number from 0 to 2^32 - 1.
    """
    good = is_number(seed) and seed == int(seed) and 0 <= seed < 2**32
    check(good, f"The seed is {typed(seed)}; it is a whole number from 0 to {2**32 - 1}.")
    return int(seed)


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def typed(value: Any) -> str:
    """What was typed, for a message."""
    if value is None:
        return "empty"
    return f"{value:g}" if is_number(value) else repr(value)


def label_index(checkpoint: Checkpoint, label: str | int | None) -> int | None:
    """Index of a class given by name or index; None for `auto`.

    Raises:
        ConfigError: the model has no such class.
    """
    if label is None or label == AUTO:
        return None
    text = str(label)
    found = find_class(checkpoint.classes, text)
    check(found is not None, f"The label is {text[:80]!r}; it is 'auto', {class_choices(checkpoint.classes)}.")
    return found


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
    """What an ensemble says of one picture; see `cce.evaluation.one_picture.classify`."""
    return examples.classify(checkpoint, pixels.to(_device(checkpoint)))


def attack(
    checkpoint: Checkpoint, pixels: Tensor, label: str | int | None, config: AttackConfig, seed: float = 0
) -> tuple[Tensor, dict[str, Any]]:
    """Attack one picture; see `cce.evaluation.one_picture.attack_picture`. The result is on the CPU.

    Raises:
        ConfigError: a label, member or seed that is not there.
    """
    attacked = attack_in_steps(checkpoint, pixels, label, config, seed)
    return attacked.x_adv, attacked.result


def attack_in_steps(
    checkpoint: Checkpoint,
    pixels: Tensor,
    label: str | int | None,
    config: AttackConfig,
    seed: float = 0,
    tell: Teller | None = None,
) -> AttackedPicture:
    """Attack one picture and keep each step, all on the CPU; see `cce.evaluation.one_picture.attack_in_steps`.

    Raises:
        ConfigError: a label, member or seed that is not there.
    """
    index = label_index(checkpoint, label)
    check_target(checkpoint, config)
    check_work(config.steps * config.restarts, f"{config.steps:,} steps x {config.restarts} restarts")
    seed = check_seed(seed)
    given = (checkpoint, pixels.to(_device(checkpoint)), index, config, seed)
    compiles = config.info.package == "numba" and _device(checkpoint).type == "cpu"
    made = (
        _apart.run(examples.attack_in_steps, *given, tell=tell) if compiles else examples.attack_in_steps(*given, tell)
    )
    return replace(made, x_adv=made.x_adv.cpu(), path=made.path.cpu())


def classify_all(checkpoint: Checkpoint, pixels: Tensor, tell: Teller | None = None) -> list[dict[str, Any]]:
    """What an ensemble says of several pictures `(B, C, H, W)`; see `cce.evaluation.one_picture.classify_all`."""
    return examples.classify_all(checkpoint, pixels.to(_device(checkpoint)), tell)


def same_size_noise(checkpoint: Checkpoint, pixels: Tensor, config: AttackConfig, seed: float = 0) -> dict[str, Any]:
    """What an ensemble says of the picture with random signs on it, as large as an attack's perturbation may be.

    A flag that such noise gets too is no sign of an attack. See `classify` for what is given.
    """
    size = config.epsilon if config.norm == "linf" else config.epsilon / math.sqrt(pixels.numel())
    source = torch.Generator().manual_seed(check_seed(seed))
    signs = 2 * torch.randint(0, 2, pixels.shape, generator=source) - 1
    return classify(checkpoint, (pixels + size * signs).clamp(0, 1))


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
    return config.describe()
