"""Members of an ensemble: Table 8's convolutional networks and ResNet-D."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cce.config import ModelConfig, check


class ConvNorm(nn.Module):
    """Bias-free 3x3 or 1x1 convolution and batch norm, kept together so that they can be folded."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`; `add` is added, then `relu` clips."""
        return add_and_clip(self.norm(self.conv(x)), add, relu)

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that this pair is in evaluation mode."""
        scale = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
        bias = self.norm.bias - scale * self.norm.running_mean
        return self.conv.weight * scale[:, None, None, None], bias


def add_and_clip(y: Tensor, add: Tensor | None, relu: bool) -> Tensor:
    """The sum and the ReLU that follow a convolution in a residual block, where asked for; may change `y`."""
    y = y if add is None else y + add
    return F.relu(y, inplace=True) if relu else y


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, arXiv 1512.03385; projection on a change of size)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, stride=stride)
        self.second = ConvNorm(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`."""
        return self.second(self.first(x, relu=True), add=self.shortcut(x), relu=True)


class ResNet(nn.Module):
    """ResNet-D for small images, D = 6n + 2: three stages of n blocks, 16, 32, 64 channels, or multiples of these.

    Pixels are centred inside, `(x - 0.5) / 0.25`, in float32: a bfloat16 search then rounds inputs by
    at most a quarter of 1/255, where raw pixels would lose a half.
    """

    def __init__(self, channels: int, classes: int, depth: int, width: int = 16) -> None:
        super().__init__()
        self.stages = (width, 2 * width, 4 * width)
        blocks: list[nn.Module] = []
        for outputs, stride in zip(self.stages, (1, 2, 2), strict=True):
            for i in range((depth - 2) // 6):
                blocks.append(ResidualBlock(width, outputs, stride if i == 0 else 1))
                width = outputs
        self.stem = ConvNorm(channels, self.stages[0])
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)` of `x` `(B, C, H, W)` in [0, 1]."""
        x = ((x - 0.5) / 0.25).to(self.head.weight.dtype)
        return self.head(self.blocks(self.stem(x, relu=True)).mean((2, 3)))


# Table 8: convolutions before each of the two poolings, hidden fully connected layers after dropout.
_TABLE8 = {
    "cnn-mnist": ((32, 2), (64, 2), (200, 1)),
    "cnn-cifar10": ((64, 2), (128, 2), (256, 1)),
    "cnn-cifar100": ((64, 3), (128, 3), (256, 2)),
}


class StandardCNN(nn.Module):
    """The standard CNN of Table 8: same-padded 3x3 convolutions, two poolings, dropout 0.5.

    The ReLU before a pooling is done after it: the same numbers and gradients, on a quarter of them.
    """

    def __init__(self, architecture: str, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        (first, n_first), (second, n_second), (hidden, n_after) = _TABLE8[architecture]
        channels, height, width = input_shape
        check(
            min(height, width) >= 4,
            f"input_shape is {input_shape}; {architecture} needs 4 x 4 pixels or more",
        )
        layers: list[nn.Module] = []
        for outputs, count in ((first, n_first), (second, n_second)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU()]
                channels = outputs
            layers.insert(-1, nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        dense: list[nn.Module] = [nn.Linear(second * (height // 4) * (width // 4), hidden), nn.ReLU()]
        dense.append(nn.Dropout(0.5))
        for _ in range(n_after):
            dense += [nn.Linear(hidden, hidden), nn.ReLU()]
        self.head = nn.Sequential(*dense, nn.Linear(hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)` of `x` `(B, C, H, W)` in [0, 1]."""
        return self.head(self.features(x.to(self.head[0].weight.dtype)).flatten(1))


def build_member(config: ModelConfig) -> nn.Module:
    """One freshly initialized member."""
    if config.resnet_depth:
        return ResNet(config.input_shape[0], config.classes, config.resnet_depth, config.resnet_width)
    return StandardCNN(config.architecture, config.input_shape, config.classes)
