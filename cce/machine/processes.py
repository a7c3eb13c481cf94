"""Processes: how an evaluation started by `accelerate launch` or `torchrun` is shared, on one machine or many."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from typing import Any

import torch

from cce.config import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process among `count`, from 0; made alone it is the only one."""

    index: int = 0
    count: int = 1
    device: torch.device | None = None

    @property
    def main(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value`, in order, in every process; waits for all."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        return found


def join_processes(device: torch.device) -> Processes:
    """The processes that this one was started among, joined through `accelerate`; alone, nothing is imported.

    Raises:
        ConfigError: several processes were started, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    try:
        from accelerate import PartialState
    except ImportError:
        raise ConfigError("several processes were started; sharing takes accelerate: pip install accelerate") from None
    # The one that is done first waits for the others at the end, for as long as they take.
    state = PartialState(cpu=device.type == "cpu", timeout=datetime.timedelta(days=30))
    return Processes(state.process_index, state.num_processes, state.device)
