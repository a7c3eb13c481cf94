import contextlib

import pytest
import torch
import torch.nn.functional as F

from cce import kernels
from cce.config import CCE_BASE, CCE_RM, ModelConfig, Phase, TrainingAttack
from cce.fast import SearchCopy, use_kernels
from cce.kernels import residual_block, winograd
from cce.kernels.network import Network
from cce.models import Ensemble, FoldedConv
from cce.training.step import train_step

compiled = pytest.mark.skipif(not kernels.available(), reason="no AVX, or no C++ compiler, here")

SHAPES = [  # images, inputs, outputs, height, width
    (1, 16, 16, 4, 4),
    (3, 16, 32, 5, 11),
    (2, 64, 48, 14, 14),
    (5, 32, 32, 8, 6),
    (33, 48, 16, 7, 9),
    (24, 16, 48, 33, 35),  # more than is stored in the cache
    (9, 64, 128, 15, 16),  # weights whose sums are not, with several blocks of tiles for each part
    (3, 128, 80, 6, 9),
]


def operands(images, inputs, outputs, height, width):
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    x, w = noise(images, inputs, height, width), noise(outputs, inputs, 3, 3) / inputs**0.5
    return x, w, noise(outputs), noise(images, outputs, height, width)


def plain(x, w, bias, add, relu):
    y = F.conv2d(x, w, bias, padding=1)
    y = y if add is None else y + add
    return F.relu(y) if relu else y


MORE = ("", "bias", "bias and sum")
EACH = [  # every shape, and with one of them every way to end
    *((shape, MORE[i % 3], bool(i % 2)) for i, shape in enumerate(SHAPES)),
    *((SHAPES[1], more, relu) for more in MORE for relu in (False, True) if (more, relu) != (MORE[1], True)),
]


@compiled
@pytest.mark.parametrize(("shape", "more", "relu"), EACH, ids=str)
def test_it_is_the_plain_convolution_with_its_gradients(shape, more, relu):
    x, w, bias, add = operands(*shape)
    given = [x, w, bias if more else None, add if "sum" in more else None]
    found, wanted = [], []
    for function, to in ((winograd.convolve, found), (plain, wanted)):
        leaves = [None if t is None else t.clone().requires_grad_() for t in given]
        y = function(*leaves, relu)
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        g = g.masked_fill(plain(*given, False).abs() < 1e-3, 0)  # where rounding may decide what ReLU lets through
        gradients = torch.autograd.grad(y, [t for t in leaves if t is not None], g)
        to += [y, *gradients]
    for one, two in zip(found, wanted, strict=True):
        assert one.shape == two.shape
        assert (one - two).abs().max() <= 1e-4 * two.abs().max()


@compiled
def test_an_image_does_not_depend_on_the_others_nor_on_the_threads():
    x, w, bias, add = operands(7, 16, 32, 9, 9)
    own = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = winograd.convolve(x, w, bias, add, True)
        torch.set_num_threads(1)
        alone = torch.cat([winograd.convolve(x[i : i + 1], w, bias, add[i : i + 1], True) for i in range(7)])
    finally:
        torch.set_num_threads(own)
    assert torch.equal(together, alone)


@compiled
@pytest.mark.parametrize("channels", [(16, 16), (128, 80)], ids=str)
def test_threads_sum_the_gradient_of_the_weights(channels):
    x, w, _, g = operands(5, *channels, 8, 8)
    wanted = torch.nn.grad.conv2d_weight(x, w.shape, g, padding=1)
    own = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found = torch.autograd.grad(winograd.convolve(x, w.requires_grad_()), w, g)[0]
            assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    finally:
        torch.set_num_threads(own)


@compiled
def test_not_a_number_stays_one_through_the_relu():
    x, w, bias, _ = operands(1, 16, 16, 8, 8)
    x[0, 0, 0, 0] = torch.nan
    assert winograd.convolve(x, w, bias, relu=True).isnan().any()


@pytest.mark.parametrize(
    "conv",
    [
        torch.nn.Conv2d(16, 16, 3, stride=2, padding=1),
        torch.nn.Conv2d(16, 16, 1),
        torch.nn.Conv2d(16, 16, 3),
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.Conv2d(16, 10, 3, padding=1),
        torch.nn.Conv2d(32, 32, 3, padding=1, groups=2),
        torch.nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_other_convolutions_do_not_suit(conv):
    assert not winograd.suits(conv)
    assert winograd.suits(torch.nn.Conv2d(16, 32, 3, padding=1, bias=False))


@compiled
def test_other_numbers_do_not_fit():
    x, w = torch.rand(1, 16, 8, 8), torch.rand(16, 16, 3, 3)
    assert winograd.fits(x, w)
    assert not winograd.fits(x.bfloat16(), w.bfloat16())
    assert not winograd.fits(x[..., :3], w)
    assert not winograd.fits(x[:0], w)
    with kernels.turned_off():
        assert not winograd.fits(x, w)
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.fits(x, w)


@compiled
def test_searches_and_training_use_it_and_verdicts_do_not(monkeypatch):
    """What says whether an attack succeeded is PyTorch's own convolution."""
    calls = []
    used_here = ((winograd, "convolve"), (residual_block, "forward"), (Network, "__call__"))
    for module, name in used_here:
        own = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, own=own, name=name: calls.append(name) or own(*given))
    for architecture, in_training, in_search in (
        ("resnet8", 2 * ["convolve"] + ["forward"], ["__call__"]),
        ("cnn-mnist", 3 * ["convolve"], 3 * ["convolve"]),
    ):
        model, x = Ensemble(ModelConfig(architecture, 1, 10, (1, 16, 16))), torch.rand(2, 1, 16, 16)
        use_kernels(model)
        x = x.contiguous(memory_format=torch.channels_last)
        search = SearchCopy(model, torch.float32).model
        for used, training, expected in ((model, True, in_training), (search, False, in_search), (model, False, [])):
            calls.clear()
            used.train(training)(x)
            assert sorted(calls) == sorted(expected)


@compiled
@pytest.mark.parametrize("architecture", ["resnet8", "cnn-mnist"])
@pytest.mark.parametrize("defense", [CCE_RM, CCE_BASE], ids=lambda d: d.name)
def test_a_training_step_is_that_of_pytorch(architecture, defense):
    x = torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    labels, found = torch.arange(40) % 10, []
    phase = Phase("p", 1, defense, TrainingAttack((1, 1), (0.1, 0.1), (1.0, 1.0)))
    for here in (contextlib.nullcontext, kernels.turned_off):
        torch.manual_seed(0)
        model = Ensemble(ModelConfig(architecture, 2, 10, (1, 16, 16))).train()
        use_kernels(model)
        for dropout in (m for m in model.modules() if isinstance(m, torch.nn.Dropout)):
            dropout.p = 0.0
        search, optimizer = SearchCopy(model, torch.float32), torch.optim.SGD(model.parameters(), lr=0.0)
        with here():
            train_step(list(model.members), search, optimizer, x, labels, phase, torch.Generator().manual_seed(0))
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    # One step of signs: a pixel whose gradient is all but zero may go the other way.
    assert F.cosine_similarity(found[0], found[1], dim=0) > 0.999


def test_a_changed_weight_is_made_ready_again_on_repack():
    conv = FoldedConv(16, 16, 3, 1, 1).requires_grad_(False)
    use_kernels(conv)
    x = torch.rand(1, 16, 8, 8)
    before = conv(x)
    conv.weight.mul_(2)
    conv.bias.mul_(2)
    conv.repack()
    torch.testing.assert_close(conv(x), 2 * before, rtol=1e-4, atol=1e-4)
