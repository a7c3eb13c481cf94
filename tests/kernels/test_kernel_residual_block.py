import copy

import pytest
import torch

from cce import kernels
from cce.fast import use_kernels
from cce.kernels import residual_block
from cce.models import ResidualBlock
from cce.training.parallel import SharedBatchNorm

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no AVX, or no C++ compiler, here")


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


def block(channels, stride=1):
    torch.manual_seed(0)
    found = ResidualBlock(channels, channels * stride, stride).train()
    for pair in (found.first, found.second):
        torch.nn.init.uniform_(pair.norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(pair.norm.bias)
        torch.nn.init.normal_(pair.norm.running_mean)
    use_kernels(found)
    return found


def fits(x, module):
    return residual_block.fits(x, (module.first.conv, module.first.norm), (module.second.conv, module.second.norm))


def results(module, x, g):
    """Output, all gradients and all statistics of one pass."""
    x = x.detach().clone().requires_grad_()
    out = module(x)
    gradients = torch.autograd.grad(out, [x, *module.parameters()], g)
    return [out, *gradients, *(b for b in module.buffers() if b.is_floating_point())]


@pytest.mark.parametrize(
    ("shape", "tolerance"), [((3, 16, 7, 9), 1e-5), ((9, 48, 5, 4), 1e-5), ((70, 16, 32, 32), 2e-3)], ids=str
)
def test_it_is_the_block_with_its_gradients_and_statistics(shape, tolerance):
    """The last shape is larger than what is stored past the cache; of so many, a few are clipped by rounding alone."""
    module = block(shape[1])
    x, g = 3 * torch.randn(shape) + 5, torch.randn(shape)
    exact = copy.deepcopy(module).double()
    assert fits(last(x), module) and not fits(x.double(), exact)
    for one, two in zip(results(module, last(x), g), results(exact, x.double(), g.double()), strict=True):
        assert (one - two).norm() <= tolerance * two.norm()
    assert module.first.norm.num_batches_tracked == module.second.norm.num_batches_tracked == 1


def test_any_layout_is_taken():
    x, g = torch.randn(2, 16, 6, 5), torch.randn(2, 16, 6, 5)
    for one, two in zip(results(block(16), x, g), results(block(16), last(x), last(g)), strict=True):
        assert torch.equal(one, two)


def test_threads_share_the_work_and_the_same_number_gives_the_same():
    x, g, own, found = torch.randn(13, 16, 8, 8), torch.randn(13, 16, 8, 8), torch.get_num_threads(), []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            found.append(results(block(16), x, g))
    finally:
        torch.set_num_threads(own)
    for alone, shared, again in zip(*found, strict=True):
        assert (alone - shared).norm() <= 1e-4 * alone.norm()
        assert torch.equal(shared, again)


def test_not_a_number_stays_one():
    x = torch.randn(2, 16, 8, 8)
    x[0, 3, 0, 0] = torch.nan
    assert block(16)(x).isnan().all()


def test_images_cut_off_inside_a_tile_are_taken_whole():
    """What a piece of the batch gives must not depend on what was computed in its place before."""
    x, g = torch.randn(40, 16, 18, 18), torch.randn(40, 16, 18, 18)
    exact = results(copy.deepcopy(block(16)).double(), x.double(), g.double())
    for one, two in zip(results(block(16), x, g), exact, strict=True):
        assert (one - two).norm() <= 1e-3 * two.norm()


def test_others_do_not_fit():
    x = torch.randn(2, 16, 8, 8)
    assert fits(x, block(16))
    assert not fits(x, block(16).eval())
    assert not fits(x, block(16, stride=2))
    assert not fits(x[..., :3], block(16))
    assert not fits(x[:, :10], block(10))
    with kernels.turned_off():
        assert not fits(x, block(16))


def test_statistics_of_other_processes_are_not_left_out():
    shared = SharedBatchNorm(16).train()
    module = block(16)
    module.second.norm = shared
    x = torch.randn(2, 16, 8, 8)
    assert not fits(x, module)
