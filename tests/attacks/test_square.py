"""Square looks at several queries at once: query for query the same search as one at a time."""

import pytest
import torch

from cce.attacks import square as module
from cce.attacks.gradient import attack
from cce.attacks.square import square
from cce.attacks.task import Task, generators_for
from cce.config import AttackConfig
from cce.evaluation.evaluate import outcome
from cce.fast import SearchCopy
from cce.models import Ensemble

SIZE = {"linf": 0.12, "l2": 0.7}


@pytest.fixture(scope="module")
def batch(digits):
    return digits.test.pixels()[:6], digits.test.labels[:6]


def task_on(model, x, labels, norm, steps, judge=None):
    config = AttackConfig("square", SIZE[norm], steps=steps, norm=norm)
    return Task(model.eval(), judge or model, x, labels, config, generators_for(3, range(len(x))))


def one_at_a_time(task: Task) -> torch.Tensor:
    """Algorithm 1 of arXiv 1912.00049, one image and one query after the other."""
    l2, found = task.config.norm == "l2", []
    for i in range(len(task.x)):
        one = task.only(torch.tensor([i]))
        x = (module._tiles if l2 else module._stripes)(one)
        margin = module._margin(one, x)
        for query in range(task.config.steps):
            if margin < 0:
                break
            if query % module.AHEAD == 0:
                drawn = one.draw("uniform", module.AHEAD, 6 + x.shape[1])
            side = module._side(query, x.shape, smallest=3 if l2 else 1)
            make = module._l2_candidate if l2 else module._linf_candidate
            candidate = make(one, x, side, drawn[:, query % module.AHEAD])
            new = module._margin(one, candidate)
            if new < margin:
                x, margin = candidate, new
        found.append(x)
    return torch.cat(found)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_search_is_the_one_that_takes_query_after_query(norm, trained, batch):
    model, steps = trained(2), 230  # across the drawing of new numbers and several sizes
    plain = one_at_a_time(task_on(model, *batch, norm, steps))
    together = square(task_on(model, *batch, norm, steps))
    assert torch.isclose(plain, together, atol=1e-5).all((1, 2, 3)).sum() >= 5  # a tie in float32 may part one
    right = outcome(model, together, batch[1]).right
    assert torch.equal(right, outcome(model, plain, batch[1]).right) and 0 < right.sum() < 6


def test_few_passes_are_needed_for_one_image(trained, batch):
    """A pass of up to 32 candidates for what took a pass a query."""
    model, passes = trained(1), []

    class Counted(Ensemble):
        def forward(self, x):
            passes.append(len(x))
            return model(x)

    counted = Counted(model.config)
    x, labels = batch[0][:1], model(batch[0][:1]).argmax(1)
    tiny = AttackConfig("square", 1e-4, steps=400)  # nothing fools it, so that all queries are made
    square(Task(counted, counted, x, labels, tiny, generators_for(0, [0])))
    assert len(passes) < 200 and max(passes) <= module.ROWS and sum(passes) >= 401


def test_an_image_stands_where_float32_does_not_agree(trained, batch):
    """The searched model is wrong from the start and the judge never: the walk goes on, and asks where it moved."""
    model, walks = trained(1), []
    for x, label in zip(*(t.split(1) for t in batch), strict=True):
        start = module._stripes(task_on(model, x, label, "linf", 60))
        kept, asked = model(start).argsort(1)[:, -2], []  # the second likeliest there: it can become less likely

        class Stubborn(Ensemble):
            def forward(self, points, kept=kept, asked=asked):
                asked.append(len(points))
                return torch.nn.functional.one_hot(kept.expand(len(points)), 10).float().log_softmax(1)

        moved = square(task_on(model, x, kept, "linf", 60, Stubborn(model.config)))
        assert 1 <= len(asked) < 60 and torch.equal(moved, start) == (len(asked) == 1)
        walks.append(len(asked))
    assert sum(walk > 1 for walk in walks) >= 3  # of some pictures no square of these helps


def test_a_bfloat16_search_ends_as_the_judge_says(trained, batch):
    model = trained(2)
    search = SearchCopy(model, torch.bfloat16).model
    x, labels = batch
    config = AttackConfig("square", 0.3, steps=150)
    whole = attack(search, x, labels, config, judge=model)
    parts = attack(search, x, labels, config, judge=model, batch_size=1)
    assert (outcome(model, whole, labels).right == outcome(model, parts, labels).right).sum() >= 5
    assert (~outcome(model, whole, labels).right).sum() >= 4
