"""The walk: batches, what a kill leaves, and several processes."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from cce.__main__ import main
from cce.attacks.gradient import attack
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.config import CCE_RM, AttackConfig, ConfigError, Detector
from cce.evaluation.columns import attack_column, benign_columns
from cce.evaluation.engine import Store, digest, walk
from cce.evaluation.evaluate import evaluate, measure, metrics
from cce.evaluation.outcomes import outcome
from cce.fast import SearchCopy
from cce.machine import shards
from running_studio import free_port

PGD = AttackConfig("pgd", 0.1, 0.03, 3)


@pytest.fixture
def batch(digits):
    return digits.test.pixels()[:20], digits.test.labels[:20]


@pytest.fixture
def made(trained, digits):
    return Checkpoint("t", trained(2), "digits", digits.classes, CCE_RM, {}, Detector(1.0, 0.05, "nothing", 1))


def without_times(record):
    """`record` less what differs from run to run."""
    if isinstance(record, dict):
        return {k: without_times(v) for k, v in record.items() if k not in ("seconds", "batch_size")}
    return [without_times(v) for v in record] if isinstance(record, list) else record


def test_a_walk_is_the_attack_itself_whatever_the_batch_size(trained, batch):
    model, (x, labels) = trained(2), batch
    wanted = outcome(model, attack(model, x, labels, PGD, seed=3), labels)
    for size in (20, 7, 1):
        clean, (found,) = walk(model, x, labels, [attack_column(model, model, PGD, 20)], seed=3, batch_size=size)
        torch.testing.assert_close(found.outcome.log_probability, wanted.log_probability, atol=1e-4, rtol=1e-4)
        assert torch.equal(found.outcome.member_labels, wanted.member_labels)
        assert torch.equal(clean.right, outcome(model, x, labels).right)


def test_threads_find_what_one_finds(trained, batch):
    model, (x, labels) = trained(2), batch
    columns = [attack_column(model, SearchCopy(model).model, PGD, len(x), drop=drop) for drop in (False, True)]
    columns += benign_columns(model, 0.1, len(x))
    told: list[float] = []
    try:
        shards.use(3)
        _, shared = walk(model, x, labels, columns, seed=3, report=lambda what, fraction: told.append(fraction))
        shards.use(1)
        _, alone = walk(model, x, labels, columns, seed=3)
    finally:
        shards.use(None)
    for mine, theirs in zip(shared, alone, strict=True):
        assert torch.equal(mine.fooled, theirs.fooled)
        assert torch.equal(mine.outcome.label, theirs.outcome.label)
        assert torch.allclose(mine.outcome.entropy, theirs.outcome.entropy, atol=1e-4)
    assert told == sorted(told) and told[-1] == 1.0
    assert all(p.requires_grad for p in model.parameters())


def test_a_report_that_raises_ends_the_walk_in_all_threads(trained, batch):
    model, (x, labels) = trained(2), batch
    long = [attack_column(model, model, AttackConfig("pgd", 0.1, 0.03, 10_000), len(x)) for _ in range(4)]

    def stop(what: str, fraction: float) -> None:
        if what == long[0].name:
            raise InterruptedError("enough")

    shards.use(2)
    try:
        with pytest.raises(InterruptedError, match="enough"):
            walk(model, x, labels, long, report=stop)
    finally:
        shards.use(None)
    assert not [t for t in threading.enumerate() if t.name.startswith("shard")]


def test_a_column_gets_its_first_images_only_and_reports_climb(trained, batch):
    model, (x, labels) = trained(2), batch
    columns = [attack_column(model, model, PGD, n) for n in (20, 5)]
    told = []
    _, found = walk(model, x, labels, columns, batch_size=8, report=lambda what, f: told.append((what, f)))
    assert [len(f.fooled) for f in found] == [20, 5]
    assert torch.equal(found[0].fooled[:5], found[1].fooled)
    fractions = [f for _, f in told]
    assert fractions == sorted(fractions) and told[0] == ("clean images", 0) and told[-1] == ("done", 1)
    assert len(set(fractions)) > 12  # every step is told


class Killed(Exception):
    pass


def counting(monkeypatch, after: int | None = None) -> list[int]:
    """Counts the batches that are attacked; the kill comes when `after` are done."""
    import cce.evaluation.columns

    calls, real = [], cce.evaluation.columns.run_attack

    def run(*arguments, **settings):
        if after is not None and len(calls) == after:
            raise Killed
        calls.append(1)
        return real(*arguments, **settings)

    monkeypatch.setattr(cce.evaluation.columns, "run_attack", run)
    return calls


def test_a_killed_walk_goes_on_where_it_was(trained, batch, tmp_path, monkeypatch):
    model, (x, labels) = trained(2), batch
    columns = [attack_column(model, model, c, 20) for c in (PGD, AttackConfig("bim", 0.1, 0.03, 3))]
    _, whole = walk(model, x, labels, columns, batch_size=6)
    store = Store(tmp_path / "partial", {"contents": digest(model, x, labels)})
    counting(monkeypatch, after=5)
    with pytest.raises(Killed):
        walk(model, x, labels, columns, batch_size=6, store=store)
    assert len(list(store.folder.iterdir())) == 5
    told = []
    monkeypatch.undo()
    calls = counting(monkeypatch)
    _, found = walk(model, x, labels, columns, batch_size=6, store=store, report=lambda what, f: told.append((what, f)))
    assert len(calls) == 3  # of eight
    assert told[0][0] == "taken up" and told[0][1] == pytest.approx(26 / 40)
    for mine, theirs in zip(found, whole, strict=True):
        assert torch.equal(mine.outcome.log_probability, theirs.outcome.log_probability)
        assert torch.equal(mine.fooled, theirs.fooled)
    assert found[0].taken_up > 0 and found[0].taken_up == pytest.approx(found[0].seconds)
    assert found[1].taken_up < found[1].seconds
    store.clear()
    assert not list(store.folder.iterdir())


def test_a_damaged_file_is_made_again_and_other_settings_take_nothing_up(trained, batch, tmp_path, monkeypatch):
    model, (x, labels) = trained(2), batch
    store = Store(tmp_path, {"contents": digest(model, x, labels)})
    columns = [attack_column(model, model, PGD, 20)]
    walk(model, x, labels, columns, batch_size=10, store=store)
    first = sorted(tmp_path.iterdir())[0]
    first.write_bytes(first.read_bytes()[:40])
    (tmp_path / ".x.safetensors.77.part").write_bytes(b"half")
    calls = counting(monkeypatch)
    walk(model, x, labels, columns, batch_size=10, store=store)
    assert len(calls) == 1
    others = [
        (Store(tmp_path, {"contents": digest(trained(3), x, labels)}), columns),
        (Store(tmp_path, {"contents": digest(model, x[:-1], labels[:-1])}), columns),
        (Store(tmp_path, store.settings, taking_up=False), columns),
        (store, [attack_column(model, model, PGD, 20, drop=True)]),
        (store, [attack_column(model, model, AttackConfig("pgd", 0.1, 0.03, 2), 20)]),
    ]
    for other, asked in others:
        calls.clear()
        walk(model, x, labels, asked, batch_size=10, store=other)
        assert len(calls) == 2
    calls.clear()
    walk(model, x, labels, columns, batch_size=10, store=store)
    assert not calls


def test_measure_keys_partial_results_by_seed_and_precision(made, batch, tmp_path, monkeypatch):
    calls = counting(monkeypatch)
    for settings, work in (({}, 1), ({}, 0), ({"seed": 1}, 1), ({"search_dtype": torch.bfloat16}, 1)):
        calls.clear()
        measure(made, *batch, [PGD], store=Store(tmp_path), **settings)
        assert len(calls) == work


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"success": "first"}, "success is 'first'; it is last or any"),
        ({"adaptive": 21}, "adaptive is 21; it is from 0 to the number of images, 20"),
    ],
)
def test_settings_that_cannot_be_used(settings, words, made, batch):
    with pytest.raises(ConfigError, match=words):
        evaluate(made, *batch, [PGD], **settings)


def test_no_images_and_nan_weights_are_refused(made, batch):
    with pytest.raises(ConfigError, match="there are no images"):
        evaluate(made, batch[0][:0], batch[1][:0], [PGD])
    with torch.no_grad():
        made.model.members[0].head.weight[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="not finite"):
        evaluate(made, *batch, [])


def test_both_success_rules_agree_on_who_is_fooled_at_any_step(made, batch):
    settings = {"attacks": [PGD, AttackConfig("mim", 0.1, 0.03, 3)], "batch_size": 8}
    last, any_step = (metrics(measure(made, *batch, success=s, **settings), made.detector) for s in ("last", "any"))
    for one, other in zip(last["attacks"], any_step["attacks"], strict=True):
        assert one["fooled"] == other["fooled"] and one["accuracy_any_step"] == other["accuracy_any_step"]
        assert other["accuracy"] == pytest.approx(other["accuracy_any_step"])
        assert one["accuracy"] >= one["accuracy_any_step"] - 1e-6  # one is float32, the other counts
    assert last["worst_case"] == any_step["worst_case"]
    assert (last["success"], any_step["success"]) == ("last", "any")


DIGITS = [
    "evaluate",
    "digits-cce-rm",
    "--images",
    "40",
    "--adaptive",
    "0",
    "--attacks",
    "pgd:4,mim:4,bim:100",
    "--batch-size",
    "8",
]


def start(home, *more: str, launcher: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CCE_STUDIO_HOME": str(home)} | environment
    command = [sys.executable, *launcher, "-m", "cce", *DIGITS, "--json", "--device", "cpu", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def here(home) -> tuple[dict, str]:
    """The same command in this process: what it prints, and what it tells beside."""
    out, told = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        patch.setenv("CCE_STUDIO_HOME", str(home))
        assert main([*DIGITS, "--json", "--device", "cpu"]) == 0
    return json.loads(out.getvalue()), told.getvalue()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process prints that nobody killed."""
    if not any(p.name == "digits-cce-rm" for p in checkpoints.released()):
        pytest.skip("the digits ensemble is not bundled")
    return here(tmp_path_factory.mktemp("alone"))[0]


@pytest.mark.slow
def test_two_processes_find_what_one_finds(alone, tmp_path):
    pytest.importorskip("accelerate")
    # accelerate's own launcher starts several processes on GPUs alone; torchrun does on CPUs too.
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()))
    out, told = start(tmp_path, launcher=launcher).communicate(timeout=300)
    both = json.loads(out)
    assert (alone["processes"], both["processes"]) == (1, 2), told
    keys = ("natural", "attacks", "worst_case", "images", "seed")
    assert without_times({k: alone[k] for k in keys}) == without_times({k: both[k] for k in keys})
    assert not list((tmp_path / "evaluations").glob("*"))


@pytest.mark.slow
def test_a_killed_process_is_taken_up_by_the_same_command(alone, tmp_path):
    victim, folder = start(tmp_path), tmp_path / "evaluations"
    deadline = time.monotonic() + 300
    while len(list(folder.glob("*.safetensors"))) < 11 and victim.poll() is None:  # of 15
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=60)
    assert 11 <= len(list(folder.glob("*.safetensors"))) < 15
    found, told = here(tmp_path)
    assert "taken up" in told
    assert without_times(found["attacks"]) == without_times(alone["attacks"])
    assert not list(folder.glob("*.safetensors"))
