"""Models: the members of Table 8 and ResNet-D, the ensemble, and its fast copy for attacks."""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cce import batch_norm, direct, native, residual_block, winograd
from cce.config import ConfigError, ModelConfig, check
from cce.machine.cuda_graphs import Graphs
from cce.residual import Program


class Convolution(nn.Conv2d):
    """PyTorch's convolution; in training, in float32 on an x86 CPU, ours (`cce.winograd`, `cce.direct`)."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        if self.training and winograd.suits(self) and winograd.fits(x, self.weight):
            return winograd.convolve(x, self.weight, self.bias)
        if self.training and direct.suits(self) and direct.fits(x, self):
            return direct.convolve(x, self)
        return super().forward(x)


class ConvNorm(nn.Module):
    """Bias-free 3x3 or 1x1 convolution and batch norm, kept together so that they can be folded."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = Convolution(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`; `add` is added, then `relu` clips."""
        y = self.conv(x)
        if batch_norm.fits(y, self.norm):
            return batch_norm.normalize(y, self.norm, add, relu)
        return _finish(self.norm(y), add, relu)

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that this pair is in evaluation mode."""
        scale = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
        bias = self.norm.bias - scale * self.norm.running_mean
        return self.conv.weight * scale[:, None, None, None], bias


def _finish(y: Tensor, add: Tensor | None, relu: bool) -> Tensor:
    """What follows a convolution in a residual block."""
    y = y if add is None else y + add
    return F.relu(y, inplace=True) if relu else y


class FoldedConv(nn.Conv2d):
    """The one convolution that a `ConvNorm` is in evaluation mode.

    On an x86 CPU it adds and clips while it convolves, from weights packed once: by `cce.winograd` in float32; else,
    without gradients, by oneDNN, where a ResNet-20 looks at 32 images in 0.6 (bfloat16) or 0.8 (float32) of the time.
    """

    _packed: Tensor | None = None
    _winograd: winograd.Packed | None = None
    clips = False  # a ReLU that follows in the network is done here

    def repack(self) -> None:
        """The weight has changed."""
        self._packed = self._winograd = None

    def forward(self, x: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """As `ConvNorm.forward`."""
        relu = relu or self.clips
        if winograd.suits(self) and winograd.fits(x, self.weight):
            self._winograd = self._winograd or winograd.Packed(self.weight)
            return winograd.convolve(x, self.weight, self.bias, add, relu, self._winograd)
        if x.requires_grad or torch.compiler.is_compiling() or not _can_fuse(x.device.type, x.dtype):
            return _finish(super().forward(x), add, relu)
        where = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *where, list(x.shape))
        operands = (self._packed, self.bias, *where)
        if add is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *operands, "relu" if relu else "none", [], "")
        then = "relu" if relu else None
        return torch.ops.mkldnn._convolution_pointwise.binary(x, add, *operands, "add", 1.0, then, [], "")


@functools.cache
def _can_fuse(device: str, dtype: torch.dtype) -> bool:
    """Whether oneDNN's convolution with a sum and a ReLU computes this here."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    x86 = "AVX" in torch.backends.cpu.get_cpu_capability()
    return x86 and (dtype == torch.float32 or (dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported()))


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
        if residual_block.fits(x, self):
            return residual_block.forward(x, self)
        return self.second(self.first(x, relu=True), add=self.shortcut(x), relu=True)


class ResNet(nn.Module):
    """ResNet-D for small images, D = 6n + 2: three stages of n blocks, 16, 32, 64 channels.

    Pixels are centred inside, `(x - 0.5) / 0.25`, in float32: a bfloat16 search then rounds inputs by
    at most a quarter of 1/255, where raw pixels would lose a half.
    """

    program: Program | None = None  # computes a search copy whole where it fits and is the faster way

    def __init__(self, channels: int, classes: int, depth: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = 16
        for outputs, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range((depth - 2) // 6):
                blocks.append(ResidualBlock(width, outputs, stride if i == 0 else 1))
                width = outputs
        self.stem = ConvNorm(channels, 16)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)` of `x` `(B, C, H, W)` in [0, 1]."""
        exact = self.head.weight.dtype == torch.float32
        if self.program is not None and (exact or x.requires_grad) and self.program.fits(x):
            return self.program(x)
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
                layers += [Convolution(channels, outputs, 3, padding=1), nn.ReLU()]
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
        return ResNet(config.input_shape[0], config.classes, config.resnet_depth)
    return StandardCNN(config.architecture, config.input_shape, config.classes)


class Ensemble(nn.Module):
    """N members and their mean: f_en = (1/N) sum_n softmax(logits_n).

    `forward` returns **log f_en**, which is its own log-softmax: a library that expects logits
    attacks the right function, with no second softmax.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(build_member(config) for _ in range(config.members))

    def member_logits(self, x: Tensor) -> Tensor:
        """Logits of every member, `(N, B, classes)` float32, for `x` `(B, C, H, W)` in [0, 1]."""
        return torch.stack([member(x).float() for member in self.members])

    def forward(self, x: Tensor) -> Tensor:
        """Log f_en(x), `(B, classes)`."""
        return log_mean_probability(self.member_logits(x))


def log_mean_probability(member_logits: Tensor) -> Tensor:
    """Log of the members' mean softmax: `(N, B, classes)` logits to `(B, classes)`.

    >>> log_mean_probability(torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]])).exp()
    tensor([[0.5000, 0.5000]])
    """
    n = member_logits.shape[0]
    return torch.logsumexp(F.log_softmax(member_logits, dim=-1), dim=0) - math.log(n)


def entropy(log_probability: Tensor) -> Tensor:
    """Shannon entropy in nats over the last dimension, of log-probabilities."""
    finite = log_probability.clamp_min(torch.finfo(log_probability.dtype).min)  # 0 * -inf would be NaN
    return -(log_probability.exp() * finite).sum(-1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode, parameters without gradient; both come back as they were."""
    modes = [(m, m.training) for m in model.modules()]
    needs = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, need in needs:
            parameter.requires_grad_(need)


IN_CACHE = 32
"""Images at a time on a CPU, in training: their activations stay in its caches.

One core, bfloat16, the CIFAR-10 CNN's gradient: 0.75 ms an image by 32, 1.0 by 128. More are faster on a GPU.
"""


class SearchCopy:
    """A copy of an ensemble that only looks for examples: batch norm folded, any dtype, channels-last.

    Its parameters take no gradient. `refresh` copies the source's present weights into it, so that it
    follows a model in training (with the running statistics, as in evaluation). `model` is an
    `Ensemble` of the same interface: float32 in, float32 out. A `Program` computes a ResNet's gradients for a bfloat16
    copy too, in float32, on a Xeon with AMX in 0.7 of the time; looks without a gradient are faster in bfloat16.
    `apart` tells that no batch norm joins the images of a batch. `search_rows` and `step_rows` say how many images are
    best taken at a time, in the search and in the step on the source: all (a large number) where the code is compiled
    for one size or takes a few at a time itself, and in the step where batch norm needs the batch whole. `graphs`
    records what a training step computes on a GPU. `precision` says in words what it computes in.
    """

    def __init__(self, source: Ensemble, dtype: torch.dtype = torch.bfloat16, compile: bool = False) -> None:
        self.source = source
        self.model = copy.deepcopy(source)
        self._pairs: list[tuple[ConvNorm, FoldedConv]] = []
        self._convolutions: list[FoldedConv] = []
        self._fold(source, self.model)
        self.model.to(dtype=dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
        kinds = {p.device.type for p in source.parameters()}
        residual = [member for member in self.model.members if isinstance(member, ResNet)]
        whole = bool(residual) and kinds == {"cpu"} and native.library() is not None
        self._exact = SearchCopy(source, torch.float32) if whole and dtype != torch.float32 and not compile else None
        self.precision = str(dtype).removeprefix("torch.") + (", gradients in float32" if self._exact else "")
        self._programs: list[Program] = []
        if self._exact:
            for member, exact in zip(residual, self._exact._programs, strict=True):
                member.program = exact
        else:
            for member in residual:
                member.program = Program(member)
                self._programs.append(member.program)
        self._plain = dict(self.model.named_parameters())
        folded = {id(p) for _, conv in self._pairs for p in conv.parameters()}
        self._plain = {n: p for n, p in self._plain.items() if id(p) not in folded}
        if compile:
            for i, member in enumerate(self.model.members):
                self.model.members[i] = torch.compile(member, dynamic=False)
        one_size = compile or bool(kinds - {"cpu"})
        self.graphs = Graphs() if kinds == {"cuda"} else None
        self.search_rows = sys.maxsize if one_size or whole else IN_CACHE
        self.apart = not self._pairs
        self.step_rows = self.search_rows if self.apart else sys.maxsize
        self.refresh()

    def _fold(self, source: nn.Module, target: nn.Module) -> None:
        """Put one convolution in the place of each ConvNorm of `target`, and of each convolution with its ReLU."""
        children = list(source.named_children())
        for (name, child), (next_name, follower) in zip_longest(children, children[1:], fillvalue=("", None)):
            if isinstance(child, ConvNorm | nn.Conv2d):
                c = child.conv if isinstance(child, ConvNorm) else child
                conv = FoldedConv(c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding)
                setattr(target, name, conv.to(c.weight.device))
                self._convolutions.append(conv)
                if isinstance(child, ConvNorm):
                    self._pairs.append((child, conv))
                elif isinstance(source, nn.Sequential) and isinstance(follower, nn.ReLU):
                    conv.clips = True
                    setattr(target, next_name, nn.Identity())
            elif not isinstance(getattr(target, name), nn.Identity):
                self._fold(child, getattr(target, name))

    @torch.no_grad()
    def refresh(self) -> Ensemble:
        """Take the source's present weights; returns `model`."""
        for pair, conv in self._pairs:
            weight, bias = pair.folded()
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)
        own = dict(self.source.named_parameters())
        for name, parameter in self._plain.items():
            parameter.copy_(own[name])
        for conv in self._convolutions:
            conv.repack()
        for program in self._programs:
            program.repack()
        if self._exact:
            self._exact.refresh()
        return self.model


def resolve_device(name: str) -> torch.device:
    """`auto` (the GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        ConfigError: a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device is {name!r}, which cannot be used here ({reason}); try --device auto") from error
    return device


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32
