"""Benign corruptions: noise, JPEG, blur and the like, which a detector should not flag."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cce.attacks.task import generators_for

Sources = Sequence[torch.Generator]  # an image's own each, so that its noise does not depend on the batch
Corruption = Callable[[Tensor, Sources], Tensor]  # x (B, C, H, W), sources of noise -> changed x


def corruption_kinds(epsilon: float, side: int) -> dict[str, Corruption]:
    """Random noise of the attack's size, and what pictures go through, by name.

    Args:
        epsilon: size of the random signs; the Gaussian noise has sigma epsilon / 2. Pixel units.
        side: width of the pictures in pixels; the shift is a sixteenth of it.
    """
    pixels = max(1, round(side / 16))

    def signs(x: Tensor, sources: Sources) -> Tensor:
        drawn = torch.stack([torch.randint(0, 2, x.shape[1:], generator=g) for g in sources]).to(x)
        return (x + epsilon * (2 * drawn - 1)).clamp(0, 1)

    def gaussian(x: Tensor, sources: Sources) -> Tensor:
        drawn = torch.stack([torch.randn(x.shape[1:], generator=g) for g in sources]).to(x)
        return (x + epsilon / 2 * drawn).clamp(0, 1)

    def shifted(x: Tensor, sources: Sources) -> Tensor:
        return F.pad(x, (pixels, 0, pixels, 0), mode="replicate")[..., : x.shape[-2], : x.shape[-1]]

    return {
        f"random signs of {255 * epsilon:.4g}/255": signs,
        f"Gaussian noise, sigma {127.5 * epsilon:.4g}/255": gaussian,
        "JPEG quality 75": lambda x, _: torch.stack([_jpeg(picture, 75) for picture in x]).to(x),
        "blur, 3 x 3 binomial": lambda x, _: _blur(x),
        "resized to 3/4 and back": lambda x, _: _resized(x, 0.75),
        "20% brighter": lambda x, _: (1.2 * x).clamp(0, 1),
        "20% darker": lambda x, _: 0.8 * x,
        f"shifted by {pixels} pixel{'s' if pixels > 1 else ''}, down and right": shifted,
    }


def corruptions(x: Tensor, epsilon: float, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every corruption of `x` `(B, C, H, W)` float32 in [0, 1], with its name; `seed` is the noise's."""
    for name, corrupt in corruption_kinds(epsilon, x.shape[-1]).items():
        yield name, corrupt(x, generators_for(seed, range(len(x))))


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
