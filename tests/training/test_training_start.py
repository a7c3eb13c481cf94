"""A run that starts from a checkpoint's weights: it is told on the card, and a resume does not read them again."""

import json
from dataclasses import replace

import pytest
import torch

from cce.__main__ import build_parser, main
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.cli.training import asked_config, starting_weights
from cce.config import CCE_RM, ConfigError, ModelConfig, to_json
from cce.evaluation.presets import export
from cce.reporting.cards import model_card
from cce.training.run_folder import RunFolder
from cce.training.state import Start
from cce.training.trainer import run
from tiny_runs import tiny_config

CPU = torch.device("cpu")
RECORD = {"id": "before", "defense": "CCE-RM", "images_seen": 1234}


@pytest.fixture
def before(trained, tmp_path):
    """A checkpoint to start from, on 8 x 8 digits."""
    made = Checkpoint("before", trained(2), "digits", tuple("0123456789"), CCE_RM, {"images_seen": 1234})
    made.training = {}  # no record: its card is short
    checkpoints.save(made, tmp_path / "before")
    return tmp_path / "before"


def refused() -> Start:
    raise AssertionError("a run with a state needs no start")


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_first_step_is_from_the_given_weights_and_a_resume_does_not_ask_again(
    ema, trained, digits, tmp_path, monkeypatch
):
    weights = trained(2).state_dict()
    folder, config = RunFolder(tmp_path / "run"), tiny_config(init="before", ema_decay=ema)
    seen = []

    def stop(self, quiet):
        seen.append({k: v.clone() for k, v in self.model.state_dict().items()})
        if self.average:
            seen.append({k: v.clone() for k, v in self.average.model.state_dict().items()})
        self.advance()
        self.save()
        return "stopped"

    monkeypatch.setattr("cce.training.trainer.Trainer.fit", stop)
    run(config, digits, folder, CPU, quiet=True, start=lambda: Start(weights, RECORD))
    assert len(seen) == (2 if ema else 1)
    assert all(torch.equal(found[k], weights[k]) for found in seen for k in weights)
    monkeypatch.undo()
    trainer = run(config, digits, folder, CPU, quiet=True, start=refused)
    assert trainer.step == 28
    record = export(trainer, digits, "after").training
    assert record["started_from"] == RECORD and record["config"]["init"] == "before"


def test_a_run_without_init_asks_for_no_start(digits, tmp_path):
    trainer = run(tiny_config(), digits, RunFolder(tmp_path / "run"), CPU, quiet=True, start=refused)
    assert trainer.started_from is None and "started_from" not in export(trainer, digits, "plain").training


def test_init_without_weights_is_refused_and_never_trained_from_random_ones(digits, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ConfigError, match="init is 'before'; give run"):
        run(tiny_config(init="before"), digits, folder, CPU, quiet=True)
    assert folder.status()["state"] == "failed"


def test_the_command_line_starts_from_a_folder_and_the_card_says_so(before, tmp_path, capsys, monkeypatch):
    config = replace(tiny_config(), train_images=32)
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(to_json(config)))
    words = ["train", "--config", str(path), "--quiet", "--device", "cpu", "--run", str(tmp_path / "run")]
    assert main([*words, "--init", str(before)]) == 0
    made = checkpoints.load(tmp_path / "run" / "checkpoint")
    assert made.training["started_from"] == {"id": "before", "defense": "CCE-RM", "images_seen": None}
    assert "Started from the weights of `before` (CCE-RM), not from random ones." in model_card(made)


def test_an_ensemble_of_another_shape_is_refused_in_words(before):
    config = tiny_config(init=str(before), model=ModelConfig("resnet8", 3, 10, (1, 8, 8)))
    with pytest.raises(
        ConfigError, match=r"2 x resnet8 on 10 classes of 1 x 8 x 8 pixels; this run trains 3 x resnet8"
    ):
        starting_weights(config)


def test_no_such_checkpoint_is_bad_usage_or_a_failure_in_words(tmp_path, capsys):
    words = ["train", "digits-quick", "--quiet", "--run", str(tmp_path / "run"), "--init", "no-such"]
    assert main(words) != 0
    assert "there is no checkpoint 'no-such'; released are: " in capsys.readouterr().err


def test_flags_set_the_fields_and_a_folder_is_told_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    flags = ["--ema-decay", "0.99", "--awp-gamma", "0.01", "--label-smoothing", "0.2", "--architecture", "resnet20-w32"]
    config = asked_config(build_parser().parse_args(["train", "digits-quick", *flags, "--init", "mine"]))
    assert (config.ema_decay, config.awp_gamma, config.label_smoothing) == (0.99, 0.01, 0.2)
    assert config.model.architecture == "resnet20-w32" and config.init == str(tmp_path / "mine")
    named = asked_config(build_parser().parse_args(["train", "digits-quick", "--init", "digits-cce-rm"]))
    assert named.init == "digits-cce-rm"


def test_a_card_tells_what_was_added_and_nothing_where_nothing_was():
    checkpoint = checkpoints.load(next(p for p in checkpoints.released() if p.name == "digits-cce-rm"))
    assert not any(
        word in model_card(checkpoint) for word in ("moving average", "perturbation", "smoothing", "Started")
    )
    added = {"ema_decay": 0.999, "awp_gamma": 0.005, "awp_start": 2.0, "label_smoothing": 0.1, "init": "x"}
    record = checkpoint.training | {"config": checkpoint.training["config"] | added, "started_from": RECORD}
    card = model_card(replace(checkpoint, training=record))
    for words in (
        "exponential moving average over the steps, decay 0.999",
        "Adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884), gamma 0.005, from epoch 2 on.",
        "Label smoothing 0.1.",
        "Started from the weights of `before` (CCE-RM) after 1,234 images seen, not from random ones.",
    ):
        assert words in card
