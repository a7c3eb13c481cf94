"""What goes wrong with a run: kills, no room, no data, damaged files; in words, with the last state intact."""

import json
import math
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from cce.__main__ import main
from cce.config import CCE_RM, NAT, Phase, TrainingAttack, to_json
from cce.training import run_folder as runs
from cce.training import trainer as training
from cce.training.run_folder import RunFolder
from cce.training.trainer import Trainer, TrainingError, refuse_collapse, run
from tiny_runs import run_program, tiny_config

TINY = tiny_config(
    phases=(Phase("natural", 1, NAT), Phase("crossing", 2, CCE_RM, TrainingAttack((1, 1), (0.05, 0.05), (1.0, 1.0)))),
    train_images=80,
    save_every=3,
    evaluate_every=1.0,
)

# Forks a process that trains until it is killed, five times: at a random step past the last save, and a random
# moment later. It waits for its end four steps on, so that a busy machine does not let it finish.
KILLS = """
folder, begun = RunFolder(root), root.with_name("begun")
advance, draw, parent = training.Trainer.advance, random.Random(0), os.getpid()
for round in range(5):
    begun.unlink(missing_ok=True)
    saved = folder.load_state() if round else None
    first = saved[1] if saved else 0
    pid = os.fork()
    if pid == 0:
        def told(self):
            begun.write_text(str(self.step))
            while self.step >= min(first + 4, self.total_steps - 1) and os.getppid() == parent:
                time.sleep(0.1)
            return advance(self)

        training.Trainer.advance = told
        training.run(config, dataset, folder, torch.device("cpu"), quiet=True)
        os._exit(0)
    aim = draw.randint(first, first + 3)
    while not (begun.exists() and int(begun.read_text() or 0) >= min(aim, 29)):
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended by itself"
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    reached = int(begun.read_text() or 0)
    saved = folder.load_state()
    found = {"status": status, "reached": reached, "saved": saved[1] if saved else 0}
    found |= {"state": folder.status()["state"], "config": folder.config() == json.loads(sys.argv[2])}
    folder.metrics()  # whatever line it was killed in
    print(json.dumps(found), flush=True)
"""


@pytest.mark.slow
def test_kills_lose_at_most_the_steps_since_the_last_save(digits, tmp_path):
    rounds = [json.loads(line) for line in run_program(KILLS, tmp_path / "killed", TINY)]
    assert [os.waitstatus_to_exitcode(r["status"]) for r in rounds] == [-signal.SIGKILL] * 5
    before = 0
    for now in rounds:
        assert now["config"] and now["state"] == "running"
        assert now["saved"] >= before  # never back behind a save
        assert now["reached"] - now["saved"] <= TINY.save_every + 1  # the step under way, and those since the save
        before = now["saved"]
    assert before > 0
    folder, alone = RunFolder(tmp_path / "killed"), RunFolder(tmp_path / "alone")
    run(TINY, digits, folder, torch.device("cpu"), quiet=True)
    run(TINY, digits, alone, torch.device("cpu"), quiet=True)
    (one, first), (two, second) = folder.load_state(), alone.load_state()
    assert first == second == 30
    assert all(torch.equal(one[k], two[k]) for k in two if k != "seconds")


@pytest.fixture
def words(tmp_path):
    """The command line of a tiny run in `tmp_path/run`."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(to_json(TINY)))
    return ["train", "--config", str(path), "--run", str(tmp_path / "run"), "--quiet", "--device", "cpu"]


@pytest.fixture
def stopped(digits, tmp_path, words, monkeypatch):
    """The same after a stop at step 10: its command line, and its folder."""
    folder = RunFolder(tmp_path / "run")

    def stop(trainer, *args, **kwargs):
        for _ in range(10):
            trainer.pending.append(trainer.advance())
        trainer.save()
        return "stopped"

    with monkeypatch.context() as patch:
        patch.setattr("cce.training.trainer.Trainer.fit", stop)
        assert main(words) == 0
    assert folder.load_state()[1] == 10
    return words, folder


def fails(words, capsys) -> str:
    """What a run that must fail with status 1 says; one message, no traceback."""
    capsys.readouterr()
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("cce train: ") and "Traceback" not in said
    return said


@pytest.mark.parametrize("where", ["state", "metrics", "status"])
def test_a_full_disk_ends_the_run_and_keeps_the_state(where, stopped, capsys, monkeypatch):
    words, folder = stopped
    full = OSError(28, "No space left on device")

    def refuse(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def refuse_text(path, text):
        raise full

    if where == "state":
        monkeypatch.setattr(runs, "save_file", refuse)
    elif where == "status":
        monkeypatch.setattr(runs, "write_atomically", refuse_text)
    else:
        plain = Path.open

        def refuse_lines(self, mode="r", *args, **kwargs):
            if self.name == "metrics.jsonl" and mode == "a":
                raise full
            return plain(self, mode, *args, **kwargs)

        monkeypatch.setattr(Path, "open", refuse_lines)
    said = fails(words, capsys)
    assert "No space left on device" in said and "what was saved before is kept" in said and "run the same" in said
    monkeypatch.undo()
    assert folder.load_state()[1] == (18 if where == "metrics" else 10)  # lines are written every 20 steps
    assert folder.status()["state"] == ("stopped" if where == "status" else "failed")


def test_a_full_disk_at_the_export_is_told(words, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(
        "cce.training.trainer.Trainer.fit", lambda self, **k: setattr(self, "step", self.total_steps) or "finished"
    )
    monkeypatch.setattr("cce.checkpoints.folder.save_file", refuse)
    assert "cannot write the checkpoint" in fails(words, capsys)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, words, capsys):
    (tmp_path / "file").write_text("in the way")
    words[words.index("--run") + 1] = str(tmp_path / "file" / "run")
    assert "cannot write the run folder" in fails(words, capsys)


def test_a_damaged_state_is_told_and_left_as_it_is(stopped, capsys):
    words, folder = stopped
    path = folder.state_file()
    damaged = path.read_bytes()[:-100]
    path.write_bytes(damaged)
    assert "state.safetensors is damaged" in fails(words, capsys)
    assert path.read_bytes() == damaged
    assert folder.status()["state"] == "failed"


def test_a_damaged_config_is_told(stopped, capsys):
    words, folder = stopped
    (folder.path / "config.json").write_text("{")
    assert "config.json cannot be read" in fails(words, capsys)
    assert folder.load_state()[1] == 10


def test_a_missing_data_set_is_told_before_a_folder_is_made(tmp_path, capsys, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("cce.data.datasets.fetch", offline)
    run_folder = tmp_path / "run"
    said = fails(["train", "mnist-cnn2-nat-fast", "--run", str(run_folder), "--data", str(tmp_path), "--quiet"], capsys)
    assert "mnist is not on this machine" in said and "Three ways to get it" in said
    assert not run_folder.exists()


def test_a_loss_that_is_not_finite_ends_the_run_in_words(digits, tmp_path):
    config = tiny_config(
        phases=(Phase("wild", 4, NAT, learning_rate=1e30),), optimizer="sgd", save_every=100, evaluate_every=100
    )
    folder = RunFolder(tmp_path / "wild")
    with pytest.raises(TrainingError, match="the loss is nan at step 20; .*Try a lower learning_rate or a clip_norm"):
        run(config, digits, folder, torch.device("cpu"), quiet=True)
    status = folder.status()
    assert status["state"] == "failed" and status["error"].startswith("TrainingError: the loss is nan")
    assert folder.metrics() == []  # no line that is not a number


def test_broken_weights_never_replace_a_good_state(digits, tmp_path, monkeypatch):
    """Saved every step, looked at every twentieth: the save itself has to refuse."""
    config = tiny_config(save_every=1, evaluate_every=100)
    folder = RunFolder(tmp_path / "breaks")
    advance = Trainer.advance

    def breaks(self):
        scalars = advance(self)
        if self.step == 4:
            with torch.no_grad():
                self.model.members[1].head.weight[0, 0] = math.inf
        return scalars

    monkeypatch.setattr(Trainer, "advance", breaks)
    with pytest.raises(TrainingError, match="the weights are not finite at step 4; the state of the last save is kept"):
        run(config, digits, folder, torch.device("cpu"), quiet=True)
    tensors, step = folder.load_state()
    assert step == 3
    assert all(t.isfinite().all() for t in tensors.values())
    assert folder.status()["state"] == "failed"


def test_collapse_is_refused_only_after_the_first_phase_and_for_a_whole_epoch():
    uniform = math.log(10)
    collapsed = [0.99 * uniform, 0.999 * uniform]
    with pytest.raises(TrainingError, match="collapsed: the mean entropy on clean images was 2.290 of at most 2.303"):
        refuse_collapse(collapsed, 10, step=9, warm_up=8)
    refuse_collapse(collapsed, 10, step=8, warm_up=8)
    refuse_collapse([*collapsed, 0.9 * uniform], 10, step=9, warm_up=8)
    refuse_collapse([], 10, step=9, warm_up=8)


def test_a_collapsed_run_stops_and_names_the_way_out(trainer, monkeypatch):
    flat = {k: torch.tensor(0.5) for k in ("loss", "natural", "direct", "promoting", "demoting")}
    flat["entropy_clean"] = torch.tensor(math.log(10))
    monkeypatch.setattr(training, "train_step", lambda *a, **k: dict(flat))
    made = trainer(evaluate_every=100)
    with pytest.raises(TrainingError, match="Start with a longer natural phase or a lower lambda_dm"):
        made.fit(log_every=4, quiet=True)
    assert made.step == 24  # the last phase begins at 8 and has an epoch's grace, to 16; the next epoch ends at 24


# The command line


def test_flags_reach_every_phase_with_eq_5():
    from cce.__main__ import build_parser
    from cce.cli.training import asked_config

    def asked(*words):
        return asked_config(build_parser().parse_args(["train", *words]))

    config = asked("digits-cce-dm", "--lambda-pm", "0.5", "--lambda-dm", "3", "--indicator", "hard", "--members", "4")
    assert [p.defense.name for p in config.phases] == ["NAT", "CCE(0.5, 3)", "CCE(0.5, 3)"]
    assert {p.defense.indicator for p in config.phases[1:]} == {"hard"} and config.model.members == 4
    assert asked("digits-cce-rm", "--reading", "released").phases[-1].name == "CCE-RM (released)"
    assert asked("digits-adv-en", "--members", "1").defense_name == "ADV"


def test_a_flag_that_nothing_takes_is_refused(capsys):
    assert main(["train", "digits-adp", "--lambda-dm", "3"]) == 2
    assert "--lambda-dm is given, but no phase of this preset has Eq. 5" in capsys.readouterr().err


def test_the_list_groups_every_preset(capsys):
    from cce.evaluation.presets import PRESETS

    assert main(["train", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in PRESETS)
    assert shown.splitlines()[0] == "Digits (bundled; minutes on two cores)"
    assert re.search(r"digits-adv +ADV +1 x resnet8 +30 epochs\n", shown)


def test_tensorboard_logs_hold_the_run(words, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    short = ["--set", "phases.0.epochs=0.1", "--set", "phases.1.epochs=0.2"]
    assert main([*words, *short, "--tensorboard"]) == 0
    found = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    tags = found.Tags()["scalars"]
    assert {"training/loss", "training/learning_rate", "evaluation/robust_member_accuracy/member 2"} <= set(tags)
    rows = [r for r in RunFolder(tmp_path / "run").metrics() if r["kind"] == "training"]
    logged = found.Scalars("training/loss")
    assert [e.step for e in logged] == [r["step"] for r in rows]
    assert [e.value for e in logged] == pytest.approx([r["loss"] for r in rows])


def test_tensorboard_that_is_missing_is_told(words, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main([*words, "--tensorboard"]) == 2
    assert "event files need the tensorboard package, which is not installed" in capsys.readouterr().err
