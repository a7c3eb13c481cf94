"""Links service: a setting of the Attack tab as the part of an address behind the question mark, and back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from app.services import attacks, gallery
from app.services.attacks import AUTO, Picture, in_255ths
from app.services.gallery import Collection
from app.services.partners import EACH, SAME
from cce.checkpoints.folder import Checkpoint
from cce.config import ATTACKS, OBJECTIVES, AttackConfig, ConfigError, default_attack

KEYS = (
    *("model", "image", "crop", "label", "attack", "norm", "epsilon", "step", "steps"),
    *("target", "objective", "restarts", "toward", "seed", "beside", "show", "story"),
)
"""What a link can say; anything else in an address is not ours."""


@dataclass
class Setting:
    """A setting of the Attack tab. `image` is a picture's key; `problems` what of a link could not be used."""

    model: str
    image: str | None
    label: str
    config: AttackConfig
    seed: int = 0
    beside: str | None = None
    show: str = SAME
    problems: list[str] = field(default_factory=list)
    run: bool = False
    """Whether the link names an attack that is not slow: it is run as the page opens."""
    crop: float = 50
    """Where the picture is cropped, in percent."""


def query(setting: Setting, classes: tuple[str, ...]) -> str:
    """The link, from its question mark on; only what the attack reads is in it."""
    config, info = setting.config, setting.config.info
    said: dict[str, Any] = {"model": setting.model, "image": setting.image}
    if setting.image and setting.crop != 50:
        said["crop"] = f"{setting.crop:g}"
    if setting.label != AUTO and not (setting.image or "").startswith("test:"):
        said["label"] = setting.label
    said |= {"attack": config.name, "epsilon": f"{in_255ths(config.epsilon):g}"}
    if config.norm != "linf":
        said["norm"] = config.norm
    if info.steps is not None:
        said["steps"] = config.steps
        if info.step_size:
            said["step"] = f"{in_255ths(config.step_size):g}"
    usual = {"target": "ensemble", "objective": "probabilities", "restarts": 1}
    said |= {key: getattr(config, key) for key, value in usual.items() if getattr(config, key) != value}
    if config.toward is not None:
        said["toward"] = classes[config.toward]
    if setting.seed and info.random:
        said["seed"] = setting.seed
    if setting.beside:
        said |= {"beside": setting.beside, "show": setting.show}
    return "?" + urlencode({key: said[key] for key in KEYS if said.get(key) is not None}, safe=":/")


def read(search: str) -> dict[str, str]:
    """What a link says, by our own keys.

    >>> read("?model=a&image=test:3&__theme=dark")
    {'model': 'a', 'image': 'test:3'}
    """
    return {key: value for key, value in parse_qsl(search.lstrip("?"), keep_blank_values=False) if key in KEYS}


def setting_of(said: dict[str, str], model: str, checkpoint: Checkpoint, partners: list[str]) -> Setting:
    """The setting that a link asks for on an ensemble; what cannot be used is told and left as usual."""
    problems: list[str] = []
    name = said.get("attack", "pgd").lower()
    if name not in ATTACKS:
        problems.append(f"There is no attack {said['attack']!r}; PGD is shown.")
        name = "pgd"
    norm = said.get("norm", "linf")
    if norm not in ATTACKS[name].norms:
        problems.append(f"{ATTACKS[name].title} has no norm {norm!r}.")
        norm = ATTACKS[name].norms[0]
    usual = default_attack(checkpoint.dataset, name, norm)
    given: dict[str, Any] = {
        "epsilon": in_255ths(usual.epsilon), "step_size": in_255ths(usual.step_size), "steps": usual.steps,
        "target": "ensemble", "norm": norm, "objective": "probabilities", "restarts": 1, "toward": None,
    }  # fmt: skip
    for key, what in (("epsilon", "epsilon"), ("step", "step_size"), ("steps", "steps"), ("restarts", "restarts")):
        if key in said:
            _try(given, what, _number(said[key]), name, problems)
    for key in ("target", "objective"):
        if key in said:
            _try(given, key, said[key], name, problems)
    if said.get("target") and given["target"] not in attacks.targets(checkpoint):
        problems.append(f"This model has no {given['target']}.")
        given["target"] = "ensemble"
    if "toward" in said:
        if said["toward"] in checkpoint.classes and ATTACKS[name].targeted:
            given["toward"] = checkpoint.classes.index(said["toward"])
        else:
            problems.append(f"No attack towards {said['toward']!r} here.")
    seed = _number(said.get("seed", "0"))
    try:
        seed = attacks.check_seed(seed)
    except ConfigError as error:
        problems.append(str(error))
        seed = 0
    label = said.get("label", AUTO)
    if label != AUTO and label not in checkpoint.classes:
        problems.append(f"This model has no class {label!r}.")
        label = AUTO
    beside = said.get("beside")
    if beside is not None and beside not in partners:
        problems.append(f"{beside!r} cannot be shown beside this model.")
        beside = None
    show = said.get("show", SAME) if said.get("show") in (SAME, EACH, None) else SAME
    crop = _number(said.get("crop", "50"))
    try:
        attacks.place_of(crop)
    except ConfigError as error:
        problems.append(str(error))
        crop = 50
    config = attacks.used_settings(name, **given)
    run = "attack" in said and not ATTACKS[name].slow and name == said["attack"].lower()
    return Setting(model, said.get("image"), label, config, seed, beside, show or SAME, problems, run, crop)


def picture_of(key: str, pictures: Collection, checkpoint: Checkpoint, crop: float = 50) -> tuple[Picture, int] | None:
    """The picture a link names, and the gallery's page it is on (0 for an example); None where there is none."""
    shape = checkpoint.model.config.input_shape
    if match := re.fullmatch(r"test:(\d{1,9})", key):
        index = int(match.group(1)) - pictures.split.start
        if not 0 <= index < len(pictures.split):
            return None
        picture = Picture(
            pictures.pixels(index), pictures.label(index), pictures.name(index), pictures.dataset, key=key
        )
        return picture, index // gallery.PAGE_SIZE
    paths = dict(gallery.examples())
    if key not in paths:
        return None
    return attacks.open_upload(paths[key], shape, key, key=key, crop=crop), 0


def _number(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value == value and abs(value) < 1e15 and value == int(value) else value


def _try(given: dict[str, Any], key: str, value: Any, name: str, problems: list[str]) -> None:
    """Take one value of a link if the attack can use it."""
    try:
        attacks.used_settings(name, **(given | {key: value}))
    except ConfigError as error:
        problems.append(str(error))
    else:
        given[key] = value


OBJECTIVE_TITLES = {
    "probabilities": "mean of probabilities (the ensemble itself)",
    "logits": "mean of logits",
    "worst member": "member with the highest loss",
    "best member": "member with the lowest loss",
}
"""How the objectives are written on screen."""


def objectives() -> list[tuple[str, str]]:
    """The objectives, as a list on screen takes them."""
    return [(OBJECTIVE_TITLES.get(name, name), name) for name in OBJECTIVES]
