"""Commands: `python -m cce COMMAND`, a module a topic. Each adds its parsers; the parsers name what they run.

Epsilon and step size are typed in 1/255 here; the library takes pixel units.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from cce import checkpoints
from cce.checkpoints import Checkpoint, CheckpointError

Run = Callable[[argparse.Namespace], int]


class Commands:
    """The commands of one parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(self, name: str, run: Run, text: str) -> argparse.ArgumentParser:
        """A new command, run as `run(options)`, which returns the exit status."""
        p = self._parsers.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        p.set_defaults(run=run)
        p.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
        return p


def add_device_and_data(p: argparse.ArgumentParser) -> None:
    """`--device` and `--data`."""
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_data(p)


def add_data(p: argparse.ArgumentParser) -> None:
    """`--data`."""
    p.add_argument("--data", type=Path, help="folder of the data sets (default: CCE_DATA or ~/.cache/cce-studio/data)")


def add_json(p: argparse.ArgumentParser) -> None:
    """`--json`."""
    p.add_argument("--json", action="store_true", help="print JSON")


def find_checkpoint(name: str, device: torch.device) -> Checkpoint:
    """A checkpoint by its folder, or a released one by its name.

    Raises:
        CheckpointError: neither is there; the message lists the released names.
    """
    if Path(name).is_dir():
        return checkpoints.load(name, device)
    ships = {p.name: p for p in checkpoints.released()}
    if name not in ships:
        raise CheckpointError(f"there is no checkpoint {name!r}; released are: {', '.join(ships) or 'none'}")
    return checkpoints.load(ships[name], device)
