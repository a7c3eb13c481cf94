"""With averaging, weight perturbation and smoothing off, a run is the plain one bit for bit."""

import pytest
import torch
import torch.nn.functional as F

from cce.config import ADV_EN, CCE_DM, CCE_RM, NAT, ModelConfig, Phase
from cce.models import entropy
from cce.training.step import make_examples, make_optimizer
from tiny_runs import ATTACK


def plain_terms(defense, clean, attacked, labels, member):
    """L_n as it was before any of them, from `F.cross_entropy` as it comes."""
    loss = F.cross_entropy(clean, labels)
    if not len(attacked):
        return loss
    if defense.method != "cce":
        return loss + F.cross_entropy(attacked[0], labels)
    own = F.cross_entropy(attacked[member], labels)
    log_p = F.log_softmax(torch.cat([attacked[:member], attacked[member + 1 :]]), dim=-1)
    index = labels.expand(len(log_p), -1)[..., None]
    weight = log_p.gather(-1, index)[..., 0].exp().detach()
    promoting = (weight * -log_p.gather(-1, index)[..., 0]).mean()
    demoting = ((1 - weight) * entropy(log_p)).mean()
    return loss + own + (defense.lambda_pm * promoting - defense.lambda_dm * demoting)


@pytest.mark.parametrize("architecture", ["resnet8", "cnn-mnist"])
@pytest.mark.parametrize("defense", [NAT, ADV_EN, CCE_RM, CCE_DM], ids=lambda d: d.name)
def test_a_run_without_the_additions_is_the_plain_one(defense, architecture, trainer):
    """Weights and running statistics after four steps of a loop written out here."""
    phases = (Phase("p", 1, defense, ATTACK, 2e-3),)
    model = ModelConfig(architecture, 2, 10, (1, 8, 8))
    made, other = (trainer(phases=phases, model=model, clip_norm=1.0) for _ in range(2))
    assert made.average is None and made.released is made.model
    plain, optimizer = other.model, make_optimizer(other.model, other.config)
    for step in range(4):
        made.advance()
        generator = torch.Generator().manual_seed(step)  # of the seed 0
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3
        plain.train()
        x, labels = other.batch(step, generator)
        examples = make_examples(other.search.refresh(), x, labels, defense, ATTACK, generator)
        optimizer.zero_grad()
        for n, member in enumerate(plain.members):
            inputs = torch.cat([x, *examples]).contiguous(memory_format=torch.channels_last)
            logits = member(inputs).view(1 + len(examples), len(x), -1)
            plain_terms(defense, logits[0], logits[1:], labels, n).backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
    found, wanted = made.model.state_dict(), plain.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
