import copy
import warnings

import pytest
import torch

from cce.config import ADP, ADV_EN, CCE_BASE, CCE_DM, CCE_RM, NAT, ModelConfig, Phase, TrainConfig, TrainingAttack
from cce.fast import SearchCopy
from cce.machine.cuda_graphs import Graphs
from cce.models import Ensemble
from cce.training.draws import uniform
from cce.training.step import SCALARS, make_examples, make_optimizer, train_step

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


def test_what_a_function_changes_is_changed_once_a_call(recording):
    graphs, total = Graphs(recording), torch.zeros(2)
    add = lambda x: total.add_(x).sum()  # noqa: E731
    found = [graphs.run("add", add, torch.ones(2), changes=[total]).item() for _ in range(3)]
    assert found == [2, 4, 6] and recording.made == 1


def test_a_recording_that_changes_something_else_is_not_used(recording):
    total = torch.zeros(2)
    recording.replay = lambda self: self.found.copy_(total.add_(2).sum())
    graphs = Graphs(recording)
    with pytest.warns(UserWarning, match="differs from what it records in 100% of the numbers"):
        graphs.run("add", lambda x: total.add_(x).sum(), torch.ones(2), changes=[total])
    assert total.tolist() == [1, 1]


def test_random_numbers_are_those_of_the_function(recording):
    """One call advances the default generator as the function alone does."""
    drawn = lambda x: x + torch.rand(3)  # noqa: E731
    torch.manual_seed(0)
    alone = [drawn(torch.zeros(3)) for _ in range(2)]
    torch.manual_seed(0)
    graphs = Graphs(recording)
    assert all(torch.equal(graphs.run("drawn", drawn, torch.zeros(3)), wanted) for wanted in alone)


MIXED = TrainingAttack((2, 2), (0.1, 0.2), (1.0, 2.0), smooth=0.25, grids=(2, 4), momentum=0.25, aware=0.25)


def test_training_examples_are_the_same_recorded_and_of_every_size(recording, trained, batch):
    """Epsilon, the step size and the number of steps are drawn anew for every batch."""
    search, (x, labels) = SearchCopy(trained(2), torch.float32).model, batch
    attack, graphs = TrainingAttack((2, 4), (0.05, 0.2), (1.0, 3.0)), Graphs(recording)

    def made(seed, attack, **options):
        return make_examples(search, x, labels, CCE_RM, attack, torch.Generator().manual_seed(seed), **options)

    for seed in range(6):
        torch.testing.assert_close(made(seed, attack, graphs=graphs), made(seed, attack), atol=1e-5, rtol=0)
    assert recording.made == 3  # numbers of steps
    for seed in range(12):
        torch.testing.assert_close(made(seed, MIXED, graphs=graphs), made(seed, MIXED), atol=1e-5, rtol=0)
    assert 3 < recording.made <= 3 + 2 * 3  # grids, and ranks of the wrong class


def trained_steps(model, x, labels, graphs, phase, steps=3, **options):
    """Weights, buffers and scalars after a few steps of training."""
    search, rows = SearchCopy(model, torch.float32), []
    search.graphs, optimizer = graphs, make_optimizer(model, TrainConfig("digits", model.config, (phase,)))
    model.train()
    for seed in range(steps):
        torch.manual_seed(seed)  # dropout
        generator = torch.Generator().manual_seed(seed)
        forwards = list(model.members)
        options = {"clip_norm": 1.0} | options
        rows.append(train_step(forwards, search, optimizer, x, labels, phase, generator, **options))
    return [t.detach().clone() for t in model.state_dict().values()] + [r[k] for r in rows for k in SCALARS]


@pytest.mark.parametrize("architecture", ["resnet8", "cnn-mnist"])
@pytest.mark.parametrize("defense", [NAT, ADV_EN, ADP, CCE_BASE, CCE_RM, CCE_DM], ids=lambda d: d.name)
def test_a_recorded_step_is_the_step(defense, architecture, recording, batch):
    """Weights, batch norm's statistics and all that is told are those without a recording, dropout and all."""
    x, labels = batch
    phase = Phase("p", 1, defense, MIXED if defense is CCE_DM else TrainingAttack((2, 2), (0.1, 0.2), (1.0, 1.0)))
    torch.manual_seed(0)
    models = [Ensemble(ModelConfig(architecture, 2, 10, tuple(x.shape[1:])))]
    models.append(copy.deepcopy(models[0]))
    found, wanted = (
        trained_steps(model, x, labels, graphs, phase)
        for model, graphs in zip(models, (Graphs(recording), None), strict=True)
    )
    assert recording.made >= 1 + (defense is not NAT)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("architecture", ["resnet8", "cnn-mnist"])
@pytest.mark.parametrize("defense", [NAT, ADV_EN, ADP, CCE_RM], ids=lambda d: d.name)
def test_a_recorded_step_at_perturbed_weights_is_the_step(defense, architecture, recording, batch):
    """Perturbing and taking back are part of the recording; another gamma or smoothing is another recording."""
    x, labels = batch
    phase = Phase("p", 1, defense, TrainingAttack((2, 2), (0.1, 0.2), (1.0, 1.0)))
    torch.manual_seed(0)
    models = [Ensemble(ModelConfig(architecture, 2, 10, tuple(x.shape[1:])))]
    models.append(copy.deepcopy(models[0]))
    for options in ({"awp_gamma": 0.02, "label_smoothing": 0.1}, {}):
        before = recording.made
        graphs = Graphs(recording)
        found, wanted = (
            trained_steps(model, x, labels, g, phase, **options)
            for model, g in zip(models, (graphs, None), strict=True)
        )
        assert recording.made > before
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


def test_each_gamma_and_each_smoothing_has_a_recording_of_its_own(recording, batch):
    x, labels = batch
    torch.manual_seed(0)
    model, graphs = Ensemble(ModelConfig("resnet8", 1, 10, tuple(x.shape[1:]))), Graphs(recording)
    for options in ({}, {"awp_gamma": 0.02}, {"label_smoothing": 0.1}, {}):
        trained_steps(model, x, labels, graphs, Phase("p", 1, NAT), steps=1, **options)
    assert recording.made == 3


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
@pytest.mark.parametrize("attack", [TrainingAttack((3, 3), (0.05, 0.2), (2.0, 2.0)), MIXED], ids=["PGD", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_examples_from_a_cuda_graph_are_those_without(dtype, attack, trained, batch):
    model, (x, labels) = trained(2).cuda(), (t.cuda() for t in batch)
    search, graphs = SearchCopy(model, dtype).model, Graphs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # recorded, and agreeing
        for seed in range(3):
            made = [
                make_examples(search, x, labels, CCE_RM, attack, torch.Generator().manual_seed(seed), graphs=g)
                for g in (graphs, None)
            ]
            assert ((made[0] - made[1]).abs() > 1e-5).float().mean() < 0.05


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("gamma", [0.0, 0.01])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("architecture", ["resnet8", "resnet8-w32", "cnn-mnist"])
def test_steps_by_cuda_graphs_are_those_without(architecture, autocast, gamma, batch):
    x, labels = (t.cuda() for t in batch)
    phase = Phase("p", 1, CCE_RM, TrainingAttack((2, 2), (0.1, 0.2), (1.0, 1.0)))
    torch.manual_seed(0)
    models = [Ensemble(ModelConfig(architecture, 2, 10, tuple(x.shape[1:]))).cuda()]
    models.append(copy.deepcopy(models[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # recorded, and agreeing
        found, wanted = (
            trained_steps(model, x, labels, graphs, phase, autocast=autocast, awp_gamma=gamma)
            for model, graphs in zip(models, (Graphs(), None), strict=True)
        )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0.02)
