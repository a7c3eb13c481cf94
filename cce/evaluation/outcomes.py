"""Outcomes: what an ensemble says of labelled images, member by member; every verdict is float32."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cce.config import check
from cce.machine import shards
from cce.models import Ensemble, entropy, evaluating, log_mean_probability


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


def finite(logits: Tensor) -> Tensor:
    """The members' logits `(N, B, classes)`, for a verdict.

    Raises:
        ConfigError: one is NaN or infinite; finite weights can do that, as by a negative `running_var`.
    """
    good = logits.isfinite().all((1, 2)).tolist()
    bad = ", ".join(f"f{i + 1}" for i, one in enumerate(good) if not one)
    check(
        not bad,
        f"the outputs of {bad} are not finite numbers (NaN or infinite), so they say nothing of a picture; the "
        "weights or the statistics of batch norm are damaged: fetch or train this ensemble again",
    )
    return logits


def outcome(
    model: Ensemble, x: Tensor, labels: Tensor, batch_size: int = 500, before: Callable[[], None] | None = None
) -> Outcome:
    """The float32 verdict of `model`, in evaluation mode, on `x` `(B, C, H, W)` in [0, 1].

    `before` is called before each part of at most `batch_size` images, by one thread at a time; it may raise to stop.

    Raises:
        ConfigError: an output that is not finite.
    """
    lock = threading.Lock()

    @torch.no_grad()
    def said(part: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        shards.go_on()
        if before:
            with lock:
                before()
        logits = finite(model.member_logits(x[slice(*part)].contiguous(memory_format=torch.channels_last)))
        return log_mean_probability(logits), logits.argmax(-1), entropy(logits.log_softmax(-1))

    with evaluating(model):  # once for all threads
        parts = shards.each(said, shards.parts(len(x), batch_size, shards.threads(x.device)), x.device)
        log_p, members, entropies = zip(*parts or [said((0, 0))], strict=True)
    return Outcome(torch.cat(log_p), torch.cat(members, dim=1), labels, torch.cat(entropies, dim=1))
