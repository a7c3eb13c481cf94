"""400 damaged run folders, checkpoint folders and sets of figures each: the Studio starts and answers in every one.

The listeners of a built page are called as they are, in this process; the whole page is built anew for every hundredth.
`CCE_TEST_MUTATIONS=60` makes fewer of each.
"""

import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mutations
from app.interface import build
from app.services import detection, paper, training, transferability, verdicts
from app.services.models import Registry, card, one_line
from app.services.training import Policy, Training
from app.studio import Studio
from cce.checkpoints.folder import CheckpointError, released
from cce.config import ConfigError
from cce.runs.queue import Jobs
from tiny_runs import write_stopped_run

pytestmark = pytest.mark.slow

COUNT, EVERY = int(os.environ.get("CCE_TEST_MUTATIONS", "400")), 100
GOOD = "tiny-three"
"""The ensemble that nothing happens to."""

FIGURES = next(p for p in released() if json.loads((p / "config.json").read_text())["members"] == 2)
"""Released figures of two members, which the tiny ensemble is given."""


class Served:
    """A Studio on folders that are put back before every mutation, and the listeners of its page."""

    def __init__(self, place: Path, tiny: Path) -> None:
        self.place, self.sound = place / "now", place / "sound"
        for name in ("tiny-two", GOOD):
            shutil.copytree(tiny / name, self.sound / "checkpoints" / name)
        two = self.sound / "checkpoints" / "tiny-two"
        for name in ("bad", "good"):
            write_stopped_run(self.sound / "runs" / name, two)
        shutil.copy(FIGURES / "metrics.json", two)
        shutil.copytree(FIGURES / "measurements", two / "measurements")
        shutil.copytree(self.sound, self.place)
        self.studio = self.fresh()
        self.page = build(self.studio)
        self.endpoints = {d.api_name: d.fn for d in self.page.fns.values() if d.api_name}

    def put_back(self, *folders: str) -> None:
        """Make folders sound again."""
        for folder in folders:
            shutil.rmtree(self.place / folder, ignore_errors=True)
            shutil.copytree(self.sound / folder, self.place / folder)

    def fresh(self) -> Studio:
        jobs = Jobs(self.place / "runs")
        remote = SimpleNamespace(watch=lambda: None)
        registry = Registry([self.place / "checkpoints"], "cpu", jobs.checkpoints)
        return Studio(registry, self.place, Training(jobs, Policy(), remote))

    def answers(self, picture: bytes) -> None:
        """`/models`, `/runs`, `/run` and `/classify` answer, with what is sound."""
        models = self.endpoints["models"]()
        assert GOOD in [row["id"] for row in models]
        finite(models)
        said = self.endpoints["classify"](picture, GOOD)
        assert said["label"] in "0123456789"
        runs = self.endpoints["runs"]()
        assert "good" in [row["id"] for row in runs]
        finite(runs)
        for row in runs:
            finite(self.endpoints["run"](row["id"]))

    def starts(self, *damaged: str) -> Studio:
        """What is worked out while the page is built, of the ensembles that something happened to."""
        studio = self.studio
        assert studio.registry.default() is not None
        for name in damaged:
            try:
                checkpoint = studio.registry.get(name)
            except CheckpointError:
                continue
            one_line(checkpoint), card(checkpoint), verdicts.limits(checkpoint)
            detection.Reports().latest_or_none(checkpoint)
            for read in (transferability.released, transferability.released_between):
                try:
                    read(checkpoint)
                except ConfigError:
                    pass
            studio.collection(checkpoint)
        return studio


def finite(value: Any) -> None:
    """What is answered can be written as JSON: no infinity, no half character."""
    json.dumps(value, ensure_ascii=False).encode()
    level = [value]
    while level:
        one = level.pop()
        level += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        assert not isinstance(one, float) or math.isfinite(one)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoints: Path) -> Served:
    return Served(tmp_path_factory.mktemp("mutations"), tiny_checkpoints)


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cce.runs.queue.spawn", lambda command, log: 1)
    monkeypatch.setattr("cce.runs.queue._send", lambda job, number: None)


def each(served: Served, picture: bytes, folder: str, files: list[str], first: int, tables: int = 0) -> None:
    """Every mutation of some files of a folder."""
    for seed in range(first, first + COUNT):
        served.put_back(folder)
        words = mutations.damage(served.place / folder, files, seed)
        try:
            served.answers(picture)
            studio = served.starts(Path(folder).name)
            if tables and seed % tables == 0:
                paper.page(studio)
            if seed % EVERY == 0:
                build(served.fresh())
        except Exception as error:
            raise AssertionError(words) from error
    served.put_back(folder)


def test_damaged_run_folders(served: Served, digit_png: Path):
    files = ["config.json", "job.json", "status.json", "metrics.jsonl", "machines.json", "checkpoint/config.json"]
    each(served, digit_png.read_bytes(), "runs/bad", ["job.json", "status.json", *files], 0)


def test_the_line_is_tended_beside_damaged_run_folders(served: Served):
    for seed in range(COUNT):
        served.put_back("runs/bad", "runs/good")
        words = mutations.damage(served.place / "runs" / "bad", ["job.json", "status.json", "config.json"], seed)
        record = served.place / "runs" / "good" / "job.json"
        record.write_text('{"state": "waiting", "asked_at": 1, "command": ["true"]}')
        jobs = Jobs(served.place / "runs", at_once=2)
        jobs.tend()
        assert json.loads(record.read_text())["state"] == "started", words
        training.left_out(jobs)
    served.put_back("runs/bad", "runs/good")


def test_damaged_checkpoint_folders(served: Served, digit_png: Path):
    files = ["config.json", "config.json", "model.safetensors", "metrics.json", "README.md"]
    files += [f"measurements/{p.name}" for p in (FIGURES / "measurements").iterdir()]
    each(served, digit_png.read_bytes(), "checkpoints/tiny-two", files, 10_000)


def test_damaged_figures(served: Served, digit_png: Path):
    each(served, digit_png.read_bytes(), "checkpoints/tiny-two", ["metrics.json"], 20_000, tables=20)
