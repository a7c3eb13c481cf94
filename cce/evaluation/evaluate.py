"""Evaluation: figures of an ensemble under attack, from one walk over the images.

`measure` walks; `metrics` and `detection_report` are made from what it found, so that no attack is run twice
for two kinds of figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cce.config import AttackConfig, Detector, check
from cce.detectors import calibrate
from cce.evaluation.columns import attack_column, aware_attacks, benign_columns
from cce.evaluation.detection import DetectionReport, Sample, auc
from cce.evaluation.engine import Column, Found, Report, Store, digest, walk
from cce.evaluation.outcomes import Outcome, outcome
from cce.evaluation.sanity import Sanity, sanity_columns, sanity_figures
from cce.fast import SearchCopy
from cce.machine.processes import Processes

if TYPE_CHECKING:
    from cce.checkpoints.folder import Checkpoint

BATCH_SIZE = 128
SUCCESS = ("last", "any")
"""When an attack has fooled an image: `last`, by the example that it returns; `any`, as soon as a step does."""


@dataclass(frozen=True)
class Measured:
    """What a walk found: all that figures are made from.

    `settings` (JSON values) are the walk's; `clean` is the verdict on the images themselves.
    """

    settings: dict[str, Any]
    clean: Outcome
    found: tuple[Found, ...]

    def of(self, kind: str) -> list[Found]:
        """The findings of a kind: `attack`, `slow`, `adaptive`, `benign` or `sanity`."""
        return [f for f in self.found if f.column.kind == kind]


def measure(
    checkpoint: Checkpoint,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[AttackConfig],
    *,
    adaptive: int = 0,
    aware: Sequence[str] | None = None,
    slow: Sequence[AttackConfig] = (),
    slow_images: int = 0,
    epsilon: float = 8 / 255,
    seed: int = 0,
    search_dtype: torch.dtype = torch.float32,
    success: str = "last",
    sanity: Sanity | None = None,
    batch_size: int = BATCH_SIZE,
    store: Store | None = None,
    processes: Processes | None = None,
    report: Report | None = None,
) -> Measured:
    """Walk attacks, detector-aware attacks and corruptions over the images.

    Args:
        checkpoint: with or without a calibrated detector.
        images: `(B, C, H, W)` float32 in [0, 1], none of them used to calibrate the detector.
        labels: true labels `(B,)`.
        attacks: each run on all images.
        adaptive: how many of the images, from the first, the detector-aware attacks get; 0: no such attack, and
            no corruption.
        aware: which detector-aware attacks, by name; None: all.
        slow: attacks that only some of the images get.
        slow_images: how many, from the first.
        epsilon: radius of noise and detector-aware attacks, pixel units.
        seed: of random starts and noise.
        search_dtype: what examples are searched for in; every figure is the float32 verdict on them.
        success: see `SUCCESS`. `any` leaves an image out as soon as it is fooled, which is faster; who is
            fooled at some step comes out the same with either.
        sanity: checks for gradient masking, on the first of the images; see `cce.evaluation.sanity`.
        batch_size: images at a time; what is found does not depend on it.
        store: keeps what is finished of a walk that is killed.
        processes: that share the walk.
        report: called as `report(what, fraction)`.

    Raises:
        ConfigError: settings that cannot be used, or an output that is not finite.
    """
    check(success in SUCCESS, f"success is {success!r}; it is {' or '.join(SUCCESS)}")
    check(0 <= adaptive <= len(images), f"adaptive is {adaptive}; it is from 0 to the number of images, {len(images)}")
    model = checkpoint.model
    copy = SearchCopy(model, search_dtype)
    search = copy.model
    settings = {
        "images": len(images),
        "seed": seed,
        "search_precision": copy.precision,
        "success": success,
        "batch_size": batch_size,
        "epsilon": epsilon,
    }
    known = aware_attacks(checkpoint.dataset, epsilon, images.shape[-1], aware) if adaptive else []
    check(0 <= slow_images <= len(images), f"slow_images is {slow_images}; it is from 0 to {len(images)}")
    check(bool(known) or not adaptive, f"aware is {aware}; none of these knows the detector and fits these images")
    threshold = checkpoint.detector.threshold if checkpoint.detector else None
    columns = []
    some = [*(("slow", c, slow_images) for c in slow if slow_images), *(("adaptive", c, adaptive) for c in known)]
    for kind, config, count in [*(("attack", c, len(images)) for c in attacks), *some]:
        kind = "adaptive" if config.info.aware else kind
        drop = success == "any" and kind != "adaptive"
        columns.append(attack_column(model, search, config, count, kind=kind, drop=drop, threshold=threshold))
    columns += benign_columns(model, epsilon, len(images)) if adaptive else []
    if sanity:
        columns += sanity_columns(model, search, sanity, len(images))
    if store:
        sources = sanity.sources if sanity else {}
        store.settings = {
            "contents": digest(model, images, labels),
            "sources": [digest(source, images[:0], labels[:0]) for source in sources.values()],
            "seed": seed,
            "precision": settings["search_precision"],
            "torch": torch.__version__,
            "device": images.device.type,
        }
    clean, found = walk(
        model,
        images,
        labels,
        columns,
        seed=seed,
        batch_size=batch_size,
        store=store,
        processes=processes,
        report=report,
    )
    return Measured(settings, clean, tuple(found))


def evaluate(
    checkpoint: Checkpoint, images: Tensor, labels: Tensor, attacks: Sequence[AttackConfig], **settings: Any
) -> dict[str, Any]:
    """Figures of a checkpoint: natural, under each attack, under random noise, and under the attacker who knows.

    Takes what `measure` takes and returns `metrics` of it.
    """
    measured = measure(checkpoint, images, labels, attacks, **settings)
    return metrics(measured, checkpoint.detector)


def detect(
    checkpoint: Checkpoint,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[AttackConfig],
    *,
    adaptive: int = 50,
    calibration: tuple[Tensor, Tensor] | None = None,
    false_positive_rate: float = 0.05,
    **settings: Any,
) -> DetectionReport:
    """How well clean images are told from attacked ones, from detector-aware ones and from benign corruptions.

    Args:
        checkpoint: its detector's threshold is the entropy's where there is no `calibration`.
        images: see `measure`.
        labels: see `measure`.
        attacks: Figures 3 and 4's, or any.
        adaptive: how many of the images, from the first, the detector-aware attacks get; at least 1.
        calibration: see `detectors`.
        false_positive_rate: see `detectors`.
        settings: what else `measure` takes.
    """
    check(adaptive >= 1, f"adaptive is {adaptive}; detection is never shown without the attacker who knows")
    check(len(attacks) >= 1, "attacks is empty; detection is shown under at least one")
    measured = measure(checkpoint, images, labels, attacks, adaptive=adaptive, **settings)
    return detection_report(measured, detectors(checkpoint, calibration, false_positive_rate))


def detectors(
    checkpoint: Checkpoint, calibration: tuple[Tensor, Tensor] | None = None, false_positive_rate: float = 0.05
) -> dict[str, Detector]:
    """The thresholds by score: the checkpoint's own of the entropy, or every score's from `calibration`.

    Args:
        checkpoint: with or without a detector.
        calibration: images and labels that are used for nothing else.
        false_positive_rate: what these thresholds let through as flagged.
    """
    if calibration is None:
        return {"entropy": checkpoint.detector} if checkpoint.detector else {}
    held = sample("calibration", outcome(checkpoint.model, *calibration))
    where = f"{len(held.right)} images kept for this alone"
    return {k: calibrate(v, false_positive_rate, where, k) for k, v in held.scores.items()}


def detection_report(measured: Measured, thresholds: dict[str, Detector]) -> DetectionReport:
    """The detection part of a walk with `success` `last`: an attack that was cut short tells nothing of its entropy.

    Raises:
        ConfigError: another `success`, or a walk without one of the three columns.
    """
    success = measured.settings["success"]
    check(success == "last", f"success is {success!r}; detection is measured on attacks that run to their end")
    columns = []
    for kind in ("attack", "adaptive", "benign"):
        found = measured.of(kind)
        columns.append(tuple(sample(_short(f.column), f.outcome, _config(f.column)) for f in found))
    return DetectionReport(sample("clean", measured.clean), *columns, thresholds)


def _short(column: Column) -> str:
    return column.name.removesuffix(", on the ensemble")


def _config(column: Column) -> dict[str, Any]:
    """The attack's settings alone."""
    known = {f.name for f in fields(AttackConfig)}
    return {k: v for k, v in column.settings.items() if k in known}


def sample(name: str, seen: Outcome, settings: dict[str, Any] | None = None) -> Sample:
    """The detector scores of an outcome: entropy of f_en, 1 - its highest probability, members' disagreement."""
    scores = {
        "entropy": seen.entropy,
        "max probability": -torch.expm1(seen.log_probability.max(-1).values),
        "disagreement": seen.disagreement,
    }
    kept = {k: v.double().cpu().numpy() for k, v in scores.items()}
    return Sample(name, seen.right.cpu().numpy(), kept, settings or {})


def metrics(measured: Measured, detector: Detector | None = None) -> dict[str, Any]:
    """JSON values of a walk: what `metrics.json` holds.

    `settings` first; then rows of `natural`, `attacks`, `slow`, `adaptive`, `benign_corruptions`, each with
    `accuracy` (by the example that the attack returned), `accuracy_any_step` (right on the image and at every step
    that could be watched) and `fooled`, a bit an image, 1 where it was not; with a detector `unnoticed`, 1 where the
    image or the returned example was wrong and passed. `worst_case` unites the attacks by
    image. Detection figures are there only where the walk has detector-aware attacks and corruptions too, and in
    rows of attacks only where these ran to their end.
    """
    whole = bool(measured.of("adaptive") and measured.of("benign"))
    detector = detector if whole else None
    to_the_end = detector if measured.settings["success"] == "last" else None
    clean = measured.clean
    result = {**measured.settings, "natural": _figures(clean, clean, detector), "attacks": []}
    for f in measured.of("attack"):
        row = {**_config(f.column), **_figures(f.outcome, clean, to_the_end)}
        result["attacks"].append(row | _by_image(f, clean, to_the_end))
    for kind, name, judge in (
        ("slow", "slow", to_the_end),
        ("adaptive", "adaptive", detector),
        ("benign", "benign_corruptions", detector),
    ):
        if measured.of(kind):
            result[name] = [_named_row(f, clean, judge) for f in measured.of(kind)]
    if measured.of("attack"):
        result["worst_case"] = worst_case(measured, detector)
    if measured.of("sanity"):
        result["sanity"] = sanity_figures(measured.of("sanity"))
    return result


def _named_row(f: Found, clean: Outcome, detector: Detector | None) -> dict[str, Any]:
    more = {} if f.column.kind == "benign" else {"attack": _config(f.column), **_by_image(f, clean, detector)}
    return {"name": _short(f.column), **_figures(f.outcome, clean, detector), "images": len(f.fooled), **more}


def _by_image(f: Found, clean: Outcome, detector: Detector | None) -> dict[str, Any]:
    one = tried(f, clean, detector)
    row = {"accuracy_any_step": 1 - one.fooled.double().mean().item(), "seconds": round(f.seconds, 2)}
    row["fooled"] = _bits(one.fooled)
    return row if one.unnoticed is None else {**row, "unnoticed": _bits(one.unnoticed)}


def _bits(which: Tensor) -> str:
    return "".join("01"[int(b)] for b in which.tolist())


def _from_bits(bits: str) -> Tensor:
    return torch.tensor([b == "1" for b in bits])


def worst_case(measured: Measured, detector: Detector | None = None) -> list[dict[str, Any]]:
    """Accuracy where an image counts as lost as soon as any attack fools it: a row a norm, radius and set of images.

    An attack in a smaller ball is one in a larger. `attacks` says how many are united. Where fewer images get some
    attacks, they have a row of their own, with all attacks on these. With a detector,
    `wrong_and_unflagged`: some attack's returned example, or the image itself, is wrong and passes.
    """
    judged = detector if measured.settings["success"] == "last" else None
    found = measured.of("attack") + measured.of("slow") + measured.of("adaptive")
    return united([tried(f, measured.clean, judged) for f in found])


@dataclass(frozen=True)
class Tried:
    """What an attack did to each of the images that it got, `(B,)` bool: the image itself counts as one of its steps.

    `unnoticed`, wrong and not flagged, is None where no detector was asked.
    """

    attack: dict[str, Any]
    fooled: Tensor
    unnoticed: Tensor | None = None

    @property
    def ball(self) -> tuple[str, float, int]:
        """Norm and radius of what it may do, and minus the number of images: small balls first, then many images."""
        return self.attack.get("norm", "linf"), round(self.attack["epsilon"], 9), -len(self.fooled)

    def within(self, norm: str, epsilon: float, images: int) -> bool:
        """Whether it stays in this ball, on at least so many images."""
        own, radius, fewer = self.ball
        return own == norm and radius <= epsilon and -fewer >= images


def tried(f: Found, clean: Outcome, detector: Detector | None) -> Tried:
    """What a walk found of an attack, by image."""
    count = len(f.fooled)
    passed = [_unnoticed(seen, detector, count) for seen in (clean, f.outcome)] if detector else []
    unnoticed = torch.stack(passed).any(0) if passed else None
    return Tried(_config(f.column), f.fooled | ~clean.right[:count], unnoticed)


def united(attacks: Sequence[Tried]) -> list[dict[str, Any]]:
    """The rows of `worst_case`; without `wrong_and_unflagged` where it is not known of every attack in the ball."""
    rows = []
    for norm, epsilon, images in sorted({one.ball for one in attacks}):
        count = -images
        inside = [t for t in attacks if t.within(norm, epsilon, count)]
        row = {"norm": norm, "epsilon": epsilon, "images": count, "attacks": len(inside)}
        row["accuracy"] = 1 - torch.stack([t.fooled[:count] for t in inside]).any(0).float().mean().item()
        passed = [t.unnoticed[:count] for t in inside if t.unnoticed is not None]
        if len(passed) == len(inside):
            row["wrong_and_unflagged"] = torch.stack(passed).any(0).float().mean().item()
        rows.append(row)
    return rows


def extended(
    before: dict[str, Any], measured: Measured, detector: Detector | None, source: dict[str, Any]
) -> dict[str, Any]:
    """`before` (JSON values of `metrics`) with the `slow` rows of a later walk, each with its `source`.

    A row of the same attack is replaced. Detection figures are there where `before` has them. The worst cases that
    get more attacks are made anew from the bits of each image, without `wrong_and_unflagged` where some have none.
    Which walks have a place there, `--add` asks before they begin.
    """
    judged = detector if before.get("benign_corruptions") and before["success"] == "last" else None
    fresh = [{**_named_row(f, measured.clean, judged), "source": source} for f in measured.of("slow")]
    again = [row["attack"] for row in fresh]
    slow = [row for row in before.get("slow", []) if row["attack"] not in again] + fresh
    rows = [*before["attacks"], *slow, *before.get("adaptive", [])]
    later = [_tried_before(row) for row in fresh]
    known = {_ball_of(row): row for row in before.get("worst_case", [])}
    known = {ball: row for ball, row in known.items() if not any(t.within(*ball) for t in later)}
    worst = united([_tried_before(row) for row in rows])
    result = {**before, "slow": slow, "worst_case": [known.get(_ball_of(row), row) for row in worst]}
    order = [*[k for k in before if k not in _AFTER_SLOW and k != "slow"], "slow", *_AFTER_SLOW]
    return {k: result[k] for k in order if k in result}


def _tried_before(row: dict[str, Any]) -> Tried:
    unnoticed = row.get("unnoticed")
    return Tried(row.get("attack", row), _from_bits(row["fooled"]), _from_bits(unnoticed) if unnoticed else None)


_AFTER_SLOW = ("adaptive", "benign_corruptions", "worst_case", "sanity")


def _ball_of(row: dict[str, Any]) -> tuple[str, float, int]:
    """Norm, radius and number of images of a row of `worst_case`."""
    return row["norm"], row["epsilon"], row["images"]


def _unnoticed(seen: Outcome, detector: Detector, count: int) -> Tensor:
    """Where the first `count` are wrong and not flagged, `(count,)`."""
    flagged = torch.from_numpy(detector.flags(seen.entropy[:count].cpu().numpy())).to(seen.labels.device)
    return ~seen.right[:count] & ~flagged


def _figures(now: Outcome, clean: Outcome, detector: Detector | None) -> dict[str, Any]:
    """Accuracy and subsets of `now`; with a detector, what it says of `now` against the same clean images."""
    figures: dict[str, Any] = {
        "accuracy": now.accuracy,
        "member_accuracy": now.member_accuracy,
        "subsets": now.subset_counts(),
        "mean_entropy": now.entropy.mean().item(),
    }
    if detector is None:
        return figures
    count = len(now.labels)
    score, base = now.entropy.cpu().numpy(), clean.entropy[:count].cpu().numpy()
    flagged, wrong = detector.flags(score), ~now.right.cpu().numpy()
    successful = wrong & clean.right[:count].cpu().numpy()
    figures |= {"flagged": float(flagged.mean()), "wrong_and_unflagged": float((wrong & ~flagged).mean())}
    if now is not clean:
        figures |= {"auc": auc(base, score), "auc_successful": auc(base, score[successful])}
    return figures
