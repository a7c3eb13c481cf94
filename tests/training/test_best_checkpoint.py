"""The best state of a run: the images that chose it, and that no figure of it is measured on these."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from cce.__main__ import main
from cce.checkpoints.folder import Checkpoint, common_test_split, load, save
from cce.config import CCE_DM, to_json
from cce.data import class_folders
from cce.data.datasets import DataError, Selection, Split
from cce.paper.bench import Bench
from cce.training import trainer as training
from cce.training.monitoring import monitoring_split
from cce.training.run_folder import RunFolder
from tiny_runs import tiny_config


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    """A finished run of the digits, watched on as many images as there may be, whose first look stood highest."""
    monkeypatch.setattr(training, "standing", lambda row, defense: -row["step"])
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(to_json(tiny_config(evaluate_images=10_000))))
    assert main(["train", "--config", str(config), "--run", str(tmp_path / "run"), "--quiet"]) == 0
    return RunFolder(tmp_path / "run")


def test_the_best_checkpoint_is_evaluated_on_images_that_did_not_choose_it(run, digits, capsys):
    watched = {row["images"] for row in run.metrics() if row["kind"] == "evaluation"}
    assert watched == {180}  # half of the 360 test images
    best, last = load(run.best_checkpoint), load(run.checkpoint)
    assert best.selected_on == Selection(1797 - 180, 1797) and last.selected_on is None
    assert "Chosen among the states of its run on 180 test images" in (run.best_checkpoint / "README.md").read_text()
    for checkpoint, expected in ((best, 180), (last, 360)):
        left = checkpoint.test_split(digits.detection_test)
        assert len(left) == expected and torch.equal(left.images, digits.test.images[:expected])
        capsys.readouterr()
        words = [str(checkpoint.folder), "--n", "1000", "--adaptive", "0", "--attacks", "fgsm:1:0", "--json"]
        assert main(["evaluate", *words]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["images"] == expected
        right = (checkpoint.model(left.pixels()).argmax(1) == left.labels).float().mean().item()
        assert record["natural"]["accuracy"] == pytest.approx(right)
    assert main(["transfer", str(best.folder), str(last.folder), "--n", "1000", "--attack", "fgsm:1:0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 180
    assert main(["detect", str(best.folder), "--n", "1000", "--attacks", "fgsm:1:0", "--adaptive", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 180
    images, _ = Bench([best, last], None, n=1000, steps=1, adaptive=1, seed=0).images(last)
    assert len(images) == 180


def test_a_run_that_chose_on_more_images_chooses_anew_when_it_goes_on(run, trainer):
    made = trainer(evaluate_images=10_000)
    made.folder = run
    assert made.restore() and made.best is not None
    rows = [row | ({"images": 200} if row["kind"] == "evaluation" else {}) for row in run.metrics()]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert made.restore() and made.best is None


def test_pictures_of_a_folder_are_known_by_their_content(tmp_path, trained):
    for i in range(120):
        place = tmp_path / "pets" / ("cat" if i % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 40 + i).save(place / f"{i}.png")
    dataset = class_folders.load(tmp_path / "pets", (1, 8, 8))
    watched = monitoring_split(dataset, 10_000)
    assert len(watched) == len(dataset.detection_test) // 2 and not set(watched.keys) & set(dataset.calibration.keys)
    made = Checkpoint("pets", trained(2), "pets", ("cat", "dog"), CCE_DM, {}, pictures=dataset.record)
    made = replace(made, selected_on=watched.selection())
    assert made.selected_on.count == len(watched)
    more = dataset.detection_test.first(4)
    shuffled = Split(
        torch.cat([watched.images, more.images]), torch.cat([watched.labels, more.labels]), 0, watched.keys + more.keys
    )
    left = made.test_split(shuffled)
    assert left.keys == more.keys and torch.equal(left.images, more.images)


def test_which_images_chose_it_goes_with_the_folder(tmp_path, trained, digits):
    made = Checkpoint("tiny", trained(2), "digits", digits.classes, CCE_DM, {})
    for i, chosen in enumerate((None, Selection(3, 9), Selection(keys=("ab", "cd")))):
        save(replace(made, selected_on=chosen), tmp_path / str(i))
        assert load(tmp_path / str(i)).selected_on == chosen
    assert "selected_on" not in json.loads((tmp_path / "0" / "config.json").read_text())


def test_what_is_left_of_a_split():
    split = Split(torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8), torch.arange(4), start=7)
    assert split.last(3).selection() == Selection(8, 11)
    assert split.without(Selection(9, 20)).labels.tolist() == [0, 1]
    first_gone = split.without(Selection(0, 8))
    assert first_gone.labels.tolist() == [1, 2, 3] and first_gone.start == 8
    assert len(split.without(Selection(7, 11))) == 0
    assert split.without(Selection(keys=("ab",))).labels.tolist() == [0, 1, 2, 3]


def test_where_every_image_chose_it_there_is_nothing_to_evaluate_on(trained, digits):
    made = Checkpoint("tiny", trained(2), "digits", digits.classes, CCE_DM, {}, selected_on=Selection(1500, 1797))
    few = digits.test.last(20)
    with pytest.raises(DataError, match="each of the 20 test images had a part in choosing tiny"):
        made.test_split(few)
    other = replace(made, selected_on=Selection(1437, 1450))
    assert common_test_split([made, other], digits.test).start == 1450
