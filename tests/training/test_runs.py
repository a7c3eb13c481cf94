import errno
import json
import os
import time

import pytest
import torch

from cce.machine.files import write_atomically
from cce.training import run_folder as runs
from cce.training.run_folder import RunError, RunFolder, process_start


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create({"seed": 1, "shape": (1, 8, 8)})
    return made


@pytest.fixture
def full_disk(monkeypatch):
    """Every flush to the disk fails from now on."""

    def fail(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    return lambda: monkeypatch.setattr(runs.os, "fsync", fail)


def names(path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


def test_write_atomically_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    write_atomically(path, "neu\u00e9")
    assert path.read_text(encoding="utf-8") == "neu\u00e9"
    assert names(tmp_path) == ["a.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    full_disk()
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_reader_never_sees_a_part(tmp_path, monkeypatch):
    """Up to the moment of the rename the old content is there whole."""
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((path.read_text(), open(source).read()))
        replace(source, target)

    monkeypatch.setattr(runs.os, "replace", watched)
    write_atomically(path, "new")
    assert seen == [("old", "new")]


def test_making_the_object_makes_no_file(tmp_path):
    RunFolder(tmp_path / "run")
    assert names(tmp_path) == []


def test_create_writes_the_config_and_takes_the_same_again(folder):
    assert folder.config() == {"seed": 1, "shape": [1, 8, 8]}
    folder.create({"seed": 1, "shape": (1, 8, 8)})
    assert folder.config() == {"seed": 1, "shape": [1, 8, 8]}
    assert folder.checkpoint == folder.path / "checkpoint"


def test_create_refuses_another_runs_folder(folder):
    with pytest.raises(RunError, match="config.json is another run's: its seed differs; .*or another folder"):
        folder.create({"seed": 2, "shape": (1, 8, 8)})
    assert folder.config()["seed"] == 1


def test_create_says_when_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot write the run folder .*file/run"):
        RunFolder(tmp_path / "file" / "run").create({})


def test_config_that_cannot_be_read(folder):
    (folder.path / "config.json").write_text("{")
    with pytest.raises(RunError, match="config.json cannot be read .*; start the run anew"):
        folder.config()


def test_status_is_queued_until_written_and_names_this_process(folder):
    assert folder.status() == {"state": "queued"}
    before = time.time()
    folder.write_status("running", step=3)
    status = folder.status()
    assert (status["state"], status["step"], status["pid"]) == ("running", 3, os.getpid())
    assert status["pid_start"] == process_start(os.getpid())
    assert before <= status["heartbeat"] <= time.time()


def test_process_start_tells_processes_apart():
    assert process_start(os.getpid()) >= process_start(os.getppid())
    assert process_start(2**22 + 1) is None  # above the largest process id


def test_metrics_come_back_in_order(folder):
    assert folder.metrics() == []
    rows = [{"step": s, "loss": 1 / s} for s in (1, 2, 3)]
    for row in rows:
        folder.log_metrics(row)
    assert folder.metrics() == rows


def test_a_half_written_last_line_is_passed_over(folder):
    folder.log_metrics({"step": 1, "loss": 0.5})
    whole = json.dumps({"step": 2, "loss": 0.25})
    for cut in range(1, len(whole)):
        path = folder.path / "metrics.jsonl"
        path.write_text(path.read_text().splitlines()[0] + "\n" + whole[:cut])
        assert folder.metrics() == [{"step": 1, "loss": 0.5}]


def test_truncate_drops_later_lines_and_the_half_written_one(folder):
    for step in (5, 10, 10, 15):
        folder.log_metrics({"step": step})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')
    folder.truncate_metrics(10)
    assert folder.metrics() == [{"step": 5}, {"step": 10}, {"step": 10}]
    folder.log_metrics({"step": 11})  # on a line of its own
    assert folder.metrics()[-1] == {"step": 11}
    folder.truncate_metrics(0)
    assert folder.metrics() == []


def test_state_round_trip(folder):
    assert folder.load_state() is None
    tensors = {
        "a": torch.randn(3, 4, 2, 2).contiguous(memory_format=torch.channels_last),
        "b": torch.tensor(7),
        "c": torch.randn(3).bfloat16(),
    }
    folder.save_state(tensors, 12)
    loaded, step = folder.load_state()
    assert step == 12
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in tensors.items())
    assert names(folder.path / "last") == ["state.safetensors"]


def test_a_half_written_state_is_never_among_those_that_are_copied_away(folder, monkeypatch):
    folder.save_state({"a": torch.tensor(1.0)}, 1)
    seen, replace = [], os.replace
    monkeypatch.setattr(
        runs.os, "replace", lambda *paths: (seen.append(names(folder.path / "last")), replace(*paths))[1]
    )
    folder.save_state({"a": torch.tensor(2.0)}, 2)
    assert seen == [["state.safetensors"]] and folder.load_state()[1] == 2


@pytest.mark.parametrize("where", ["fsync", "save_file", "replace"])
def test_a_failed_save_keeps_the_last_state(folder, where, monkeypatch):
    folder.save_state({"a": torch.tensor(1.0)}, 1)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs if where == "save_file" else runs.os, where, fail)
    with pytest.raises(RunError, match="cannot write .*: No space left on device; what was saved before is kept"):
        folder.save_state({"a": torch.tensor(2.0)}, 2)
    tensors, step = folder.load_state()
    assert (tensors["a"].item(), step) == (1.0, 1)
    assert names(folder.path / "last") == ["state.safetensors"]


@pytest.mark.parametrize("keep", [0, 5, 40, -3])
def test_a_damaged_state_is_named(folder, keep):
    folder.save_state({"a": torch.zeros(100)}, 1)
    path = folder.path / "last" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match="state.safetensors is damaged .*; remove it to start from the beginning"):
        folder.load_state()


def test_a_state_without_its_step_is_named(folder):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, folder.path / "last" / "state.safetensors")
    with pytest.raises(RunError, match="state.safetensors is damaged"):
        folder.load_state()


def test_machines_are_kept_in_turn_and_forgotten_by_a_run_that_begins_anew(folder):
    assert folder.machines() == ()
    for name in ("GPU", "GPU", "CPU", "GPU"):
        folder.note_machine(name)
    assert folder.machines() == ("GPU", "CPU", "GPU")
    folder.note_machine("CPU", anew=True)
    assert folder.machines() == ("CPU",)
    (folder.path / "machines.json").write_text("[half")
    assert folder.machines() == ()
