"""Odd command lines, in this process: done, or exit status 1 or 2 with words that begin with the command.

Each is a command line that works, with a few of its words changed. Training itself and downloads are left out.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

from cce.__main__ import build_parser, main
from cce.data import datasets
from cce.data.pictures import to_png
from cce.training import trainer
from fuzzing import ODD_WORDS, SEEDS, bounded, fuzz, plain
from tiny_runs import write_stopped_run

SMALL = ["--threads", "1"]
USUAL = [
    ["attack", "tiny-two", "test:0", "--steps", "1", "--epsilon", "8", *SMALL],
    ["attack", "tiny-two", "a.png", "--label", "3", "--target", "member 1", "--steps", "1", "--crop", "20"],
    ["surface", "tiny-two", "test:0", "--steps", "1", "--extent", "16", "--out", "s.html", "--resolution", "3"],
    ["evaluate", "tiny-two", "--attacks", "pgd:1", "--seed", "0", "--write", "--n", "2", "--adaptive", "0"],
    ["detect", "tiny-two", "--attacks", "fgsm", "--rate", "5", "--score", "entropy", "--n", "2", "--adaptive", "1"],
    ["transfer", "tiny-two", "tiny-three", "--attack", "fgsm", "--json", "--n", "2"],
    ["compare", "tiny-two", "tiny-three", "--attack", "fgsm", "--n", "2"],
    ["reproduce", "table3", "--checkpoints", "here", "--out", "r.html", "--steps", "1", "--adaptive", "1", "--n", "0"],
    ["models", "--checkpoints", "here", "--json"],
    ["data", "mnist", "--data", "data"],
    ["push", "tiny-two", "owner/name", "--public"],
    ["pull", "owner/name", "pulled", "--revision", "main"],
    ["train", "digits-quick", "--run", "runs/one", "--set", "phases.0.epochs=1", "--members", "2", "--quiet"],
    ["train", "--config", "config.json", "--run", "runs/two", "--lambda-dm", "2", "--seed", "3", "--quiet"],
    ["train", "digits-quick", "--data-dir", "pets", "--name", "pets", "--skip-bad", "--quiet"],
    ["train", "--run", "runs/stopped", "--weights", "float16", "--device", "cpu", "--quiet"],
    ["train", "--list"],
]  # fmt: skip
COSTLY = ("--n", "--images", "--adaptive", "--steps", "--resolution", "--slow", "--sanity")
"""Options that say how much work is done: only few of their values are drawn, and none is left out."""

FEW = ("0", "1", "2", "-1", "nan", "x", "")
FLAGS = sorted(
    {
        flag
        for parser in build_parser()._subparsers._group_actions[0].choices.values()  # type: ignore[union-attr]
        for action in parser._actions
        for flag in action.option_strings
        if flag not in ("--estimate", "--next", *COSTLY)
    }
)
LIKELY = (
    *("tiny-two", "tiny-three", "here", "config.json", "a.png", "pets", "runs/stopped", "empty", "missing", "test:3"),
    *("pgd:1", "fgsm,bim:1", "pgd:1:8:2:norm=l2", "apgd-t:1", "pgd:restarts=2:toward=3", "l2", "hard", "all", "table3"),
)
WORDS = st.one_of(
    st.sampled_from(LIKELY),
    st.sampled_from(FLAGS),
    st.sampled_from(ODD_WORDS),
    st.text(max_size=12).filter(lambda word: "/" not in word and ".." not in word and "~" not in word),
)
CHANGES = st.lists(st.tuples(st.sampled_from(["put in", "changed", "removed", "doubled"]), WORDS), max_size=3)


@pytest.fixture
def place(tiny_checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the command lines name, to stand in; no network, no training, no more threads."""
    for name in ("tiny-two", "tiny-three"):
        shutil.copytree(tiny_checkpoints / name, tmp_path / name)
        shutil.copytree(tiny_checkpoints / name, tmp_path / "here" / name)
    (tmp_path / "a.png").write_bytes(to_png(torch.rand(3, 8, 12)))
    (tmp_path / "empty").mkdir()
    for kind in ("cat", "dog"):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for i in range(12):
            (tmp_path / "pets" / kind / f"{i}.png").write_bytes(to_png(torch.rand(1, 8, 8)))
    write_stopped_run(tmp_path / "runs" / "stopped", tiny_checkpoints / "tiny-two")
    shutil.copy(tmp_path / "runs" / "stopped" / "config.json", tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    def trained(*_: object, **__: object) -> None:
        raise trainer.TrainingError("nothing is trained in this test")

    monkeypatch.setattr(datasets, "fetch", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(trainer, "run", trained)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setenv("CCE_STUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(words: list[str]) -> tuple[object, str]:
    """The exit status, and what went to standard error, where Python writes half a character by its number."""
    told = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    with contextlib.redirect_stderr(told):
        try:
            code: object = main(words)
        except SystemExit as stop:
            code = stop.code
    told.flush()
    return code, told.buffer.getvalue().decode()  # type: ignore[attr-defined]


def changed(words: list[str], changes: list[tuple[str, str]], chance: random.Random) -> list[str]:
    """A command line with some of its words changed; none of those that say how much work is done."""
    words = list(words)
    for how, word in changes:
        at = chance.randrange(1, len(words))
        costly = words[at - 1] in COSTLY
        if words[at] in COSTLY:
            continue
        if costly and how != "put in":
            words[at] = chance.choice(FEW)
        elif how == "removed":
            del words[at]
        elif how == "put in" and not costly:
            words.insert(at, word)
        elif how == "doubled":
            words.append(words[at])
        else:
            words[at] = word
        if len(words) < 2:
            break
    return words


def test_every_usual_line_is_understood(place: Path):
    refused = {"data": 1, "push": 1, "pull": 1, "train": 1}  # what needs a network, and what is not trained here
    for words in USUAL:
        expected = 0 if words[-1] == "--list" else refused.get(words[0], 0)
        code, told = status(words)
        assert code == expected, (words, told)


@fuzz(words=st.sampled_from(USUAL), changes=CHANGES, seed=SEEDS)
def test_odd_command_lines(place: Path, words: list[str], changes: list[tuple[str, str]], seed: int):
    words = changed(words, changes, random.Random(seed))
    with bounded():
        code, told = status(words)
    assert code in (0, 1, 2), words
    assert "Traceback" not in told and "hf_secret" not in told, words
    if code:
        plain(told[-1500:])
        assert "cce" in told, words
