"""Tiny ensembles for every test of the library: random, trained for a few seconds, and worked out by hand."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cce import checkpoints, data
from cce.attacks import loss_of, pgd_sign, uniform_start
from cce.checkpoints import Checkpoint
from cce.config import CCE_DM, ModelConfig
from cce.data import Dataset
from cce.detection import Detector
from cce.models import Ensemble, evaluating

torch.set_num_threads(1)


class MeanThreshold(nn.Module):
    """Says class 1 where the mean pixel exceeds `threshold`, class 0 where it does not.

    Its logits are `[0, sharpness * (mean - threshold)]`, so every probability is a logistic function of
    the mean pixel, and a sign-gradient step of size s moves the mean by exactly s.
    """

    def __init__(self, threshold: float, sharpness: float) -> None:
        super().__init__()
        self.threshold, self.sharpness = threshold, sharpness

    def forward(self, x: Tensor) -> Tensor:
        score = self.sharpness * (x.mean((1, 2, 3)) - self.threshold)
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """scikit-learn's digits at their own 8 x 8 pixels."""
    return data.load("digits", size=8)


@pytest.fixture
def fresh() -> Callable[..., Ensemble]:
    """Makes an untrained ensemble on 8 x 8 grey pictures."""

    def make(members: int = 2, architecture: str = "resnet8", seed: int = 0, classes: int = 10) -> Ensemble:
        torch.manual_seed(seed)
        return Ensemble(ModelConfig(architecture, members, classes, (1, 8, 8)))

    return make


@pytest.fixture(scope="session")
def _three_members(digits: Dataset) -> Ensemble:
    """Three resnet8, adversarially trained just enough to be neither blind nor robust."""
    torch.manual_seed(0)
    model = Ensemble(ModelConfig("resnet8", 3, 10, (1, 8, 8)))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    x, labels = digits.train.pixels(), digits.train.labels
    for _ in range(60):
        chosen = torch.randint(0, len(x), (48,), generator=generator)
        clean, y = x[chosen], labels[chosen]
        with evaluating(model):
            start = uniform_start(clean, 0.1, generator)
            attacked = pgd_sign(loss_of(model, y), clean, start, epsilon=0.1, step_size=0.08, steps=2)
        inputs, targets = torch.cat([clean, attacked]), y.repeat(2)
        loss = sum(F.cross_entropy(member(inputs), targets) for member in model.members)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def trained(_three_members: Ensemble) -> Callable[[int], Ensemble]:
    """Makes a trained ensemble of the first N of three members, each time a copy of its own."""

    def make(members: int = 2) -> Ensemble:
        model = Ensemble(ModelConfig("resnet8", members, 10, (1, 8, 8)))
        model.members = nn.ModuleList(copy.deepcopy(m) for m in list(_three_members.members)[:members])
        return model.eval()

    return make


@pytest.fixture
def thresholds() -> Callable[..., Ensemble]:
    """Makes a two-class ensemble on 4 x 4 grey pictures with one `MeanThreshold` member for each number."""

    def make(*values: float, sharpness: float = 20.0) -> Ensemble:
        model = Ensemble(ModelConfig("resnet8", len(values), 2, (1, 4, 4)))
        model.members = nn.ModuleList(MeanThreshold(v, sharpness) for v in values)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def tiny_checkpoints(_three_members: Ensemble, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two checkpoints on 8 x 8 digits: `tiny-two` with a detector, `tiny-three` without."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, members, detector in (("tiny-two", 2, Detector(1.0, 0.05, "numbers", 180)), ("tiny-three", 3, None)):
        model = Ensemble(ModelConfig("resnet8", members, 10, (1, 8, 8)))
        model.members = nn.ModuleList(copy.deepcopy(m) for m in list(_three_members.members)[:members])
        checkpoint = Checkpoint(name, model.eval(), "digits", tuple("0123456789"), CCE_DM, {}, detector)
        checkpoints.save(checkpoint, folder / name)
    return folder
