import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cce.config import ConfigError, ModelConfig
from cce.fast import SearchCopy
from cce.models import (
    ConvNorm,
    Ensemble,
    build_member,
    entropy,
    evaluating,
    fast_dtype,
    log_mean_probability,
    resolve_device,
)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("resnet8", (3, 16, 16)), ("cnn-mnist", (1, 16, 16)), ("cnn-cifar10", (3, 8, 8)), ("cnn-cifar100", (3, 8, 8))],
)
@pytest.mark.parametrize("members", [1, 3])
def test_shapes(architecture, shape, members):
    model = Ensemble(ModelConfig(architecture, members, 7, shape)).eval()
    x = torch.rand(2, *shape)
    assert model.member_logits(x).shape == (members, 2, 7)
    assert model(x).shape == (2, 7)
    assert model(x).dtype == torch.float32


def test_resnet20_has_the_parameters_counted_by_hand():
    """Weights of 3x3 convolutions, two numbers a channel of batch norm, 1x1 projections, the head."""

    def pair(inputs: int, outputs: int, kernel: int = 3) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs

    stage1 = 6 * pair(16, 16)
    stage2 = pair(16, 32) + pair(16, 32, 1) + 5 * pair(32, 32)
    stage3 = pair(32, 64) + pair(32, 64, 1) + 5 * pair(64, 64)
    total = pair(3, 16) + stage1 + stage2 + stage3 + 64 * 10 + 10
    member = build_member(ModelConfig("resnet20", 1, 10, (3, 32, 32)))
    assert parameters(member) == total == 272_474


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_resnet_depth_counts_convolutions_and_the_head(depth):
    member = build_member(ModelConfig(f"resnet{depth}", 1, 10, (3, 32, 32)))
    convolutions = [m for m in member.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == depth


@pytest.mark.parametrize(
    ("architecture", "shape", "channels", "dense"),
    [
        ("cnn-mnist", (1, 28, 28), [32, 32, 64, 64], [(3136, 200), (200, 200), (200, 10)]),
        ("cnn-cifar10", (3, 32, 32), [64, 64, 128, 128], [(8192, 256), (256, 256), (256, 10)]),
        (
            "cnn-cifar100",
            (3, 32, 32),
            [64, 64, 64, 128, 128, 128],
            [(8192, 256), (256, 256), (256, 256), (256, 10)],
        ),
    ],
)
def test_standard_cnn_is_that_of_table_8(architecture, shape, channels, dense):
    layers = list(build_member(ModelConfig(architecture, 1, 10, shape)).modules())
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == channels
    assert {(c.kernel_size, c.stride, c.padding) for c in convolutions} == {((3, 3), (1, 1), (1, 1))}
    assert [(m.in_features, m.out_features) for m in layers if isinstance(m, nn.Linear)] == dense
    assert sum(isinstance(m, nn.MaxPool2d) for m in layers) == 2
    assert [m.p for m in layers if isinstance(m, nn.Dropout)] == [0.5]


def test_too_small_a_picture_for_two_poolings_is_refused():
    with pytest.raises(ConfigError, match="input_shape is .*cnn-mnist needs 4 x 4 pixels or more"):
        build_member(ModelConfig("cnn-mnist", 1, 10, (1, 3, 28)))


def test_mean_probability_by_hand():
    """Members (.9, .1) and (.3, .7): the mean is (.6, .4)."""
    logits = torch.tensor([[[0.9, 0.1]], [[0.3, 0.7]]]).log()
    log_p = log_mean_probability(logits + 5)
    assert log_p[0].tolist() == pytest.approx([math.log(0.6), math.log(0.4)], abs=1e-6)


def test_mean_probability_of_certain_members_that_disagree_is_a_half():
    logits = torch.tensor([[[1000.0, 0.0]], [[0.0, 1000.0]]])
    assert log_mean_probability(logits)[0].tolist() == pytest.approx([-math.log(2)] * 2)


def test_one_member_is_its_own_ensemble(fresh):
    model = fresh(members=1).eval()
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(model(x), F.log_softmax(model.members[0](x), -1))


def test_forward_is_its_own_log_softmax_so_that_cross_entropy_is_no_double_softmax(fresh):
    model, labels = fresh(members=3).eval(), torch.tensor([3, 0, 9, 9])
    x = torch.rand(4, 1, 8, 8)
    probability = torch.stack([m(x).softmax(-1) for m in model.members]).mean(0)
    torch.testing.assert_close(model(x).exp(), probability)
    torch.testing.assert_close(model(x).log_softmax(-1), model(x), atol=1e-6, rtol=0)

    inputs = x.clone().requires_grad_()
    by_library = F.cross_entropy(model(inputs), labels, reduction="none")
    (gradient,) = torch.autograd.grad(by_library.sum(), inputs)
    direct = x.clone().requires_grad_()
    f_en_y = torch.stack([m(direct).softmax(-1) for m in model.members]).mean(0)[range(4), labels]
    (wanted,) = torch.autograd.grad(-f_en_y.log().sum(), direct)
    torch.testing.assert_close(by_library, -f_en_y.log())
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)
    assert wanted.abs().max() > 1e-4  # so that the comparison means something


@pytest.mark.parametrize("members", [2, 3])
def test_lemma_1_if_every_member_is_right_the_ensemble_is_right(members):
    generator = torch.Generator().manual_seed(members)
    agreed = 0
    for scale in (0.1, 1.0, 10.0):
        logits = scale * torch.randn(members, 20_000, 4, generator=generator)
        said = logits.argmax(-1)
        agree = (said == said[0]).all(0)
        ensemble = log_mean_probability(logits).argmax(-1)
        assert (ensemble[agree] == said[0][agree]).all()
        agreed += agree.sum().item()
        assert not (ensemble[~agree] == said[0][~agree]).all()  # without agreement nothing follows
    assert agreed > 1000


def test_lemma_1_fails_in_float32_only_by_rounding_where_two_classes_tie():
    """The lemma is of real numbers. Members whose best classes lie 1e-7 apart can agree, and their rounded mean not."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 200_000, 1, generator=generator) + 1e-6 * torch.randn(2, 200_000, 4, generator=generator)
    said = logits.argmax(-1)
    agree = said[0] == said[1]
    assert (log_mean_probability(logits.double()).argmax(-1)[agree] == said[0][agree]).all()
    broken = agree & (log_mean_probability(logits).argmax(-1) != said[0])
    best = logits.topk(2, dim=-1).values
    margins = (best[..., 0] - best[..., 1]).min(0).values
    assert broken.any()  # the counterexample
    assert margins[broken].max() < 1e-6


@pytest.mark.parametrize("members", [2, 3])
def test_lemma_1_on_networks(members, trained, digits):
    model, x = trained(members), digits.test.pixels()[:200]
    x = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    with torch.no_grad():
        said, ensemble = model.member_logits(x).argmax(-1), model(x).argmax(-1)
    agree = (said == said[0]).all(0)
    assert 20 < agree.sum() < 190
    assert (ensemble[agree] == said[0][agree]).all()


def test_entropy_of_uniform_one_hot_and_a_coin():
    uniform = torch.full((2, 10), -math.log(10))
    assert entropy(uniform).tolist() == pytest.approx([math.log(10)] * 2, abs=1e-6)
    one_hot = torch.tensor([0.0, -math.inf, -math.inf])
    assert entropy(one_hot).item() == 0
    coin = torch.tensor([0.25, 0.75]).log()
    assert entropy(coin).item() == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3), abs=1e-6)


def test_entropy_has_a_finite_gradient_at_probability_zero():
    log_p = torch.tensor([math.log(0.5), math.log(0.5), -math.inf], requires_grad=True)
    entropy(log_p).backward()
    # -d(p ln p)/d(ln p) = -p (ln p + 1), and nothing at p = 0.
    assert log_p.grad.tolist() == pytest.approx([-0.5 * (1 - math.log(2))] * 2 + [0.0], abs=1e-6)


def test_entropy_does_not_hide_a_broken_model():
    assert math.isnan(entropy(torch.tensor([math.nan, 0.0])).item())


def test_evaluating_gives_back_mode_and_gradients_even_after_an_error(fresh):
    model = fresh().train()
    model.members[0].eval()
    frozen = next(model.members[1].parameters()).requires_grad_(False)
    before = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError, match="inside"), evaluating(model):
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        raise RuntimeError("inside")
    assert [m.training for m in model.modules()] == before
    assert not frozen.requires_grad
    assert sum(not p.requires_grad for p in model.parameters()) == 1


@pytest.fixture
def lived_in(trained):
    """A trained ensemble: its batch norm statistics are those of real data."""
    return trained(2)


def test_search_copy_in_float32_equals_its_source_in_evaluation_mode(lived_in, digits):
    x = digits.test.pixels()[:50]
    lived_in.train()
    weights = copy.deepcopy(lived_in.state_dict())
    copied = SearchCopy(lived_in, torch.float32)
    with torch.no_grad():
        found = copied.model(x)
        assert lived_in.training
        lived_in.eval()
        torch.testing.assert_close(found, lived_in(x), atol=1e-4, rtol=0)
    assert not any(isinstance(m, ConvNorm | nn.BatchNorm2d) for m in copied.model.modules())
    assert all(torch.equal(weights[k], v) for k, v in lived_in.state_dict().items())
    assert all(p.requires_grad for p in lived_in.parameters())
    assert not any(p.requires_grad for p in copied.model.parameters())


def test_search_copy_has_the_gradient_of_its_source(lived_in, digits):
    x, labels = digits.test.pixels()[:20], digits.test.labels[:20]
    gradients = []
    for model in (lived_in.eval(), SearchCopy(lived_in, torch.float32).model):
        inputs = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(F.nll_loss(model(inputs), labels, reduction="sum"), inputs)[0])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["resnet8", "cnn-mnist"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 5])
def test_search_copy_says_the_same_with_and_without_gradients(architecture, layout, batch, fresh):
    """Without gradients the convolutions also add and clip; every ReLU stays in its place."""
    model = SearchCopy(fresh(architecture=architecture), torch.float32).model
    x = torch.rand(batch, 1, 8, 8).contiguous(memory_format=layout)
    followed = model.member_logits(x.clone().requires_grad_())
    assert followed.requires_grad
    with torch.no_grad():
        alone = model.member_logits(x)
    torch.testing.assert_close(alone, followed.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["resnet8", "cnn-mnist"])
def test_search_copy_follows_its_source_after_refresh_and_not_before(architecture, fresh):
    model, x = fresh(architecture=architecture), torch.rand(8, 1, 8, 8)
    copied = SearchCopy(model, torch.float32)
    with torch.no_grad():
        before = copied.model(x)
        model.train()(x)  # moves the running statistics, where there are any
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        model.eval()
        torch.testing.assert_close(copied.model(x), before, atol=0, rtol=0)
        assert copied.refresh() is copied.model
        torch.testing.assert_close(copied.model(x), model(x), atol=1e-4, rtol=0)
        assert (copied.model(x) - before).abs().max() > 1e-2


def test_search_copy_in_bfloat16_is_near_and_speaks_float32(lived_in, digits):
    x = digits.test.pixels()[:100]
    copied = SearchCopy(lived_in, torch.bfloat16)
    with torch.no_grad():
        found, wanted = copied.model(x), lived_in(x)
    assert found.dtype == torch.float32
    assert {p.dtype for p in copied.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in lived_in.parameters()} == {torch.float32}
    assert (found.exp() - wanted.exp()).abs().mean() < 0.01
    assert (found.argmax(1) == wanted.argmax(1)).float().mean() >= 0.97


def test_resolve_device():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    assert fast_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("name", ["gpu", "cuda:97", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match=f"device is '{name}', which cannot be used here .*try --device auto"):
        resolve_device(name)
