"""ZeroGPU: on a Space of that kind, what computes is lent a GPU call by call, by the `spaces` package."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def decorator() -> Callable[[Callable[..., Any]], Callable[..., Any]] | None:
    """`spaces.GPU` where the package is there, else None. Off a Space it gives functions back as they are."""
    return import_module("spaces").GPU if find_spec("spaces") else None


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that computes, with its GPU. Its arguments and its result travel between processes."""
    lend = decorator()
    return lend(function) if lend else function
