"""Augmentation of uint8 images: against plain loops, deterministic, and refused where it makes no sense."""

import pytest
import torch

from cce.data.augmentation import augment


def reference_augment(images, rows, columns, flips):
    """The same by plain loops: mirror, then shift, repeating the edge."""
    out = torch.empty_like(images)
    _, _, height, width = images.shape
    for b in range(len(images)):
        for i in range(height):
            for j in range(width):
                row = min(max(i + rows[b], 0), height - 1)
                column = min(max(j + columns[b], 0), width - 1)
                out[b, :, i, j] = images[b, :, row, width - 1 - column if flips[b] else column]
    return out


def a_batch(count: int = 16, height: int = 10, width: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def test_augment_agrees_with_plain_loops():
    images = a_batch()
    draws = torch.rand(3, 16, generator=torch.Generator().manual_seed(5))
    rows = (draws[0] * 3).long() - 1  # round(0.1 * 10) = 1: three choices
    columns = (draws[1] * 3).long() - 1  # round(0.1 * 12) = 1
    expected = reference_augment(images, rows.tolist(), columns.tolist(), draws[2] < 0.5)
    got = augment(images, torch.Generator().manual_seed(5), flip=True, shift=0.1)
    assert got.dtype == torch.uint8 and torch.equal(got, expected)
    assert rows.unique().tolist() == [-1, 0, 1] and 0 < int((draws[2] < 0.5).sum()) < 16


def test_augment_without_flip_or_shift_is_the_identity_in_new_memory():
    images = a_batch()
    same = augment(images, torch.Generator().manual_seed(0), flip=False, shift=0.0)
    assert torch.equal(same, images) and same.data_ptr() != images.data_ptr()


def test_augment_is_deterministic_and_advances_the_generator_equally():
    images = a_batch()
    one, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    assert torch.equal(augment(images, one, True, 0.2), augment(images, other, True, 0.2))
    augment(images, one, False, 0.0)
    augment(images, other, True, 0.1)
    assert torch.equal(one.get_state(), other.get_state())


def test_flip_mirrors_about_half():
    images = a_batch(400)
    got = augment(images, torch.Generator().manual_seed(0), flip=True, shift=0.0)
    mirrored = (got == images.flip(3)).flatten(1).all(1)
    kept = (got == images).flatten(1).all(1)
    assert bool((mirrored ^ kept).all()) and 150 < int(mirrored.sum()) < 250


def test_augment_refuses_what_it_cannot_mean():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="float32.*augment takes uint8"):
        augment(torch.zeros(2, 3, 4, 4), generator, True, 0.1)
    with pytest.raises(ValueError, match="shift is 3"):
        augment(a_batch(), generator, True, 3)
