"""`python -m cce evaluate`: what it takes, prints, writes and keeps."""

import json
import shlex
import shutil

import pytest

from cce.__main__ import main
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.checkpoints.measurements import read_measurement
from cce.cli.evaluation import parse_attack, parse_attacks
from cce.config import CCE_DM, SCORES, AttackConfig, ConfigError, Detector
from cce.evaluation.detection import report_from_json


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Partial results go here."""
    monkeypatch.setenv("CCE_STUDIO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folder(trained, digits, tmp_path):
    made = Checkpoint("tiny", trained(2), "digits", digits.classes, CCE_DM, {}, Detector(1.0, 0.05, "numbers", 9))
    return checkpoints.save(made, tmp_path / "tiny")


@pytest.fixture
def one_aware(monkeypatch):
    """One detector-aware attack instead of six: they take long."""
    import cce.evaluation.evaluate

    real = cce.evaluation.evaluate.aware_attacks
    monkeypatch.setattr(cce.evaluation.evaluate, "aware_attacks", lambda *a: [c for c in real(*a) if c.name == "opgd"])


def test_one_walk_writes_metrics_card_and_detection(folder, capsys, one_aware, home):
    assert main(["evaluate", str(folder), "--n", "6", "--adaptive", "2", "--attacks", "fgsm,bim:2", "--write"]) == 0
    shown = capsys.readouterr().out
    assert "FGSM, epsilon" in shown and "robust accuracy" in shown and "at every step" in shown
    assert "detection rate" in shown and "wrong and unflagged" in shown and "Worst case of 2 attacks" in shown
    made = checkpoints.load(folder)
    kept = read_measurement(made, "detection")
    assert kept["command"] == made.metrics["command"] and kept["n"] == 6
    report = report_from_json(kept["report"])
    assert set(report.detectors) == set(SCORES)
    assert [len(s) for _, s in report.samples()] == [6, 6, 2, *[6] * 8]
    for sample, row in zip(report.attacks, made.metrics["attacks"], strict=True):
        assert sample.right.mean() == pytest.approx(row["accuracy"]) and sample.settings["steps"] == row["steps"]
        assert len(row["fooled"]) == 6
    assert "Worst case of 2 attacks" in (folder / "README.md").read_text()
    assert {"success", "batch_size", "epsilon", "versions", "processes", "seed"} <= set(made.metrics)
    assert not list((home / "evaluations").iterdir())  # nothing is left lying about


def test_the_command_in_the_record_does_the_same_again(folder, capsys, monkeypatch):
    """It names the checkpoint's folder, without where that lies: the record may be published."""
    other = folder.rename(folder.with_name("renamed"))
    monkeypatch.chdir(other.parent)
    words = [str(other), "--n", "3", "--adaptive", "0", "--attacks", "fgsm", "--precision", "bfloat16", "--json"]
    assert main(["evaluate", *words]) == 0
    first = json.loads(capsys.readouterr().out)
    again = shlex.split(first["command"])
    assert again[:5] == ["python", "-m", "cce", "evaluate", other.name] and "bfloat16" in again
    assert main([*again[3:], "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    for name in ("command", "search_precision", "natural", "worst_case", "seed"):
        assert first[name] == second[name]


def test_a_released_checkpoint_is_named_by_its_folder_in_the_project(capsys):
    assert main(["evaluate", "digits-cce-rm", "--n", "2", "--adaptive", "0", "--attacks", "fgsm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["command"].split()[4] == "checkpoints/digits-cce-rm"


def test_slow_attacks_on_some_of_the_images(folder, capsys, one_aware, monkeypatch):
    monkeypatch.setattr("cce.evaluation.presets.SLOW", ("mt-bim", "spsa"))
    words = ["evaluate", str(folder), "--n", "6", "--adaptive", "2", "--attacks", "fgsm", "--slow", "3", "--write"]
    assert main(words) == 0
    assert "Multi-targeted BIM k=20" in capsys.readouterr().out
    found = checkpoints.load(folder).metrics
    assert [(row["attack"]["name"], row["images"], len(row["fooled"])) for row in found["slow"]] == [
        ("mt-bim", 3, 3), ("spsa", 3, 3),
    ]  # fmt: skip
    assert all({"auc", "flagged", "wrong_and_unflagged"} <= set(row) for row in found["slow"])
    assert [(row["images"], row["attacks"]) for row in found["worst_case"]] == [(6, 1), (3, 3), (2, 4)]
    assert "--slow 3" in found["command"]
    assert "SPSA k=50, epsilon 38.25/255 (n = 3) |" in (folder / "README.md").read_text()


def test_added_attacks_come_out_as_in_one_evaluation(folder, trained, tmp_path, capsys, one_aware, monkeypatch):
    monkeypatch.setattr("cce.evaluation.presets.SLOW", ("mt-bim", "spsa"))
    words = ["--n", "6", "--adaptive", "3", "--attacks", "fgsm", "--write"]
    assert main(["evaluate", str(folder), *words, "--slow", "2"]) == 0
    whole = checkpoints.load(folder).metrics
    other = tmp_path / "again"
    shutil.copytree(folder, other)
    assert main(["evaluate", str(other), *words]) == 0
    before = checkpoints.load(other)
    kept = read_measurement(before, "detection")
    capsys.readouterr()
    assert main(["evaluate", str(other), "--slow", "2", "--add"]) == 0
    assert "Multi-targeted BIM k=20" in capsys.readouterr().out
    made = checkpoints.load(other)
    assert list(made.metrics) == list(whole) and read_measurement(made, "detection") == kept
    for name in ("natural", "attacks", "adaptive", "command", "device", "seconds"):
        assert made.metrics[name] == before.metrics[name]
    for added, measured in zip(made.metrics["slow"], whole["slow"], strict=True):
        assert added["source"]["command"].endswith(f" {other.name} --n 2 --seed 0 --slow 2 --add")
        assert {k: v for k, v in added.items() if k not in ("source", "seconds")} == {
            k: v for k, v in measured.items() if k != "seconds"
        }
    assert made.metrics["worst_case"] == whole["worst_case"]
    card = (other / "README.md").read_text()
    assert "Measured later on" in card and "Multi-targeted BIM k=20, SPSA k=50. Again: `python -m cce" in card
    assert "SPSA k=50, epsilon 38.25/255 (n = 2) |" in card

    assert main(["evaluate", str(other), "--attacks", "spsa", "--n", "1", "--add"]) == 0  # anew, on fewer
    slow = checkpoints.load(other).metrics["slow"]
    assert [(row["attack"]["name"], row["images"]) for row in slow] == [("mt-bim", 2), ("spsa", 1)]
    assert (other / "README.md").read_text().count("Measured later") == 2

    for row in made.metrics["attacks"]:
        del row["unnoticed"]  # as figures of before have none
    (other / "metrics.json").write_text(json.dumps(made.metrics))
    assert main(["evaluate", str(other), "--slow", "2", "--add"]) == 0
    for row, one in zip(checkpoints.load(other).metrics["worst_case"], whole["worst_case"], strict=True):
        assert row == {k: v for k, v in one.items() if k != "wrong_and_unflagged" or one["images"] != 2}

    def walk(*arguments, **settings):
        raise AssertionError("measured before it was refused")

    monkeypatch.setattr("cce.evaluation.evaluate.measure", walk)
    for arguments, error in (
        (["--add", "--slow", "2", "--success", "any"], "success is 'any'; what is added to was measured with 'last'"),
        (["--add"], "--add needs either --attacks or --slow, not both"),
        (["--add", "--slow", "2", "--attacks", "spsa"], "--add needs either"),
        (["--add", "--slow", "2", "--adaptive", "2"], "leave --adaptive and --sanity out"),
        (["--add", "--slow", "7"], "7 images; tiny was measured on 6"),
        (["--add", "--attacks", "fgsm", "--n", "2"], "is there already, on all 6 images"),
        (["--add", "--attacks", "agree", "--n", "2"], "knows the detector; that takes a whole evaluation"),
        (["--add", "--attacks", "spsa", "--n", "2", "--seed", "1"], "seed is 1; what is added to was measured with 0"),
    ):
        capsys.readouterr()
        assert main(["evaluate", str(other), *arguments]) == 2
        assert error in capsys.readouterr().err
    capsys.readouterr()
    (other / "metrics.json").write_text(json.dumps(made.metrics | {"data": "the first 6 test images of mnist"}))
    assert main(["evaluate", str(other), "--add", "--slow", "2"]) == 2
    assert "was measured on the first 6 test images of mnist, not on digits" in capsys.readouterr().err
    del made.metrics["slow"][0]["fooled"]
    (other / "metrics.json").write_text(json.dumps(made.metrics))
    assert main(["evaluate", str(other), "--add", "--slow", "2"]) == 2
    assert "tiny says nothing of single images" in capsys.readouterr().err
    (other / "metrics.json").unlink()
    assert main(["evaluate", str(other), "--add", "--slow", "2"]) == 2
    assert "tiny has no figures yet; evaluate it with --write first" in capsys.readouterr().err


def test_success_any_needs_no_detector_aware_attacks(folder, capsys):
    assert main(["evaluate", str(folder), "--n", "6", "--attacks", "pgd:3", "--success", "any", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["success"] == "any" and "adaptive" not in record
    row = record["attacks"][0]
    assert row["accuracy"] == pytest.approx(row["accuracy_any_step"]) and "auc" not in row
    assert "--success any" in record["command"] and "--adaptive 0" in record["command"]


def test_sanity_with_another_ensemble(folder, trained, digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cce.evaluation.sanity.gradient_free_attacks", lambda base: [])
    other = Checkpoint("other", trained(1), "digits", digits.classes, CCE_DM, {})
    second = checkpoints.save(other, tmp_path / "other")
    arguments = ["evaluate", str(folder), "--n", "6", "--adaptive", "0", "--attacks", "fgsm", "--write"]
    assert main([*arguments, "--sanity", "5", "--transfer-from", str(second)]) == 0
    assert "Sanity, more steps never help the defender: holds" in capsys.readouterr().out
    sanity = checkpoints.load(folder).metrics["sanity"]
    assert sanity["images"] == 5
    assert any(f["name"].startswith("other: ") for f in sanity["checks"][2]["figures"])
    assert "## Sanity" in (folder / "README.md").read_text()


def test_attacks_by_spaces_commas_and_fields():
    base = AttackConfig("pgd", 0.1, 0.02, 7)
    assert [c.name for c in parse_attacks(["pgd,bim", "mim"], base)] == ["pgd", "bim", "mim"]
    assert parse_attack("pgd:restarts=3:objective=logits", base) == AttackConfig(
        "pgd", 0.1, 0.02, 7, restarts=3, objective="logits"
    )
    assert parse_attack("pgd:5:target=member 2", base).target_member == 1
    far = parse_attack("pgd:20:127.5:25.5:norm=l2", base)
    assert (far.norm, far.epsilon, far.step_size) == ("l2", 0.5, 0.1)
    assert parse_attack("spsa", base).steps == 50  # its own usual number
    assert parse_attack("mt-bim", base).steps == 7  # of PGD's kind


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attacks", "pgd:speed=3"], "is no field of it: there is norm, target"),
        (["--attacks", "pgd:restarts=many"], "as in pgd:20:8:2"),
        (["--attacks", "pgd:1:2:3:4"], "as in pgd:20:8:2"),
        (["--attacks", "pgd:norm=l2"], "another norm needs its own radius and step"),
        (["--attacks", "pgd:20:800"], "did you mean"),
        (["--sanity", "-1"], "--sanity is -1"),
        (["--adaptive", "-1"], "--adaptive is -1"),
        (["--slow", "-1"], "--slow is -1"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--transfer-from", "digits-cce-rm"], "--transfer-from is for --sanity"),
        (["--sanity", "--transfer-from", "cifar10-resnet20-cce-rm"], "is of cifar10; tiny is of digits"),
    ],
)
def test_bad_usage_is_said_in_words(arguments, words, folder, capsys):
    assert main(["evaluate", str(folder), "--n", "2", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_an_interrupted_evaluation_says_how_it_goes_on(folder, capsys, monkeypatch, home):
    import cce.evaluation.columns

    calls, real = [], cce.evaluation.columns.run_attack

    def run(*arguments, **settings):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(cce.evaluation.columns, "run_attack", run)
    arguments = ["evaluate", str(folder), "--n", "8", "--adaptive", "0", "--attacks", "pgd:2", "--batch-size", "2"]
    assert main([*arguments, "--json"]) == 1
    assert "the same command goes on from there" in capsys.readouterr().err
    assert len(list((home / "evaluations").glob("*.safetensors"))) == 2
    assert main([*arguments, "--json"]) == 0
    assert len(calls) == 5  # three and, of four, the two that were left
    interrupted = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--json", "--fresh"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert [row["fooled"] for row in interrupted["attacks"]] == [row["fooled"] for row in whole["attacks"]]
    assert interrupted["natural"] == whole["natural"]


def test_an_attack_that_is_not_there():
    with pytest.raises(ConfigError, match="attack is 'magic'; there is fgsm, pgd"):
        parse_attack("magic", AttackConfig())
