"""Memory of the app: what is said of ensembles keeps no weights, and what is free goes back to the system."""

import platform
import shutil
from pathlib import Path

import numpy as np
import pytest

from app.memory import give_back
from app.services import models, paper
from app.services.models import Registry, one_line
from app.studio import Studio
from cce.evaluation.presets import summary


def test_what_is_said_of_an_ensemble_takes_no_weights(tiny_checkpoints: Path):
    registry = Registry([tiny_checkpoints], "cpu")
    whole, said = registry.get("tiny-two"), registry.described("tiny-two")
    assert all(p.device.type == "meta" for p in said.model.parameters()) and not said.model.training
    assert next(whole.model.parameters()).device.type == "cpu"
    assert (summary(said), one_line(said), said.detector) == (summary(whole), one_line(whole), whole.detector)


def test_ensembles_are_loaded_once_for_all_that_is_said_of_them(tiny_checkpoints: Path, tmp_path: Path, monkeypatch):
    registry = Registry([tiny_checkpoints], "cpu")
    rows = registry.summaries()
    monkeypatch.setattr(models, "MOST_LOADED_BYTES", 1)
    registry.get("tiny-three")
    assert list(registry._loaded) == ["tiny-three"]
    monkeypatch.setattr(models.checkpoints, "load", lambda *_: pytest.fail("loaded again"))
    assert registry.summaries() == rows and registry.default() == "tiny-three"
    assert paper.page(Studio(registry, tmp_path)).damaged == []
    assert list(registry._loaded) == ["tiny-three"]


def test_a_changed_ensemble_is_described_anew(tiny_checkpoints: Path, tmp_path: Path):
    shutil.copytree(tiny_checkpoints / "tiny-two", tmp_path / "tiny-two")
    registry = Registry([tmp_path], "cpu")
    before = registry.described("tiny-two")
    assert registry.described("tiny-two") is before
    (tmp_path / "tiny-two" / "metrics.json").write_text('{"images": 7}')
    assert registry.described("tiny-two").metrics == {"images": 7}


def resident() -> float:
    """MB of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def test_what_was_freed_goes_back_to_the_system():
    if platform.libc_ver()[0] != "glibc":
        give_back()  # does nothing there
        return
    pieces = [np.ones(100_000, np.uint8) for _ in range(1500)]
    del pieces[::2], pieces[::2], pieces[::2]  # what stays lies between what is free
    before = resident()
    give_back()
    assert resident() < before - 50
