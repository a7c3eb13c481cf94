"""Ensembles that are trained for a few seconds, in a test."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cce.attacks.gradient import loss_of, pgd_sign, uniform_start
from cce.config import ModelConfig
from cce.data.datasets import Dataset
from cce.models import Ensemble, evaluating


def trained_briefly(members: int, digits: Dataset, *, steps: int, batch: int, epsilon: float = 0.0) -> Ensemble:
    """`members` resnet8 on 8 x 8 digits, each by its own loss; above epsilon 0 on examples of f_en as well."""
    torch.manual_seed(0)
    model = Ensemble(ModelConfig("resnet8", members, 10, (1, 8, 8)))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    x, labels = digits.train.pixels(), digits.train.labels
    for _ in range(steps):
        chosen = torch.randint(0, len(x), (batch,), generator=generator)
        inputs, targets = x[chosen], labels[chosen]
        if epsilon:
            with evaluating(model):
                start = uniform_start(inputs, epsilon, generator)
                objective, step_size = loss_of(model, targets), 0.8 * epsilon
                attacked = pgd_sign(objective, inputs, start, epsilon=epsilon, step_size=step_size, steps=2)
            inputs, targets = torch.cat([inputs, attacked]), targets.repeat(2)
        loss = sum(F.cross_entropy(member(inputs), targets) for member in model.members)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
