"""Averaged weights: the average by hand, batch norm's statistics on training images, what is evaluated and released."""

import json

import pytest
import torch

from cce.config import CCE_RM, NAT, ModelConfig, Phase, to_json
from cce.data.datasets import load
from cce.evaluation.outcomes import outcome
from cce.evaluation.presets import export
from cce.fast import SearchCopy
from cce.models import Ensemble
from cce.runs.queue import Jobs
from cce.training import averaging
from cce.training.averaging import Average, estimate_statistics, released, training_inputs
from cce.training.run_folder import RunFolder
from cce.training.trainer import Trainer
from tiny_runs import ATTACK, tiny_config


def test_the_average_after_three_steps_by_hand(fresh):
    """Weights 0, then 1, 2, 3. d is 2/11, 3/12, then the decay, as 4/13 is above it."""
    source = fresh(1)
    weight = source.members[0].head.weight
    with torch.no_grad():
        weight.zero_()
    average = Average(source, 0.3)
    for step in (1, 2, 3):
        with torch.no_grad():
            weight.fill_(step)
        average.update(step)
    first = 9 / 11
    second = 0.25 * first + 0.75 * 2
    assert average.model.members[0].head.weight.unique().item() == pytest.approx(0.3 * second + 0.7 * 3)
    assert weight.unique().item() == 3


def test_running_statistics_are_averaged_too_and_their_count_is_kept(fresh):
    source = fresh(1)
    average = Average(source, 0.9)
    norm, own = source.members[0].stem.norm, average.model.members[0].stem.norm
    norm.running_mean.fill_(11.0)
    norm.num_batches_tracked.fill_(5)
    average.update(1)
    assert own.running_mean.unique().item() == pytest.approx(9.0) and own.num_batches_tracked == 5


def test_making_an_average_draws_no_random_number(fresh):
    source = fresh()
    state = torch.get_rng_state()
    Average(source, 0.9)
    assert torch.equal(torch.get_rng_state(), state)


def test_statistics_are_the_means_of_those_of_the_batches(fresh, digits):
    model = fresh(2)
    batches = [digits.train.pixels()[i : i + 16] for i in (0, 16, 32)]
    estimate_statistics(model, batches)
    assert not any(m.training for m in model.modules())
    for member in model.members:
        convolved = [member.stem.conv((x - 0.5) / 0.25) for x in batches]
        mean = torch.stack([y.mean((0, 2, 3)) for y in convolved]).mean(0)
        variance = torch.stack([y.var((0, 2, 3)) for y in convolved]).mean(0)
        torch.testing.assert_close(member.stem.norm.running_mean, mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(member.stem.norm.running_var, variance, atol=1e-5, rtol=1e-4)
        assert member.stem.norm.momentum == 0.1


def test_statistics_are_of_clean_and_attacked_training_images(fresh, digits):
    config = tiny_config(batch_size=16)
    model, (images, labels) = fresh(2), (digits.train.images[:64], digits.train.labels[:64])
    search = SearchCopy(model, torch.float32)
    natural, crossing = (
        list(training_inputs(search, images, labels, config, Phase("p", 1, d, ATTACK))) for d in (NAT, CCE_RM)
    )
    assert [len(x) for x in natural] == [16] * 4 and [len(x) for x in crossing] == [48] * 4
    for x in crossing:
        clean, *attacked = x.view(3, 16, 1, 8, 8)
        assert all(0 < (one - clean).abs().max() <= ATTACK.epsilon[1] + 1e-6 for one in attacked)


def test_what_is_released_hangs_on_the_average_alone(trained, digits):
    average, config = trained(2), tiny_config()
    before = {k: v.clone() for k, v in average.state_dict().items()}
    given = (digits.train.images[:64], digits.train.labels[:64], config, config.phases[1], torch.float32)
    torch.manual_seed(1)
    (one, search), (two, _) = (released(average, *given) for _ in range(2))
    assert all(torch.equal(average.state_dict()[k], v) for k, v in before.items())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    changed = {k for k, v in one.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all("norm." in k and ("running" in k or "tracked" in k) for k in changed)
    x = digits.test.pixels()[:8]
    torch.testing.assert_close(search.model(x), one(x), atol=1e-4, rtol=1e-4)


def test_a_network_without_batch_norm_is_released_as_it_is(digits):
    torch.manual_seed(0)
    average = Ensemble(ModelConfig("cnn-mnist", 2, 10, (1, 8, 8)))
    config = tiny_config(model=average.config)
    given = (digits.train.images[:64], digits.train.labels[:64], config, config.phases[1], torch.float32)
    made, _ = released(average, *given)
    own = average.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in made.state_dict().items())


def test_looks_and_releases_are_of_the_average_and_training_is_not(trainer, digits):
    """A short average lags far behind: whatever is measured or exported must be of it."""
    made, plain = trainer(ema_decay=0.95), trainer()
    for _ in range(20):
        one, two = made.advance(), plain.advance()
        assert torch.equal(one["loss"], two["loss"])  # the average changes nothing in training
    row = made.monitor()
    assert row != plain.monitor()
    images, labels = made.monitored.pixels(), made.monitored.labels
    assert row["natural_entropy"] == outcome(made.released, images, labels).entropy.mean().item()
    assert made.monitor() == row and torch.equal(made.advance()["loss"], plain.advance()["loss"])

    averages = made.average.model.state_dict()
    checkpoint = export(made, digits, "averaged")
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, averages[name]) == ("running" not in name and "tracked" not in name), name
    assert not torch.equal(checkpoint.model.members[0].head.weight, made.model.members[0].head.weight)


def test_the_best_state_that_is_kept_is_what_was_looked_at(trainer):
    made = trainer(ema_decay=0.9)
    for _ in range(10):
        made.advance()
    made.keep_best(made.monitor())
    tensors, step = made.folder.load_state("best")
    assert step == 10
    assert all(torch.equal(made.released.state_dict()[k], v) for k, v in tensors.items())


def test_the_latest_state_of_a_run_is_exported_as_it_would_be_evaluated(tmp_path):
    config = tiny_config(ema_decay=0.9, model=ModelConfig("resnet8", 2, 10, (1, 16, 16)))
    dataset, folder = load("digits", size=16), RunFolder(tmp_path / "runs" / "going")
    folder.create(to_json(config))
    made = Trainer(config, dataset, folder)
    for _ in range(10):
        made.advance()
    made.save()
    folder.write_status("stopped", step=10)
    found = Jobs(tmp_path / "runs").export_latest("going").model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in made.released.state_dict().items())


EVERYTHING = {"ema_decay": 0.9, "awp_gamma": 0.02, "awp_start": 0.5, "label_smoothing": 0.1}


def test_a_run_with_everything_resumes_to_the_same_bits(trainer, tmp_path, digits):
    phases = (Phase("natural", 1, NAT, learning_rate=2e-3), Phase("crossing", 1.5, CCE_RM, ATTACK, 2e-3, "one-cycle"))
    changes = {**EVERYTHING, "phases": phases, "evaluate_every": 1.0}
    config = tiny_config(**changes)
    folder = RunFolder(tmp_path / "undisturbed")
    folder.create({})
    whole = Trainer(config, digits, folder)
    whole.fit(quiet=True)
    made = trainer(**changes)
    while made.step < 11:
        made.pending.append(made.advance())
    made.save()
    resumed = trainer(**changes)
    assert resumed.restore() and resumed.step == 11
    assert resumed.fit(quiet=True) == "finished"
    one, two = whole.state(), resumed.state()
    assert one.keys() == two.keys() and any(name.startswith("average/") for name in one)
    assert all(torch.equal(one[k], two[k]) for k in one if k not in ("seconds", "best"))
    a, b = whole.released.state_dict(), resumed.released.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    last = [json.loads((f.path / "metrics.jsonl").read_text().splitlines()[-1]) for f in (folder, resumed.folder)]
    assert last[0] == last[1] and last[0]["kind"] == "evaluation"


def test_few_training_images_make_one_batch(fresh, digits, monkeypatch):
    monkeypatch.setattr(averaging, "STATISTICS_IMAGES", 8)
    config, search = tiny_config(batch_size=16), SearchCopy(fresh(1), torch.float32)
    given = (digits.train.images[:20], digits.train.labels[:20], config, Phase("p", 1, NAT))
    assert [len(x) for x in training_inputs(search, *given)] == [16]
