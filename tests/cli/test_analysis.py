"""`detect`, `transfer`, `surface` and `reproduce` from the command line, on the bundled digits."""

import json

import pytest
from PIL import Image

from cce.__main__ import build_parser, main
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.checkpoints.measurements import MEASUREMENTS
from cce.config import CCE_DM, SCORES
from cce.evaluation.detection import report_from_json
from cce.paper.bench import Bench


@pytest.fixture
def folder(trained, digits, tmp_path):
    """A small ensemble of two on 8 x 8 digits, as a checkpoint folder."""
    made = Checkpoint("tiny", trained(2), "digits", digits.classes, CCE_DM, {})
    return checkpoints.save(made, tmp_path / "tiny")


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", ["detect", "transfer", "surface", "reproduce"])
def test_help_states_units_and_defaults(command, capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "default" in text and ("1/255" in text or command == "reproduce")


def test_detect_prints_writes_and_draws_all_three_columns(folder, tmp_path, capsys):
    out = tmp_path / "roc.html"
    arguments = ["detect", str(folder), "--n", "6", "--adaptive", "1", "--attacks", "fgsm", "--write"]
    arguments += ["--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    record = said(capsys)
    assert set(record["scores"]) == set(SCORES)
    rows = record["scores"]["entropy"]
    assert [r["kind"] for r in rows] == ["clean", "attack", *["adaptive"] * 4, *["benign"] * 8]
    assert all("auc" in r and "flagged" in r for r in rows[1:])
    assert set(record["roc"]) == {"attack", "adaptive", "benign"}
    assert "detector-aware attacks" in out.read_text()
    kept = json.loads((folder / MEASUREMENTS / "detection.json").read_text())
    again = report_from_json(kept["report"])
    assert again.rows()[1]["auc"] == pytest.approx(rows[1]["auc"])
    bench = Bench([checkpoints.load(folder)], None, 0, 0, 1, 0)  # n = 0: what ships is all there is
    assert len(bench.detection(bench.checkpoints[0], [], 0.1).clean) == 6


def test_detect_reads_what_was_measured_at_release(tmp_path, capsys):
    out = tmp_path / "curve.png"
    words = ["detect", "digits-cce-dm", "--n", "0"]
    assert main([*words, "--figure", "curve", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "disagreement: with 10.0 % of clean images flagged, 100.0 % are wrong and unflagged" in shown
    assert Image.open(out).size[0] >= 1000
    assert main([*words, "--json"]) == 0
    curve = said(capsys)["curves"]["entropy"]
    assert curve["images"] == 360 and len(curve["clean_flagged"]) == len(curve["wrong_and_unflagged"]) > 10
    assert curve["at_10_percent"]["clean_flagged"] <= 0.1 and curve["calibrated"]["missed"] > 0


def test_detect_says_where_nothing_was_measured_at_release(folder, capsys):
    assert main(["detect", str(folder), "--n", "0"]) == 2
    assert "no detection was measured at the release of tiny; leave out --n 0 to measure it" in capsys.readouterr().err
    assert main(["detect", "digits-cce-dm", "--n", "0", "--write"]) == 2
    assert "--write keeps what is measured" in capsys.readouterr().err


def test_transfer_of_one_and_between_two(folder, tmp_path, capsys):
    out = tmp_path / "a.png"
    arguments = ["transfer", str(folder), "--n", "6", "--attack", "pgd:2", "--write", "--out", str(out)]
    assert main(arguments) == 0
    assert "nT" in capsys.readouterr().out
    assert Image.open(out).format == "PNG"
    kept = json.loads((folder / MEASUREMENTS / "transferability.json").read_text())
    assert kept["n"] == 6 and kept["transferability"]["attack"]["steps"] == 2
    other = checkpoints.load(folder)
    other.id = "other"
    second = checkpoints.save(other, tmp_path / "other")
    assert main(["transfer", str(folder), str(second), "--n", "6", "--attack", "pgd:2", "--json", "--write"]) == 0
    a = said(capsys)["transferability"]["a"]
    assert a[0] == a[1] and a[0][0] == a[0][1]  # twins
    for place in (folder, second):
        (record,) = json.loads((place / MEASUREMENTS / "black-box.json").read_text())["records"]
        assert record["black_box"]["a"] == a and record["n"] == 6


def test_surface_draws_and_prints(tmp_path, capsys):
    released = [p.name for p in checkpoints.released() if p.name.startswith("digits")]
    if not released:
        pytest.skip("no digits ensemble is bundled")
    out = tmp_path / "s.png"
    arguments = ["surface", released[0], "test:1", "--steps", "2", "--resolution", "5", "--extent", "10"]
    arguments += ["--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    values = said(capsys)
    assert values["offsets"] == [-10, -5, 0, 5, 10] and list(values["views"])[-1] == "en"
    assert Image.open(out).size[0] == 2000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detect", "F", "--adaptive", "0"], "adaptive is 0"),
        (["detect", "F", "--n", "-1"], "--n is -1"),
        (["detect", "F", "--out", "x.jpg"], "must end in .html or .png"),
        (["detect", "F", "--rate", "200"], "--rate is 200"),
        (["transfer", "F", "F"], "named twice"),
        (["transfer", "F", "--attack", "magic"], "attack is 'magic'"),
        (["surface", "F", "test:0", "--out", "x.txt"], "must end in .html or .png"),
        (["reproduce", "table2"], "not in the paper"),
        (["reproduce", "table3", "--out", "x.pdf"], "must end in .html"),
        (["reproduce", "table3", "--checkpoints", "/nowhere"], "holds none"),
    ],
)
def test_bad_usage_is_said_in_words(arguments, words, folder, capsys):
    assert main([str(folder) if a == "F" else a for a in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
