"""The training service and its figures, on run folders that no trainer wrote."""

import json
import time
import zipfile
from pathlib import Path

import pytest

from app.figures import run_status
from app.figures import training as figures
from app.services import training
from app.services.training import Policy, Training, curves, duration, estimate_words, log_lines, policy, row, title
from cce.checkpoints import folder as checkpoints
from cce.config import to_json
from cce.config.overrides import override
from cce.evaluation.presets import preset
from cce.runs.job import Job, JobError
from cce.runs.queue import Jobs
from cce.training import probe
from cce.training.run_folder import RunFolder

DIGITS = preset("digits-cce-rm")


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setattr(Jobs, "_spawn", lambda self, job: None)
    return Jobs(tmp_path / "runs")


def training_row(step: int, **more) -> dict:
    means = {"loss": 9.0, "natural": 2.0, "direct": 3.0, "promoting": 4.0, "demoting": 0.0, "entropy_clean": 1.0}
    place = {"kind": "training", "step": step, "epoch": step / 10, "phase": "a" if step < 40 else "b"}
    return {**place, **means, "learning_rate": 0.1, "images_per_second": 500.0, **more}


def look(step: int, members: int = 2) -> dict:
    names = [f"S{i:0{members}b}" for i in reversed(range(2**members))]
    shares = {name: 1 / len(names) for name in names}
    found: dict = {"kind": "evaluation", "step": step, "images": 200}
    for kind, accuracy, nats in (("natural", 0.9, 0.3), ("robust", 0.4, 1.1)):
        found |= {f"{kind}_accuracy": accuracy, f"{kind}_member_accuracy": [accuracy - 0.1] * members}
        found |= {f"{kind}_subsets": shares, f"{kind}_entropy": nats}
    return found


@pytest.fixture
def done(jobs: Jobs) -> Job:
    """A run with a hundred logged steps and two looks."""
    folder = RunFolder(jobs.root / "mine")
    folder.create(to_json(DIGITS))
    for step in range(1, 101):
        folder.log_metrics(training_row(step))
        if step % 50 == 0:
            folder.log_metrics(look(step))
    return jobs.get("mine")


def test_training_is_off_on_a_space_unless_its_owner_says_so():
    off = policy({"SPACE_ID": "someone/studio"})
    assert not off.allowed and "CCE_STUDIO_TRAINING to 1" in off.reason and "Duplicate the Space" in off.reason
    on = policy({"SPACE_ID": "someone/studio", "CCE_STUDIO_TRAINING": "1"})
    assert on.allowed and on.most_epochs and on.most_bytes
    assert policy({}) == Policy()
    assert not policy({"CCE_STUDIO_TRAINING": "0"}).allowed


def test_what_is_off_refuses_every_change(jobs: Jobs, done: Job):
    studio = Training(jobs, policy({"SPACE_ID": "x/y"}))
    for change in (
        lambda: studio.start("a", DIGITS, "cpu"),
        lambda: studio.stop("mine"),
        lambda: studio.resume("mine", ""),
        lambda: studio.start_remotely("a", DIGITS, "t4-small", "hf_x"),
        lambda: studio.permit().delete("mine"),
    ):
        with pytest.raises(JobError, match="Training is off on this Space"):
            change()


def test_a_space_that_trains_has_limits(jobs: Jobs, done: Job):
    with pytest.raises(JobError, match="Epochs is 30; on this Space at most 5"):
        Training(jobs, Policy(most_epochs=5)).start("a", DIGITS, "cpu")
    with pytest.raises(JobError, match="delete one first"):
        Training(jobs, Policy(most_bytes=10)).start("a", DIGITS, "cpu")


def test_a_data_set_that_is_not_here_is_said_before_anything_starts(tmp_path: Path):
    studio = Training(Jobs(tmp_path / "runs", tmp_path / "nothing"), Policy())
    with pytest.raises(JobError, match="CIFAR-10 is not on this machine yet"):
        studio.start("a", preset("cifar10-resnet20-cce-rm-fast"), "cpu")
    assert studio.jobs.all() == []


def test_curves_have_a_point_a_row(done: Job):
    found = curves(done)
    assert found["training"]["epoch"] == [step / 10 for step in range(1, 101)]
    assert found["evaluation"]["epoch"] == pytest.approx([5, 10])
    assert found["evaluation"]["robust_accuracy"] == [0.4, 0.4]
    assert row(done)["natural_accuracy"] == 0.9
    json.dumps(training.detail(done))


def test_long_curves_are_thinned_and_keep_their_ends(done: Job, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "MOST_POINTS", 7)
    epochs = curves(done)["training"]["epoch"]
    assert len(epochs) == 7 and (epochs[0], epochs[-1]) == (0.1, 10.0)


def test_new_rows_are_seen(done: Job):
    before = len(curves(done)["training"]["step"])
    time.sleep(0.01)
    done.folder.log_metrics(training_row(101))
    assert len(curves(done)["training"]["step"]) == before + 1


def test_the_log_has_no_traceback_and_no_folder_of_this_machine(done: Job):
    (done.folder.path / "log.txt").write_text(
        "before\nTraceback (most recent call last):\n  File x, line 1\n    y()\nRunError: no room\n"
        f"cce train: wrote {done.folder.path}/checkpoint\n"
    )
    assert log_lines(done) == ["before", "RunError: no room", "cce train: wrote runs/mine/checkpoint"]


def test_titles_tell_state_and_figures(jobs: Jobs, done: Job):
    assert title(done).startswith("mine · stopped") and "natural 90.0 %, robust 40.0 %" in title(done)
    jobs.start("next", DIGITS)
    assert title(jobs.get("next")) == "next · next in line"


def test_stamp_changes_with_the_files(jobs: Jobs, done: Job):
    before = training.stamp(jobs.all())
    assert training.stamp(jobs.all()) == before
    time.sleep(0.01)
    done.folder.log_metrics(training_row(102))
    assert training.stamp(jobs.all()) != before


def test_zip_holds_the_ensemble(done: Job, jobs: Jobs, tmp_path: Path):
    with pytest.raises(JobError, match="has no ensemble yet"):
        training.zipped(done, tmp_path)
    ships = next(p for p in checkpoints.released() if p.name == "digits-cce-rm")
    checkpoints.save(checkpoints.load(ships), done.folder.checkpoint)
    path = training.zipped(jobs.get("mine"), tmp_path / "out")
    zipfile.ZipFile(path).extractall(tmp_path)
    assert checkpoints.load(tmp_path / "mine").model


def test_the_probe_says_time_and_memory():
    config = override(DIGITS, ["model.members=1", "batch_size=16", "phases.1.attack.steps=[1, 1]", "train_images=160"])
    import torch

    said = probe.estimate(config, torch.device("cpu"), seconds=0.1)
    assert said["steps"] == 300 and said["seconds"] > 0 and said["memory_bytes"] > 10**7
    words = estimate_words({"seconds": 400.0, "images_per_second": 1234.0, "memory_bytes": 2.5e9}, True)
    assert words.startswith("About 7 min (1,234 images/s) and 2.5 GB of memory.") and "slows the probe" in words


def test_durations_are_short():
    assert [duration(s) for s in (5, 90, 3600, 200_000)] == ["5 s", "2 min", "1 h 0 min", "2 d 7 h"]


# Figures

DRAWN = (figures.losses, figures.accuracies, figures.flow, figures.entropies, figures.speed)


@pytest.mark.parametrize("draw", DRAWN)
def test_every_figure_speaks(done: Job, draw):
    value = draw(curves(done), "mine")
    assert value["data"] and value["layout"]["uirevision"] == "mine"
    assert value["description"].endswith(".") and "Nothing" not in value["description"]


@pytest.mark.parametrize("draw", DRAWN)
def test_before_the_first_row_there_are_words(draw):
    assert draw({})["description"] == "Nothing to draw yet."
    assert draw({"training": {"epoch": []}, "evaluation": {"epoch": []}})["description"] == "Nothing to draw yet."


def test_the_flow_adds_up_to_one_for_any_number_of_members():
    for members, count in ((1, 2), (2, 4), (3, 4)):
        points = {k: [v] for k, v in look(1, members).items()} | {"epoch": [1.0]}
        value = figures.flow({"evaluation": points})
        assert len(value["data"]) == count
        assert sum(trace["y"][0] for trace in value["data"]) == pytest.approx(1)


def test_several_runs_in_one_figure(done: Job):
    both = {"one": curves(done), "two": curves(done)}
    for measure in figures.COMPARED:
        value = figures.compare(both, measure)
        assert [trace["name"] for trace in value["data"]] == ["one", "two"]
    assert figures.compare({}, "loss")["description"] == "Nothing to draw yet."


def test_names_and_errors_are_escaped():
    html = run_status.panel("<b>", "<i>", "failed", 0.5, [("<u>", "<s>")], "<p>")
    assert not any(f"<{tag}>" in html.replace("<b>&lt;b&gt;</b>", "") for tag in ("u", "s"))
    assert "&lt;p&gt;" in html and "&lt;" in run_status.log(["<script>"])
