"""Roofline: the least time that a piece of work can take on this machine, by its arithmetic and by its bytes.

Every convolution and matrix product takes the longer of two times: its multiplications and additions at the
rate of a large matrix product, and one reading of its inputs and one writing of its outputs at the rate of a large
copy. All else is taken as free, as if fused into these. Both rates are measured here, in the work's own dtype.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Rates:
    """What the machine does at best: `arithmetic` in operations a second, `copying` in bytes read or written."""

    arithmetic: float
    copying: float


@dataclass(frozen=True)
class Work:
    """One operation: multiplications and additions, and tensor elements read or written."""

    name: str
    operations: int
    elements: int


class Recorded(TorchDispatchMode):
    """Collects the convolutions and matrix products that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.works: list[Work] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count:
            elements = sum(t.numel() for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor))
            self.works.append(Work(str(func), count(*args, **kwargs, out_val=out), elements))
        return out


@dataclass(frozen=True)
class Floor:
    """The least seconds: by `arithmetic` alone, by `copying` alone, and `both`, the longer of the two each time."""

    operations: int
    arithmetic: float
    copying: float
    both: float


def floor(works: list[Work], rates: Rates, element_size: int) -> Floor:
    """The least time of `works`, one after the other, with elements of so many bytes.

    >>> floor([Work("mm", 200, 10), Work("conv", 100, 60)], Rates(100.0, 40.0), 2)
    Floor(operations=300, arithmetic=3.0, copying=3.5, both=5.0)
    """
    arithmetic = [w.operations / rates.arithmetic for w in works]
    copying = [w.elements * element_size / rates.copying for w in works]
    both = sum(max(pair) for pair in zip(arithmetic, copying, strict=True))
    return Floor(sum(w.operations for w in works), sum(arithmetic), sum(copying), both)


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """The rates of a large matrix product in `dtype` and of a large copy, the best of several."""
    large = device.type != "cpu"
    side, length = (8192, 2**30) if large else (1024, 2**27)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(length, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = best(lambda: torch.mm(a, b), device)
    copied = best(lambda: target.copy_(source), device)
    return Rates(2 * side**3 / product, 2 * length / copied)


def best(work: Callable[[], object], device: torch.device, rounds: int = 10) -> float:
    """The least seconds of one call, after one that is not counted."""
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return min(found[1:])
