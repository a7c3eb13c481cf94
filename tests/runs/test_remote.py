"""Runs on Hugging Face Jobs, against a Hub and a job service that are folders and threads of this machine."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, JobHardware
from huggingface_hub._jobs_api import DEFAULT_UV_IMAGE

from cce.checkpoints import folder as checkpoints
from cce.checkpoints.hub import HubError
from cce.config import to_json
from cce.config.overrides import override
from cce.evaluation.presets import preset
from cce.runs import remote
from cce.runs.job import JobError
from cce.runs.queue import Jobs
from cce.runs.remote import Remote, work
from cce.training.run_folder import RunFolder
from folder_hub import TOKEN, FolderHub, answer

TINY = ["model.members=1", "batch_size=32", "evaluate_images=20", "phases.0.epochs=0.3", "phases.1.epochs=0.3"]


def tiny():
    return override(preset("digits-cce-rm"), [*TINY, "phases.1.attack.steps=[1, 1]"])


class FakeHub(FolderHub):
    """A job is a thread that does what its command would: fetch, then work."""

    def __init__(self, root: Path, token: str = TOKEN) -> None:
        super().__init__(root)
        self.token, self.jobs, self.calls = token, {}, []

    def whoami(self):
        self.say()
        return {"name": "someone"}

    def snapshot_download(self, repo_id, local_dir, allow_patterns=("*",)):
        self.say()
        self.copy(self.root / repo_id, Path(local_dir), allow_patterns)

    def run_job(self, **asked):
        self.say()
        self.calls.append(asked)
        job = SimpleNamespace(id=f"job{len(self.jobs)}", url="https://huggingface.co/jobs/1", stage="RUNNING")
        self.jobs[job.id] = job
        repository = asked["env"]["CCE_REPOSITORY"]

        def run() -> None:
            folder = self.root / "machines" / job.id
            self.snapshot_download(repository, folder)
            status = work(folder, repository, self, "cpu", seconds=0.5)
            job.stage = "COMPLETED" if status == 0 else "ERROR"

        job.thread = threading.Thread(target=run, daemon=True)
        job.thread.start()
        return job

    def inspect_job(self, job_id):
        self.say()
        return SimpleNamespace(status=SimpleNamespace(stage=self.jobs[job_id].stage, message=None))

    def cancel_job(self, job_id):
        self.say()
        self.jobs[job_id].stage = "CANCELED"


@pytest.fixture
def fake(tmp_path: Path) -> FakeHub:
    return FakeHub(tmp_path / "hub")


@pytest.fixture
def away(tmp_path: Path, fake: FakeHub) -> Remote:
    return Remote(Jobs(tmp_path / "runs"), lambda token: fake)


def written(folder: Path) -> str:
    texts = (p.read_bytes().decode("utf-8", "replace") for p in folder.rglob("*") if p.is_file())
    return "\n".join(texts)


def test_a_run_goes_away_and_comes_back_as_any_other(away: Remote, fake: FakeHub):
    job = away.start("far", tiny(), "t4-small", TOKEN)
    assert (job.state, job.remote["flavor"]) == ("running", "t4-small")
    asked = fake.calls[0]
    assert asked["image"] == DEFAULT_UV_IMAGE and asked["flavor"] in set(JobHardware)
    assert set(asked) <= set(inspect.signature(HfApi.run_job).parameters)
    assert asked["env"]["CCE_DEVICE"] == "cuda"
    assert asked["secrets"] == {"HF_TOKEN": TOKEN} and TOKEN not in str(asked["command"]) + str(asked["env"])
    assert (fake.root / "someone/far/.code/cce/training/trainer.py").exists()
    end = time.monotonic() + 300
    while away.jobs.get("far").live:
        assert time.monotonic() < end, away.jobs.get("far").log_tail()
        away.mirror_all()
        time.sleep(0.3)
    job = away.jobs.get("far")
    assert job.state == "finished", (job.error, job.log_tail())
    assert job.folder.metrics() and job.log_tail()
    assert checkpoints.load(job.checkpoint).id == "far"
    assert TOKEN not in written(away.jobs.root) + written(fake.root)


def test_stop_cancels_and_resume_starts_from_the_repository(away: Remote, fake: FakeHub, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "work", lambda *a, **k: time.sleep(3) or 1)
    away.start("far", tiny(), "t4-small", TOKEN)
    assert away.stop("far").state == "stopped"
    with pytest.raises(JobError, match="on Hugging Face Jobs"):
        away.jobs.resume("far")
    assert away.resume("far", "").state == "running"
    assert fake.calls[1]["env"] == fake.calls[0]["env"]


def test_a_job_that_dies_is_failed(away: Remote, fake: FakeHub, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "work", lambda *a, **k: 1)
    away.start("far", tiny(), "t4-small", TOKEN)
    fake.jobs["job0"].thread.join()
    away.mirror_all()
    job = away.jobs.get("far")
    assert job.state == "failed" and "Hugging Face" in job.error


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (answer(401), "token is not valid"),
        (answer(402), "no credit"),
        (answer(500), "answered with an error"),
        (OSError("no route"), "could not be reached"),
    ],
)
def test_a_hub_that_refuses_leaves_nothing_behind(away: Remote, fake: FakeHub, failure, words):
    fake.failing = failure
    with pytest.raises(HubError, match=words) as told:
        away.start("far", tiny(), "t4-small", TOKEN)
    assert TOKEN not in str(told.value)
    assert away.jobs.all() == []


def test_a_hub_that_goes_silent_is_noted_and_the_run_stays(away: Remote, fake: FakeHub, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "work", lambda *a, **k: time.sleep(2) or 0)
    away.start("far", tiny(), "t4-small", TOKEN)
    fake.failing = OSError("no route")
    away.mirror_all()
    job = away.jobs.get("far")
    assert job.state == "running" and "could not be reached" in job.remote["problem"]


def test_bad_wishes_are_refused(away: Remote):
    with pytest.raises(JobError, match="access token"):
        away.start("far", tiny(), "t4-small", " ")
    with pytest.raises(JobError, match="pictures of your own"):
        away.start("far", replace(tiny(), data_dir="pictures"), "t4-small", TOKEN)
    with pytest.raises(JobError, match="there is t4-small"):
        away.start("far", tiny(), "abacus", TOKEN)
    with pytest.raises(JobError, match="cannot be a run's name"):
        away.start("../far", tiny(), "t4-small", TOKEN)


def test_a_remote_run_leaves_this_machine_free(away: Remote, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "work", lambda *a, **k: time.sleep(2) or 0)
    spawned = []
    monkeypatch.setattr(Jobs, "_spawn", lambda self, job: spawned.append(job.name))
    away.start("far", tiny(), "t4-small", TOKEN)
    away.jobs.start("near", tiny())
    assert spawned[:1] == ["near"]


def test_what_the_job_runs_is_there():
    assert "cce.runs.remote_worker" in remote._RUN and "CCE_REPOSITORY" in remote._FETCH
    assert set(remote.FLAVORS) <= set(JobHardware)
    assert (Path(remote.__file__).parent / "remote_worker.py").exists()
    assert RunFolder(Path("x")).has_state() is False
    assert set(to_json(tiny())) >= {"dataset", "phases"}


def test_the_job_installs_all_that_the_library_imports():
    """Every package that a module of `cce` imports, by the name that it is installed by."""
    named = {"sklearn": "scikit-learn", "PIL": "pillow"}
    optional = {"accelerate", "tensorboard", "pyautoattack", "spaces"}
    imported = set()
    for path in Path(remote.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            imported |= {name.partition(".")[0] for name in names}
    needed = imported - sys.stdlib_module_names - {"cce"} - optional
    assert {named.get(name, name) for name in needed} <= set(remote.NEEDED)
    assert all(re.fullmatch(r"[\w-]+==[0-9][\w.]*", line) for line in remote.requirements().split())
