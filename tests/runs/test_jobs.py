"""The jobs layer with real trainers: each test starts, stops or kills processes and looks at the files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cce.runs.job
from cce.checkpoints import folder as checkpoints
from cce.config import TrainConfig, to_json
from cce.config.overrides import override
from cce.evaluation.presets import preset
from cce.runs import queue as jobs
from cce.runs.background import alive
from cce.runs.job import Job, JobError, tail
from cce.runs.queue import Jobs
from cce.training.run_folder import RunError, RunFolder, process_start

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["phases.0.epochs=0.5", "phases.1.epochs=0.5", "phases.1.attack.steps=[1, 1]", "save_every=5"]
LONG = ["phases.0.epochs=0.5", "phases.1.epochs=200", "phases.1.attack.steps=[1, 1]", "save_every=5"]
TWICE = ["phases.0.epochs=0.5", "phases.1.epochs=2", *SHORT[2:]]
SMALL = ["evaluate_images=20", "batch_size=32", "model.members=1"]


def within(seconds: float) -> float:
    """The limit on a machine that has time for us; on one that others keep busy, enough for anything."""
    return seconds if os.getloadavg()[0] < (os.cpu_count() or 1) else 300


def small(settings: list[str] = SHORT) -> TrainConfig:
    return override(preset("digits-cce-rm"), [*settings, *SMALL])


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "runs")
    yield made
    for job in made.all():
        for said in (job.record, job.status):
            if alive(said.get("pid"), said.get("pid_start")):
                os.kill(said["pid"], signal.SIGKILL)


def wait_for(runs: Jobs, name: str, what: Callable[[Job], object], seconds: float = 300) -> Job:
    """The run once `what` holds; nothing but its files is looked at."""
    end = time.monotonic() + seconds
    while not what(job := runs.get(name)):
        assert time.monotonic() < end, f"{job.state}, {job.status}, {job.error}\n" + "\n".join(job.log_tail(30))
        time.sleep(0.05)
    return job


def stepping(job: Job) -> bool:
    assert job.state != "failed", job.error
    return job.state == "running" and job.folder.has_state() and bool(job.folder.metrics())


def losses(job: Job) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in job.folder.metrics() if row["kind"] == "training"]


def processes_in(folder: Path) -> list[int]:
    """Trainers of a folder that are still there, whoever their parent is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(str(folder) in w for w in words) and alive(int(path.parent.name), process_start(int(path.parent.name))):
            found.append(int(path.parent.name))
    return found


def refuse_processes(runs: Jobs) -> None:
    """Once the line is tended, no process of a run is left."""
    runs.tend()
    end = time.monotonic() + within(10)
    while processes_in(runs.root):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """The jobs of one run of `TWICE`, `whole`, that nobody disturbed."""
    made = Jobs(tmp_path_factory.mktemp("undisturbed") / "runs")
    assert made.start("whole", small(TWICE)).state == "running"
    pid = wait_for(made, "whole", lambda j: j.record.get("pid")).record["pid"]
    assert os.getsid(pid) == pid
    assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
    group = Path(f"/proc/{pid}/autogroup")
    assert not group.exists() or group.read_text().split()[-1] == "10"
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/fd/1") == os.readlink(f"/proc/{pid}/fd/2") == str(made.root / "whole" / "log.txt")
    wait_for(made, "whole", lambda j: not j.live)
    return made


@pytest.fixture(scope="module")
def whole(undisturbed: Jobs) -> Job:
    """The run that nobody disturbed."""
    return undisturbed.get("whole")


def test_a_run_ends_in_an_ensemble_and_leaves_no_process(undisturbed: Jobs, whole: Job):
    assert whole.state == "finished", whole.error
    assert whole.progress == 1
    made = checkpoints.load(whole.checkpoint)
    assert made.id == "whole" and made.detector is not None
    assert undisturbed.checkpoints() == [whole.folder.checkpoint]
    refuse_processes(undisturbed)


def test_two_at_once_from_two_processes_one_runs_one_waits_then_follows_by_itself(runs: Jobs):
    config = runs.root.parent / "config.json"
    config.write_text(json.dumps(to_json(small())))
    program = (
        "import json, sys; from cce.config import TrainConfig, from_json; from cce.runs.queue import Jobs;"
        "config = from_json(TrainConfig, json.load(open(sys.argv[1])));"
        "print(Jobs(sys.argv[2]).start(sys.argv[3], config).state)"
    )
    command = [sys.executable, "-c", program, str(config), str(runs.root)]
    both = [subprocess.Popen([*command, n], cwd=ROOT, stdout=subprocess.PIPE, text=True) for n in ("a", "b")]
    assert sorted(p.communicate()[0].strip() for p in both) == ["queued", "running"]
    seen = []
    end = time.monotonic() + 400
    while {j.state for j in runs.all()} != {"finished"}:  # nobody tends: the first starts the second
        seen.append(sum(j.live for j in runs.all()))
        assert time.monotonic() < end, [(j.name, j.state, j.error) for j in runs.all()]
        time.sleep(0.1)
    assert max(seen) <= 2  # two only while the first ends, its work done
    first, second = sorted(runs.all(), key=lambda j: j.record["started_at"])
    assert second.record["started_at"] >= first.status["heartbeat"]


def test_a_run_that_was_stopped_and_then_killed_goes_on_with_the_same_losses(runs: Jobs, whole: Job):
    """Stop is quick, and a killed trainer is shown as failed with its log."""
    runs.start("killed", small(TWICE))
    wait_for(runs, "killed", stepping)
    began = time.monotonic()
    assert runs.stop("killed").state in ("stopping", "stopped")
    limit = within(5)
    job = wait_for(runs, "killed", lambda j: not j.live, limit)
    assert time.monotonic() - began < limit
    assert job.state == "stopped"
    assert 0 < job.status["step"] < whole.status["step"]
    stopped = job.status["step"]
    runs.resume("killed")
    job = wait_for(runs, "killed", lambda j: stepping(j) and j.status["step"] > stopped)
    os.kill(job.record["pid"], signal.SIGKILL)
    began = time.monotonic()
    limit = within(5)
    job = wait_for(runs, "killed", lambda j: not j.live, limit)
    assert time.monotonic() - began < limit
    assert job.state == "failed"
    assert "killed" in job.error
    assert job.log_tail()
    runs.resume("killed")
    job = wait_for(runs, "killed", lambda j: not j.live)
    assert job.state == "finished", job.error
    assert losses(job) == losses(whole)


def test_a_second_trainer_is_refused_until_the_first_is_gone_which_is_killed_where_it_does_not_stop(
    runs: Jobs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 1.0)
    runs.start("one", small(LONG))
    first = wait_for(runs, "one", stepping)
    command = [sys.executable, "-m", "cce", "train", "--run", str(first.folder.path), "--quiet"]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 1
    assert f"another trainer (process {first.record['pid']}) is at work in {first.folder.path}" in second.stderr
    assert "Traceback" not in second.stderr
    assert runs.get("one").state == "running"  # the one that was refused wrote nothing
    os.kill(first.record["pid"], signal.SIGSTOP)  # a stopped process takes no SIGTERM
    assert runs.stop("one").state == "stopping"
    time.sleep(1.2)
    runs.tend()
    assert wait_for(runs, "one", lambda j: not j.live, within(5)).state == "stopped"
    refuse_processes(runs)
    end = time.monotonic() + within(5)
    while True:  # the lock dies with the last of its process's threads
        try:
            first.folder.lock().close()
            break
        except RunError:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_stop_before_the_first_step(runs: Jobs):
    runs.start("early", small(LONG))
    runs.stop("early")
    assert wait_for(runs, "early", lambda j: not j.live, within(10)).state == "stopped"


def test_the_latest_state_of_a_running_one_can_be_used_and_another_program_stops_renames_and_deletes_it(runs: Jobs):
    runs.start("going", small(LONG))
    job = wait_for(runs, "going", stepping)
    made = runs.export_latest("going")
    assert made.detector is not None
    assert runs.get("going").state == "running"
    assert checkpoints.load(runs.get("going").checkpoint).id == "going"
    for forbidden in (lambda: runs.delete("going"), lambda: runs.rename("going", "x"), lambda: runs.resume("going")):
        with pytest.raises(JobError, match="running"):
            forbidden()
    runs = Jobs(runs.root)  # as another program finds it
    assert runs.get("going").state == "running"
    runs.stop("going")
    assert wait_for(runs, "going", lambda j: not j.live, within(5)).state == "stopped"
    job = runs.rename("going", "gone.2")
    assert checkpoints.load(job.checkpoint).id == "gone.2"
    assert job.folder.metrics()
    runs.delete("gone.2")
    assert runs.all() == []
    assert [p.name for p in runs.root.iterdir()] == [".lock"]


# Without a trainer


@pytest.fixture
def still(runs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """Jobs that start no process."""
    monkeypatch.setattr(Jobs, "_spawn", lambda self, job: None)
    return runs


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../../x", "cannot be a run's name"),
        ("/etc/x", "cannot be a run's name"),
        ("a/b", "cannot be a run's name"),
        (".hidden", "cannot be a run's name"),
        ("..", "cannot be a run's name"),
        ("a b", "cannot be a run's name"),
        ("a\nb", "that name cannot be a run's name"),
        ("ünder", "cannot be a run's name"),
        ("x" * 300, "300 characters; at most 60"),
        ("", "needs a name"),
        (None, "needs a name"),
    ],
)
def test_names_that_cannot_be_used(still: Jobs, name: str, words: str):
    before = sorted(still.root.parent.rglob("*"))
    with pytest.raises(JobError, match=words):
        still.start(name, small())
    assert sorted(still.root.parent.rglob("*")) == before


def test_a_taken_name_is_refused_with_one_that_is_free(still: Jobs):
    still.start("mine", small())
    with pytest.raises(JobError, match="already a run called mine; try mine-2"):
        still.start("mine", small())
    still.start("mine-2", small())
    assert still.free_name("mine") == "mine-3" and still.free_name("mine-2") == "mine-3"
    with pytest.raises(JobError, match="in line"):
        still.rename("mine", "mine-2")


def test_a_full_disk_is_refused(still: Jobs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(JobError, match="disk is full"):
        still.start("x", small())
    assert not (still.root / "x").exists()


def test_a_disk_that_fills_up_while_the_run_is_written(still: Jobs, monkeypatch: pytest.MonkeyPatch):
    def fail(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cce.runs.job, "write_atomically", fail)
    with pytest.raises(JobError, match="could not be written: No space left on device"):
        still.start("x", small())
    assert still.all() == []


def test_the_line_keeps_its_order_and_can_be_left(still: Jobs):
    for name in ("b", "a", "c"):
        still.start(name, small())
    assert [(j.name, j.place) for j in still.all()] == [("b", 1), ("a", 2), ("c", 3)]
    assert still.stop("a").state == "stopped"
    assert [(j.name, j.place) for j in still.all()][:2] == [("b", 1), ("c", 2)]
    with pytest.raises(JobError, match="a is not running"):
        still.stop("a")
    assert still.resume("a").place == 3


def test_a_process_id_that_is_used_again_is_not_taken_for_the_trainer(still: Jobs):
    still.start("old", small())
    record = {"state": "started", "started_at": 5.0, "pid": os.getpid(), "pid_start": 1.0}
    (still.root / "old" / "job.json").write_text(json.dumps(record))
    assert still.get("old").state == "failed"
    assert not alive(os.getpid(), 1.0) and alive(os.getpid(), process_start(os.getpid()))


def test_a_dead_child_that_nobody_waited_for_is_dead(still: Jobs):
    child = subprocess.Popen([sys.executable, "-c", ""])
    start = process_start(child.pid)
    deadline = time.monotonic() + 20
    while alive(child.pid, start):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": 7'])
def test_damaged_files_are_no_running_run(still: Jobs, text: str):
    still.start("odd", small())
    for name in ("job.json", "status.json"):
        (still.root / "odd" / name).write_text(text)
    assert still.get("odd").state in ("stopped", "failed")


def test_a_run_of_the_command_line_is_seen(still: Jobs):
    folder = RunFolder(still.root / "typed")
    folder.create({"seed": 1})
    folder.write_status("running", step=3, total_steps=12)
    job = still.get("typed")
    assert job.state == "running" and job.progress == 0.25  # this very process
    status = {**folder.status(), "pid_start": 1.0}
    (folder.path / "status.json").write_text(json.dumps(status))
    assert still.get("typed").state == "failed"


def test_what_fails_in_training_is_told(still: Jobs):
    still.start("bad", small())
    RunFolder(still.root / "bad").write_status("failed", error="TrainingError: collapsed: too early")
    (still.root / "bad" / "job.json").write_text('{"state": "started", "started_at": 5.0}')
    status = json.loads((still.root / "bad" / "status.json").read_text())
    (still.root / "bad" / "status.json").write_text(json.dumps({**status, "pid_start": 1.0}))
    job = still.get("bad")
    assert (job.state, job.error) == ("failed", "collapsed: too early")


def test_tail_shows_a_progress_bar_as_it_is_seen(tmp_path: Path):
    path = tmp_path / "log.txt"
    path.write_bytes(b"one\n 10%\r 20%\r 30%\ntwo\r\n\nhalf")
    assert tail(path, 3) == [" 30%", "two", "half"]
    assert tail(tmp_path / "none", 3) == []
