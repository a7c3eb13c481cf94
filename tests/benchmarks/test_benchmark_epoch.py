"""The floor counts what is computed, and the epoch's benchmark runs the trainer's own steps."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import epoch
from benchmarks.roofline import Recorded, best, measure_rates
from cce import kernels
from cce.training.trainer import Trainer


def test_operations_and_bytes_of_a_layer_there_and_back():
    conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    x = torch.rand(2, 3, 10, 10, requires_grad=True)
    with Recorded() as recorded:
        conv(x).relu().sum().backward()
    forward, backward = recorded.works
    assert forward.operations == 2 * (2 * 10 * 10) * 8 * 27  # a multiplication and an addition each
    assert forward.elements == x.numel() + conv.weight.numel() + 2 * 8 * 100
    assert backward.operations == 2 * forward.operations  # by the input, and by the weights


def test_an_attack_needs_no_gradient_of_the_weights():
    conv = nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
    x = torch.rand(2, 3, 10, 10, requires_grad=True)
    with Recorded() as recorded:
        torch.autograd.grad(conv(x).sum(), x)
    forward, backward = recorded.works
    assert backward.operations == forward.operations


def test_rates_are_those_of_this_machine():
    rates = measure_rates(torch.device("cpu"), torch.float32)
    assert 1e8 < rates.arithmetic < 1e15 and 1e7 < rates.copying < 1e14
    assert best(lambda: None, torch.device("cpu")) < 1e-3


def test_steps_are_counted_by_their_attack():
    """Ten steps of PGD on two members are twenty passes there and back, and the training passes are the same."""

    def forwards(steps: int) -> int:
        options = epoch.parser().parse_args(["--preset", "digits-cce-rm"])
        config = epoch.chosen(options)
        phase = replace(config.phases[0], attack=replace(config.phases[0].attack, steps=(steps, steps)))
        trainer, place = epoch.trainer_on_noise(replace(config, phases=(phase,)), 128, torch.device("cpu"))
        with place:
            return sum("convolution.default" in w.name for w in epoch.works_of(trainer))

    one, three = forwards(1), forwards(3)
    layers = (three - one) // 4  # two more steps on two members
    assert one == layers * (2 * 1 + 2)  # and a training pass of each


def test_it_runs_the_trainer_and_says_how_far_the_floor_is(tmp_path, capsys, monkeypatch):
    taken = []
    advance = Trainer.advance
    monkeypatch.setattr(Trainer, "advance", lambda self: taken.append(self.step) or advance(self))
    out = tmp_path / "epoch.json"
    assert epoch.main(["--preset", "digits-cce-rm", "--device", "cpu", "--steps", "3", "--json", str(out)]) == 0
    assert len(taken) == 5
    found = json.loads(out.read_text())
    rows = {row["what"]: row for row in found["rows"]}
    step = rows["step of the trainer"]["seconds"]
    assert rows["epoch, 19 steps"]["seconds"] == pytest.approx(19 * step)
    floors = [rows[f"floor of a step, {what}"]["seconds"] for what in ("arithmetic", "bytes", "both")]
    assert max(floors[:2]) <= floors[2] <= sum(floors[:2])
    assert found["ratios"]["epoch.floor_over_step"] == pytest.approx(floors[2] / step)
    assert "digits-cce-rm, batch 64" in capsys.readouterr().out


def test_a_step_three_ways(tmp_path):
    out = tmp_path / "epoch.json"
    words = ["--preset", "digits-cce-rm", "--device", "cpu", "--steps", "2", "--rounds", "1", "--json", str(out)]
    assert epoch.main(words) == 0
    found = json.loads(out.read_text())
    ways = ["plain float32", "library way"] + ["with native code"] * kernels.available()
    assert [row["what"] for row in found["rows"][-len(ways) :]] == [f"step, {way}" for way in ways]
    assert found["ratios"]["epoch.vs_float32"] >= 1


def test_the_plain_copy_follows_its_source():
    source = torch.nn.Sequential(nn.BatchNorm2d(1))
    copied = epoch.PlainCopy(source, follow=True)
    with torch.no_grad():
        source[0].weight.fill_(3.0)
    assert copied.refresh()[0].weight.item() == 3.0


def test_a_preset_that_is_not_there_is_named(capsys):
    assert epoch.main(["--preset", "cifar11", "--device", "cpu"]) == 2
    assert "preset is 'cifar11'; did you mean" in capsys.readouterr().err
