"""What an ensemble is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cce.config.values import check

STANDARD_CNNS = ("cnn-mnist", "cnn-cifar10", "cnn-cifar100")
"""The standard CNNs of Table 8; `cce.models.members` holds their layers."""


@dataclass(frozen=True)
class ModelConfig:
    """The ensemble's shape.

    `architecture` is `cnn-mnist`, `cnn-cifar10`, `cnn-cifar100` (Table 8), `resnetD`, D = 6n + 2, or a wider one,
    `resnetD-wW` with W channels in the first stage (a multiple of 16 from 32 to 256) in the place of 16;
    `input_shape` is (channels, height, width) in pixels.
    """

    architecture: str
    members: int
    classes: int
    input_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        known = self.architecture in STANDARD_CNNS or self.resnet_depth
        check(
            bool(known),
            f"architecture is {self.architecture!r}; there is {', '.join(STANDARD_CNNS)} "
            "and resnetD with D = 6n + 2 (resnet20, resnet32, ...), wider as resnetD-wW with W = 32, 48, ... 256",
        )
        check(self.members >= 1, f"members is {self.members}; an ensemble has at least one")
        check(self.classes >= 2, f"classes is {self.classes}; it must be at least 2")
        check(
            len(self.input_shape) == 3 and min(self.input_shape) >= 1,
            f"input_shape is {self.input_shape}; it is (channels, height, width)",
        )

    @property
    def resnet_depth(self) -> int | None:
        """D of `resnetD` and `resnetD-wW` where D = 6n + 2 and W is possible, else None."""
        match = _RESNET.fullmatch(self.architecture)
        depth, width = (int(match[1]), int(match[2] or 32)) if match else (0, 0)
        possible = depth >= 8 and (depth - 2) % 6 == 0 and 32 <= width <= 256 and width % 16 == 0
        return depth if possible else None

    @property
    def resnet_width(self) -> int:
        """Channels in a ResNet's first stage: W of `resnetD-wW`, else 16.

        >>> ModelConfig("resnet20-w32", 2, 10, (3, 32, 32)).resnet_width
        32
        """
        match = _RESNET.fullmatch(self.architecture)
        return int(match[2] or 16) if match else 16


_RESNET = re.compile(r"resnet(\d+)(?:-w(\d{1,3}))?")
