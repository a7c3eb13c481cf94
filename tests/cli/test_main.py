"""The command line, run in this process; the released digits ensemble is what it works on."""

import json

import numpy as np
import pytest
from PIL import Image

from cce.__main__ import build_parser, main
from cce.checkpoints import folder as checkpoints
from cce.cli.evaluation import parse_attack
from cce.config import AttackConfig, ConfigError
from cce.config.overrides import override
from cce.data.datasets import load
from cce.evaluation import presets

DIGITS = "digits-cce-rm"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """What an evaluation keeps until it ends goes here."""
    monkeypatch.setenv("CCE_STUDIO_HOME", str(tmp_path / "home"))


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_every_command_has_help_with_defaults(capsys):
    for command in ("train", "evaluate", "attack", "models", "data"):
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([command, "--help"])
        assert stop.value.code == 0
        assert "default" in capsys.readouterr().out


def test_unknown_command_is_bad_usage():
    with pytest.raises(SystemExit) as stop:
        main(["dance"])
    assert stop.value.code == 2


def test_models_lists_what_is_released(capsys):
    assert main(["models", "--json"]) == 0
    rows = said(capsys)
    assert {row["id"] for row in rows} == {p.name for p in checkpoints.released()}
    assert all(0 < row["natural_accuracy"] <= 1 for row in rows)


def test_evaluate_measures_and_its_figures_are_those_of_its_subsets(capsys):
    status = main(
        ["evaluate", DIGITS, "--n", "40", "--adaptive", "4", "--attacks", "pgd:3", "--json", "--device", "cpu"]
    )
    assert status == 0
    record = said(capsys)
    assert record["images"] == 40
    row = record["attacks"][0]
    assert row["steps"] == 3 and row["epsilon"] == presets.default_attack("digits").epsilon
    assert sum(row["subsets"].values()) == pytest.approx(1)
    assert row["subsets"]["S11"] <= min(row["member_accuracy"])
    assert {r["name"] for r in record["benign_corruptions"]} >= {"JPEG quality 75"}
    assert record["adaptive"][0]["images"] == 4


def test_evaluate_without_adaptive_attacks_prints_no_detection_figure_alone(capsys):
    assert main(["evaluate", DIGITS, "--n", "20", "--adaptive", "0", "--attacks", "fgsm", "--json"]) == 0
    record = said(capsys)
    assert "adaptive" not in record
    assert "auc" not in record["attacks"][0]


def test_evaluate_again_gives_the_same_figures(capsys):
    arguments = ["evaluate", DIGITS, "--n", "20", "--adaptive", "0", "--attacks", "pgd:3", "--seed", "5", "--json"]
    rows = []
    for _ in range(2):
        main(arguments)
        rows.append([{k: v for k, v in row.items() if k != "seconds"} for row in said(capsys)["attacks"]])
    assert rows[0] == rows[1]


def test_evaluate_write_puts_metrics_and_card_into_the_folder(tmp_path, capsys):
    copy = checkpoints.save(
        checkpoints.load(next(p for p in checkpoints.released() if p.name == DIGITS)), tmp_path / "c"
    )
    assert main(["evaluate", str(copy), "--n", "10", "--adaptive", "2", "--attacks", "bim:2", "--write"]) == 0
    metrics = checkpoints.load(copy).metrics
    assert metrics["images"] == 10
    assert "BIM k=2" in (copy / "README.md").read_text()
    assert "accuracy" in capsys.readouterr().out


def test_attack_writes_a_picture_inside_the_ball(tmp_path, capsys):
    out = tmp_path / "adversarial.png"
    assert main(["attack", DIGITS, "test:3", "--epsilon", "20", "--steps", "5", "--out", str(out), "--json"]) == 0
    result = said(capsys)
    before = load("digits").test.images[3, 0].numpy().astype(int)
    after = np.array(Image.open(out)).astype(int)
    assert after.shape == (16, 16)
    assert abs(after - before).max() == round(255 * result["linf"]) <= 20
    assert len(result["trajectory"]) == 6


def test_attack_reads_a_picture_file(tmp_path, capsys):
    path = tmp_path / "grey.png"
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(path)
    assert main(["attack", DIGITS, str(path), "--label", "7", "--attack", "bim"]) == 0
    assert "BIM" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["evaluate", "no-such-thing"], 1, "released are"),
        (["evaluate", DIGITS, "--attacks", "pgd:many"], 2, "NAME[:STEPS"),
        (["evaluate", DIGITS, "--attacks", "magic"], 2, "attack is 'magic'"),
        (["evaluate", DIGITS, "--n", "0"], 2, "--n is 0"),
        (["attack", DIGITS, "test:999999"], 2, "test:0 to test:"),
        (["attack", DIGITS, "test:0", "--label", "zebra"], 2, "label is 'zebra'"),
        (["attack", DIGITS, "test:0", "--target", "member 9"], 2, "2 members"),
        (["attack", DIGITS, "test:0", "--epsilon", "256"], 2, "epsilon is"),
        (["attack", DIGITS, "nowhere.png"], 1, "nowhere.png"),
        (["attack", DIGITS, "test:0", "--device", "abacus"], 2, "abacus"),
        (["train", "cifar10-cce-xx"], 2, "preset is 'cifar10-cce-xx'"),
        (["train", "digits-cce-rm", "--set", "batch_sise=3"], 2, "batch_sise"),
        (["train", "digits-cce-rm", "--set", "batch_size"], 2, "FIELD=VALUE"),
    ],
)
def test_bad_usage_is_said_in_words(arguments, status, words, capsys):
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_override_reaches_nested_fields_and_checks_them():
    config = override(presets.preset("digits-cce-rm"), ["phases.0.epochs=2.5", "model.members=3", "optimizer=sgd"])
    assert (config.phases[0].epochs, config.model.members, config.optimizer) == (2.5, 3, "sgd")
    with pytest.raises(ConfigError, match="did you mean 8/255"):
        override(config, ["phases.0.attack.epsilon=[8, 8]"])


def test_parse_attack_keeps_the_base_where_nothing_is_said():
    base = AttackConfig("pgd", 0.1, 0.02, 7)
    assert parse_attack("mim", base) == AttackConfig("mim", 0.1, 0.02, 7)
    assert parse_attack("pgd:5:16:1", base) == AttackConfig("pgd", 16 / 255, 1 / 255, 5)


def test_train_from_the_command_line_ends_in_a_checkpoint_that_loads(tmp_path, capsys):
    run = tmp_path / "run"
    settings = ["phases.0.epochs=0.3", "phases.1.epochs=0.3", "evaluate_images=20", "model.members=1"]
    arguments = ["train", "digits-cce-rm", "--run", str(run), "--quiet", *[f"--set={s}" for s in settings]]
    assert main(arguments) == 0
    assert str(run / "checkpoint") in capsys.readouterr().out
    made = checkpoints.load(run / "checkpoint")
    assert made.model.config.members == 1
    assert made.detector is not None and made.detector.images == 180
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def test_models_writes_the_table_of_some_ensembles_with_links_from_where_the_file_is(tmp_path, capsys):
    here = checkpoints.released()[0].parent.parent / "README.md"
    file = tmp_path / "table.md"
    file.write_text("before\n<!-- released:begin -->\n<!-- released:end -->\nafter\n")
    assert main(["models", "--readme", str(file), "--only", "digits-cce-rm", "digits-cce-dm"]) == 0
    lines = file.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and len(lines) == 8
    assert lines[4].startswith("| [digits-cce-rm](") and lines[5].startswith("| [digits-cce-dm](")
    linked = lines[4].partition("](")[2].partition(")")[0]
    assert (tmp_path / linked).resolve() == here.parent / "checkpoints" / "digits-cce-rm" / "README.md"
    assert main(["models", "--only", "nobody"]) == 2
    assert "there is no 'nobody' here; there is " in capsys.readouterr().err
