"""Evaluation: what an ensemble does on images, member by member, and its figures under attack."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cce.attacks import agreeing_attack, attack
from cce.config import AttackConfig
from cce.detection import Detector, auc
from cce.models import Ensemble, SearchCopy, entropy, evaluating, log_mean_probability

if TYPE_CHECKING:
    from cce.checkpoints import Checkpoint


@dataclass(frozen=True)
class Outcome:
    """What an ensemble says of B labelled images.

    `log_probability` log f_en `(B, classes)`; `member_labels` `(N, B)`; `label` `(B,)`; `entropy` of
    f_en in nats `(B,)`; `right` and `member_right` are the same, compared with the true labels.
    """

    log_probability: Tensor
    member_labels: Tensor
    labels: Tensor

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
    log_p, members = [], []
    with evaluating(model):
        for part in x.split(batch_size):
            logits = model.member_logits(part.contiguous(memory_format=torch.channels_last))
            log_p.append(log_mean_probability(logits))
            members.append(logits.argmax(-1))
    return Outcome(torch.cat(log_p), torch.cat(members, dim=1), labels)


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
        report: called as `report(what, fraction)`.

    Returns:
        JSON values; see `metrics.json` in the design. Detection figures are there only with the
        figures on random noise and under detector-aware attacks beside them.
    """
    model, detector = checkpoint.model, checkpoint.detector
    progress = Progress(report or (lambda what, fraction: None))
    clean = outcome(model, images, labels)
    result: dict[str, Any] = {
        "images": len(labels),
        "seed": seed,
        "natural": _figures(clean, clean, detector),
    }
    parts = len(attacks) + (5 if adaptive else 0)
    result["attacks"] = []
    for i, config in enumerate(attacks):
        ticks = progress.part(config.describe(), i / parts, (i + 1) / parts)
        x_adv = attack(SearchCopy(model, torch.float32).model, images, labels, config, seed=seed, progress=ticks)
        attacked = outcome(model, x_adv, labels)
        result["attacks"].append({**asdict(config), **_figures(attacked, clean, detector)})
    if adaptive:
        first = slice(0, adaptive)
        known = outcome(model, images[first], labels[first])
        start = len(attacks) / parts
        result["adaptive"] = [
            {"name": name, **_figures(outcome(model, x, labels[first]), known, detector), "images": len(x)}
            for name, x in _aware_examples(model, images[first], labels[first], epsilon, progress, start)
        ]
        progress.report("random noise and JPEG", 1 - 0.5 / parts)
        noisy = corruptions(images, epsilon, seed)
        result["benign_corruptions"] = [
            {"name": name, **_figures(outcome(model, x, labels), clean, detector)} for name, x in noisy
        ]
    progress.report("done", 1.0)
    return result


def _aware_examples(
    model: Ensemble, x: Tensor, labels: Tensor, epsilon: float, progress: Progress, start: float
) -> Iterator[tuple[str, Tensor]]:
    """Examples of the attacker who knows the detector: a value a pixel, then smooth on coarser grids."""
    search = SearchCopy(model, torch.float32).model
    grids = [g for g in (None, 16, 8, 4) if g is None or g <= x.shape[-1]]
    share = (1 - start) / (len(grids) + 1)
    for i, grid in enumerate(grids):
        what = "agreeing members" if grid is None else f"smooth {grid} x {grid}, agreeing members"
        ticks = progress.part(what, start + i * share, start + (i + 1) * share)
        yield what, agreeing_attack(search, x, labels=labels, epsilon=epsilon, grid=grid, progress=ticks)


def corruptions(x: Tensor, epsilon: float, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Inputs that attack nothing: random signs of size epsilon, Gaussian noise of sigma epsilon / 2, JPEG 75."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
    yield f"random signs of {255 * epsilon:.4g}/255", (x + epsilon * signs).clamp(0, 1)
    gauss = torch.randn(x.shape, generator=generator).to(x)
    yield f"Gaussian noise, sigma {127.5 * epsilon:.4g}/255", (x + epsilon / 2 * gauss).clamp(0, 1)
    yield "JPEG quality 75", torch.stack([_jpeg(picture, 75) for picture in x]).to(x)


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
