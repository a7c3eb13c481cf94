"""Wider ResNets: their shapes, and that every gradient on them is plain PyTorch's, whatever native code is there."""

import copy

import pytest
import torch

from cce.attacks.gradient import loss_of
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.config import CCE_RM, ConfigError, ModelConfig, Phase, TrainingAttack
from cce.fast import SearchCopy, use_kernels
from cce.kernels import available, turned_off
from cce.models import Ensemble
from cce.training.step import train_step

WIDE = pytest.mark.parametrize("architecture", ["resnet8-w32", "resnet8-w64"])


def made(architecture: str, members: int = 2) -> Ensemble:
    torch.manual_seed(0)
    return Ensemble(ModelConfig(architecture, members, 10, (3, 16, 16)))


@pytest.mark.parametrize(("architecture", "width"), [("resnet20", 16), ("resnet20-w32", 32), ("resnet20-w64", 64)])
def test_resnet20_has_the_parameters_counted_by_hand(architecture, width):
    """Three stages of three blocks of w, 2 w and 4 w channels; a projection where the width doubles."""
    member = made(architecture, 1).members[0]
    w = width
    convolutions = 27 * w + 6 * 9 * w**2 + 9 * (2 * w**2 + 5 * 4 * w**2) + 9 * (8 * w**2 + 5 * 16 * w**2)
    projections = 2 * w**2 + 8 * w**2
    norms = 2 * (w + 6 * w + 7 * 2 * w + 7 * 4 * w)
    head = 4 * w * 10 + 10
    assert sum(p.numel() for p in member.parameters()) == convolutions + projections + norms + head
    assert member.stem.conv.out_channels == width and member.head.in_features == 4 * width


@pytest.mark.parametrize(
    "name", ["resnet20-w16", "resnet20-w40", "resnet20-w512", "resnet20-w", "resnet9-w32", "cnn-mnist-w32"]
)
def test_other_widths_are_refused(name):
    with pytest.raises(ConfigError, match="wider as resnetD-wW"):
        ModelConfig(name, 2, 10, (3, 32, 32))


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(6)


@WIDE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pixels_gradient_on_a_search_copy_is_plain_pytorchs(architecture, dtype):
    model, (x, labels) = made(architecture).train(), examples()
    model.member_logits(x)  # statistics that are not the first ones
    model.eval()
    search = SearchCopy(model, dtype)
    assert not search.networks  # these are for the usual width

    def gradient(model: Ensemble, member: int | None) -> torch.Tensor:
        z = x.clone().requires_grad_(True)
        return torch.autograd.grad(loss_of(model, labels, member)(z).sum(), z)[0]

    for member in (None, 0, 1):
        found = gradient(search.model, member)
        with turned_off():
            wanted = gradient(model, member)
        most = 1e-4 if dtype == torch.float32 else 0.2
        assert (found - wanted).norm() < most * wanted.norm()


@WIDE
def test_a_training_step_is_plain_pytorchs(architecture):
    model, (x, labels) = made(architecture).train(), examples()
    plain = copy.deepcopy(model)
    use_kernels(model)
    phase = Phase("p", 1, CCE_RM, TrainingAttack((0, 0), (0.1, 0.1), (1.0, 1.0)))  # no signs that rounding turns

    def step(model: Ensemble) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        search, generator = SearchCopy(model, torch.float32), torch.Generator().manual_seed(2)
        train_step(list(model.members), search, optimizer, x, labels, phase, generator)

    step(model)
    with turned_off():
        step(plain)
    for (name, one), two in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (one.grad - two.grad).norm() <= 0.005 * two.grad.norm() + 1e-5, name
    for one, two in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_the_usual_width_is_still_computed_whole():
    search = SearchCopy(made("resnet8"), torch.float32)
    assert len(search.networks) == (2 if available() else 0)


def test_a_wide_ensemble_is_saved_and_loaded(tmp_path):
    model = made("resnet8-w32")
    checkpoints.save(Checkpoint("wide", model, "digits", tuple("0123456789"), CCE_RM, {}), tmp_path / "wide")
    loaded = checkpoints.load(tmp_path / "wide")
    assert loaded.model.config.architecture == "resnet8-w32"
    assert all(torch.equal(loaded.model.state_dict()[k], v) for k, v in model.state_dict().items())
