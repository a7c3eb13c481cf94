"""The benchmark against the peers runs, names its ratios, and counts where verdicts differ."""

import json

import pytest
import torch

from benchmarks import attacks as benchmark
from cce.attacks import auto_attack
from cce.attacks.gradient import attack
from cce.checkpoints import folder as checkpoints
from cce.config import default_attack
from cce.evaluation.outcomes import outcome

PEERS = {"attacks.pgd_vs_torchattacks", "attacks.pgd_vs_foolbox", "attacks.autoattack_vs_package"}
WAYS = {"attacks.pgd_vs_plain", "attacks.pgd_native_vs_library", "attacks.autoattack_native_vs_library"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    for name, value in {"STEPS": 3, "QUERIES": 5, "TARGETS": 2}.items():
        monkeypatch.setattr(auto_attack, name, value)


def test_all_of_it_on_a_few_digits(tmp_path, capsys):
    path = tmp_path / "found.json"
    words = ["--checkpoint", "digits-cce-rm", "--n", "4", "--autoattack-n", "3", "--threads", "1", "--clock", "cpu"]
    assert benchmark.main([*words, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert set(found["ratios"]) == PEERS | WAYS and all(ratio > 0 for ratio in found["ratios"].values())
    libraries = [row["library"] for row in found["rows"]]
    ways = ["cce", "cce, to the end", "cce, library way", "plain float32"]
    assert libraries == [*ways, "torchattacks", "foolbox", "cce", "pyautoattack", "cce, library way"]
    assert [row["images"] for row in found["rows"]] == [4] * 6 + [3] * 3
    for row in found["rows"]:
        robust = row["robust % at the last" if row["library"] == "plain float32" else "robust % at any step"]
        assert row["seconds"] > 0 and 0 <= robust <= 100
    assert all(row["verdicts that differ"] in range(4) for row in found["rows"][-3:])
    shown = capsys.readouterr().out
    assert "verdicts differ on" in shown and "of 3 images" in shown and "seconds on the cpu clock" in shown


def test_a_part_can_be_left_out_and_differences_are_named(tmp_path, capsys, monkeypatch):
    """The package's verdict on the second image is turned around: the benchmark must say which."""
    real, calls = benchmark.outcome, []

    class Turned:
        def __init__(self, seen):
            self.right = seen.right.clone()
            self.right[1] = ~self.right[1]

    def outcome(*given):
        calls.append(1)
        return Turned(real(*given)) if len(calls) == 2 else real(*given)

    monkeypatch.setattr(benchmark, "outcome", outcome)
    path = tmp_path / "found.json"
    words = ["--checkpoint", "digits-cce-rm", "--n", "0", "--autoattack-n", "3", "--norm", "l2", "--threads", "1"]
    assert benchmark.main([*words, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert set(found["ratios"]) == {"attacks.autoattack_l2_vs_package", "attacks.autoattack_l2_native_vs_library"}
    assert found["rows"][0]["verdicts that differ"] == 1 and "L2" in found["rows"][0]["attack"]
    assert "differ on 1 of 3 images" in (shown := capsys.readouterr().out) and "[1]" in shown


def test_the_plain_attack_is_the_attack_itself():
    checkpoint = checkpoints.load({f.name: f for f in checkpoints.released()}["digits-cce-rm"])
    x, labels, _ = benchmark.pictures("digits", 12, made=True)
    config = default_attack("digits")
    examples = benchmark.plain_attack(checkpoint.model, x, labels, config, seed=0)
    assert (examples - x).abs().max() <= config.epsilon + 1e-6
    ours = attack(checkpoint.model, x, labels, config, seed=0)
    found = [outcome(checkpoint.model, seen, labels).log_probability for seen in (examples, ours)]
    losses = [log.gather(1, labels[:, None]).sum().item() for log in found]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_precisions_are_compared_from_the_same_random_starts(tmp_path):
    path = tmp_path / "found.json"
    words = ["--checkpoint", "digits-cce-rm", "--n", "0", "--autoattack-n", "0", "--strength-n", "8", "--threads", "2"]
    assert benchmark.main([*words, "--json", str(path)]) == 0
    rows = {row["library"]: row for row in json.loads(path.read_text())["rows"]}
    assert {"search in float32 of PyTorch", "search in bfloat16 of PyTorch"} <= set(rows)
    assert rows["search in float32 of PyTorch"]["verdicts that differ"] == 0
    assert all(row["verdicts that differ"] <= 2 for row in rows.values())


@pytest.mark.slow  # numba compiles it
def test_b_and_b_against_foolbox_alone(tmp_path, capsys):
    path = tmp_path / "found.json"
    words = ["--checkpoint", "digits-cce-rm", "--n", "0", "--autoattack-n", "0", "--bb-n", "2", "--threads", "1"]
    assert benchmark.main([*words, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert set(found["ratios"]) == {"attacks.bb_vs_foolbox"}
    assert [row["library"] for row in found["rows"]] == ["cce", "foolbox", "foolbox, all together"]
    assert capsys.readouterr().out.count("B&B's verdicts differ on") == 2


def test_bundled_pictures_are_mirrored_and_moved_to_as_many_as_asked():
    x, labels, source = benchmark.pictures("cifar10", 50, made=True)
    assert x.shape == (50, 3, 32, 32) and len(labels) == 50 and source == "20 bundled, mirrored and moved to 50"
    assert torch.equal(labels[:20], labels[20:40]) and not torch.equal(x[:20], x[20:40])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--n", "-1"], "--n, --autoattack-n, --strength-n and --bb-n must be 0 or more"),
        (["--n", "0", "--autoattack-n", "0"], "and not all 0"),
        (["--checkpoint", "nobody"], "there is no 'nobody'; released are"),
    ],
)
def test_bad_usage(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err
