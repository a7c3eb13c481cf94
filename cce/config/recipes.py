"""Recipes: the training configs behind the presets' names, made from tables.

`DATASET-ARCHITECTURE-DEFENSE` holds the paper's settings for that cell; `...-fast` is for small hardware, `...-long`
for minutes on a GPU; `...-best` goes on from a released ensemble; `digits` is ours. `cnn2` is two of Table 8's CNNs,
`resnet20` two ResNet-20, `resnet20x3` three. ADV has one
member whatever the name says.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cce.config import (
    ADV_EN,
    CCE_DM,
    CCE_RM,
    DEFENSES,
    NAT,
    Defense,
    ModelConfig,
    Phase,
    TrainConfig,
    TrainingAttack,
    default_attack,
    mirror_keeps_class,
)

Recipe = Callable[[], TrainConfig]

SEVEN = {"nat": NAT, "adv": ADV_EN, **{k: v for k, v in DEFENSES.items() if k != "nat"}}
"""The paper's seven defenses; ADV is ADV-EN of one member."""

INPUTS = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "digits": (1, 16, 16)}
"""Channels, height and width that the recipes take each data set at."""

_CLASSES = {"mnist": 10, "cifar10": 10, "cifar100": 100, "digits": 10}
_FAST: dict[str, Any] = {"batch_size": 128, "precision": "auto", "evaluate_images": 256}
_DIGITS_EPSILON = default_attack("digits").epsilon


def model_of(dataset: str, architecture: str, members: int, defense: str) -> ModelConfig:
    """The ensemble of a cell; ADV has one member."""
    return ModelConfig(architecture, 1 if defense == "adv" else members, _CLASSES[dataset], INPUTS[dataset])


# The paper's own settings


@dataclass(frozen=True)
class Cell:
    """A data set with an architecture, as in the paper: the attack in training, epochs, and where the rate falls."""

    dataset: str
    name: str
    architecture: str
    members: int
    attack: TrainingAttack
    epochs: float = 180.0
    milestones: tuple[float, ...] = ()

    def config(self, defense: str) -> TrainConfig:
        """Adam at 1e-3, batches of 64, shifts of 10%, mirror images of photographs."""
        loss = SEVEN[defense]
        model = model_of(self.dataset, self.architecture, self.members, defense)
        schedule = "milestones" if self.milestones else "constant"
        name = loss.name_with(model.members)
        phase = Phase(name, self.epochs, loss, self.attack, 1e-3, schedule, milestones=self.milestones)
        return TrainConfig(self.dataset, model, (phase,), flip=mirror_keeps_class(self.dataset))


def _fixed(epsilon: float, step_size: float, steps: int = 10) -> TrainingAttack:
    """K steps of one size at one epsilon."""
    reach = step_size * steps / epsilon
    return TrainingAttack((steps, steps), (epsilon, epsilon), (reach, reach))


# Section "Crafting adversarial examples for defenders". MNIST's attack is not given: 0.3 is the usual one
# (Madry et al. 2018), with CIFAR-10's number of steps and their size relative to epsilon.
_ATTACKS = {
    "cifar10": TrainingAttack((10, 10), (8 / 255, 8 / 255), (2.5, 2.5)),
    "cifar100": _fixed(0.01, 0.001),
    "mnist": TrainingAttack((10, 10), (0.3, 0.3), (2.5, 2.5)),
}
_RESNET_ATTACK = TrainingAttack((10, 10), (0.01, 0.05), (1.0, 1.0))  # k=10, epsilon ~ U(0.01, 0.05), step epsilon / 10
_RESNET_MILESTONES = (80.0, 120.0, 160.0)

CELLS = (
    *(
        Cell("cifar10", name, "resnet20", members, _RESNET_ATTACK, milestones=_RESNET_MILESTONES)
        for name, members in (("resnet20", 2), ("resnet20x3", 3))
    ),
    *(
        Cell(dataset, f"cnn{members}", f"cnn-{dataset}", members, _ATTACKS[dataset], epochs)
        for dataset, epochs in (("cifar10", 180.0), ("cifar100", 180.0), ("mnist", 100.0))
        for members in (2, 3)
    ),
)
"""The paper's cells (Tables 3 to 7, 8, 11)."""


def _paper_recipes() -> dict[str, Recipe]:
    """Every cell with every defense; ADV, being one network, only once for an architecture."""
    found: dict[str, Recipe] = {}
    for cell in CELLS:
        for defense in SEVEN:
            if defense == "adv" and cell.members != 2:
                continue
            found[f"{cell.dataset}-{cell.name}-{defense}"] = lambda cell=cell, defense=defense: cell.config(defense)
    return found


# Small hardware


def detection_phases(
    epsilon: float, epochs: Sequence[float], rates: Sequence[float], *, finer: bool = False
) -> tuple[Phase, ...]:
    """Detection mode's recipe: a natural start, an easy attack past the plateau, then varied attacks.

    With the full demoting weight from the first step, predictions collapse to uniform; with one fixed
    attack the detector learns that attack's pattern and is blind to others.

    Args:
        epsilon: of the easy attack, pixel units.
        epochs: of each phase.
        rates: the highest learning rate of each phase.
        finer: draw the varied attacks from a wider range. Trained on steps of epsilon / 10 and more alone,
            the CIFAR-10 ResNets told PGD k=20 apart with AUC .991 at steps of epsilon / 4, .972 at epsilon / 8.
    """
    if finer:
        varied = TrainingAttack((3, 14), (epsilon / 4, 1.5 * epsilon), (1.0, 3.0))
    else:
        varied = TrainingAttack((3, 10), (epsilon / 2, 1.25 * epsilon), (1.0, 2.0))
    stages = (
        ("natural", NAT, TrainingAttack(), "one-cycle"),
        ("easy attack", CCE_DM, _three_steps(epsilon), "constant"),
        ("varied attacks", CCE_DM, varied, "one-cycle"),
    )
    return tuple(
        Phase(name, length, defense, attack, rate, schedule)
        for (name, defense, attack, schedule), length, rate in zip(stages, epochs, rates, strict=True)
    )


def _three_steps(epsilon: float) -> TrainingAttack:
    """Three-step PGD that can cross the ball: the cheap attack of the fast recipes."""
    return TrainingAttack((3, 3), (epsilon, epsilon), (2.0, 2.0))


def _resnet20_fast(defense: str) -> TrainConfig:
    """SGD on one-cycle curves, thirteen epochs; without detection mode, eight and five of three-step PGD at 8/255.

    The second, lower cycle is worth its time: CCE-RM's robust accuracy stood at 39.7 % after the first
    (PGD k=20, 8/255, the first 1,000 test images).
    """
    model, loss = model_of("cifar10", "resnet20", 2, defense), SEVEN[defense]
    if defense == "cce-dm":
        phases = detection_phases(8 / 255, (8, 0.5, 4.5), (0.1, 0.02, 0.05), finer=True)
    else:
        name, attack = loss.name_with(model.members), _three_steps(8 / 255)
        phases = (
            Phase(name, 8, loss, attack, 0.1, "one-cycle"),
            Phase(f"{name}, once more", 5, loss, attack, 0.05, "one-cycle"),
        )
    return TrainConfig("cifar10", model, phases, optimizer="sgd", weight_decay=5e-4, **_FAST)


def _resnet20_long(defense: str) -> TrainConfig:
    """Batches of 256. Thirty epochs of five-step PGD at 8/255, 2.8 minutes on an H100, then three at up to 11/255.

    More epochs serve both accuracies; the last three trade one for the other: CCE-RM's went from 82.5 % natural and
    43.5 % robust to 82.2 and 45.7 (PGD k=20, 8/255, the first 1,000 test images). Twenty-four epochs of three steps
    had given 82.0 and 42.9, the fast recipe 77.0 and 41.5.
    """
    config, epsilon = _resnet20_fast(defense), 8 / 255
    if defense == "cce-dm":
        phases = detection_phases(epsilon, (18, 0.5, 6), (0.2, 0.04, 0.1), finer=True)
    else:
        five = TrainingAttack((5, 5), (epsilon, epsilon), (2.5, 2.5))
        first = replace(config.phases[0], epochs=30, attack=five, learning_rate=0.2)
        harder = replace(five, epsilon=(epsilon, 11 / 255))
        more = replace(first, name=f"{first.name}, harder attacks", epochs=3, attack=harder, learning_rate=0.05)
        phases = (first, more)
    return replace(config, phases=phases, batch_size=256, evaluate_every=4.0)


STRONGER: dict[str, Any] = {"ema_decay": 0.999, "awp_gamma": 0.005, "label_smoothing": 0.1}
"""What may be added to a recipe: averaged weights, adversarial weight perturbation, label smoothing."""

_STRONGER = {
    "ema": ("ema_decay",),
    "awp": ("awp_gamma",),
    "smoothing": ("label_smoothing",),
    "ema-awp": ("ema_decay", "awp_gamma"),
    "ema-awp-smoothing": tuple(STRONGER),
}


def _resnet20_stronger(fields: Sequence[str]) -> TrainConfig:
    """CCE-RM's fast recipe with some of `STRONGER`: as many images seen, so that each tells what it is worth."""
    return replace(_resnet20_fast("cce-rm"), **{name: STRONGER[name] for name in fields})


def _resnet20_best() -> TrainConfig:
    """On from `cifar10-resnet20-cce-rm-long`: attacks of 8 to 12/255, perturbed and averaged weights, low rates."""
    config, epsilon = _resnet20_long("cce-rm"), 8 / 255
    attack = TrainingAttack((5, 5), (epsilon, 12 / 255), (2.5, 2.5))
    phase = Phase("CCE-RM, harder attacks", 6, CCE_RM, attack, 0.03, "one-cycle")
    more = {name: STRONGER[name] for name in ("ema_decay", "awp_gamma")}
    more |= {"init": "cifar10-resnet20-cce-rm-long", "evaluate_images": 1000, "evaluate_every": 1.0, "save_every": 50}
    return replace(config, phases=(phase,), batch_size=128, **more)


def _resnet20_hardened() -> TrainConfig:
    """Detection mode's fast recipe, then four epochs on attacks of every scale, half the benign images under noise.

    Plain PGD teaches a detector of fine noise: it flags random signs, and passes smooth attacks.
    """
    config, epsilon = _resnet20_fast("cce-dm"), 8 / 255
    scales = TrainingAttack((3, 14), (epsilon / 4, 1.5 * epsilon), (1.0, 3.0), smooth=0.5, noise=0.5)
    return replace(config, phases=(*config.phases, Phase("hardened", 4, CCE_DM, scales, 0.05, "one-cycle")))


def _resnet20_hardened_long() -> TrainConfig:
    """Detection mode's long recipe, then ten epochs on attacks of every scale and of up to 16/255, a fifth of them MIM.

    Against four epochs after the fast recipe, on the first 1,000 test images (smooth attacks: 200): natural accuracy
    89.6 and 87.5 %, wrong and unflagged under smooth 16 x 16, 8 x 8 and 4 x 4 attacks 52.5, 22.5, 12 and 59.5, 31,
    18.5 %, AUC of MIM .885 and .730, of PGD at 16/255 .55 and .37; of twenty steps of 1/255 .84 and .93, as it is
    trained on six to nine. On a GPU every number of steps is one more recording, for each grid.
    """
    config, epsilon = _resnet20_long("cce-dm"), 8 / 255
    scales = TrainingAttack((6, 9), (epsilon / 4, 2 * epsilon), (1.0, 3.0), smooth=0.5, noise=0.5, momentum=0.2)
    return replace(config, phases=(*config.phases, Phase("hardened", 10, CCE_DM, scales, 0.1, "one-cycle")))


def _noise_first(epsilon: float) -> tuple[Phase, ...]:
    """Detection mode for CIFAR-10's CNN, which no attack alone got off the plateau: noise first, coarse then finer.

    Without batch norm nothing tells attacked images from clean ones at first, and uniform predictions on both come
    before the difference is learned: with `detection_phases`, rates of 2e-4 to 1e-3, lambda_dm from .3 or 1 up to 5 or
    one-step attacks of 16 to 32/255 first, AUC .59 to .69 after 3 to 6.5 epochs on 17,500 images. Random signs of
    4 to 16/255 with lambda_dm 5 ended there too. Large noise with a weight at which clean images stay confident does
    not: the entropies part within a hundred steps, and then hold under finer noise, the whole weight, and attacks.
    Without dropout, half the channels, 10,000 images, steps of 64, AUC of PGD k=10 at 8/255 on 256 test images: .73
    after 200 on the large attacks, .79 and .77 after 240 on each of the next, .93 after 200 with the whole one again.
    The whole weight on attacks half as large, straight after the large ones, flattened everything within forty steps.
    Table 8's own network, on all 50,000 images, two members: .48 after the noise, .91 after the large attacks, .93
    with the varied ones and .998 at the end, of PGD k=10 on 256 test images. The whole weight no longer flattens
    anything there: natural accuracy rose from 76 to 81 %.
    """

    def phase(name: str, epochs: float, weight: float, attack: TrainingAttack, schedule: str = "constant") -> Phase:
        return Phase(name, epochs, Defense("cce", 0, weight), attack, 1e-3, schedule)

    def attack(steps: tuple[int, int], low: float, high: float, reach: float = 2.0) -> TrainingAttack:
        return TrainingAttack(steps, (low * epsilon, high * epsilon), (1.0, reach))

    return (
        Phase("natural", 4, NAT, learning_rate=1e-3, schedule="one-cycle"),
        phase("large noise", 0.5, 1.5, attack((0, 0), 6, 12)),
        phase("noise", 0.25, 2.5, attack((0, 0), 3, 9)),
        phase("finer noise", 0.5, 5, attack((0, 0), 1.5, 6)),
        phase("large attacks", 0.5, 5, attack((1, 3), 1.5, 3)),
        phase("smaller attacks", 1, 2, attack((1, 5), 0.75, 2.5)),
        phase("varied attacks", 1, 2.5, attack((2, 8), 0.375, 1.75)),
        phase("varied attacks, whole weight", 2, 5, attack((3, 14), 0.25, 1.5, reach=3.0), "one-cycle"),
    )


def _cnn_fast(dataset: str, members: int, defense: str) -> TrainConfig:
    """Table 8's CNN, which has no batch norm: Adam, a natural start, then a few epochs of three-step PGD."""
    epsilon = default_attack(dataset).epsilon
    model, loss = model_of(dataset, f"cnn-{dataset}", members, defense), SEVEN[defense]
    first, more = (0.5, 3.5) if dataset == "mnist" else (1.0, 5.0)
    if defense == "cce-dm" and dataset != "mnist":
        return TrainConfig(dataset, model, _noise_first(epsilon), **_FAST | {"batch_size": 64})
    if defense == "cce-dm":
        epochs = (first + more / 3, more / 3, more / 3)
        phases = detection_phases(epsilon, epochs, (1e-3, 5e-4, 1e-3))
    elif defense == "nat":
        phases = (Phase("NAT", first + more, NAT, learning_rate=1e-3, schedule="one-cycle"),)
    else:
        trained = Phase(loss.name_with(model.members), more, loss, _three_steps(epsilon), 1e-3, "one-cycle")
        phases = (Phase("natural", first, NAT, learning_rate=1e-3, schedule="one-cycle"), trained)
    return TrainConfig(dataset, model, phases, flip=mirror_keeps_class(dataset), **_FAST)


def _fast_recipes() -> dict[str, Recipe]:
    found: dict[str, Recipe] = {}
    for defense in SEVEN:
        found[f"cifar10-resnet20-{defense}-fast"] = functools.partial(_resnet20_fast, defense)
        found[f"cifar10-resnet20-{defense}-long"] = functools.partial(_resnet20_long, defense)
    for name, added in _STRONGER.items():
        found[f"cifar10-resnet20-cce-rm-{name}-fast"] = functools.partial(_resnet20_stronger, added)
    found["cifar10-resnet20-cce-rm-best"] = _resnet20_best
    found["cifar10-resnet20-cce-dm-hardened-fast"] = _resnet20_hardened
    found["cifar10-resnet20-cce-dm-hardened-long"] = _resnet20_hardened_long
    for dataset, members, defense in itertools.product(("cifar10", "cifar100", "mnist"), (2, 3), SEVEN):
        if defense == "adv" and members != 2:
            continue  # one network
        found[f"{dataset}-cnn{members}-{defense}-fast"] = functools.partial(_cnn_fast, dataset, members, defense)
    return found


# Digits: minutes anywhere


def _digits(defense: str, phases: tuple[Phase, ...], **more: Any) -> TrainConfig:
    settings: dict[str, Any] = {"batch_size": 64, "flip": mirror_keeps_class("digits"), "evaluate_every": 5.0}
    return TrainConfig("digits", model_of("digits", "resnet8", 2, defense), phases, **settings | more)


def _digits_natural(epochs: float) -> Phase:
    return Phase("natural", epochs, NAT, learning_rate=2e-3, schedule="one-cycle")


def _digits_defended(defense: str) -> TrainConfig:
    """Five epochs of natural training, then 25 with five-step PGD; NAT has all 30 of the former."""
    if defense == "nat":
        return _digits(defense, (_digits_natural(30),))
    if defense == "cce-dm":
        return _digits(defense, detection_phases(_DIGITS_EPSILON, (10, 10, 20), (2e-3, 1e-3, 1e-3)))
    attack = TrainingAttack((5, 5), (_DIGITS_EPSILON, _DIGITS_EPSILON), (2.0, 2.0))
    loss: Defense = SEVEN[defense]
    name = loss.name_with(1 if defense == "adv" else 2)
    return _digits(defense, (_digits_natural(5), Phase(name, 25, loss, attack, 3e-3, "one-cycle")))


def _digits_quick() -> TrainConfig:
    """Under a minute on two cores, with an evaluation at every epoch: to try a setting out."""
    trained = Phase("CCE-RM", 8, CCE_RM, _three_steps(_DIGITS_EPSILON), 3e-3, "one-cycle")
    return _digits("cce-rm", (_digits_natural(3), trained), evaluate_every=1.0)


RECIPES: dict[str, Recipe] = {
    "digits-quick": _digits_quick,
    **{f"digits-{defense}": lambda defense=defense: _digits_defended(defense) for defense in SEVEN},
    **_fast_recipes(),
    **_paper_recipes(),
}
"""Every preset by name: digits first, then the fast ones, then the paper's."""


def grouped() -> dict[str, list[str]]:
    """The names under a heading each, for people."""
    headings = {
        "digits": "Digits (bundled; minutes on two cores)",
        "fast": "Small hardware (hours on two cores; one budget, so that defenses compare)",
        "long": "Minutes on a GPU (one budget, so that defenses compare)",
        "best": "On from a released ensemble (a night on two cores)",
    }
    found: dict[str, list[str]] = {}
    for name in RECIPES:
        first, last = name.split("-")[0], name.split("-")[-1]
        kind = last if last in headings and first != "digits" else first
        titles = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST"}
        heading = headings.get(kind) or f"The paper's settings, {titles[kind]} (a GPU)"
        found.setdefault(heading, []).append(name)
    return found
