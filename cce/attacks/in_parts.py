"""Attack on many images, in parts that threads share, with a word after every step."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from cce.attacks.gradient import attack
from cce.config import AttackConfig
from cce.machine import shards
from cce.models import Ensemble, evaluating

Ticks = Callable[[int, int], None]
"""Called as `progress(done, total)` in images, by one thread at a time; it may raise to stop the work."""

_MOST = 32
"""Images of a part on a CPU: a step on them takes well under a second of one core."""

_MOST_ELSEWHERE = 512
"""Images of a part on another device."""


def attack_in_parts(
    model: Ensemble, x: Tensor, labels: Tensor, config: AttackConfig, *, seed: int = 0, progress: Ticks | None = None
) -> Tensor:
    """Like `attack`, whatever the parts: what an image gets depends on `seed` and its number.

    Args:
        model: the ensemble.
        x: `(B, C, H, W)` float32 in [0, 1].
        labels: true labels `(B,)`.
        config: the attack.
        seed: of everything random.
        progress: see `Ticks`; told after every step of every part.

    Raises:
        ConfigError: see `cce.attacks.gradient.attack`.
    """
    told, most = _Told(progress, len(x)), _MOST if x.device.type == "cpu" else _MOST_ELSEWHERE
    parts = shards.parts(len(x), most, shards.threads(x.device))

    def made(part: tuple[int, int]) -> Tensor:
        first, last = part

        def step(i: int, _: Tensor) -> None:
            told(first, (last - first) * min(i, config.steps) // ((config.steps + 1) * config.restarts))

        def finished(done: int, _: int) -> None:
            told(first, done)

        rows, numbers = slice(first, last), range(first, last)
        given = dict(seed=seed, batch_size=last - first, watch=step, progress=finished, numbers=numbers)
        return attack(model, x[rows], labels[rows], config, **given)

    with evaluating(model):  # once for all threads
        found = shards.each(made, parts, x.device)
    return torch.cat(found) if found else x.clone()


class _Told:
    """Sums what the parts have done, and passes it on."""

    def __init__(self, progress: Ticks | None, total: int) -> None:
        self.progress, self.total = progress, total
        self.lock, self.done = threading.Lock(), {0: 0}

    def __call__(self, part: int, done: int) -> None:
        shards.go_on()
        if self.progress:
            with self.lock:
                self.done[part] = max(done, self.done.get(part, 0))
                self.progress(min(sum(self.done.values()), self.total), self.total)
