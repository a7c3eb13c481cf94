"""Bad input to `evaluate` and `attack`, and to the engine behind them: words and an exit status, no traceback."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cce.__main__ import main
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.config import CCE_DM, AttackConfig, ConfigError, Detector
from cce.evaluation.evaluate import measure
from cce.evaluation.one_picture import classify
from cce.evaluation.outcomes import outcome
from cce.evaluation.transferability import transferability


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CCE_STUDIO_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(trained, digits, tmp_path):
    made = Checkpoint("tiny", trained(2), "digits", digits.classes, CCE_DM, {}, Detector(1.0, 0.05, "numbers", 9))
    return checkpoints.save(made, tmp_path / "tiny")


@pytest.mark.parametrize("command", [["evaluate", "--n", "2", "--adaptive", "0"], ["attack", "test:0"]])
def test_nan_weights_end_the_command_in_words(command, folder, capsys):
    weights = load_file(folder / "model.safetensors")
    weights["members.1.head.weight"][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors")
    assert main([command[0], str(folder), *command[1:]]) == 1
    error = capsys.readouterr().err
    assert "members.1.head.weight holds values that are not finite; fetch the checkpoint again" in error
    assert error.startswith(f"cce {command[0]}: ") and "Traceback" not in error


@pytest.mark.parametrize(
    "command",
    [
        ["attack", "test:0"],
        ["attack", "test:0", "--json"],
        ["evaluate", "--n", "2", "--adaptive", "0", "--json"],
        ["detect", "--n", "4", "--json"],
        ["transfer", "--n", "4", "--json"],
        ["surface", "test:0", "--resolution", "3", "--json"],
    ],
    ids=" ".join,
)
def test_finite_weights_with_outputs_that_are_not_end_the_command_in_words(command, folder, capsys):
    """A negative variance is enough: it is finite, and its root is not."""
    weights = load_file(folder / "model.safetensors")
    weights["members.1.stem.norm.running_var"][0] = -1
    save_file(weights, folder / "model.safetensors")
    assert main([command[0], str(folder), *command[1:]]) == 1
    shown = capsys.readouterr()
    assert "not finite" in shown.err and "Traceback" not in shown.err
    assert not shown.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["evaluate", "--attacks", "pgd:20:2040"],
            "epsilon is 8; it is in pixel units from 0 to 1, did you mean 8/255?",
        ),
        (
            ["evaluate", "--attacks", "autoattack:20:2040"],
            "epsilon is 8; it is in pixel units from 0 to 1, did you mean 8/255?",
        ),
        (["evaluate", "--attacks", "pgd:20:-1"], "epsilon is -0.0039"),
        (["evaluate", "--attacks", "pgd:20:nan"], "epsilon is nan"),
        (
            ["attack", "test:0", "--epsilon", "2040"],
            "epsilon is 8; it is in pixel units from 0 to 1, did you mean 8/255?",
        ),
        (["attack", "test:0", "--epsilon", "2040", "--norm", "l2"], "epsilon is 8; it is an L2 length"),
        (["attack", "test:0", "--label", "10"], "label is '10'; it is auto, 0 to 9, or one of 0, 1, 2"),
        (["attack", "test:0", "--label", "-1"], "label is '-1'; it is auto, 0 to 9"),
        (["attack", "test:0", "--toward", "10"], "toward is '10'; it is 0 to 9"),
    ],
)
def test_settings_out_of_range_are_bad_usage(arguments, words, folder, capsys):
    assert main([arguments[0], str(folder), *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("labels", r"y_test"),
        ("pixels", r"x_test"),
    ],
)
@pytest.mark.parametrize("command", [["evaluate", "--n", "2", "--adaptive", "0"], ["attack", "test:0"]])
def test_a_data_file_with_labels_or_pixels_out_of_range(command, fault, words, tmp_path, capsys):
    """A file with 300 for a label, or with pixels that are no uint8, is named with its field."""
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.integers(0, 256, (20, 32, 32, 3), np.uint8) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(20, dtype=np.uint8) % 10 for part in ("train", "test")}
    if fault == "labels":
        arrays["y_test"][3] = 30
    else:
        arrays["x_test"] = arrays["x_test"] * 1.5
    np.savez(tmp_path / "cifar10.npz", **arrays)
    assert main([command[0], "cifar10-resnet20-cce-rm", *command[1:], "--data", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert words in error and "cifar10.npz" in error and "Traceback" not in error


def test_a_real_process_shows_no_traceback(folder):
    words = [sys.executable, "-m", "cce", "attack", str(folder), "test:0", "--epsilon", "2040"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "did you mean 8/255?" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x, y: (x, y + 10), "labels range from .* they must be from 0 to 9"),
        (lambda x, y: (x * 255, y), "images range from 0 to 255; pixels must be in"),
        (lambda x, y: (x * math.nan, y), "images range from nan to nan"),
        (lambda x, y: (x, y[:2]), r"labels have the shape \(2,\); it must be \(4,\)"),
    ],
)
@pytest.mark.parametrize("attacks", [[], [AttackConfig("pgd", 0.1, 0.05, 2)]])
def test_the_engine_refuses_what_no_figure_should_be_made_from(spoil, words, attacks, trained, digits):
    made = Checkpoint("t", trained(2), "digits", digits.classes, CCE_DM, {})
    x, labels = spoil(digits.test.pixels()[:4], digits.test.labels[:4])
    with pytest.raises(ConfigError, match=words):
        measure(made, x, labels, attacks)


def test_no_verdict_is_given_of_outputs_that_are_not_finite(trained, digits):
    """The guard behind the door: an ensemble that came another way."""
    made = Checkpoint("t", trained(2), "digits", digits.classes, CCE_DM, {}, Detector(1.0, 0.05, "numbers", 9))
    made.model.members[1].stem.norm.running_var[0] = -1
    pixels = digits.test.pixels()
    for verdict in (
        lambda: classify(made, pixels[0]),
        lambda: measure(made, pixels[:4], digits.test.labels[:4], []),
        lambda: outcome(made.model, pixels[:4], digits.test.labels[:4]),
        lambda: transferability(made.model, pixels[:4], digits.test.labels[:4], AttackConfig("pgd", 0.1, 0.05, 1)),
    ):
        with pytest.raises(ConfigError, match="the outputs of f2 are not finite|weights .* hold NaN"):
            verdict()


def test_the_engine_refuses_nan_weights(trained, digits):
    made = Checkpoint("t", trained(2), "digits", digits.classes, CCE_DM, {})
    with torch.no_grad():
        made.model.members[0].head.bias[0] = math.nan
    with pytest.raises(ConfigError, match="the outputs of f1 are not finite numbers"):
        measure(made, digits.test.pixels()[:4], digits.test.labels[:4], [])
