"""Tiny ensembles for every test of the library: random, trained for a few seconds, and worked out by hand."""

from __future__ import annotations

import copy
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cce.checkpoints.folder import Checkpoint
from cce.config import CCE_DM, Detector, ModelConfig
from cce.data import datasets as data
from cce.data.datasets import Dataset
from cce.data.pictures import to_png
from cce.models import Ensemble
from cce.reporting.cards import save_with_card
from cce.training.run_folder import RunFolder
from cce.training.trainer import Trainer
from tiny_ensembles import trained_briefly
from tiny_runs import tiny_config

if TYPE_CHECKING:
    from app.services.models import Registry
    from app.studio import Studio

# Several workers and the processes that they start share the cores.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_OPT", "0")  # what runs for milliseconds need not be compiled well

# What takes longest begins first, so that no worker ends long after the others.
LONGEST = (
    *("browser", "test_train_tab", "B&B", "test_mutations", "test_jobs", "test_library", "test_parallel"),
    *("test_same_twice", "test_training_faults", "test_training_runs", "test_defenses_on_digits", "test_engine"),
)
COMPILES = ("test_attacks_all", "test_benchmark_attacks")
"""The files with the B&B attack, which numba compiles at its first call in a process, for half a minute."""


def group(nodeid: str) -> str:
    """What one worker runs together: a file; files that share what is dear to make; the examples in docstrings."""
    path = Path(nodeid.split("::")[0])
    if path.parts[0] != "tests":
        return "docstrings"
    if path.parent.name == "browser" and path.stem != "test_train_tab":
        return "browser"  # they share a Studio
    return "B&B" if path.stem in COMPILES else path.stem


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give each worker whole groups, in the order of `pytest_collection_modifyitems`."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest, where several workers share the tests."""
    if hasattr(config, "workerinput"):
        places = {name: i for i, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(group(item.nodeid), len(places)))


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """No test sees what another left: random state, folder, variables, signal handlers, threads."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    folder, variables = os.getcwd(), dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    os.chdir(folder)
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_data_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests see no data set that was fetched onto this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCE_DATA", str(tmp_path_factory.mktemp("no-data")))
        yield


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
def _three_members(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    """Three resnet8, adversarially trained just enough to be neither blind nor robust; by one worker for all."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    path = folder / "three-members.safetensors"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            save_file(trained_briefly(3, digits, steps=60, batch=48, epsilon=0.1).state_dict(), path)
    model = Ensemble(ModelConfig("resnet8", 3, 10, (1, 8, 8)))
    model.load_state_dict(load_file(path))
    return model.eval()


def first_members(ensemble: Ensemble, members: int) -> Ensemble:
    """Copies of an ensemble's first members, as an ensemble."""
    model = Ensemble(ModelConfig("resnet8", members, 10, (1, 8, 8)))
    model.members = nn.ModuleList(copy.deepcopy(m) for m in list(ensemble.members)[:members])
    return model.eval()


@pytest.fixture
def trained(_three_members: Ensemble) -> Callable[[int], Ensemble]:
    """Makes a trained ensemble of the first N of three members, each time a copy of its own."""
    return lambda members=2: first_members(_three_members, members)


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
        model = first_members(_three_members, members)
        checkpoint = Checkpoint(name, model, "digits", tuple("0123456789"), CCE_DM, {}, detector)
        save_with_card(checkpoint, folder / name)
    return folder


@pytest.fixture
def trainer(digits, tmp_path):
    """Makes a `Trainer` with changes to the tiny config."""

    def make(**changes) -> Trainer:
        folder = RunFolder(tmp_path / "run")
        folder.create({})
        return Trainer(tiny_config(**changes), digits, folder)

    return make


@pytest.fixture(scope="module")
def registry(tiny_checkpoints: Path) -> Registry:
    """The tiny checkpoints as the Studio lists them."""
    from app.services.models import Registry

    return Registry([tiny_checkpoints], "cpu")


@pytest.fixture(scope="module")
def studio(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """A Studio of the tiny checkpoints, without a data set."""
    from app.studio import Studio

    return Studio(registry, tmp_path_factory.mktemp("data"))


@pytest.fixture
def digit_png(digits: Dataset, tmp_path: Path) -> Path:
    """A test digit as a picture file."""
    path = tmp_path / "digit.png"
    path.write_bytes(to_png(digits.test.pixels()[3]))
    return path
