"""Evaluation: what an ensemble does on images, member by member, and its figures under attack."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cce.attacks import agreeing_attack, attack
from cce.config import AttackConfig, check
from cce.detection import DetectionReport, Detector, Sample, auc, calibrate
from cce.models import Ensemble, SearchCopy, entropy, evaluating, log_mean_probability

if TYPE_CHECKING:
    from cce.checkpoints import Checkpoint


@dataclass(frozen=True)
class Outcome:
    """What an ensemble says of B labelled images.

    `log_probability` log f_en `(B, classes)`; `member_labels` `(N, B)`; `label` `(B,)`; `entropy` of
    f_en in nats `(B,)`; `right` and `member_right` are the same, compared with the true labels;
    `member_entropy` of each f^n in nats `(N, B)`, where it was kept.
    """

    log_probability: Tensor
    member_labels: Tensor
    labels: Tensor
    member_entropy: Tensor | None = None

    @property
    def label(self) -> Tensor:
        """The ensemble's class of each image, `(B,)`."""
        return self.log_probability.argmax(-1)

    @property
    def right(self) -> Tensor:
        """Where the ensemble is right, `(B,)`."""
        return self.label == self.labels

    @property
    def member_right(self) -> Tensor:
        """Where each member is right, `(N, B)`."""
        return self.member_labels == self.labels

    @property
    def entropy(self) -> Tensor:
        """Entropy of f_en in nats, `(B,)`."""
        return entropy(self.log_probability)

    @property
    def disagreement(self) -> Tensor:
        """Jensen-Shannon divergence of the members in nats, `(B,)`: H(f_en) - mean_n H(f^n), from 0 to ln N."""
        check(self.member_entropy is not None, "this outcome was made without the members' entropies")
        return (self.entropy - self.member_entropy.mean(0)).clamp_min(0)

    @property
    def accuracy(self) -> float:
        """Fraction of images that f_en labels right."""
        return self.right.float().mean().item()

    @property
    def member_accuracy(self) -> list[float]:
        """Fraction right, of each member."""
        return self.member_right.float().mean(1).tolist()

    def subset_counts(self) -> dict[str, float]:
        """Fractions of Table 1's subsets: `S` and a bit for each member, 1 where it is right."""
        n = len(self.member_right)
        weights = 2 ** torch.arange(n - 1, -1, -1, device=self.labels.device)
        codes = (self.member_right.long() * weights[:, None]).sum(0)
        counts = torch.bincount(codes, minlength=2**n).tolist()
        return {f"S{code:0{n}b}": counts[code] / max(1, len(self.labels)) for code in reversed(range(2**n))}


@torch.no_grad()
def outcome(model: Ensemble, x: Tensor, labels: Tensor, batch_size: int = 500) -> Outcome:
    """The float32 verdict of `model`, in evaluation mode, on `x` `(B, C, H, W)` in [0, 1]."""
    log_p, members, entropies = [], [], []
    with evaluating(model):
        for part in x.split(batch_size):
            logits = model.member_logits(part.contiguous(memory_format=torch.channels_last))
            log_p.append(log_mean_probability(logits))
            members.append(logits.argmax(-1))
            entropies.append(entropy(logits.log_softmax(-1)))
    return Outcome(torch.cat(log_p), torch.cat(members, dim=1), labels, torch.cat(entropies, dim=1))


@dataclass(frozen=True)
class Progress:
    """Where a long evaluation reports: called with what is being done and the fraction done of all."""

    report: Callable[[str, float], None]

    def part(self, name: str, first: float, last: float) -> Callable[[int, int], None]:
        """A `progress(done, total)` that reports the stretch from `first` to `last`."""
        return lambda done, total: self.report(name, first + (last - first) * done / max(1, total))


def evaluate(
    checkpoint: Checkpoint,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[AttackConfig],
    *,
    adaptive: int = 0,
    epsilon: float = 8 / 255,
    seed: int = 0,
    search_dtype: torch.dtype = torch.float32,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Figures of a checkpoint: natural, under each attack, under random noise, and under the attacker who knows.

    Args:
        checkpoint: with or without a calibrated detector.
        images: `(B, C, H, W)` float32 in [0, 1], none of them used to calibrate the detector.
        labels: true labels `(B,)`.
        attacks: run one after the other on all images.
        adaptive: how many of the images, from the first, the detector-aware attacks get (0: none).
        epsilon: radius of noise and detector-aware attacks, pixel units.
        seed: of random starts and noise.
        search_dtype: what examples are searched for in; every figure is the float32 verdict on them.
        report: called as `report(what, fraction)`.

    Returns:
        JSON values; see `metrics.json` in the design. Detection figures are there only with the
        figures on random noise and under detector-aware attacks beside them.
    """
    model = checkpoint.model
    search = SearchCopy(model, search_dtype).model
    detector = checkpoint.detector if adaptive else None
    progress = Progress(report or (lambda what, fraction: None))
    clean = outcome(model, images, labels)
    result: dict[str, Any] = {
        "images": len(labels),
        "seed": seed,
        "search_precision": str(search_dtype).removeprefix("torch."),
        "natural": _figures(clean, clean, detector),
    }
    parts = len(attacks) + (5 if adaptive else 0)
    result["attacks"] = []
    for i, config in enumerate(attacks):
        ticks = progress.part(config.describe(), i / parts, (i + 1) / parts)
        x_adv = attack(search, images, labels, config, seed=seed, progress=ticks)
        attacked = outcome(model, x_adv, labels)
        result["attacks"].append({**asdict(config), **_figures(attacked, clean, detector)})
    if adaptive:
        first = slice(0, adaptive)
        known = outcome(model, images[first], labels[first])
        start = len(attacks) / parts
        result["adaptive"] = [
            {"name": name, **_figures(outcome(model, x, labels[first]), known, detector), "images": len(x)}
            for name, x in _aware_examples(search, images[first], labels[first], epsilon, progress, start)
        ]
        progress.report("random noise, JPEG and the like", 1 - 0.5 / parts)
        noisy = corruptions(images, epsilon, seed)
        result["benign_corruptions"] = [
            {"name": name, **_figures(outcome(model, x, labels), clean, detector)} for name, x in noisy
        ]
    progress.report("done", 1.0)
    return result


def sample(name: str, seen: Outcome, settings: dict[str, Any] | None = None) -> Sample:
    """The detector scores of an outcome: entropy of f_en, 1 - its highest probability, members' disagreement."""
    scores = {
        "entropy": seen.entropy,
        "max probability": -torch.expm1(seen.log_probability.max(-1).values),
        "disagreement": seen.disagreement,
    }
    kept = {k: v.double().cpu().numpy() for k, v in scores.items()}
    return Sample(name, seen.right.cpu().numpy(), kept, settings or {})


def detect(
    checkpoint: Checkpoint,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[AttackConfig],
    *,
    adaptive: int = 50,
    epsilon: float = 8 / 255,
    calibration: tuple[Tensor, Tensor] | None = None,
    false_positive_rate: float = 0.05,
    seed: int = 0,
    report: Callable[[str, float], None] | None = None,
) -> DetectionReport:
    """How well clean images are told from attacked ones, from detector-aware ones and from benign corruptions.

    Args:
        checkpoint: its detector's threshold is the entropy's where there is no `calibration`.
        images: `(B, C, H, W)` float32 in [0, 1], none of them used to calibrate.
        labels: true labels `(B,)`.
        attacks: Figures 3 and 4's, or any.
        adaptive: how many of the images, from the first, the detector-aware attacks get; at least 1.
        epsilon: radius of noise and detector-aware attacks, pixel units.
        calibration: images and labels that set every score's threshold.
        false_positive_rate: what these thresholds let through as flagged.
        seed: of random starts and noise.
        report: called as `report(what, fraction)`.
    """
    check(adaptive >= 1, f"adaptive is {adaptive}; detection is never shown without the attacker who knows")
    check(len(attacks) >= 1, "attacks is empty; detection is shown under at least one")
    model, progress = checkpoint.model, Progress(report or (lambda what, fraction: None))
    search = SearchCopy(model, torch.float32).model
    aware = 12 * min(adaptive, len(images)) * 50  # gradient steps of the aware attacks: four, three targets each
    work = [len(images) * c.steps for c in attacks] + [aware]
    ends = np.cumsum([0, *work]) / sum(work)
    attacked = []
    for i, config in enumerate(attacks):
        ticks = progress.part(config.describe(), ends[i], ends[i + 1])
        x_adv = attack(search, images, labels, config, seed=seed, progress=ticks)
        name = config.describe().removesuffix(", on the ensemble")
        attacked.append(sample(name, outcome(model, x_adv, labels), asdict(config)))
    some = slice(0, adaptive)
    aware_ones = [
        sample(name, outcome(model, x, labels[some]), {"epsilon": epsilon, "steps": 50})
        for name, x in _aware_examples(search, images[some], labels[some], epsilon, progress, float(ends[-2]))
    ]
    benign = [sample(name, outcome(model, x, labels)) for name, x in corruptions(images, epsilon, seed)]
    detectors = {"entropy": checkpoint.detector} if checkpoint.detector else {}
    if calibration is not None:
        held = sample("calibration", outcome(model, *calibration))
        where = f"{len(held.right)} images kept for this alone"
        detectors |= {k: calibrate(v, false_positive_rate, where, k) for k, v in held.scores.items()}
    progress.report("done", 1.0)
    clean = sample("clean", outcome(model, images, labels))
    return DetectionReport(clean, tuple(attacked), tuple(aware_ones), tuple(benign), detectors)


def _aware_examples(
    search: Ensemble, x: Tensor, labels: Tensor, epsilon: float, progress: Progress, start: float
) -> Iterator[tuple[str, Tensor]]:
    """Examples of the attacker who knows the detector: a value a pixel, then smooth on coarser grids."""
    grids = [g for g in (None, 16, 8, 4) if g is None or g < x.shape[-1]]
    share = (1 - start) / (len(grids) + 1)
    for i, grid in enumerate(grids):
        what = "agreeing members" if grid is None else f"smooth {grid} x {grid}, agreeing members"
        ticks = progress.part(what, start + i * share, start + (i + 1) * share)
        yield what, agreeing_attack(search, x, labels=labels, epsilon=epsilon, grid=grid, progress=ticks)


def corruptions(x: Tensor, epsilon: float, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Inputs that attack nothing, by name: random noise of the attack's size, and what pictures go through.

    Args:
        x: `(B, C, H, W)` float32 in [0, 1].
        epsilon: size of the random signs; the Gaussian noise has sigma epsilon / 2. Pixel units.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
    yield f"random signs of {255 * epsilon:.4g}/255", (x + epsilon * signs).clamp(0, 1)
    gauss = torch.randn(x.shape, generator=generator).to(x)
    yield f"Gaussian noise, sigma {127.5 * epsilon:.4g}/255", (x + epsilon / 2 * gauss).clamp(0, 1)
    yield "JPEG quality 75", torch.stack([_jpeg(picture, 75) for picture in x]).to(x)
    yield "blur, 3 x 3 binomial", _blur(x)
    yield "resized to 3/4 and back", _resized(x, 0.75)
    yield "20% brighter", (1.2 * x).clamp(0, 1)
    yield "20% darker", 0.8 * x
    pixels = max(1, round(x.shape[-1] / 16))
    moved = F.pad(x, (pixels, 0, pixels, 0), mode="replicate")[..., : x.shape[-2], : x.shape[-1]]
    yield f"shifted by {pixels} pixel{'s' if pixels > 1 else ''}, down and right", moved


def _blur(x: Tensor) -> Tensor:
    """(1 2 1) / 4 along both sides, edges repeated."""
    line = torch.tensor([0.25, 0.5, 0.25], device=x.device, dtype=x.dtype)
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1]).clamp(0, 1)


def _resized(x: Tensor, factor: float) -> Tensor:
    """Bilinearly smaller, antialiased, and back to the size it had."""
    side = [max(1, round(factor * n)) for n in x.shape[-2:]]
    smaller = F.interpolate(x, size=side, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(smaller, size=x.shape[-2:], mode="bilinear", align_corners=False).clamp(0, 1)


def _jpeg(x: Tensor, quality: int) -> Tensor:
    """`(C, H, W)` in [0, 1] through a JPEG file."""
    pixels = (x.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(buffer, "JPEG", quality=quality)
    decoded = np.array(Image.open(buffer), dtype=np.float32).reshape(pixels.shape)
    return torch.from_numpy(decoded / 255).permute(2, 0, 1)


def _figures(now: Outcome, clean: Outcome, detector: Detector | None) -> dict[str, Any]:
    """Accuracy and subsets of `now`; with a detector, what it says of `now` against `clean`."""
    figures: dict[str, Any] = {
        "accuracy": now.accuracy,
        "member_accuracy": now.member_accuracy,
        "subsets": now.subset_counts(),
        "mean_entropy": now.entropy.mean().item(),
    }
    if detector is None:
        return figures
    score, base = now.entropy.cpu().numpy(), clean.entropy.cpu().numpy()
    flagged, wrong = detector.flags(score), ~now.right.cpu().numpy()
    successful = wrong & clean.right.cpu().numpy()
    figures |= {"flagged": float(flagged.mean()), "wrong_and_unflagged": float((wrong & ~flagged).mean())}
    if now is not clean:
        figures |= {"auc": auc(base, score), "auc_successful": auc(base, score[successful])}
    return figures
