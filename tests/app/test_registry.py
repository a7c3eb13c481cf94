"""The list of ensembles: those from the Hub, those that leave memory, and those that cannot be used."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.services import models
from app.services.models import MOST_HUB_BYTES, Registry
from cce.__main__ import main
from cce.checkpoints import hub
from cce.checkpoints.folder import CheckpointError
from cce.checkpoints.hub import HubError

SHAPE = (1, 8, 8)


@pytest.fixture
def registry(tiny_checkpoints: Path) -> Registry:
    """One of each test's own: several add to it."""
    return Registry([tiny_checkpoints], "cpu")


@pytest.fixture
def copied(tiny_checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoints to break."""
    return Path(shutil.copytree(tiny_checkpoints, tmp_path / "checkpoints"))


@pytest.fixture(autouse=True)
def _no_downloaded_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CCE_DATA", str(tmp_path / "data"))


def test_an_ensemble_from_the_hub_is_listed_on_every_tab(registry: Registry, tiny_checkpoints: Path, monkeypatch):
    asked = []

    def fetch(repository: str, token: str, most_bytes: int) -> Path:
        asked.append((repository, token, most_bytes))
        return tiny_checkpoints / "tiny-two"

    monkeypatch.setattr(hub, "fetch", fetch)
    before = [e.id for e in registry.entries()]
    entry = registry.add_from_hub(" someone/theirs ")
    assert asked == [("someone/theirs", hub.NOBODY, MOST_HUB_BYTES)]  # never with the owner's login
    assert entry.title.endswith("(Hub, someone/theirs)")
    assert sorted(e.id for e in registry.entries()) == sorted([*before, "someone/theirs"])
    assert registry.get("someone/theirs").id == "tiny-two"
    assert any(row["id"] == "someone/theirs" for row in registry.summaries())
    with pytest.raises(HubError, match="your-name/"):
        registry.add_from_hub("theirs")
    monkeypatch.setattr(models, "MOST_FROM_HUB", 1)
    assert registry.add_from_hub("someone/theirs") == entry
    with pytest.raises(HubError, match="1 ensembles from the Hub are listed already"):
        registry.add_from_hub("someone/others")


def test_a_damaged_ensemble_from_the_hub_is_not_listed(registry: Registry, copied: Path, monkeypatch):
    (copied / "tiny-two" / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(hub, "fetch", lambda *args, **kwargs: copied / "tiny-two")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        registry.add_from_hub("someone/theirs")
    assert "someone/theirs" not in [e.id for e in registry.entries()]


def hub_folder(place: Path, repository: str, copied: Path) -> Path:
    """A fetched repository as it lies in the Hub's cache."""
    folder = place / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
    shutil.copytree(copied / "tiny-two", folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub that has every repository, fetched into a cache of the test's own."""
    from huggingface_hub import constants

    place = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(hub, "fetch", lambda repository, **rest: hub_folder(place, repository, copied))
    return place


def test_refused_repositories_leave_the_disk(cache: Path, copied: Path, tiny_checkpoints: Path):
    registry = Registry([tiny_checkpoints], "cpu")
    (copied / "tiny-two" / "model.safetensors").write_bytes(b"")
    for i in range(40):
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            registry.add_from_hub(f"someone/number-{i}")
    assert list(cache.iterdir()) == []


def test_what_was_in_the_cache_before_stays(cache: Path, copied: Path, tiny_checkpoints: Path, monkeypatch):
    there = hub_folder(cache, "someone/theirs", copied)
    monkeypatch.setattr(hub, "fetch", lambda repository, **rest: there)
    registry = Registry([tiny_checkpoints], "cpu")
    registry.add_from_hub("someone/theirs")
    registry.remove_from_hub("someone/theirs")
    assert there.exists() and registry.from_hub() == []


def test_an_ensemble_from_the_hub_can_be_removed_and_makes_room_when_idle(cache, tiny_checkpoints, monkeypatch):
    registry = Registry([tiny_checkpoints], "cpu")
    monkeypatch.setattr(models, "MOST_FROM_HUB", 2)
    for name in ("one", "two"):
        registry.add_from_hub(f"someone/{name}")
    registry.get("someone/one")
    monkeypatch.setattr(models, "HUB_IDLE_SECONDS", 0.0)
    registry.add_from_hub("someone/three")
    assert registry.from_hub() == ["someone/one", "someone/three"]
    assert sorted(p.name for p in cache.iterdir()) == ["models--someone--one", "models--someone--three"]
    registry.remove_from_hub("someone/one")
    assert [e.id for e in registry.entries() if e.on_hub] == ["someone/three"]
    with pytest.raises(HubError, match="is not among"):
        registry.remove_from_hub("someone/one")


def test_an_ensemble_from_the_hub_is_never_shown_first(cache, copied, tiny_checkpoints, monkeypatch):
    registry = Registry([copied], "cpu")
    registry.add_from_hub("someone/theirs")
    for name in ("tiny-two", "tiny-three"):
        shutil.rmtree(copied / name)
    assert [e.id for e in registry.entries()] == ["someone/theirs"]
    assert registry.default() is None


def test_the_ensembles_used_least_recently_leave_memory(copied: Path, monkeypatch):
    registry = Registry([copied], "cpu")
    monkeypatch.setattr(models, "MOST_LOADED_BYTES", 400_000)  # one of three members, or one of two
    two, three = registry.get("tiny-two"), registry.get("tiny-three")
    assert registry.get("tiny-three") is three and registry.get("tiny-two") is not two
    monkeypatch.setattr(models, "MOST_LOADED_BYTES", 10**9)
    assert registry.get("tiny-three") is registry.get("tiny-three")


def test_one_entry_that_fails_in_a_way_nobody_foresaw_leaves_the_others(copied: Path, monkeypatch):
    registry = Registry([copied], "cpu")

    def fail(checkpoint, there=models.summary):
        if checkpoint.id == "tiny-two":
            raise AttributeError("x")
        return there(checkpoint)

    monkeypatch.setattr(models, "summary", fail)
    assert [row["id"] for row in registry.summaries()] == ["tiny-three"]


def test_weights_whose_answers_are_not_finite_are_refused(copied: Path):
    weights = load_file(copied / "tiny-two" / "model.safetensors")
    save_file(
        {k: v * 1e37 if v.is_floating_point() else v for k, v in weights.items()},
        copied / "tiny-two" / "model.safetensors",
    )
    registry = Registry([copied], "cpu")
    with pytest.raises(CheckpointError, match="not finite"):
        registry.get("tiny-two")
    assert registry.default() == "tiny-three"


def test_models_lists_the_good_and_names_the_bad(copied: Path, capsys):
    (copied / "tiny-two" / "config.json").write_text('{"members": 1e999}')
    assert main(["models", "--checkpoints", str(copied), "--json"]) == 1
    out = capsys.readouterr()
    assert [row["id"] for row in json.loads(out.out)] == ["tiny-three"]
    assert "tiny-two/config.json" in out.err
