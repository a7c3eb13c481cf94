import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cce import data, training
from cce.attacks import loss_of
from cce.config import (
    ADP,
    ADV_EN,
    CCE_BASE,
    CCE_DM,
    CCE_RM,
    NAT,
    ConfigError,
    Defense,
    ModelConfig,
    Phase,
    TrainConfig,
    TrainingAttack,
    from_json,
    to_json,
)
from cce.losses import loss_terms
from cce.models import SearchCopy
from cce.monitoring import monitoring_split
from cce.runs import RunError, RunFolder
from cce.training import Trainer, TrainingError, refuse_collapse, run, step_seed
from cce.training_step import draw_attack, draw_grid, make_examples, make_optimizer, noisy, train_step

CPU = torch.device("cpu")
ATTACK = TrainingAttack((1, 2), (0.05, 0.1), (1.0, 2.0))


def tiny_config(**changes) -> TrainConfig:
    """Eight steps an epoch of 8 images; 8 steps of NAT, then 20 of CCE-RM; lines are logged every 20 steps."""
    settings = {
        "dataset": "digits",
        "model": ModelConfig("resnet8", 2, 10, (1, 8, 8)),
        "phases": (
            Phase("natural", 1, NAT, learning_rate=2e-3),
            Phase("crossing", 2.5, CCE_RM, ATTACK, 1e-3, "one-cycle"),
        ),
        "batch_size": 8,
        "flip": False,
        "precision": "float32",
        "train_images": 64,
        "save_every": 7,
        "evaluate_every": 0.5,
        "evaluate_images": 10,
    }
    return TrainConfig(**settings | changes)


@pytest.fixture
def trainer(digits, tmp_path):
    """Makes a `Trainer` with changes to the tiny config."""

    def make(**changes) -> Trainer:
        folder = RunFolder(tmp_path / "run")
        folder.create({})
        return Trainer(tiny_config(**changes), digits, folder)

    return make


TIMES = ("images_per_second", "seconds", "seconds_left")


def lines(folder: RunFolder) -> list[dict]:
    """The lines of `metrics.jsonl` without what a clock measured."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in folder.metrics()]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """The saved state but for the clock."""
    tensors, _ = folder.load_state()
    return {k: v for k, v in tensors.items() if k != "seconds"}


# Resuming


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory) -> RunFolder:
    """A run that nobody killed."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "undisturbed")
    run(tiny_config(), digits, folder, CPU, quiet=True)
    return folder


# Forks one training process for each way to die and waits for it. What is patched is only when the
# process is killed, never what it computes.
DEATHS = """
import json, os, signal, sys, time
import torch
torch.set_num_threads(1)
from pathlib import Path
from cce import data, runs, training
from cce.config import TrainConfig, from_json
from cce.runs import RunFolder

root = Path(sys.argv[1])
config = from_json(TrainConfig, json.loads(sys.argv[2]))
dataset = data.load("digits", size=8)
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
    done = subprocess.run(
        [sys.executable, "-c", DEATHS, str(root), json.dumps(to_json(tiny_config()))],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return root, {k: int(v) for k, v in (line.split() for line in done.stdout.splitlines())}


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


# What goes wrong


def test_a_loss_that_is_not_finite_ends_the_run_in_words(digits, tmp_path):
    config = tiny_config(
        phases=(Phase("wild", 4, NAT, learning_rate=1e30),), optimizer="sgd", save_every=100, evaluate_every=100
    )
    folder = RunFolder(tmp_path / "wild")
    with pytest.raises(TrainingError, match="the loss is nan at step 20; .*Try a lower learning_rate or a clip_norm"):
        run(config, digits, folder, CPU, quiet=True)
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
        run(config, digits, folder, CPU, quiet=True)
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ModelConfig("resnet8", 2, 10, (1, 16, 16))}, "input_shape is .*; digits has \\(1, 8, 8\\)"),
        ({"model": ModelConfig("resnet8", 2, 7, (1, 8, 8))}, "classes is 7; digits has 10"),
        ({"batch_size": 65}, "batch_size is 65; there are only 64 training images"),
    ],
)
def test_a_config_that_does_not_fit_the_data_is_refused(changes, words, trainer):
    with pytest.raises(ConfigError, match=words):
        trainer(**changes)


# The schedule


def test_phases_may_be_fractions_of_an_epoch(trainer):
    made = trainer(phases=(Phase("a", 0.6, NAT), Phase("b", 1.5, NAT), Phase("c", 0.01, NAT)))
    # 8 steps an epoch: .6 is 4.8, rounded 5; 1.5 is 12; .01 is .08, and a phase has one step at least.
    assert made.ends == [5, 17, 18]
    assert made.total_steps == 18
    assert made.phase_at(0) == (0, 0.0)
    assert made.phase_at(4) == (0, 0.8)
    assert made.phase_at(5) == (1, 0.0)
    assert made.phase_at(11) == (1, 0.5)
    assert made.phase_at(17) == (2, 0.0)


def test_the_optimizer_gets_the_phases_rate_at_each_step(trainer, monkeypatch):
    """One-cycle over 8 steps, then milestones at epochs .5 and 1 of a phase of 1.5 epochs (12 steps)."""
    monkeypatch.setattr(training, "train_step", lambda *a, **k: {})
    up = Phase("up", 1, NAT, learning_rate=0.8, schedule="one-cycle")
    down = Phase("down", 1.5, NAT, learning_rate=0.1, schedule="milestones", milestones=(0.5, 1.0))
    made = trainer(phases=(up, down))
    rates = []
    while made.step < made.total_steps:
        made.advance()
        assert len({g["lr"] for g in made.optimizer.param_groups}) == 1
        rates.append(made.optimizer.param_groups[0]["lr"])
    # Progress k/8: .04 at 0, .52 at 1/8, the top at 2/8, then (1 + cos(pi (k - 2) / 6)) / 2.
    cosine = [(1 + math.cos(math.pi * (k - 2) / 6)) / 2 for k in range(2, 8)]
    assert rates[:8] == pytest.approx([0.8 * f for f in (0.04, 0.52, *cosine)])
    assert rates[8:] == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 4)


def test_drawn_settings_stay_in_their_ranges_and_reach_both_ends():
    attack = TrainingAttack((3, 10), (4 / 255, 10 / 255), (1.0, 2.0))
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_attack(attack, generator) for _ in range(2000)]
    steps, epsilons = [d[0] for d in drawn], [d[1] for d in drawn]
    reaches = [size * k / epsilon for k, epsilon, size in drawn]
    assert set(steps) == set(range(3, 11))
    assert max(steps.count(k) for k in range(3, 11)) < 2 * min(steps.count(k) for k in range(3, 11))
    assert 4 / 255 <= min(epsilons) < 4.1 / 255 and 9.9 / 255 < max(epsilons) <= 10 / 255
    assert 1 - 1e-9 <= min(reaches) < 1.02 and 1.98 < max(reaches) <= 2 + 1e-9


def test_a_fixed_setting_is_the_papers():
    """k = 10, epsilon 8/255, step 2/255 is reach 2.5; its ResNet step epsilon / 10 is reach 1."""
    steps, epsilon, size = draw_attack(TrainingAttack(), torch.Generator())
    assert (steps, epsilon, size) == (10, pytest.approx(8 / 255), pytest.approx(2 / 255))
    _, epsilon, size = draw_attack(TrainingAttack((10, 10), (0.01, 0.05), (1.0, 1.0)), torch.Generator())
    assert 0.01 <= epsilon <= 0.05 and size == pytest.approx(epsilon / 10)


def test_step_seeds_differ_by_step_and_seed():
    assert len({step_seed(s, t) for s in range(20) for t in range(500)}) == 10_000
    assert step_seed(10**18, 3) >= 0


# The batch


def test_an_epoch_shows_each_image_once_and_each_epoch_another_order(trainer):
    made = trainer(shift=0.0)
    generator = torch.Generator()
    epochs = []
    for epoch in (0, 1):
        batches = [made.batch(8 * epoch + i, generator) for i in range(8)]
        epochs.append(torch.cat([x for x, _ in batches]))
        labels = torch.cat([y for _, y in batches])
        assert labels.bincount(minlength=10).tolist() == made.labels.bincount(minlength=10).tolist()
    whole = made.images.float().div(255).flatten(1)
    for shown in epochs:
        nearest = torch.cdist(shown.flatten(1), whole, compute_mode="donot_use_mm_for_euclid_dist")
        assert sorted(nearest.argmin(1).tolist()) == list(range(64))
        assert nearest.min(1).values.max() == 0
    assert not torch.equal(*epochs)
    again, _ = made.batch(0, generator)
    assert torch.equal(again, epochs[0][:8])


def test_batches_are_in_the_unit_range_and_shifted_by_the_step_alone(trainer):
    made = trainer(shift=0.2)
    first, again, other = (made.batch(0, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert first.dtype == torch.float32 and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)


# One step


@pytest.fixture
def batch(digits):
    return digits.train.pixels()[:16], digits.train.labels[:16]


@pytest.mark.parametrize(
    ("defense", "sets"),
    [(NAT, 0), (ADV_EN, 1), (ADP, 1), (CCE_BASE, 3), (CCE_RM, 3), (CCE_DM, 3)],
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_each_defense_trains_on_its_own_examples(defense, sets, trained, batch):
    model, (x, labels) = trained(3), batch
    attack = TrainingAttack((4, 4), (0.1, 0.1), (2.0, 2.0))
    model.requires_grad_(False)
    found = make_examples(model, x, labels, defense, attack, torch.Generator().manual_seed(0))
    assert found.shape == (sets, 16, 1, 8, 8)
    if sets:
        assert (found - x).abs().max() <= 0.1 + 2e-7
        assert found.min() >= 0 and found.max() <= 1
        assert not found.requires_grad
    again = make_examples(model, x, labels, defense, attack, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    targets = {0: [], 1: [None], 3: [0, 1, 2]}[sets]
    for examples, target in zip(found, targets, strict=True):
        assert (loss_of(model, labels, target)(examples) > loss_of(model, labels, target)(x)).float().mean() > 0.7
    if sets == 3:  # row i is strongest on member i: the mean loss of member i is the highest there
        table = torch.tensor([[loss_of(model, labels, n)(e).mean() for e in found] for n in range(3)])
        assert table.argmax(1).tolist() == [0, 1, 2]


def test_loss_terms_take_the_first_row_as_clean():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 5, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0])
    ce = [F.cross_entropy(row, labels).item() for row in logits]
    assert loss_terms([0], logits[None, :1], labels, NAT).total(NAT).item() == pytest.approx(ce[0])
    assert loss_terms([1], logits[None, :2], labels, ADV_EN).total(ADV_EN).item() == pytest.approx(ce[0] + ce[1])
    # Member 1 of two: its own examples are in the third row.
    base = loss_terms([1], logits[None], labels, CCE_BASE).total(CCE_BASE).item()
    assert base == pytest.approx(ce[0] + ce[2], rel=1e-5)


@pytest.mark.parametrize(
    "defense",
    [NAT, ADV_EN, ADP, CCE_RM, Defense("cce", 0.5, 2, "hard"), Defense("cce", 1, 1, reading="released")],
    ids=lambda d: d.name,
)
def test_steps_on_one_batch_lower_its_loss(defense, fresh, batch):
    model, (x, labels) = fresh(), batch
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    search, phase = SearchCopy(model, torch.float32), Phase("p", 1, defense, ATTACK)
    losses = []
    for step in range(12):
        model.train()
        scalars = train_step(
            list(model.members), search, optimizer, x, labels, phase, torch.Generator().manual_seed(step)
        )
        losses.append(scalars["loss"].item())
        crossing = defense.lambda_pm * scalars["promoting"] - defense.lambda_dm * scalars["demoting"]
        jointly = defense.alpha * scalars["ensemble_entropy"] + defense.beta * scalars["log_diversity"]
        assert scalars["loss"].item() == pytest.approx(
            (scalars["natural"] + scalars["direct"] + crossing - jointly).item(), abs=1e-4
        )
        assert not any(v.requires_grad for v in scalars.values())
        assert 0 <= scalars["entropy_clean"] <= math.log(10) + 1e-5
    assert (scalars["direct"] == 0) == (defense == NAT)
    assert losses[-1] < losses[0] - 0.3


def test_a_step_trains_every_member_on_its_own_loss_only(fresh, batch):
    """One optimizer over the sum is the same as one a member: the loss of one has no gradient in another."""
    model, (x, labels) = fresh(), batch
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    search, phase = SearchCopy(model, torch.float32), Phase("p", 1, CCE_RM, ATTACK)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    train_step(list(model.members), search, optimizer, x, labels, phase, generators[0])
    together = [p.grad.clone() for p in model.members[1].parameters()]

    model = fresh().train()
    search = SearchCopy(model, torch.float32)
    examples = make_examples(search.model, x, labels, CCE_RM, ATTACK, generators[1])
    logits = model.members[1](torch.cat([x, *examples])).view(1, 3, 16, 10)
    loss_terms([1], logits, labels, CCE_RM).total(CCE_RM).backward()
    for found, p in zip(together, model.members[1].parameters(), strict=True):
        torch.testing.assert_close(found, p.grad, atol=1e-5, rtol=1e-4)


def test_released_examples_climb_the_predicted_labels(trained, batch):
    """On wrong labels the paper's examples keep the prediction away from them; the released ones ignore them."""
    model, (x, labels) = trained(2), batch
    model.requires_grad_(False)
    attack = TrainingAttack((4, 4), (0.1, 0.1), (2.0, 2.0))
    seen = [m(x).argmax(-1) for m in model.members]
    wrong = (labels + 1) % 10

    def made(reading, given):
        defense = Defense("cce", 1, 1, reading=reading)
        return make_examples(model, x, given, defense, attack, torch.Generator().manual_seed(0))

    assert torch.equal(made("released", wrong), made("released", labels))
    assert not torch.equal(made("paper", wrong), made("paper", labels))
    own = made("released", labels)
    for n, predicted in enumerate(seen):
        climbed = loss_of(model, predicted, n)
        assert (climbed(own[n]) > climbed(x)).float().mean() > 0.9


@pytest.mark.parametrize("defense", [ADV_EN, CCE_RM], ids=lambda d: d.name)
def test_smooth_examples_are_coarse_inside_the_ball_and_climb(defense, trained, batch):
    model, (x, labels) = trained(2), batch
    model.requires_grad_(False)
    attack = TrainingAttack((6, 6), (0.1, 0.1), (2.0, 2.0), smooth=1.0, grids=(2,))
    x = 0.2 + 0.6 * x  # away from 0 and 1, which would clip
    found = make_examples(model, x, labels, defense, attack, torch.Generator().manual_seed(0))
    assert (found - x).abs().max() <= 0.1 + 2e-7
    for i, examples in enumerate(found):
        delta = examples - x
        coarse = F.interpolate(delta, size=(2, 2), mode="area")
        fine = delta - F.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=False)
        assert fine.abs().mean() < 0.5 * delta.abs().mean()
        target = None if defense == ADV_EN else i
        assert loss_of(model, labels, target)(examples).mean() > loss_of(model, labels, target)(x).mean()


def test_the_share_of_smooth_batches_and_their_grids_are_drawn():
    generator = torch.Generator().manual_seed(0)
    attack = TrainingAttack(smooth=0.5, grids=(4, 8))
    drawn = [draw_grid(attack, generator) for _ in range(1000)]
    assert 400 < drawn.count(None) < 600 and abs(drawn.count(4) - drawn.count(8)) < 100
    assert draw_grid(TrainingAttack(), generator) is None


def test_noise_goes_to_its_share_of_benign_images(digits):
    x = digits.train.pixels()[:400] * 0.5 + 0.25
    found = noisy(x, TrainingAttack(epsilon=(0.1, 0.1), noise=0.25), torch.Generator().manual_seed(0))
    size = (found - x).abs().flatten(1)
    assert 70 < (size.amax(1) > 1e-6).sum() < 130
    assert torch.allclose(size.amax(1), size.amin(1), atol=1e-6)  # random signs of one size
    assert 0.08 < size.max() <= 0.1 + 1e-6
    assert torch.equal(noisy(x, TrainingAttack(), torch.Generator()), x)


def test_clip_norm_bounds_the_step(fresh, batch):
    x, labels = batch
    moves = []
    for clip in (0.0, 1e-3):
        model = fresh().train()
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        search, phase = SearchCopy(model, torch.float32), Phase("p", 1, NAT)
        train_step(list(model.members), search, optimizer, x, labels, phase, torch.Generator(), clip_norm=clip)
        moves.append((torch.cat([p.detach().flatten() for p in model.parameters()]) - before).norm().item())
    assert moves[0] > 0.1
    assert moves[1] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_weight_decay_spares_biases_and_norms(name, kind, fresh):
    model = fresh()
    optimizer = make_optimizer(model, tiny_config(optimizer=name, weight_decay=5e-4))
    assert isinstance(optimizer, kind)
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0.0)
    assert all(p.dim() > 1 for p in decayed["params"]) and all(p.dim() <= 1 for p in spared["params"])
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_bfloat16_trains_in_autocast_on_float32_weights(trainer):
    made = trainer(precision="bfloat16")
    scalars = made.advance()
    assert math.isfinite(scalars["loss"].item())
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert {p.dtype for p in made.search.model.parameters()} == {torch.bfloat16}


def test_the_same_seed_gives_the_same_run_and_another_another(trainer):
    losses = [[made.advance()["loss"].item() for _ in range(2)] for made in (trainer(), trainer(), trainer(seed=1))]
    assert losses[0] == losses[1] != losses[2]


# Monitoring


def test_monitored_images_are_the_last_that_detectors_may_be_tested_on(digits):
    split = monitoring_split(digits, 10)
    assert len(split) == 10
    assert split.start == digits.test.start + len(digits.test) - 10
    assert torch.equal(split.images, digits.test.images[-10:])
    cut = dataclasses.replace(
        digits, calibration=data.Split(digits.test.images[300:], digits.test.labels[300:], digits.test.start + 300)
    )
    split = monitoring_split(cut, 10)
    assert split.start == digits.test.start + 290
    assert torch.equal(split.images, digits.test.images[290:300])
    assert len(monitoring_split(digits, 10_000)) == len(digits.test)


def test_monitoring_leaves_training_alone(trainer):
    """A run that looks twice as often trains the same."""
    one, two = trainer(), trainer()
    one.advance(), two.advance()
    figures = one.monitor()
    assert set(figures) >= {"natural_accuracy", "robust_accuracy", "robust_subsets", "natural_entropy", "images"}
    assert figures == one.monitor()
    assert torch.equal(one.advance()["loss"], two.advance()["loss"])
