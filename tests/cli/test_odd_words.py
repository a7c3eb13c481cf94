"""Odd words on the command line end with 2, in words, before the work."""

import pytest
from PIL import Image

from cce.__main__ import main
from cce.checkpoints import folder as checkpoints
from cce.data import datasets as data

HUGE = "99999999999999999999"


@pytest.fixture
def no_work(monkeypatch):
    """Nothing may be attacked."""
    monkeypatch.setattr("cce.evaluation.one_picture.attack_picture", lambda *a, **k: pytest.fail("attacked"))


def status(words):
    try:
        return main(words)
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["test:0", "--label", "²"], "label is '²'"),
        (["test:²"], "picture is 'test:²'"),
        (["test:" + HUGE], "picture is 'test:"),
        (["test:0", "--seed", HUGE], "is no whole number from 0 to 4294967295"),
        (["test:0", "--seed", "-1"], "is no whole number from 0"),
        (["test:0", "--threads", "-1"], "'-1' is no whole number from 0 to 1024"),
        (["test:0", "--threads", HUGE], "is no whole number from 0 to 1024"),
        (["test:0", "--out", "a.jpg"], "must end in .png"),
        (["test:0", "--out", "missing/a.png"], "there is no folder missing"),
    ],
)
def test_an_odd_word_is_refused_before_the_attack(more, words, tiny_checkpoints, capsys, no_work, here):
    assert status(["attack", str(tiny_checkpoints / "tiny-two"), *more]) == 2
    assert words in capsys.readouterr().err
    assert not list(here.glob("a.*"))


@pytest.mark.parametrize("out", ["a.jpg", "missing/a.png", "missing/a.html"])
def test_a_figure_that_cannot_be_written_is_refused_first(out, tiny_checkpoints, capsys, no_work, here):
    assert status(["surface", str(tiny_checkpoints / "tiny-two"), "test:0", "--out", out]) == 2
    assert "--out is" in capsys.readouterr().err


def test_a_huge_seed_in_a_config_is_refused(capsys, tmp_path):
    words = ["train", "digits-quick", "--set", f"seed={HUGE}", "--run", str(tmp_path / "run")]
    assert status(words) == 2
    assert "seed is 99999999999999999999" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["my run", "naïve", ".hidden", "x" * 61])
def test_a_run_that_the_studio_would_not_list_is_refused(name, here, capsys):
    assert status(["train", "digits-quick", "--run", f"runs/{name}", "--quiet"]) == 2
    assert "the Studio lists no run of that name" in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_a_test_picture_that_ships_needs_no_download(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "download", lambda *a, **k: pytest.fail("asked for a download"))
    name = next(p.name for p in checkpoints.released() if p.name.startswith("cifar10"))
    words = ["attack", name, "test:19", "--steps", "1", "--data", str(tmp_path), "--out", str(tmp_path / "a.png")]
    assert main([*words, "--threads", "1"]) == 0
    assert Image.open(tmp_path / "a.png").size == (32, 32)
