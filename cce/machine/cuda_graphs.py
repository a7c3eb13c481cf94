"""CUDA graphs: a computation on a GPU recorded once for each shape, then replayed with one launch.

A training step of small networks is thousands of kernels of a few microseconds, and launching each takes longer than
running it: on an H200 a step of CCE-RM with the paper's CIFAR-10 CNN kept the GPU busy for a sixth of its time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Function = Callable[..., Tensor]
"""Tensors to one tensor, without waiting for the device. It may draw from the device's default generator."""

WARM_UP = 3
"""Calls before a recording: libraries choose their kernels, compiled code compiles."""
DISAGREEING = 0.05
"""Share of numbers that may differ from the function's own: PGD's signs turn on rounding."""


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

    def run(
        self,
        key: Hashable,
        function: Function,
        *inputs: Tensor,
        changes: Sequence[Tensor] = (),
        tolerance: float = 1e-6,
    ) -> Tensor:
        """`function(*inputs)`, replayed where it could be recorded.

        Args:
            key: names the function with all that it closes over.
            function: what is computed.
            inputs: on one device.
            changes: what the function changes in place, such as gradients: one call is one change, recorded or not.
            tolerance: how far a recording's numbers may be from the function's own, as a fraction of the largest.

        Returns:
            A tensor of its own.
        """
        key = (key, *((t.shape, t.stride(), t.dtype) for t in inputs))
        if key not in self._made:
            self._made[key] = self._try(function, list(inputs), list(changes), tolerance)
        made = self._made[key]
        if made is None:
            return function(*inputs)
        for held, given in zip(made.held, inputs, strict=True):
            held.copy_(given)
        made.replay()
        return made.found.clone()

    def _try(
        self, function: Function, inputs: list[Tensor], changes: list[Tensor], tolerance: float
    ) -> Recording | None:
        """A recording that computes what the function does, else None and a warning; all is left as it was."""
        before, draws = [t.clone() for t in changes], _Draws(inputs)

        def reset() -> None:
            draws.reset()
            for changed, value in zip(changes, before, strict=True):
                changed.copy_(value)

        def after(compute: Callable[[], Tensor]) -> list[Tensor]:
            reset()
            return [compute().clone(), *(t.clone() for t in changes)]

        try:
            made = self._record(function, inputs, self._pool)
            self._pool = self._pool or getattr(made, "pool", None)

            def replay() -> Tensor:
                made.replay()
                return made.found

            found, wanted = after(replay), after(lambda: function(*inputs))
        except RuntimeError as error:
            warnings.warn(f"not recorded as a CUDA graph, which is slower: {error}", stacklevel=3)
            return None
        finally:
            reset()
        apart = differing(found, wanted, tolerance)
        if apart > DISAGREEING:
            warnings.warn(f"a CUDA graph differs from what it records in {apart:.0%} of the numbers", stacklevel=3)
            return None
        return made


def differing(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> float:
    """The share of numbers, in the worst of the tensors, that are apart by more than `tolerance` times its largest.

    >>> differing([torch.tensor([1.0, 2.0, torch.nan])], [torch.tensor([1.0, 2.1, 3.0])], 0.01)
    0.6666...
    """
    shares = []
    for a, b in zip(found, wanted, strict=True):
        if b.numel():
            near = (a.double() - b.double()).abs() <= tolerance * b.double().abs().max()  # NaN is near nothing
            shares.append(1 - near.double().mean().item())
    return max(shares, default=0.0)


class _Draws:
    """The state of the default generators, of the CPU and of the inputs' device."""

    def __init__(self, inputs: list[Tensor]) -> None:
        self.devices = {t.device for t in inputs if t.is_cuda}
        self.cpu = torch.get_rng_state()
        self.cuda = {device: torch.cuda.get_rng_state(device) for device in self.devices}

    def reset(self) -> None:
        """Put it back."""
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)


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


def side_by_side(tasks: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """What each task gives, in their order. In a recording they run at the same time: one alone leaves a GPU idle.

    The tasks read what was there before and change nothing that another reads.
    """
    if len(tasks) < 2 or not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return [task() for task in tasks]
    here, found = torch.cuda.current_stream(), []
    streams = [torch.cuda.Stream() for _ in tasks]
    for stream, task in zip(streams, tasks, strict=True):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            found.append(task())
    for stream in streams:
        here.wait_stream(stream)
    return found
