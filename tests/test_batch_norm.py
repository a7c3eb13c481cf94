import pytest
import torch

from cce import batch_norm, native
from cce.models import ConvNorm
from cce.training.parallel import SharedBatchNorm

pytestmark = pytest.mark.skipif(native.library() is None, reason="no AVX, or no C++ compiler, here")


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


def pair(channels):
    """A batch norm of some history, behind no convolution."""
    torch.manual_seed(0)
    found = ConvNorm(channels, channels).train()
    found.conv = torch.nn.Identity()
    torch.nn.init.uniform_(found.norm.weight, 0.5, 1.5)
    torch.nn.init.normal_(found.norm.bias)
    return found


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("shape", [(2, 16, 2, 3), (5, 48, 7, 9), (64, 32, 26, 26)], ids=str)
def test_it_is_batch_norm_with_its_gradients_and_statistics(shape, added, relu):
    """The last shape is larger than what is stored past the cache."""
    torch.manual_seed(1)
    y = last(3 * torch.randn(shape) + 20 * torch.randn(shape[1], 1, 1)).requires_grad_()
    add = last(torch.randn(shape)).requires_grad_() if added else None
    results = []
    for dtype in (torch.float32, torch.float64):  # PyTorch's own in float32 loses more than this
        module = pair(shape[1]).to(dtype)
        given = [t.detach().to(dtype).requires_grad_() for t in (y, *([add] if added else []))]
        assert batch_norm.fits(given[0], module.norm) == (dtype == torch.float32)
        out = module(*given, relu=relu)
        g = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        g = g.masked_fill(out.detach().abs() < 1e-3, 0)  # where rounding may decide what ReLU lets through
        gradients = torch.autograd.grad(out, [module.norm.weight, module.norm.bias, *given], g)
        results.append([out, *gradients, module.norm.running_mean, module.norm.running_var])
        assert module.norm.num_batches_tracked == 1
    for one, two in zip(*results, strict=True):
        assert (one - two).abs().max() <= 1e-5 * two.abs().max() + 1e-6


def test_any_layout_is_taken():
    y = last(torch.randn(2, 16, 4, 5))
    assert torch.equal(pair(16)(y), pair(16)(y.contiguous()))


def test_threads_share_the_work():
    y, module, own, found = last(torch.randn(9, 16, 8, 8)), pair(16), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(module(y, relu=True))
    finally:
        torch.set_num_threads(own)
    torch.testing.assert_close(found[0], found[1])


def test_not_a_number_stays_one_through_the_relu():
    y = last(torch.randn(2, 16, 4, 4))
    y[0, 3, 0, 0] = torch.nan
    out = pair(16)(y, relu=True)
    assert out[:, 3].isnan().all() and not out[:, :3].isnan().any()


def test_a_channel_of_one_number_has_no_spread():
    out = pair(16)(last(torch.full((2, 16, 4, 4), 7.0)))
    torch.testing.assert_close(out, pair(16).norm.bias[None, :, None, None].expand_as(out))


def test_others_do_not_fit():
    y, norm = last(torch.randn(2, 16, 4, 4)), torch.nn.BatchNorm2d(16).train()
    assert batch_norm.fits(y, norm)
    assert not batch_norm.fits(y[:1, :, :1, :1], norm)
    assert not batch_norm.fits(y[:0], norm)
    assert not batch_norm.fits(y, norm.eval())
    assert not batch_norm.fits(y, SharedBatchNorm(16).train())  # of other processes' images too
    assert not batch_norm.fits(last(torch.randn(2, 10, 4, 4)), torch.nn.BatchNorm2d(10).train())
