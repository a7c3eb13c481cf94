import copy

import pytest
import torch

from cce import kernels
from cce.config import ModelConfig
from cce.fast import SearchCopy
from cce.models import Ensemble

compiled = pytest.mark.skipif(not kernels.available(), reason="no AVX, or no C++ compiler, here")


def member(architecture="resnet8", shape=(3, 16, 16), classes=10):
    """A search copy's member, after a few batches have moved its batch norms."""
    torch.manual_seed(0)
    model = Ensemble(ModelConfig(architecture, 1, classes, shape)).train()
    for _ in range(3):
        model(torch.rand(16, *shape))
    return SearchCopy(model, torch.float32).model.members[0]


def both(network, x):
    """Logits and the gradient of the pixels."""
    x = x.clone().requires_grad_()
    logits = network(x)
    g = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    return logits.detach(), torch.autograd.grad(logits, x, g)[0]


@compiled
@pytest.mark.parametrize(
    ("architecture", "shape", "classes", "count"),
    [
        ("resnet8", (1, 8, 8), 10, 1),
        ("resnet8", (1, 8, 8), 10, 6),
        ("resnet8", (1, 8, 8), 10, 7),
        ("resnet8", (1, 8, 8), 10, 30),
        ("resnet14", (3, 28, 20), 7, 7),
        ("resnet20", (3, 32, 32), 10, 3),
        ("resnet8", (8, 4, 4), 2, 30),
    ],
    ids=str,
)
def test_it_is_the_network_layer_by_layer(architecture, shape, classes, count):
    network, x = member(architecture, shape, classes), torch.rand(count, *shape)
    assert network.network.fits(x)
    found = both(network, x)
    with kernels.turned_off():
        wanted = both(network, x)
    assert found[0].shape == (count, classes)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    # An activation that is all but zero may be kept here and clipped there: nearly all numbers agree.
    apart = (found[1] - wanted[1]).abs() > 1e-4 * wanted[1].abs().max()
    assert found[1].shape == x.shape and apart.float().mean() < 0.02


@compiled
def test_an_image_depends_neither_on_the_others_nor_on_the_threads():
    network, x = member(), torch.rand(31, 3, 16, 16)
    own, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(both(network, x))
    finally:
        torch.set_num_threads(own)
    alone = network(x[30:])
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert torch.equal(alone, found[0][0][30:])


@compiled
def test_the_number_of_threads_may_change_before_the_gradient():
    network, x = member(), torch.rand(31, 3, 16, 16)
    wanted, own = both(network, x)[1], torch.get_num_threads()
    leaf = x.clone().requires_grad_()
    try:
        torch.set_num_threads(3)
        logits = network(leaf)
        torch.set_num_threads(1)
        g = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
        (found,) = torch.autograd.grad(logits, leaf, g)
    finally:
        torch.set_num_threads(own)
    assert torch.equal(found, wanted)


@compiled
def test_images_of_any_layout_are_taken():
    network, x = member(), torch.rand(2, 3, 16, 16)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(network(x), network(turned))
    assert torch.equal(network(x), network(x.contiguous(memory_format=torch.channels_last)))


@compiled
def test_without_gradients_nothing_is_kept():
    network, x = member(), torch.rand(2, 3, 16, 16)
    assert network(x).grad_fn is None
    with torch.no_grad():
        assert torch.equal(network(x.clone().requires_grad_()), network(x))


@compiled
def test_what_does_not_fit_is_computed_layer_by_layer():
    network, x = member(), torch.rand(2, 3, 16, 16)
    program = network.network
    assert program.fits(x)
    assert not program.fits(x[..., :15])
    assert not program.fits(torch.rand(2, 9, 16, 16))
    assert not program.fits(x[:0])
    assert not program.fits(x.bfloat16())
    with kernels.turned_off():
        assert not program.fits(x)
    assert network(x[..., :15]).shape == (2, 10)
    assert network(x[:0]).shape == (0, 10)


@compiled
def test_it_follows_the_weights_of_a_model_in_training():
    torch.manual_seed(0)
    model, x = Ensemble(ModelConfig("resnet8", 1, 10, (3, 16, 16))).eval(), torch.rand(2, 3, 16, 16)
    search = SearchCopy(model, torch.float32)
    search.model(x)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    torch.testing.assert_close(search.refresh()(x), model(x), rtol=1e-4, atol=1e-5)


@compiled
def test_of_a_copy_in_bfloat16_the_gradients_are_float32s_and_the_looks_its_own():
    torch.manual_seed(0)
    model, x = Ensemble(ModelConfig("resnet8", 2, 10, (3, 16, 16))).eval(), torch.rand(2, 3, 16, 16)
    half, exact = (SearchCopy(model, dtype) for dtype in (torch.bfloat16, torch.float32))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    for search in (half, exact):
        search.refresh()
    for mine, wanted in zip(both(half.model, x), both(exact.model, x), strict=True):
        assert torch.equal(mine, wanted)
    assert half.search_rows == exact.search_rows
    assert (half.precision, exact.precision) == ("bfloat16, gradients in float32", "float32")
    seen = half.model(x)
    assert seen.dtype == torch.float32 and not torch.equal(seen, exact.model(x))
    torch.testing.assert_close(seen, exact.model(x), rtol=0.05, atol=0.05)
    with kernels.turned_off():
        assert not torch.equal(both(half.model, x)[1], both(exact.model, x)[1])


@compiled
def test_a_copy_follows_its_own_weights():
    network, x = member(), torch.rand(2, 3, 16, 16)
    before = network(x)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.head.weight.zero_()
        other.head.bias.fill_(2)
    assert torch.equal(other(x), torch.full((2, 10), 2.0))
    network.network.repack()
    assert torch.equal(network(x), before)


@compiled
def test_not_a_number_comes_out_where_it_went_in():
    network, x = member(), torch.rand(2, 3, 16, 16)
    x[0, 0, 0, 0] = torch.nan
    logits = network(x)
    assert logits[0].isnan().all() and not logits[1].isnan().any()
