"""CUDA graphs: a computation on a GPU recorded once for each shape, then replayed with one launch.

PGD on a small network is hundreds of kernels of a few microseconds, and launching each takes longer than running it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

Function = Callable[..., Tensor]
"""Tensors to one tensor, without random draws and without waiting for the device."""

WARM_UP = 3
"""Calls before a recording: libraries choose their kernels, compiled code compiles."""
DISAGREEING = 0.05
"""Share of elements that may differ from the function's own: PGD's signs turn on rounding."""


class Recording(Protocol):
    """A computation recorded: the tensors that it reads, the one that it writes, and what runs it."""

    held: list[Tensor]
    found: Tensor

    def replay(self) -> None:
        """Compute `found` from `held`."""


class Graphs:
    """The recordings of a few functions, one for each key and for each shape of their inputs.

    What a function reads besides its inputs, such as weights, must stay where it is in memory.

    Args:
        record: makes a recording of a function and its inputs.
    """

    def __init__(self, record: Callable[[Function, list[Tensor], Any], Recording] | None = None) -> None:
        self._record = record or CudaRecording
        self._made: dict[Hashable, Recording | None] = {}
        self._pool: Any = None  # memory that all recordings share: they run one after the other

    def run(self, key: Hashable, function: Function, *inputs: Tensor) -> Tensor:
        """`function(*inputs)`, replayed where it could be recorded.

        Args:
            key: names the function with all that it closes over.
            function: what is computed.
            inputs: on one device.

        Returns:
            A tensor of its own.
        """
        key = (key, *((t.shape, t.stride(), t.dtype) for t in inputs))
        if key not in self._made:
            self._made[key] = self._try(function, list(inputs))
        made = self._made[key]
        if made is None:
            return function(*inputs)
        for held, given in zip(made.held, inputs, strict=True):
            held.copy_(given)
        made.replay()
        return made.found.clone()

    def _try(self, function: Function, inputs: list[Tensor]) -> Recording | None:
        """A recording that computes what the function does, else None and a warning."""
        try:
            made = self._record(function, inputs, self._pool)
            self._pool = self._pool or getattr(made, "pool", None)
            made.replay()
            found, wanted = made.found.clone(), function(*inputs)
        except RuntimeError as error:
            warnings.warn(f"not recorded as a CUDA graph, which is slower: {error}", stacklevel=3)
            return None
        apart = 1 - ((found - wanted).abs() <= 1e-6).float().mean().item()  # NaN agrees with nothing
        if apart > DISAGREEING:
            warnings.warn(f"a CUDA graph differs from what it records in {apart:.0%} of the numbers", stacklevel=3)
            return None
        return made


class CudaRecording:
    """A `torch.cuda.CUDAGraph` of one call."""

    def __init__(self, function: Function, inputs: list[Tensor], pool: Any) -> None:
        self.held = [t.clone() for t in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(*self.held)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.found = function(*self.held)
        self.pool = self.graph.pool()

    def replay(self) -> None:
        """Compute `found` from `held`."""
        self.graph.replay()
