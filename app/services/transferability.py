"""Transferability service: Table 6 for an ensemble, Tables 12 and 13 between several, on the pictures that are here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from app.services import attacks, gallery
from app.services.models import read_released
from app.services.work import Work, check_work
from app.studio import Studio
from cce.checkpoints.folder import Checkpoint, common_test_split
from cce.checkpoints.measurements import BLACK_BOX
from cce.config import AttackConfig, check
from cce.evaluation import transferability
from cce.evaluation.transferability import BlackBox, Transferability
from cce.reporting.cards import percent

ATTACKS = ("pgd", "bim", "mim", "fgsm")
"""The attacks to choose from: those whose steps are short enough to be cancelled between two."""

MOST_IMAGES = 2000
"""Most images of one measurement here: others wait in line while it computes."""


@dataclass(frozen=True)
class Found:
    """Table 6 with where it comes from.

    `source` says which images, in a line; `images`, `x_adv` `(B, C, H, W)` uint8, `labels` and `said` (the
    ensemble's class of each image before and after, `(2, B)`) and the subset of each image before and after are
    there where the images are: not for what was measured at release.
    """

    table: Transferability
    model: str
    source: str
    images: Tensor | None = None
    x_adv: Tensor | None = None
    labels: Tensor | None = None
    said: Tensor | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def places(self, before: str | None, after: str | None) -> list[int]:
        """Which images went from subset `before` to `after`; None stands for any."""
        pairs = enumerate(zip(self.before, self.after, strict=True))
        return [i for i, (b, a) in pairs if before in (None, b) and after in (None, a)]


def settings(name: str, epsilon: float, step_size: float, steps: float) -> AttackConfig:
    """An attack from what is typed, sizes in 1/255.

    Raises:
        ConfigError: a value that cannot be used.
    """
    check(str(name).lower() in ATTACKS, f"The attack is {name!r}; here there is {', '.join(ATTACKS)}.")
    return attacks.settings(name, epsilon, step_size, steps, "ensemble")


def check_count(count: Any) -> int:
    """The number of images.

    Raises:
        ConfigError: not a whole number from 1 to `MOST_IMAGES`.
    """
    good = attacks.is_number(count) and count == int(count) and 1 <= count <= MOST_IMAGES
    check(good, f"The number of images is {attacks.typed(count)}; it is a whole number from 1 to {MOST_IMAGES:,}.")
    return int(count)


def released(checkpoint: Checkpoint) -> Found | None:
    """What ships with the ensemble, measured when it was released; None where nothing does."""
    record = read_released(checkpoint, "transferability")
    if record is None:
        return None
    table = transferability.from_json_values(record["transferability"])
    return Found(table, checkpoint.id, _at_release(checkpoint, record))


def released_between(checkpoint: Checkpoint) -> tuple[BlackBox, str] | None:
    """Tables 12 and 13 as they ship with the ensemble, and on which images; None where there are none.

    Of several, the one that tells of most ensembles, of these the last.
    """
    records = (read_released(checkpoint, BLACK_BOX) or {}).get("records", [])
    found = [(transferability.black_box_from_json(record["black_box"]), record) for record in reversed(records)]
    if not found:
        return None
    box, record = max(found, key=lambda one: len(one[0].names))
    return box, _at_release(checkpoint, record)


def _at_release(checkpoint: Checkpoint, record: dict[str, Any]) -> str:
    """Which images a record that ships was measured on."""
    where = record["data"].replace(checkpoint.dataset, gallery.dataset_title(checkpoint.dataset))
    return f"Measured at release on {where}, n = {record['n']:,}."


def measure(
    studio: Studio, name: str, count: Any, config: AttackConfig, seed: float = 0, work: Work | None = None
) -> Found:
    """Table 6 on the first `count` pictures that are here.

    Raises:
        ConfigError: a count or a seed that cannot be used.
        CancelledWork: `work` was told to stop.
    """
    checkpoint = studio.registry.get(name)
    count, seed = check_count(count), attacks.check_seed(seed)
    attacked = checkpoint.model.config.members + 1
    _check_work(attacked, "members and ensemble", count, config)
    images, labels, source = _pictures(studio, [checkpoint], count)
    device = next(checkpoint.model.parameters()).device
    found = transferability.study(
        checkpoint.model, _pixels(images, device), labels.to(device), config, seed=seed, progress=_ticks(work)
    )
    return Found(
        found.found,
        checkpoint.id,
        source,
        images,
        found.x_adv.cpu().mul(255).round().to(torch.uint8),
        labels,
        torch.stack([found.clean.label, found.attacked.label]).cpu(),
        tuple(transferability.subset_of_each(found.clean)),
        tuple(transferability.subset_of_each(found.attacked)),
    )


def _check_work(attacked: int, what: str, count: int, config: AttackConfig) -> None:
    """Refuse more attacked x pictures x steps than one call may take."""
    steps = config.steps if config.info.steps is not None else 1
    check_work(attacked * count * steps, f"{attacked} {what} x {count:,} pictures x {steps:,} steps")


def comparable(studio: Studio, name: str) -> list[tuple[str, str]]:
    """Ensembles that can be attacked through one another: title and id of those on the same data set."""
    entries = studio.registry.entries()
    dataset = next((e.dataset for e in entries if e.id == name), None)
    return [(e.title, e.id) for e in entries if e.dataset == dataset]


def nearest(studio: Studio, name: str, count: int = 4) -> list[str]:
    """The ensemble and those to compare it with first: of its architecture, then of as many members; ids."""
    entries = {e.id: e for e in studio.registry.entries()}
    if name not in entries:
        return []
    own = entries[name]

    def apart(other: str) -> tuple[bool, bool, bool]:
        e = entries[other]
        return other != name, e.architecture != own.architecture, e.members != own.members

    return sorted((i for _, i in comparable(studio, name)), key=apart)[:count]


def between(
    studio: Studio,
    names: Sequence[str],
    count: Any,
    config: AttackConfig,
    seed: float = 0,
    work: Work | None = None,
) -> tuple[BlackBox, str]:
    """Tables 12 and 13 between ensembles, and which images it was measured on.

    Raises:
        ConfigError: fewer than two ensembles, ensembles that do not fit one another, a bad count or seed.
        CancelledWork: `work` was told to stop.
    """
    check(len(names) >= 2, "Choose at least two ensembles to compare.")
    models = {name: studio.registry.get(name) for name in names}
    count, seed = check_count(count), attacks.check_seed(seed)
    _check_work(len(models), "ensembles", count, config)
    first = models[names[0]]
    images, labels, source = _pictures(studio, list(models.values()), count)
    device = next(first.model.parameters()).device
    ensembles = {name: c.model for name, c in models.items()}
    found = transferability.black_box(
        ensembles, _pixels(images, device), labels.to(device), config, seed=seed, progress=_ticks(work)
    )
    return found, source


def describe(found: Found) -> list[str]:
    """What the figures say, in sentences."""
    t = found.table
    everyone = "all members are right" if t.members > 2 else "both members are right"
    right, wrong = t.subsets["S" + "1" * t.members], t.subsets["S" + "0" * t.members]
    said = [
        f"On examples that attack the ensemble, {everyone} on {percent(right)} of the images, none on {percent(wrong)}."
    ]
    if t.members > 1:
        own = sum(t.a[i][i] for i in range(t.members)) / t.members
        pairs = [t.a[i][j] for i in range(t.members) for j in range(t.members) if i != j]
        said.append(
            f"A member is right on {percent(own)} of the examples made against itself, and on "
            f"{percent(sum(pairs) / len(pairs))} of those made against another member."
        )
    return said


def endpoint(found: Found) -> dict[str, Any]:
    """What `/transferability` gives: `a`, `names`, `subsets`, `flow`, `T`, `nT`, `a_single`, and what they are of."""
    values = found.table.to_json()
    attack = values.pop("attack")
    attack |= {"epsilon": attacks.in_255ths(attack["epsilon"]), "step_size": attacks.in_255ths(attack["step_size"])}
    return {**values, "model": found.model, "attack": attack, "data": found.source}


def _pictures(studio: Studio, ensembles: Sequence[Checkpoint], count: int) -> tuple[Tensor, Tensor, str]:
    """Images uint8, labels, and which they are in a line; those of the first, where there are several."""
    shelf = studio.collection(ensembles[0])
    check(len(shelf.split) > 0, shelf.note)
    split = common_test_split(ensembles, shelf.split).first(count)
    title = gallery.dataset_title(ensembles[0].dataset)
    which = f"the first {len(split):,} {title} test pictures"
    if shelf.missing_megabytes is not None:
        which = f"{len(split):,} of the {len(shelf.split)} {title} test pictures that ship"
    few = " So few images leave a wide margin." if len(split) < 100 else ""
    return split.images, split.labels, f"Measured now on {which}, n = {len(split):,}.{few}"


def _pixels(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device).to(torch.float32).div(255)


def _ticks(work: Work | None) -> transferability.Ticks | None:
    return work and (lambda done, total: work.tell("Attacking", done / total))


def defaults(checkpoint: Checkpoint) -> AttackConfig:
    """Table 6's attack, PGD with k = 20, at the data set's usual size."""
    return replace(attacks.defaults(checkpoint), name="pgd", target="ensemble")
