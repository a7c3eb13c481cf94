"""Surfaces: the loss and the label around a picture, on a plane through it (Figures 6 to 8)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cce.attacks.gradient import check_batch
from cce.config import check, check_pixel_units
from cce.evaluation.outcomes import finite
from cce.fast import SearchCopy
from cce.machine import shards
from cce.models import Ensemble, evaluating, log_mean_probability

MOST_RESOLUTION = 201


@dataclass(frozen=True)
class Surface:
    """Loss and label on the grid `{x_a + i u + j v}`, for every member and then the ensemble.

    `u` and `v` are `(C, H, W)` float64, orthogonal, each scaled so that its largest entry is 1: `offsets`
    `(R,)`, from -extent to extent in pixel units, are the largest change of any pixel (the L-infinity
    distance) along an axis. `loss` `(N + 1, R, R)` is C(f(x), y) in nats and `labels` `(N + 1, R, R)` the
    predicted class, both as [view, j, i]: rows are v, columns are u. `clipped` is the share of pixels
    that left [0, 1] and were clipped, as in a picture.
    """

    offsets: Tensor
    u: Tensor
    v: Tensor
    loss: Tensor
    labels: Tensor
    label: int
    clipped: float

    @property
    def views(self) -> list[str]:
        """What the first axis of `loss` and `labels` stands for: f1, f2, ..., en."""
        return [f"f{i + 1}" for i in range(len(self.loss) - 1)] + ["en"]

    def to_json(self) -> dict[str, Any]:
        """JSON values: offsets in 1/255, `u`, `v`, and `{loss, labels}` of each view."""
        views = {
            name: {"loss": [[round(x, 5) for x in row] for row in self.loss[i].tolist()], "labels": labels}
            for i, (name, labels) in enumerate(zip(self.views, self.labels.tolist(), strict=True))
        }
        offsets = [round(255 * x, 6) for x in self.offsets.tolist()]
        axes = {"u": self.u.tolist(), "v": self.v.tolist()}
        return {"offsets": offsets, **axes, "views": views, "label": self.label, "clipped": self.clipped}


def axes(gradient: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """U along `gradient` and v random and perpendicular to it, both float64 with largest entry 1.

    Gram-Schmidt in float64, twice: once leaves an error as large as the part that was taken away.

    Raises:
        ConfigError: a gradient that is zero or not finite, which points nowhere.
    """
    g = gradient.detach().double().cpu()
    size = g.norm()
    check(
        bool(torch.isfinite(size)) and size.item() > 0,
        "the gradient of the loss is zero or not finite at this picture, so there is no axis u; "
        "try another picture or a weaker attack",
    )
    check(g.numel() > 1, "a picture of one number has no direction perpendicular to another")
    u = g / size
    v = torch.randn(g.shape, generator=generator, dtype=torch.float64)
    for _ in range(2):
        v = v - (v * u).sum() * u
        v = v / v.norm()
    return u / u.abs().max(), v / v.abs().max()


def surface(
    model: Ensemble,
    x: Tensor,
    label: int,
    *,
    extent: float = 16 / 255,
    resolution: int = 41,
    seed: int = 0,
    batch_size: int = 32,
    report: Callable[[float], None] | None = None,
) -> Surface:
    """The loss surface around `x`: u the gradient of C(f_en(x), y), v random and perpendicular to it.

    All views share one grid, so that they can be laid side by side, and one pass through the members,
    with batch norm folded. It runs in float32: bfloat16 moved the loss of a detection-mode ensemble by up
    to 0.06 nats, and looking up every label that it could have changed cost more than it saved.

    Args:
        model: the ensemble.
        x: `(C, H, W)` float32 in [0, 1], the picture in the middle (the paper's x_a).
        label: the true class y.
        extent: largest change of a pixel at the end of an axis, pixel units.
        resolution: points along an axis; an odd number has the picture itself in the middle.
        seed: of v.
        batch_size: pictures at a time; the result does not depend on it. Small ones stay in a CPU's cache.
        report: hears the fraction done, from several threads; raising in it stops the work.

    Raises:
        ConfigError: bad settings, a picture where the gradient is zero, or an output that is not finite.
    """
    check(x.dim() == 3, f"the picture has the shape {tuple(x.shape)}; it is (C, H, W)")
    check_batch(model, x[None], torch.tensor([label]))
    check_pixel_units("extent", extent)
    check(extent > 0, "extent is 0; it must be above 0")
    check(2 <= resolution <= MOST_RESOLUTION, f"resolution is {resolution}; it is from 2 to {MOST_RESOLUTION} points")
    u, v = axes(_gradient(model, x, label), torch.Generator().manual_seed(seed))
    offsets = torch.linspace(-extent, extent, resolution, dtype=torch.float64)
    place = {"device": x.device, "dtype": torch.float32}
    du, dv = offsets.to(**place), offsets.to(**place)
    across, down = du[:, None, None, None] * u.to(**place), dv[:, None, None, None] * v.to(**place)
    free = (x + across)[None] + down[:, None]  # (R along v, R along u, C, H, W)
    points = free.clamp(0, 1).flatten(0, 1)
    clipped = ((free < 0) | (free > 1)).float().mean().item()
    losses, labels = _evaluate(model, points, label, batch_size, report)
    square = (-1, resolution, resolution)
    return Surface(offsets, u, v, losses.view(square), labels.view(square), label, clipped)


def _gradient(model: Ensemble, x: Tensor, label: int) -> Tensor:
    """Gradient of C(f_en(x), y) with respect to x, `(C, H, W)`."""
    with evaluating(model), torch.enable_grad():
        inputs = x[None].detach().clone().requires_grad_(True)
        loss = F.nll_loss(model(inputs), torch.tensor([label], device=x.device))
        return torch.autograd.grad(loss, inputs)[0][0]


def _evaluate(
    model: Ensemble, points: Tensor, label: int, batch_size: int, report: Callable[[float], None] | None
) -> tuple[Tensor, Tensor]:
    """Loss and predicted class `(N + 1, P)` of the points `(P, C, H, W)`, on the CPU."""
    folded = SearchCopy(model, torch.float32).model
    done = itertools.count(1)

    @torch.no_grad()
    def seen(part: Tensor) -> tuple[Tensor, Tensor]:
        logits = finite(folded.member_logits(part.contiguous(memory_format=torch.channels_last)))
        log_p = torch.cat([logits.log_softmax(-1), log_mean_probability(logits)[None]])
        if report:
            report(min(1.0, next(done) * batch_size / len(points)))
        return -log_p[..., label], log_p.argmax(-1)

    losses, labels = zip(*shards.each(seen, points.split(batch_size), points.device), strict=True)
    return torch.cat(losses, dim=1).cpu(), torch.cat(labels, dim=1).cpu()
