"""Presets: named training configs, each data set's usual attacks, and what a run is exported as."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from cce.checkpoints.compact import halve, quarter
from cce.checkpoints.folder import Checkpoint, training_record
from cce.config import ATTACKS, AttackConfig, ConfigError, TrainConfig, default_attack
from cce.config.recipes import RECIPES
from cce.data.datasets import Dataset, Selection
from cce.detectors import calibrate
from cce.evaluation.outcomes import outcome
from cce.models import Ensemble


class Trained(Protocol):
    """What `export` needs of a trainer, or of a run's saved state."""

    model: Ensemble
    config: TrainConfig
    step: int
    seconds: float
    device: torch.device
    machines: tuple[str, ...]


PRESETS = RECIPES
"""The presets by name; see `cce.config.recipes`."""


def preset(name: str) -> TrainConfig:
    """The config of a preset.

    Raises:
        ConfigError: a name that is not there; the message names the nearest.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 5, 0.4) or list(PRESETS)[:5]
        raise ConfigError(f"preset is {name!r}; did you mean {', '.join(near)}?")
    return PRESETS[name]()


def attack_suite(checkpoint: Checkpoint) -> list[AttackConfig]:
    """The attacks that `evaluate` runs by default.

    PGD, BIM and MIM at the default setting (Table 3's attacks, k=20), PGD k=20 with step 1/255 or half
    the step, and for an ensemble that demotes, Figure 4's strengths: epsilon 1, 2, 4, 16, 24 /255
    (the same multiples of the default epsilon elsewhere).
    """
    base = default_attack(checkpoint.dataset)
    suite = [replace(base, name=name) for name in ("pgd", "bim", "mim")]
    fine = replace(base, step_size=base.step_size / 2)
    suite.append(fine)
    if checkpoint.defense.detects:
        suite += [replace(fine, name=name) for name in ("bim", "mim")]
        suite += [replace(fine, epsilon=min(1.0, base.epsilon * k / 8)) for k in (1, 2, 4, 16, 24)]
    return suite


SLOW = ("mt-pgd", "mt-bim", "mt-mim", "spsa", "autoattack", "bb")
"""The attacks of Tables 3, 4, 10 and 11 that take a hundred forward passes an image, or thousands."""


def slow_suite(dataset: str) -> list[AttackConfig]:
    """The paper's slow attacks that can run here, at the default epsilon; B&B needs a package."""
    base = default_attack(dataset)
    known = [(name, ATTACKS[name]) for name in SLOW]
    here = [(name, a) for name, a in known if a.package is None or importlib.util.find_spec(a.package)]
    return [replace(base, name=name, steps=a.steps or base.steps) for name, a in here]


def figure_attacks(
    dataset: str, names: Sequence[str] = ("pgd", "bim", "mim"), strengths: Sequence[float] = (1, 2, 4, 16, 24)
) -> list[AttackConfig]:
    """Figures 3 and 4's attacks: `names` at the usual epsilon with half the step, and PGD at several strengths.

    Args:
        dataset: whose default attack they vary.
        names: attacks at the default epsilon.
        strengths: epsilons of PGD, in eighths of the default one: for CIFAR-10, in 1/255.
    """
    base = default_attack(dataset)
    fine = replace(base, step_size=base.step_size / 2)
    by_name = [replace(fine, name=name) for name in names]
    return by_name + [replace(fine, epsilon=min(1.0, base.epsilon * k / 8)) for k in strengths]


def export(
    trainer: Trained,
    dataset: Dataset,
    name: str,
    false_positive_rate: float = 0.05,
    weights: str = "float32",
    selected_on: Selection | None = None,
) -> Checkpoint:
    """A trained ensemble as a checkpoint, its detector calibrated on the calibration images.

    Args:
        trainer: what was trained.
        dataset: where the calibration images are.
        name: the ensemble's id.
        false_positive_rate: of the detector on the calibration images.
        weights: what they are rounded to first, in place: `float32`, `float16` or `int8`
            (see `cce.checkpoints.compact`).
        selected_on: the test images that chose this state among the run's; None: it is the last one, not a choice.
    """
    model = trainer.released.eval()
    if weights != "float32":
        {"float16": halve, "int8": quarter}[weights](model)
    held = dataset.calibration
    clean = outcome(model, held.pixels().to(trainer.device), held.labels.to(trainer.device))
    where = f"{dataset.name} images {held.start} to {held.start + len(held) - 1}, kept for this alone"
    config = trainer.config
    return Checkpoint(
        id=name,
        model=model,
        dataset=config.dataset,
        classes=dataset.classes,
        defense=config.defense,
        training=training_record(
            config, trainer.step, trainer.seconds, trainer.device, trainer.machines, trainer.started_from
        ),
        pictures=dataset.record,
        detector=calibrate(clean.entropy.cpu().numpy(), false_positive_rate, where),
        selected_on=selected_on,
    )


def summary(checkpoint: Checkpoint) -> dict[str, Any]:
    """The row of `models` and of the `/models` endpoint.

    `robust_accuracy` and `detection_auc` are under the first attack that was measured; None where
    nothing was. Beside the AUC, and only with it: `wrong_and_unflagged` under the worst detector-aware attack,
    and `benign_flagged`, the largest share of a benign corruption that is flagged.
    """
    metrics = checkpoint.metrics
    first = (metrics.get("attacks") or [{}])[0]
    aware = _figures(metrics, "adaptive", "wrong_and_unflagged")
    benign = _figures(metrics, "benign_corruptions", "flagged")
    whole = bool(aware and benign and first.get("auc") is not None)
    return {
        "id": checkpoint.id,
        "dataset": checkpoint.dataset,
        "architecture": checkpoint.model.config.architecture,
        "members": checkpoint.model.config.members,
        "defense": checkpoint.defense_name,
        "natural_accuracy": metrics.get("natural", {}).get("accuracy"),
        "robust_accuracy": first.get("accuracy"),
        "detection_auc": first["auc"] if whole else None,
        "wrong_and_unflagged": max(aware) if whole else None,
        "benign_flagged": max(benign) if whole else None,
        "threshold": checkpoint.detector.threshold if checkpoint.detector else None,
    }


def _figures(metrics: dict[str, Any], part: str, key: str) -> list[float]:
    """A figure of every row that has it."""
    return [row[key] for row in metrics.get(part, []) if row.get(key) is not None]
