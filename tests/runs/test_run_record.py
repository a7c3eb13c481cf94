"""Run folders whose files are of another shape: left out and named, and all else goes on."""

import json
from pathlib import Path

import pytest

from app.figures import run_status
from app.figures import training as figures
from app.services import training
from app.services.training import Training, curves, row
from cce.config import to_json
from cce.config.json_files import JsonError, NotJson, parse_json, read_json
from cce.evaluation.presets import preset
from cce.runs.job import JobError
from cce.runs.queue import Jobs
from cce.training.run_folder import RunFolder

CONFIG = to_json(preset("digits-cce-rm"))


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """A good run, and one to be damaged."""
    made = Jobs(tmp_path / "runs")
    for name in ("good", "bad"):
        RunFolder(made.root / name).create(CONFIG)
    monkeypatch.setattr("cce.runs.queue.spawn", lambda command, log: 1)
    return made


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("job.json", '{"remote": "x"}', "job.json: remote is 'x'; it must be an object"),
        ("job.json", '{"created": "yesterday"}', "job.json: created is 'yesterday'; it must be a number"),
        ("job.json", '{"state": "waiting", "asked_at": [1]}', "asked_at is [1]; it must be a number"),
        ("job.json", '{"stop_asked": "soon"}', "stop_asked is 'soon'"),
        ("job.json", '{"created": 1e999}', "created is inf"),
        ("job.json", '{"pid": %s}' % ("9" * 5000), "pid is inf"),
        ("job.json", '{"command": "rm"}', "command is 'rm'; it must be a list"),
        ("job.json", "[" * 3000 + "]" * 3000, "job.json: it is nested more than 32 deep"),
        ("job.json", '{"error": "\\ud800"}', "half a character"),
        ("status.json", '{"pid": -4}', "status.json: pid is -4"),
        ("status.json", '{"state": "dancing"}', "state is 'dancing'; it must be one of queued"),
        ("status.json", '{"error": null}', "error is None; it must be text"),
        ("status.json", '{"total_steps": 0.5}', "total_steps is 0.5"),
    ],
)
def test_a_folder_of_another_shape_is_left_out_and_named(jobs: Jobs, file: str, content: str, words: str):
    (jobs.root / "bad" / file).write_text(content)
    found, left_out = jobs.look()
    assert [job.name for job in found] == ["good"]
    assert list(left_out) == ["bad"] and words in left_out["bad"]
    assert [row(job)["id"] for job in jobs.all()] == ["good"]
    assert jobs.checkpoints() == [] and list(Training(jobs).bases()) == ["good"]
    jobs.tend()
    with pytest.raises(JobError, match="the run bad cannot be read"):
        jobs.get("bad")
    shown = run_status.left_out(training.left_out(jobs))
    assert "<b>bad</b>" in shown and str(jobs.root) not in shown


def test_the_line_is_tended_past_a_damaged_run(jobs: Jobs):
    (jobs.root / "bad" / "job.json").write_text('{"stop_asked": "soon"}')
    (jobs.root / "good" / "job.json").write_text('{"state": "waiting", "asked_at": 1}')
    jobs.tend()
    assert json.loads((jobs.root / "good" / "job.json").read_text())["state"] == "started"


def test_what_nobody_foresaw_in_one_folder_leaves_the_others(jobs: Jobs, monkeypatch: pytest.MonkeyPatch):
    from cce.runs import queue as module

    def read(path: Path, there=module.read_job):
        if path.name == "bad":
            raise ZeroDivisionError
        return there(path)

    monkeypatch.setattr(module, "read_job", read)
    found, left_out = jobs.look()
    assert [job.name for job in found] == ["good"] and left_out == {"bad": "it cannot be read (ZeroDivisionError)"}


@pytest.mark.parametrize("text", ['"resnet%s"' % ("9" * 5000), "[1e999]", "[" * 3000 + "]" * 3000, "null"])
def test_a_config_of_any_content_leaves_the_page(jobs: Jobs, text: str):
    content = json.dumps(CONFIG).replace('"resnet8"', text) if text.startswith('"') else text
    (jobs.root / "bad" / "config.json").write_text(content)
    assert {r["id"] for r in map(row, jobs.all())} == {"good", "bad"}
    assert list(Training(jobs).bases()) == ["good"]


def look(step: int, members: int = 2) -> dict:
    found: dict = {"kind": "evaluation", "step": step}
    for kind in ("natural", "robust"):
        found |= {f"{kind}_accuracy": 0.5, f"{kind}_member_accuracy": [0.5] * members, f"{kind}_entropy": 1.0}
        found |= {f"{kind}_subsets": {"S" + "1" * members: 1.0}}
    return found


BAD_LINES = [
    '{"kind": "training", "step": 0, "epoch": 1}',
    '{"kind": "training", "step": 4, "epoch": "x"}',
    '{"kind": "training", "step": 4, "epoch": 1, "loss": [1]}',
    '{"kind": "evaluation", "step": 4}',
    json.dumps(look(4) | {"robust_member_accuracy": [0.5]}),
    json.dumps(look(4) | {"robust_subsets": {"S1": 1.0}}),
    json.dumps(look(4, members=3)),
    '{"kind": ["training"]}',
    "[1]",
    "{",
    "[" * 3000 + "]" * 3000,
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_wrong_line_of_figures_is_left_out_and_told(jobs: Jobs, line: str):
    good = [look(1), {"kind": "training", "step": 2, "epoch": 0.5, "loss": 2.0}, look(3)]
    lines = [json.dumps(one) for one in good]
    (jobs.root / "good" / "metrics.jsonl").write_text("\n".join([*lines[:2], line, lines[2], '{"step": ']))
    job = jobs.get("good")
    assert RunFolder(job.folder.path).metrics() == good
    said = curves(job)
    assert said["evaluation"]["step"] == [1, 3] and said["training"]["loss"] == [2.0]
    for draw in (figures.losses, figures.accuracies, figures.flow, figures.entropies, figures.speed):
        draw(said, "good")
    figures.numbers(said)
    assert training.left_out_lines(job).startswith("1 line of its figures cannot be used and is left out: line 3")


def test_figures_that_are_not_utf8_or_no_file(jobs: Jobs):
    path = jobs.root / "good" / "metrics.jsonl"
    path.write_bytes(b"\xff\xfe\n" + json.dumps(look(1)).encode() + b"\n")
    assert [r["step"] for r in RunFolder(path.parent).metrics()] == [1]
    path.unlink()
    path.mkdir()
    assert RunFolder(path.parent).read_metrics()[0] == []
    assert row(jobs.get("good"))["natural_accuracy"] is None


def test_json_from_others(tmp_path: Path):
    assert parse_json("[1e999]") == [float("inf")]
    with pytest.raises(JsonError, match="not finite"):
        parse_json("[1e999]", finite=True)
    with pytest.raises(NotJson):
        parse_json(b"\xff")
    with pytest.raises(JsonError, match="not a file|directory"):
        read_json(tmp_path)


def test_deleting_a_link_leaves_nothing_behind_and_what_it_points_to(jobs: Jobs, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    RunFolder(elsewhere).create(CONFIG)
    (jobs.root / "linked").symlink_to(elsewhere)
    jobs.delete("linked")
    assert sorted(p.name for p in jobs.root.iterdir()) == [".lock", "bad", "good"]
    assert (elsewhere / "config.json").exists()
