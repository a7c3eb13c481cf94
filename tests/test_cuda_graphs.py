import warnings

import pytest
import torch

from cce.config import CCE_RM, TrainingAttack
from cce.cuda_graphs import Graphs
from cce.draws import uniform
from cce.models import SearchCopy
from cce.training_step import make_examples

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class OnCpu:
    """Stands for a CUDA graph: it too reads and writes the same memory every time."""

    made = 0

    def __init__(self, function, inputs, pool):
        type(self).made += 1
        self.held, self.function = [t.clone() for t in inputs], function
        self.found, self.pool = torch.full_like(function(*self.held), torch.nan), "memory"

    def replay(self):
        self.found.copy_(self.function(*self.held))


@pytest.fixture
def batch(digits):
    return digits.train.pixels()[:16], digits.train.labels[:16]


@pytest.fixture
def recording():
    return type("Recording", (OnCpu,), {"made": 0})


def test_a_recording_is_made_once_for_a_key_and_shapes_and_answers_with_memory_of_its_own(recording):
    graphs, calls = Graphs(recording), []
    double = lambda x, y: calls.append(1) or 2 * x + y  # noqa: E731
    first = graphs.run("double", double, torch.ones(3), torch.zeros(3))
    second = graphs.run("double", double, torch.full((3,), 5.0), torch.ones(3))
    assert first.tolist() == [2, 2, 2] and second.tolist() == [11, 11, 11]
    assert recording.made == 1
    graphs.run("double", double, torch.ones(4), torch.zeros(4))
    graphs.run("another", double, torch.ones(4), torch.zeros(4))
    assert recording.made == 3


def test_what_cannot_be_recorded_is_computed_with_a_warning():
    def refuse(function, inputs, pool):
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(refuse)
    with pytest.warns(UserWarning, match="not recorded as a CUDA graph, which is slower: operation not permitted"):
        assert graphs.run("k", torch.square, torch.tensor([3.0])).item() == 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert graphs.run("k", torch.square, torch.tensor([4.0])).item() == 16


@pytest.mark.parametrize("wrong", [1, torch.nan])
def test_a_recording_that_computes_something_else_is_not_used(recording, wrong):
    recording.replay = lambda self: self.found.fill_(wrong)
    graphs = Graphs(recording)
    with pytest.warns(UserWarning, match="differs from what it records in 100% of the numbers"):
        found = graphs.run("k", torch.square, torch.tensor([3.0, 4.0]))
    assert found.tolist() == [9, 16]


def test_training_examples_are_the_same_recorded_and_of_every_size(recording, trained, batch):
    """Epsilon, the step size and the number of steps are drawn anew for every batch."""
    search, (x, labels) = SearchCopy(trained(2), torch.float32).model, batch
    attack, graphs = TrainingAttack((2, 4), (0.05, 0.2), (1.0, 3.0)), Graphs(recording)

    def made(seed, **options):
        return make_examples(search, x, labels, CCE_RM, attack, torch.Generator().manual_seed(seed), **options)

    for seed in range(6):
        torch.testing.assert_close(made(seed, graphs=graphs), made(seed), atol=1e-5, rtol=0)
    assert recording.made == 2 * 3  # members, and numbers of steps


def test_mixed_batches_are_not_recorded(recording, trained, batch):
    search, (x, labels) = SearchCopy(trained(2), torch.float32).model, batch
    for share in ("smooth", "momentum", "aware"):
        attack = TrainingAttack((2, 2), (0.1, 0.1), (1.0, 1.0), grids=(2,), **{share: 0.5})
        made = make_examples(search, x, labels, CCE_RM, attack, torch.Generator(), graphs=Graphs(recording))
        assert made.shape == (2, *x.shape)
    assert recording.made == 0


def test_uniform_numbers_on_a_cpu_are_the_generators_own():
    found = uniform((3, 4), torch.Generator().manual_seed(1), torch.device("cpu"))
    assert torch.equal(found, torch.rand((3, 4), generator=torch.Generator().manual_seed(1)))


@gpu
@pytest.mark.gpu
def test_uniform_numbers_on_a_gpu_hang_on_the_generator_alone():
    made = [uniform((1000,), torch.Generator().manual_seed(seed), torch.device("cuda")) for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert 0 <= made[0].min() and made[0].max() < 1 and abs(made[0].mean() - 0.5) < 0.05


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_examples_from_a_cuda_graph_are_those_without(dtype, trained, batch):
    model, (x, labels) = trained(2).cuda(), (t.cuda() for t in batch)
    search, graphs = SearchCopy(model, dtype).model, Graphs()
    attack = TrainingAttack((3, 3), (0.05, 0.2), (2.0, 2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # recorded, and agreeing
        for seed in range(3):
            made = [
                make_examples(search, x, labels, CCE_RM, attack, torch.Generator().manual_seed(seed), graphs=g)
                for g in (graphs, None)
            ]
            assert ((made[0] - made[1]).abs() > 1e-5).float().mean() < 0.05
