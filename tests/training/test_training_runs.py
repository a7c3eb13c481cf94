"""A run dies, is stopped, is taken up again: the same losses and the same weights as if nothing had been."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch

from cce.checkpoints.folder import machine_name
from cce.config import (
    Defense,
    ModelConfig,
    Phase,
    TrainConfig,
    from_json,
    to_json,
)
from cce.evaluation.presets import export
from cce.training import trainer as training
from cce.training.run_folder import RunError, RunFolder
from cce.training.trainer import TrainingError, run
from tiny_runs import ATTACK, run_program, tiny_config

CPU = torch.device("cpu")
TIMES = ("images_per_second", "seconds", "seconds_left")


def lines(folder: RunFolder) -> list[dict]:
    """The lines of `metrics.jsonl` without what a clock measured."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in folder.metrics()]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """The saved state but for the clock."""
    tensors, _ = folder.load_state()
    return {k: v for k, v in tensors.items() if k != "seconds"}


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory) -> RunFolder:
    """A run that nobody killed."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "undisturbed")
    run(tiny_config(), digits, folder, CPU, quiet=True)
    return folder


# Forks one training process for each way to die and waits for it. What is patched is only when the
# process is killed, never what it computes.
DEATHS = """
die = lambda: os.kill(os.getpid(), signal.SIGKILL)

def before_first_save():
    advance = training.Trainer.advance
    training.Trainer.advance = lambda self: die() if self.step == 5 else advance(self)

def amid_a_line():
    log = RunFolder.log_metrics
    def half(self, row):
        if row["step"] == 20:
            with (self.path / "metrics.jsonl").open("a") as file:
                text = json.dumps(row)
                file.write(text[: len(text) // 2])
                file.flush()
                die()
        log(self, row)
    RunFolder.log_metrics = half

def amid_a_save():
    replace = os.replace
    lines = root / "amid_a_save" / "metrics.jsonl"
    def stop(source, target):
        if Path(target).name == "state.safetensors" and lines.read_text().count("\\n") > 2:
            die()
        replace(source, target)
    runs.os.replace = stop

def until_told():
    advance = training.Trainer.advance
    def wait(self):
        while self.step == 14 and not self.stop_requested:
            time.sleep(0.01)
        return advance(self)
    training.Trainer.advance = wait

ways = {w.__name__: (w, None) for w in (before_first_save, amid_a_line, amid_a_save)}
ways |= {"killed_from_outside": (until_told, signal.SIGKILL), "asked_to_stop": (until_told, signal.SIGTERM)}
for name, (prepare, number) in ways.items():
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            prepare()
            training.run(config, dataset, RunFolder(root / name), torch.device("cpu"), quiet=True)
            status = 0
        finally:
            os._exit(status)
    if number:
        lines = root / name / "metrics.jsonl"
        while not (lines.exists() and lines.read_text().count("\\n") >= 3):
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), f"{name} ended by itself"
            time.sleep(0.01)
        os.kill(pid, number)
    print(name, os.waitpid(pid, 0)[1], flush=True)
"""
WAYS = ("before_first_save", "amid_a_line", "amid_a_save", "killed_from_outside", "asked_to_stop")


@pytest.fixture(scope="module")
def deaths(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """The folders of the runs that died or were stopped, and how their processes ended."""
    root = tmp_path_factory.mktemp("deaths")
    told = run_program(DEATHS, root, tiny_config())
    return root, {k: int(v) for k, v in (line.split() for line in told)}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_died_goes_on_to_the_same_losses_and_weights(way, deaths, undisturbed, digits):
    root, ends = deaths
    if way == "asked_to_stop":
        assert os.waitstatus_to_exitcode(ends[way]) == 0
    else:
        assert os.waitstatus_to_exitcode(ends[way]) == -signal.SIGKILL
    folder = RunFolder(root / way)
    assert lines(folder) != lines(undisturbed)  # it did die on the way
    assert folder.status()["state"] == ("stopped" if way == "asked_to_stop" else "running")
    saved = folder.load_state()
    assert (saved is None) == (way == "before_first_save")
    trainer = run(tiny_config(), digits, folder, CPU, quiet=True)
    assert trainer.step == trainer.total_steps == 28
    assert folder.status()["state"] == "finished"
    assert lines(folder) == lines(undisturbed)
    found, wanted = weights(folder), weights(undisturbed)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_sigterm_stops_after_the_present_step_and_gives_the_handler_back(trainer, undisturbed, digits, monkeypatch):
    made = trainer()
    before = signal.getsignal(signal.SIGTERM)
    advance = made.advance
    monkeypatch.setattr(
        made, "advance", lambda: (signal.raise_signal(signal.SIGTERM), advance())[1] if made.step == 9 else advance()
    )
    assert made.fit(quiet=True) == "stopped"
    assert made.step == 10
    assert signal.getsignal(signal.SIGTERM) == before
    assert made.folder.load_state()[1] == 10

    resumed = trainer()
    assert resumed.restore() and resumed.step == 10 and len(resumed.pending) == 10
    assert resumed.fit(quiet=True) == "finished"
    assert lines(resumed.folder) == lines(undisturbed)


def test_an_ensemble_names_every_machine_that_trained_it(digits, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr(training, "machine_name", lambda device: "first")
    monkeypatch.setattr(training.Trainer, "fit", lambda self, quiet: [self.advance(), self.save()] and "stopped")
    run(tiny_config(), digits, folder, CPU, quiet=True)
    monkeypatch.undo()
    trainer = run(tiny_config(), digits, folder, CPU, quiet=True)
    record = export(trainer, digits, "made").training
    assert record["machine"] == f"first, then {machine_name(CPU)}" and record["steps"] == 28


def test_metrics_hold_a_line_a_logging_step_and_one_an_evaluation(undisturbed):
    rows = undisturbed.metrics()
    assert [r["step"] for r in rows if r["kind"] == "training"] == [20, 28]
    assert [r["step"] for r in rows if r["kind"] == "evaluation"] == [4, 8, 12, 16, 20, 24, 28]
    assert [r["phase"] for r in rows if r["kind"] == "training"] == ["crossing", "crossing"]
    assert rows[-1]["images"] == 10
    assert len(rows[-1]["natural_member_accuracy"]) == len(rows[-1]["robust_member_accuracy"]) == 2
    assert -2 <= rows[-1]["transferability"] <= 2 and 0 <= rows[-1]["detection_auc"] <= 1
    logged = [r for r in rows if r["kind"] == "training"]
    terms = ("natural", "direct", "promoting", "demoting", "learning_rate", "images_per_second", "seconds_left")
    assert all(r[name] >= 0 for r in logged for name in terms)
    assert sum(rows[-1]["natural_subsets"].values()) == pytest.approx(1)
    status = undisturbed.status()
    assert (status["state"], status["step"], status["total_steps"]) == ("finished", 28, 28)
    assert from_json(TrainConfig, undisturbed.config()) == tiny_config()


def test_resumed_moments_lie_in_memory_as_their_weights_do(trainer):
    """A fused optimizer pairs elements by address: a moment in another layout belongs to other weights."""
    made = trainer()
    made.advance()
    made.save()
    resumed = trainer()
    assert resumed.restore()
    compared = 0
    for one, two in zip(made.model.parameters(), resumed.model.parameters(), strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            first, second = made.optimizer.state[one][name], resumed.optimizer.state[two][name]
            assert torch.equal(first, second)
            assert second.stride() == two.stride() == first.stride()
            compared += not two.is_contiguous()
    assert compared > 0  # convolutions are channels-last


def test_the_best_state_is_kept_apart_and_only_of_the_last_phase(trainer, monkeypatch):
    made = trainer(evaluate_every=0.25, save_every=2)
    looks = iter([0.9, 0.9, 0.9, 0.9, 0.3, 0.6, 0.5, 0.6, *[0.1] * 20])  # the first phase has four looks
    monkeypatch.setattr(made, "monitor", lambda: {"natural_accuracy": 1.0, "robust_accuracy": next(looks)})
    monkeypatch.setattr(training, "monitor_line", lambda row: "")
    made.fit(quiet=True)
    assert (made.best, made.best_step) == (0.6, 12)
    tensors, step = made.folder.load_state("best")
    assert step == 12 and made.folder.load_state()[1] == 28
    best = made.best_model()
    assert not best.training
    assert all(torch.equal(best.state_dict()[k], v) for k, v in tensors.items())
    resumed = trainer(evaluate_every=0.25, save_every=2)
    assert resumed.restore() and (resumed.best, resumed.best_step) == (0.6, 12)
    made.folder.state_file("best").unlink()
    assert resumed.best_model() is None


def test_a_run_from_before_new_fields_resumes(undisturbed, digits, tmp_path):
    folder = RunFolder(tmp_path / "old")
    values = to_json(tiny_config())
    del values["data_dir"]
    for phase in values["phases"]:
        del phase["defense"]["reading"], phase["defense"]["alpha"], phase["attack"]["smooth"]
    folder.create({})
    (folder.path / "config.json").write_text(json.dumps(values))
    tensors, step = undisturbed.load_state()
    tensors.pop("best", None)
    folder.save_state(tensors, step)
    assert run(tiny_config(), digits, folder, CPU, quiet=True).step == 28
    with pytest.raises(RunError, match="its phases differs"):
        other = Phase("crossing", 2.5, Defense("cce", 1, 1, reading="released"), ATTACK, 1e-3, "one-cycle")
        run(tiny_config(phases=(tiny_config().phases[0], other)), digits, folder, CPU, quiet=True)


def test_states_that_look_uniform_do_not_replace_a_good_one(trainer, monkeypatch):
    flat = {k: torch.tensor(0.5) for k in ("loss", "natural", "direct", "promoting", "demoting")}
    flat["entropy_clean"] = torch.tensor(math.log(10))
    monkeypatch.setattr(training, "train_step", lambda *a, **k: dict(flat))
    made = trainer(evaluate_every=100, save_every=2)
    with pytest.raises(TrainingError, match="collapsed"):
        made.fit(log_every=2, quiet=True)
    assert made.step == 24 and made.folder.load_state()[1] == 16  # the warm-up ends at 16


def test_a_finished_run_stays_finished(undisturbed, digits):
    before = lines(undisturbed)
    trainer = run(tiny_config(), digits, undisturbed, CPU, quiet=True)
    assert trainer.step == 28
    assert lines(undisturbed) == before


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_state_round_trip_in_memory(optimizer, trainer):
    made = trainer(optimizer=optimizer)
    for _ in range(3):
        made.pending.append(made.advance())
    made.save()
    resumed = trainer(optimizer=optimizer)
    assert resumed.restore()
    one, two = made.state(), resumed.state()
    assert one.keys() == two.keys() and resumed.step == 3
    assert all(torch.equal(one[k], two[k]) for k in one)
    first, second = made.advance(), resumed.advance()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_damaged_state_is_named_and_the_run_fails(undisturbed, digits, tmp_path):
    folder = RunFolder(tmp_path / "damaged")
    folder.create(to_json(tiny_config()))
    state = (undisturbed.path / "last" / "state.safetensors").read_bytes()
    (folder.path / "last" / "state.safetensors").write_bytes(state[: len(state) // 2])
    with pytest.raises(RunError, match="state.safetensors is damaged .*; remove it to start from the beginning"):
        run(tiny_config(), digits, folder, CPU, quiet=True)
    status = folder.status()
    assert status["state"] == "failed" and "RunError" in status["error"] and "damaged" in status["error"]


@pytest.mark.parametrize("drop", ["model/members.0.head.bias", "seconds"])
def test_a_state_that_lacks_a_part_is_named(drop, trainer):
    made = trainer()
    state = made.state()
    del state[drop]
    made.folder.save_state(state, 1)
    with pytest.raises(RunError, match=f"(?s)does not fit this config.*{drop.removeprefix('model/')}"):
        trainer().restore()


def test_a_state_of_another_model_is_named(trainer):
    made = trainer()
    made.folder.save_state(made.state(), 1)
    with pytest.raises(RunError, match="the state in .* does not fit this config"):
        trainer(model=ModelConfig("resnet8", 3, 10, (1, 8, 8))).restore()


def test_another_config_in_the_same_folder_is_refused(undisturbed, digits):
    before = undisturbed.status()
    with pytest.raises(RunError, match="is another run's: its batch_size differs"):
        run(tiny_config(batch_size=16), digits, undisturbed, CPU, quiet=True)
    assert undisturbed.status() == before
