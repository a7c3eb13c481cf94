"""Sanity: signs that an evaluation is deceived by masked gradients.

After Athalye et al. 2018 (arXiv 1802.00420) and Carlini et al. 2019 (arXiv 1902.06705). Four checks on a few
images: more steps never help the defender, a ball of half the range holds an example of every image, what is
not made on the ensemble itself is no stronger than what is, and an attack that sees outputs only is no stronger
than one that has gradients. A check fails where it is broken by more than two standard errors of the paired
difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from cce.config import ATTACKS, AttackConfig, check
from cce.evaluation.columns import attack_column
from cce.evaluation.engine import Column, Found
from cce.fast import SearchCopy
from cce.models import Ensemble

STEPS, LARGE, BLACK_BOX, GRADIENT_FREE = "steps", "large epsilon", "black box", "gradient-free"


@dataclass(frozen=True)
class Sanity:
    """What to check: around `attack`, on the first `images` of a walk.

    `sources`: other ensembles by name, whose examples are tried on this one. `gradient_free`: how many of
    the images get the attacks that see outputs only, which take hundreds of passes an image.
    """

    attack: AttackConfig
    images: int = 50
    gradient_free: int = 10
    sources: Mapping[str, Ensemble] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self.images >= 1, f"sanity is on {self.images} images; it takes at least 1")
        check(self.attack.target == "ensemble", "the sanity checks attack the ensemble")


def sanity_columns(model: Ensemble, search: Ensemble, sanity: Sanity, count: int) -> list[Column]:
    """What the checks need, on at most `count` images; the attack itself first."""
    base, n = sanity.attack, min(sanity.images, count)
    large = replace(base, epsilon=0.5, step_size=0.125, steps=max(20, base.steps))

    def column(config: AttackConfig, checked: str, images: int = n, **more: Any) -> Column:
        return attack_column(model, more.pop("search", search), config, images, kind="sanity",
                           label={"check": checked, **more.pop("label", {})}, **more)  # fmt: skip

    columns = [column(base, STEPS)]
    columns += [column(replace(base, steps=k), STEPS) for k in (max(1, base.steps // 4), round(2.5 * base.steps))]
    columns.append(column(large, LARGE))
    if model.config.members > 1:
        members = [replace(base, target=f"member {i + 1}") for i in range(model.config.members)]
        columns += [column(config, BLACK_BOX) for config in members]
    for name, source in sanity.sources.items():
        copied = SearchCopy(source, next(search.parameters()).dtype).model
        columns.append(column(base, BLACK_BOX, search=copied, watch=False, label={"source": name}))
    for config in gradient_free_attacks(base):
        columns.append(column(config, GRADIENT_FREE, min(n, sanity.gradient_free)))
    return columns


def gradient_free_attacks(base: AttackConfig) -> list[AttackConfig]:
    """The registered attacks that see outputs only and are installed, at `base`'s strength."""
    found = []
    for name, info in ATTACKS.items():
        if info.gradient_free and base.norm in info.norms and (not info.package or find_spec(info.package)):
            found.append(replace(base, name=name, steps=min(info.steps or base.steps, 500), objective="probabilities"))
    return found


def sanity_figures(found: Sequence[Found]) -> dict[str, Any]:
    """JSON values: of each check whether it `holds`, its `figures`, and a `warning` where it does not."""
    white = found[0]
    groups: dict[str, list[Found]] = {}
    for f in found:
        groups.setdefault(f.column.settings["check"], []).append(f)
    checks = [_steps(groups[STEPS]), _large(groups[LARGE])]
    titles = {
        BLACK_BOX: "black-box no stronger than white-box",
        GRADIENT_FREE: "gradient-free no stronger than gradient-based",
    }
    for name, title in titles.items():
        if name in groups:
            checks.append(_no_stronger(title, groups[name], white))
    return {"images": len(white.fooled), "attack": white.column.name, "checks": checks}


def excess(weaker: Tensor, stronger: Tensor) -> tuple[int, float]:
    """By how many images a `weaker` attack beats a `stronger` one, and two standard errors of that number.

    Both say of each image whether it was fooled, `(B,)`. Where they disagree on d images, their difference
    has the standard error sqrt(d) (McNemar's test).
    """
    only_weaker, only_stronger = (weaker & ~stronger).sum().item(), (stronger & ~weaker).sum().item()
    return only_weaker - only_stronger, 2 * math.sqrt(only_weaker + only_stronger)


def _steps(found: Sequence[Found]) -> dict[str, Any]:
    ordered = sorted(found, key=lambda f: f.column.settings["steps"])
    broken = []
    for fewer, more in zip(ordered, ordered[1:], strict=False):
        rise, noise = excess(~fewer.outcome.right, ~more.outcome.right)
        if rise > noise:
            broken.append(f"{more.column.settings['steps']} steps fool {rise} images fewer than "
                          f"{fewer.column.settings['steps']}")  # fmt: skip
    figures = [_figure(f"k = {f.column.settings['steps']}", f.outcome.accuracy, len(f.fooled)) for f in ordered]
    return _check("more steps never help the defender", figures, broken)


def _large(found: Sequence[Found]) -> dict[str, Any]:
    left = int((~found[0].fooled).sum())
    figures = [_figure(found[0].column.name, left / len(found[0].fooled), len(found[0].fooled))]
    broken = [f"{left} of {len(found[0].fooled)} images withstand it"] if left else []
    return _check("epsilon 0.5 fools everything", figures, broken)


def _no_stronger(title: str, found: Sequence[Found], white: Found) -> dict[str, Any]:
    broken, figures = [], []
    for f in found:
        n = len(f.fooled)
        beaten, noise = excess(f.fooled, white.fooled[:n])
        name = f"{f.column.settings['source']}: {f.column.name}" if "source" in f.column.settings else f.column.name
        if beaten > noise:
            broken.append(f"{name} fools {beaten} of {n} images more than {white.column.name}")
        of_white = (~white.fooled[:n]).float().mean().item()
        figures.append({**_figure(name, (~f.fooled).float().mean().item(), n), "white_box_accuracy": of_white})
    return _check(title, figures, broken)


def _figure(name: str, accuracy: float, images: int) -> dict[str, Any]:
    return {"name": name, "accuracy": accuracy, "images": images}


def _check(title: str, figures: list[dict[str, Any]], broken: list[str]) -> dict[str, Any]:
    warning = {"warning": f"gradient masking likely: {'; '.join(broken)}"} if broken else {}
    return {"name": title, "holds": not broken, "figures": figures, **warning}
