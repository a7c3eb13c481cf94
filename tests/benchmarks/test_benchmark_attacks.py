"""The benchmark against the peers runs, names its ratios, and counts where verdicts differ."""

import json

import pytest
import torch

from benchmarks import attacks as benchmark
from cce.attacks import auto_attack

RATIOS = {"attacks.pgd_vs_torchattacks", "attacks.pgd_vs_foolbox", "attacks.autoattack_vs_package"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    for name, value in {"STEPS": 3, "QUERIES": 5, "TARGETS": 2}.items():
        monkeypatch.setattr(auto_attack, name, value)


def test_all_of_it_on_a_few_digits(tmp_path, capsys):
    path = tmp_path / "found.json"
    words = ["--checkpoint", "digits-cce-rm", "--n", "4", "--autoattack-n", "3", "--threads", "1", "--clock", "cpu"]
    assert benchmark.main([*words, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert set(found["ratios"]) == RATIOS and all(ratio > 0 for ratio in found["ratios"].values())
    libraries = [row["library"] for row in found["rows"]]
    assert libraries == ["cce", "cce, to the end", "torchattacks", "foolbox", "cce", "pyautoattack"]
    assert [row["images"] for row in found["rows"]] == [4, 4, 4, 4, 3, 3]
    for row in found["rows"]:
        assert row["seconds"] > 0 and 0 <= row["robust % at any step"] <= 100
    assert found["rows"][-1]["verdicts that differ"] in range(4)
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
    assert set(found["ratios"]) == {"attacks.autoattack_l2_vs_package"}
    assert found["rows"][0]["verdicts that differ"] == 1 and "L2" in found["rows"][0]["attack"]
    assert "differ on 1 of 3 images" in (shown := capsys.readouterr().out) and "[1]" in shown


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
        (["--n", "-1"], "--n, --autoattack-n and --bb-n must be 0 or more"),
        (["--n", "0", "--autoattack-n", "0"], "and not all 0"),
        (["--checkpoint", "nobody"], "there is no 'nobody'; released are"),
    ],
)
def test_bad_usage(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err
