import pytest
import torch
import torch.nn.functional as F

from cce import direct, native

compiled = pytest.mark.skipif(native.library() is None, reason="no AVX, or no C++ compiler, here")


@compiled
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("shape", "outputs", "stride"),
    [
        ((5, 3, 9, 7), 16, 1),
        ((2, 1, 28, 28), 32, 1),
        ((70, 16, 8, 12), 32, 2),
        ((3, 32, 4, 2), 64, 2),
        ((3, 16, 6, 4), 16, 2),
    ],
    ids=str,
)
def test_it_is_the_plain_convolution_with_its_gradients(shape, outputs, stride, bias, threads):
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(shape[1], outputs, 3, stride, 1, bias=bias), torch.randn(shape)
    x.requires_grad_(stride == 2)
    leaves = [*conv.parameters(), *([x] if x.requires_grad else [])]
    assert direct.suits(conv) and direct.fits(x, conv)
    wanted = F.conv2d(x, conv.weight, conv.bias, stride, 1)
    g, own = torch.randn_like(wanted), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = direct.convolve(x, conv)
        gradients = torch.autograd.grad(found, leaves, g)
    finally:
        torch.set_num_threads(own)
    for one, two in zip([found, *gradients], [wanted, *torch.autograd.grad(wanted, leaves, g)], strict=True):
        assert one.shape == two.shape
        assert (one - two).abs().max() <= 1e-5 * two.abs().max()


@compiled
def test_other_convolutions_do_not():
    for conv in (
        torch.nn.Conv2d(16, 16, 3, 1, 1),
        torch.nn.Conv2d(3, 10, 3, 1, 1),
        torch.nn.Conv2d(3, 16, 3, 2, 1),
        torch.nn.Conv2d(16, 16, 1, 2),
        torch.nn.Conv2d(16, 16, 3, 2, 0),
        torch.nn.Conv2d(16, 16, 3, 2, 1, groups=2),
    ):
        assert not direct.suits(conv)
    halving, stem = torch.nn.Conv2d(16, 16, 3, 2, 1), torch.nn.Conv2d(3, 16, 3, 1, 1)
    assert not direct.fits(torch.rand(1, 16, 7, 8), halving)
    assert not direct.fits(torch.rand(1, 3, 8, 8, requires_grad=True), stem)
    with native.turned_off():
        assert not direct.fits(torch.rand(1, 3, 8, 8), stem)
