import itertools
import json
import math

import pytest
import torch
from torch import nn

from cce.config import ConfigError
from cce.evaluation.surfaces import axes, surface


def test_axes_are_orthogonal_to_1e_6_and_their_largest_entry_is_one():
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        gradient = torch.randn(3, 32, 32, generator=generator) ** 3 * 10.0 ** -(seed % 9)
        u, v = axes(gradient, generator)
        assert u.dtype == v.dtype == torch.float64
        assert abs((u * v).sum()) <= 1e-6 and abs((u * v).sum()) / (u.norm() * v.norm()) <= 1e-12
        assert u.abs().max() == v.abs().max() == 1
        torch.testing.assert_close(u / u.norm(), gradient.double() / gradient.double().norm())


def test_axes_hold_where_v_starts_nearly_along_u():
    """Of two pixels there is one perpendicular direction; Gram-Schmidt has little left of v."""
    for seed in range(100):
        u, v = axes(torch.tensor([[[1.0, 1e-7]]]), torch.Generator().manual_seed(seed))
        assert abs((u * v).sum()) <= 1e-6


def test_a_loss_of_the_mean_alone_is_flat_along_v_and_known_along_u(thresholds):
    """u is the same for every pixel (loss rises as the mean falls), so v has mean zero and changes nothing."""
    model, x = thresholds(0.4, 0.5), torch.full((1, 4, 4), 0.45)
    found = surface(model, x, 1, extent=0.1, resolution=5)
    assert found.views == ["f1", "f2", "en"]
    torch.testing.assert_close(found.u, -torch.ones(1, 4, 4, dtype=torch.float64))
    assert found.v.mean().abs() < 1e-12
    for k, offset in enumerate(found.offsets.tolist()):
        p = [1 / (1 + math.exp(-20 * (0.45 - offset - t))) for t in (0.4, 0.5)]
        for view, value in enumerate([*p, sum(p) / 2]):
            assert found.loss[view, :, k].tolist() == pytest.approx([-math.log(value)] * 5, rel=1e-3)
            assert found.labels[view, :, k].tolist() == [int(value > 0.5)] * 5 or abs(value - 0.5) < 1e-3
    assert found.offsets.tolist() == pytest.approx([-0.1, -0.05, 0, 0.05, 0.1])
    assert found.clipped == 0


@pytest.mark.parametrize("members", [1, 2, 3])
def test_the_middle_is_the_picture_and_no_point_is_farther_than_it_says(members, trained, digits):
    model, x, y = trained(members), digits.test.pixels()[0], int(digits.test.labels[0])
    found = surface(model, x, y, extent=0.1, resolution=9)
    assert found.loss.shape == found.labels.shape == (members + 1, 9, 9)
    with torch.no_grad():
        logits = model.member_logits(x[None])[:, 0]
        wanted = torch.cat([-logits.log_softmax(-1)[:, y], -model(x[None])[:, y]])
    torch.testing.assert_close(found.loss[:, 4, 4], wanted, atol=1e-5, rtol=1e-4)
    assert found.labels[:members, 4, 4].tolist() == logits.argmax(-1).tolist()
    assert abs((found.u * found.v).sum()) <= 1e-6
    assert found.loss[-1, 4, 5] > found.loss[-1, 4, 4]  # u climbs the ensemble's loss
    if members == 1:
        torch.testing.assert_close(found.loss[0], found.loss[1])
    corner = (x + 0.1 * found.u + 0.1 * found.v).clamp(0, 1).float()
    with torch.no_grad():
        torch.testing.assert_close(found.loss[-1, 8, 8], -model(corner[None])[0, y], atol=1e-4, rtol=1e-4)


def test_batch_size_does_not_matter_and_the_seed_does(trained, digits):
    model, x = trained(2), digits.test.pixels()[1]
    y = int(digits.test.labels[1])
    one, other = (surface(model, x, y, resolution=5, batch_size=b) for b in (2, 100))
    torch.testing.assert_close(one.loss, other.loss, atol=1e-5, rtol=1e-4)
    assert torch.equal(one.v, other.v)
    assert not torch.equal(one.v, surface(model, x, y, resolution=5, seed=1).v)


def test_every_point_is_what_the_unfolded_members_say_to_1e_4(trained, digits):
    """Against the plain model, a picture at a time: batch norm not folded, no channels-last, no batches."""
    model, x, y = trained(2), digits.test.pixels()[2], int(digits.test.labels[2])
    found = surface(model, x, y, extent=0.2, resolution=7)
    place = found.offsets
    with torch.no_grad():
        for j, i in itertools.product(range(7), range(7)):
            point = (x + (place[i] * found.u + place[j] * found.v).float()).clamp(0, 1)[None]
            logits = model.member_logits(point)[:, 0]
            log_p = torch.cat([logits.log_softmax(-1), model(point)])
            torch.testing.assert_close(found.loss[:, j, i], -log_p[:, y], atol=1e-4, rtol=1e-4)
            best = log_p.gather(1, found.labels[:, j, i, None])[:, 0]
            assert (log_p.max(-1).values - best).max() < 1e-4  # the label, but for ties


def test_the_model_is_left_as_it_was(trained, digits):
    model = trained(2).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    surface(model, digits.test.pixels()[0], 0, resolution=3)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_points_that_leave_the_pixels_are_clipped_and_counted(thresholds):
    found = surface(thresholds(0.4), torch.full((1, 4, 4), 0.95), 0, extent=0.2, resolution=3)
    assert 0 < found.clipped < 1
    assert found.loss[-1].max() <= 20 * (1 - 0.4) + 1e-3  # a mean of 1 is the lightest there is


def test_json_has_axes_in_255ths_and_a_grid_for_each_view(trained, digits):
    values = surface(trained(2), digits.test.pixels()[0], 0, extent=8 / 255, resolution=3).to_json()
    values = json.loads(json.dumps(values, allow_nan=False))
    assert values["offsets"] == [-8, 0, 8]
    assert list(values["views"]) == ["f1", "f2", "en"]
    assert len(values["views"]["en"]["loss"]) == len(values["views"]["en"]["labels"]) == 3


class Deaf(nn.Module):
    def forward(self, x):
        return torch.zeros(len(x), 2) + 0 * x.sum()


def test_a_picture_without_gradient_is_refused(thresholds):
    model = thresholds(0.5)
    model.members = nn.ModuleList([Deaf()])
    with pytest.raises(ConfigError, match="gradient of the loss is zero"):
        surface(model, torch.full((1, 4, 4), 0.5), 0)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"extent": 8}, "did you mean 8/255"),
        ({"extent": 0}, "extent is 0"),
        ({"resolution": 1}, "resolution is 1"),
        ({"resolution": 5000}, "resolution is 5000"),
        ({"label": 7}, "labels range"),
        ({"x": torch.full((1, 4, 4), 3.0)}, "pixels must be in"),
        ({"x": torch.zeros(2, 1, 4, 4)}, "it is \\(C, H, W\\)"),
    ],
)
def test_bad_input_is_said_in_words(more, words, thresholds):
    settings = {"x": torch.full((1, 4, 4), 0.5), "label": 1, **more}
    with pytest.raises(ConfigError, match=words):
        surface(thresholds(0.4), settings.pop("x"), settings.pop("label"), **settings)
