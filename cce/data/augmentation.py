"""Augmentation of training images, by the batch, as uint8 and on the device that they are on."""

import torch
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator, flip: bool, shift: float) -> Tensor:
    """Mirror half of the images and shift each one, by random draws of its own.

    Args:
        images: ``(B, C, H, W)`` uint8, on any device.
        generator: source of the draws, on any device; it advances by the same amount whatever
            ``flip`` and ``shift`` are.
        flip: mirror each image left to right with probability one half.
        shift: largest shift as a fraction of the side, in [0, 1). Each image moves by a whole
            number of pixels, uniform in ``[-round(shift * side), round(shift * side)]`` along
            each axis; what moves into view repeats the edge.

    Returns:
        ``(B, C, H, W)`` uint8, new, on the images' device.

    Raises:
        ValueError: images are not uint8 ``(B, C, H, W)``, or shift is outside [0, 1).
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; "
            "augment takes uint8 (B, C, H, W), before the conversion to [0, 1]"
        )
    if not 0 <= shift < 1:
        raise ValueError(f"shift is {shift}; it is a fraction of the side, in [0, 1)")
    batch, channels, height, width = images.shape
    draws = torch.rand(3, batch, 1, generator=generator, device=generator.device)
    draws = draws.to(images.device, non_blocking=True)
    rows = _shifted(height, shift, draws[0])  # (B, H)
    columns = _shifted(width, shift, draws[1])  # (B, W)
    if flip:
        columns = torch.where(draws[2] < 0.5, width - 1 - columns, columns)
    source = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, height * width)
    flat = images.reshape(batch, channels, height * width)
    return flat.gather(2, source.expand(-1, channels, -1)).view_as(images)


def _shifted(side: int, shift: float, draws: Tensor) -> Tensor:
    """Source index of each pixel along one axis: ``(B, side)`` int64, from ``(B, 1)`` uniforms."""
    most = round(shift * side)
    offsets = (draws * (2 * most + 1)).long().clamp_(max=2 * most) - most  # (B, 1)
    return (torch.arange(side, device=draws.device) + offsets).clamp_(0, side - 1)
