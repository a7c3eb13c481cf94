"""Start noise: the uniform noise of PGD's random start; an image's depends on the seed and on its number alone.

One stream of random numbers serves all images of a seed: image n gets the n-th draw. A generator cannot jump, so the
states that it was left in are kept, and the next batch goes on from the nearest one before its first image.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

KEPT = 256
"""States kept in memory, of 5 kB each."""

_states: OrderedDict[tuple[int, int, int], Tensor] = OrderedDict()  # seed, numbers an image, images drawn -> state
_lock = threading.Lock()


@dataclass(frozen=True)
class StartNoise:
    """The noise of some images: `numbers` are their places in the whole set, `seed` is the stream's."""

    seed: int
    numbers: tuple[int, ...]

    def only(self, rows: Sequence[int]) -> StartNoise:
        """The noise of some of the images."""
        return replace(self, numbers=tuple(self.numbers[row] for row in rows))

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Noise in [-1, 1] on the CPU, `(B, *shape)`; the same at every call.

        Args:
            shape: of one image, (C, H, W).
        """
        if not self.numbers:
            return torch.zeros((0, *shape))
        size, first, end = math.prod(shape), min(self.numbers), max(self.numbers) + 1
        generator, place = _resumed(self.seed, size, first)
        wanted, drawn = set(self.numbers), {}
        for number in range(place, end):
            unit = torch.rand(tuple(shape), generator=generator)
            if number in wanted:
                drawn[number] = 2 * unit - 1
        _keep(self.seed, size, end, generator)
        return torch.stack([drawn[number] for number in self.numbers])


def _resumed(seed: int, size: int, first: int) -> tuple[torch.Generator, int]:
    """The stream's generator, and how many images it has drawn: as many as are known, but not more than `first`."""
    generator = torch.Generator().manual_seed(seed)
    with _lock:
        known = [place for s, n, place in _states if (s, n) == (seed, size) and place <= first]
        if not known:
            return generator, 0
        place = max(known)
        generator.set_state(_states[seed, size, place])
    return generator, place


def _keep(seed: int, size: int, place: int, generator: torch.Generator) -> None:
    with _lock:
        _states[seed, size, place] = generator.get_state()
        _states.move_to_end((seed, size, place))
        while len(_states) > KEPT:
            _states.popitem(last=False)
