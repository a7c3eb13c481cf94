"""Random starts: the same whatever the batches, drawn once each, and only where an attack reads them."""

import pytest
import torch

from cce.attacks import start_noise
from cce.attacks.gradient import attack
from cce.attacks.start_noise import StartNoise
from cce.config import AttackConfig

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No state of a stream is known from before."""
    monkeypatch.setattr(start_noise, "_states", type(start_noise._states)())


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """How many uniform numbers each call of `torch.rand` gives."""
    sizes, real = [], torch.rand

    def rand(*shape, **more):
        found = real(*shape, **more)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(torch, "rand", rand)
    return sizes


def plainly(seed: int, numbers: list[int]) -> torch.Tensor:
    """The same from the beginning of the stream every time."""
    generator = torch.Generator().manual_seed(seed)
    every = [2 * torch.rand(SHAPE, generator=generator) - 1 for _ in range(max(numbers) + 1)]
    return torch.stack([every[n] for n in numbers])


@pytest.mark.parametrize("numbers", [[0], [3, 1, 2], [40, 7], [7, 7], list(range(5, 9))])
def test_image_n_gets_the_nth_draw_of_the_stream_in_any_order(numbers):
    for again in (numbers, numbers[::-1], [*numbers, 50], numbers):
        assert torch.equal(StartNoise(5, tuple(again)).draw(SHAPE), plainly(5, again))


def test_streams_of_two_seeds_and_sizes_do_not_mix():
    StartNoise(1, (0, 1, 2)).draw(SHAPE)
    StartNoise(2, (0,)).draw((3, 4, 4))
    assert torch.equal(StartNoise(2, (3,)).draw(SHAPE), plainly(2, [3]))


def test_one_batch_after_another_draws_each_image_once(drawn, trained, digits):
    model, x, labels = trained(2), digits.test.pixels()[:40], digits.test.labels[:40]
    for i in range(0, 40, 5):
        rows = slice(i, i + 5)
        attack(model, x[rows], labels[rows], AttackConfig("pgd", 0.1, 0.05, 1), numbers=range(i, i + 5))
    assert sum(drawn) == 40 * x[0].numel()


@pytest.mark.parametrize("config", [AttackConfig("square", 0.1, 0.1, 2), AttackConfig("apgd-ce", 0.1, 0.1, 2)])
def test_an_attack_that_does_not_read_the_noise_draws_none(config, drawn, trained, digits):
    model, x, labels = trained(2), digits.test.pixels()[:2], digits.test.labels[:2]
    attack(model, x, labels, config, numbers=range(5000, 5002))
    assert sum(drawn) < 5000


def test_few_states_are_kept(monkeypatch):
    monkeypatch.setattr(start_noise, "KEPT", 3)
    for number in range(6):
        StartNoise(0, (number,)).draw(SHAPE)
    assert len(start_noise._states) == 3
    assert torch.equal(StartNoise(0, (1,)).draw(SHAPE), plainly(0, [1]))
