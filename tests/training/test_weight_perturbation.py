"""Adversarial weight perturbation: the perturbation by hand, and a step of every loss against plain PyTorch."""

import copy

import pytest
import torch
from torch import nn

from cce.config import ADP, ADV_EN, CCE_DM, CCE_RM, NAT, ModelConfig, Phase, TrainingAttack
from cce.fast import SearchCopy
from cce.models import Ensemble
from cce.training.losses import joint_members, loss_terms
from cce.training.step import make_examples, train_step
from cce.training.weight_perturbation import perturbed

GAMMA = 0.05
DEFENSES = pytest.mark.parametrize("defense", [NAT, ADV_EN, ADP, CCE_RM, CCE_DM], ids=lambda d: d.name)


def small_step(rows: int = 2) -> TrainingAttack:
    return TrainingAttack((rows, rows), (0.1, 0.1), (1.0, 1.0))


def test_a_layer_moves_along_its_gradient_by_gamma_of_its_own_norm_and_comes_back():
    """||w|| = 5 and g along the second axis: v = (0, 0.1 * 5)."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
        layer.bias.fill_(7)
    layer.weight.grad, layer.bias.grad = torch.tensor([[0.0, 2e-3]]), torch.tensor([1.0])
    with perturbed(layer, 0.1):
        torch.testing.assert_close(layer.weight.detach(), torch.tensor([[3.0, 4.5]]))
        assert layer.bias.item() == 7
    assert layer.weight.tolist() == [[3, 4]]
    with pytest.raises(ZeroDivisionError), perturbed(layer, 0.1):
        raise ZeroDivisionError
    assert layer.weight.tolist() == [[3, 4]]


def test_a_layer_without_a_gradient_stays():
    layer = nn.Linear(2, 1)
    layer.weight.grad = torch.zeros_like(layer.weight)
    before = layer.weight.detach().clone()
    with perturbed(layer, 0.5):
        assert torch.equal(layer.weight, before)


def plain_gradients(model, inputs, labels, defense) -> list[torch.Tensor]:
    """Of the summed loss, in training, by autograd alone."""
    model.train()
    total = 0
    for group in joint_members(defense, len(model.members)):
        logits = torch.stack([model.members[n](inputs.flatten(0, 1)) for n in group])
        logits = logits.view(len(group), len(inputs), len(labels), -1)
        total = total + loss_terms(group, logits, labels, defense).total(defense)
    return list(torch.autograd.grad(total, list(model.parameters())))


@pytest.mark.parametrize("members", [1, 2, 3])
@DEFENSES
def test_a_step_takes_the_gradient_at_the_worst_weights_nearby(defense, members, digits):
    """w - rate * gradient of L(w + v), with v computed here from the definition."""
    x, labels = digits.train.pixels()[:12], digits.train.labels[:12]
    torch.manual_seed(0)
    model = Ensemble(ModelConfig("resnet8", members, 10, (1, 8, 8))).train()
    reference, untouched = copy.deepcopy(model), copy.deepcopy(model)
    phase = Phase("p", 1, defense, small_step())

    def step(model: Ensemble, **more) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        search, generator = SearchCopy(model, torch.float32), torch.Generator().manual_seed(1)
        train_step(list(model.members), search, optimizer, x, labels, phase, generator, **more)

    search = SearchCopy(reference, torch.float32)
    examples = make_examples(search.model, x, labels, defense, phase.attack, torch.Generator().manual_seed(1))
    inputs = torch.cat([x[None], examples])
    kept = [p.detach().clone() for p in reference.parameters()]
    first = plain_gradients(reference, inputs, labels, defense)
    with torch.no_grad():
        for p, g in zip(reference.parameters(), first, strict=True):
            if p.dim() > 1:
                p += GAMMA * p.norm() * g / g.norm()
    second = plain_gradients(reference, inputs, labels, defense)
    step(model, awp_gamma=GAMMA)
    step(untouched)
    apart = 0.0
    for found, plain, before, g in zip(model.parameters(), untouched.parameters(), kept, second, strict=True):
        torch.testing.assert_close((before - found) / 0.01, g, atol=2e-3, rtol=2e-2)
        apart = max(apart, (found - plain).abs().max().item())
    assert apart > 1e-4  # it does perturb


@DEFENSES
def test_batch_norm_keeps_the_statistics_of_the_weights_themselves(defense, digits):
    x, labels = digits.train.pixels()[:12], digits.train.labels[:12]
    torch.manual_seed(0)
    models = [Ensemble(ModelConfig("resnet8", 2, 10, (1, 8, 8))).train()]
    models.append(copy.deepcopy(models[0]))
    scalars = []
    for model, gamma in zip(models, (0.0, GAMMA), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        search, generator = SearchCopy(model, torch.float32), torch.Generator().manual_seed(1)
        phase = Phase("p", 1, defense, small_step())
        given = (list(model.members), search, optimizer, x, labels, phase, generator)
        scalars.append(train_step(*given, awp_gamma=gamma))
    for one, two in zip(*(model.buffers() for model in models), strict=True):
        assert torch.equal(one, two)
    assert all(torch.equal(scalars[0][name], scalars[1][name]) for name in scalars[0])  # told at w


def test_it_begins_at_its_epoch(trainer):
    made = trainer(awp_gamma=0.01, awp_start=1.5)  # 8 steps an epoch
    assert [made.settings(step)["awp_gamma"] for step in (0, 11, 12, 27)] == [0, 0, 0.01, 0.01]
