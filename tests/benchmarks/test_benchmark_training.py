"""The benchmark's plain step is the trainer's mathematics: in float32 the two agree."""

import copy
import json

import pytest
import torch

from benchmarks.training import EPSILON, STEP_SIZE, fast_stepping, gradient_rows, main, plain_examples, plain_loss
from cce.config import CCE_RM, ModelConfig, TrainingAttack
from cce.fast import SearchCopy
from cce.models import Ensemble
from cce.training.losses import loss_terms
from cce.training.step import make_examples


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Ensemble(ModelConfig("resnet8", 2, 10, (3, 32, 32)))


def test_plain_examples_are_the_trainers(model):
    x, labels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(4)
    attack = TrainingAttack((3, 3), (EPSILON, EPSILON), (3 * STEP_SIZE / EPSILON,) * 2)
    search = SearchCopy(model, torch.float32).model
    found = make_examples(search, x, labels, CCE_RM, attack, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    torch.rand(3, generator=generator)  # the drawn settings
    noise = [torch.rand(x.shape, generator=generator) for _ in range(2)]
    for member in range(2):
        wanted = plain_examples(model, x, labels, 3, noise[member])[member]
        assert (found[member] - wanted).abs().max() <= EPSILON
        assert ((found[member] - wanted).abs() < 1e-5).float().mean() > 0.98  # signs of zero gradients may differ


def test_plain_loss_and_gradient_are_the_trainers(model):
    x, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    examples = [torch.rand_like(x) for _ in range(2)]
    other = copy.deepcopy(model).train()
    plain = plain_loss(model, x, labels, examples)
    plain.backward()
    total = 0.0
    for n, member in enumerate(other.members):
        logits = member(torch.cat([x, *examples])).view(1, 3, 4, 10)
        loss = loss_terms([n], logits, labels, CCE_RM).total(CCE_RM)
        loss.backward()
        total += loss.item()
    assert plain.item() == pytest.approx(total, rel=1e-5)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)


def test_the_fast_gradient_is_within_bfloat16s_tolerance():
    """Rounding of 2^-9 a value, through 40 layers there and back: measured, a quarter of a gradient's length."""
    torch.manual_seed(0)
    model = Ensemble(ModelConfig("resnet20", 2, 10, (3, 32, 32)))
    row, _ = gradient_rows(model, torch.rand(16, 3, 32, 32), torch.arange(16) % 10)
    assert row["cosine"] > 0.95
    assert row["distance"] < 0.33


def test_gradients_are_compared_without_dropout():
    """Each of the two would drop activations of its own, and the cosine tell of that."""
    torch.manual_seed(0)
    model = Ensemble(ModelConfig("cnn-cifar10", 2, 10, (3, 32, 32)))
    rows = gradient_rows(model, torch.rand(8, 3, 32, 32), torch.arange(8))
    assert [row["step"].startswith(f"gradient of the {of}") for row, of in zip(rows, ("step", "search"), strict=True)]
    assert all(row["cosine"] > 0.95 for row in rows)
    assert all(m.p == 0.5 for m in model.modules() if isinstance(m, torch.nn.Dropout))


def test_the_fast_step_trains(model):
    x, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
    step = fast_stepping(model, x, labels, 2, compiled=False)
    losses = [step()["loss"].item() for _ in range(4)]
    assert losses[-1] < losses[0]


def test_it_prints_and_writes_a_ratio(tmp_path, capsys):
    path = tmp_path / "found.json"
    words = ["--architecture", "resnet8", "--batch", "4", "--steps", "1", "--rounds", "1", "--no-compile"]
    assert main([*words, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["ratios"]["training.vs_float32"] > 0
    by_name = {row["step"]: row for row in found["rows"]}
    assert by_name["gradient of the step"]["cosine"] > 0.9 and by_name["library way"]["images/s"] > 0
    assert "training.vs_float32" in capsys.readouterr().out
