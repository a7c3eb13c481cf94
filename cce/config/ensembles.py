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

    `architecture` is `cnn-mnist`, `cnn-cifar10`, `cnn-cifar100` (Table 8) or `resnetD`, D = 6n + 2;
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
            "and resnetD with D = 6n + 2 (resnet20, resnet32, ...)",
        )
        check(self.members >= 1, f"members is {self.members}; an ensemble has at least one")
        check(self.classes >= 2, f"classes is {self.classes}; it must be at least 2")
        check(
            len(self.input_shape) == 3 and min(self.input_shape) >= 1,
            f"input_shape is {self.input_shape}; it is (channels, height, width)",
        )

    @property
    def resnet_depth(self) -> int | None:
        """D of `resnetD` where D = 6n + 2, else None."""
        match = re.fullmatch(r"resnet(\d+)", self.architecture)
        depth = int(match.group(1)) if match else 0
        return depth if depth >= 8 and (depth - 2) % 6 == 0 else None
