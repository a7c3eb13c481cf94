"""Commands: `python -m cce COMMAND`, a module a topic. Each adds its parsers; the parsers name what they run.

May be imported by: `cce.__main__`. Must not go in: anything that the app needs too. Epsilon and step size are typed in
1/255 here; the library takes pixel units.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cce.checkpoints import folder as checkpoints
from cce.checkpoints import hub
from cce.checkpoints.folder import Checkpoint, CheckpointError
from cce.config import ConfigError, check

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
        p.add_argument(
            "--threads", type=whole_number(0, 1024), default=0, help="CPU threads, at most 1024; 0 leaves it to torch"
        )
        return p


def add_device_and_data(p: argparse.ArgumentParser) -> None:
    """`--device` and `--data`."""
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_data(p)


def add_data(p: argparse.ArgumentParser) -> None:
    """`--data`."""
    p.add_argument("--data", type=Path, help="folder of the data sets (default: CCE_DATA or ~/.cache/cce-studio/data)")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`, for `argparse`, which refuses others in words."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from {low} to {high}")
        return value

    return number


def add_seed(p: argparse.ArgumentParser, of: str, default: int | None = 0) -> None:
    """`--seed`."""
    p.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=default, help=of)


def check_out(out: Path | None, suffixes: tuple[str, ...]) -> None:
    """Refuse a name that cannot be written, before any work.

    Raises:
        ConfigError: another ending, or a folder that is not there.
    """
    if out is None:
        return
    what = " or ".join(suffixes)
    check(out.suffix.lower() in suffixes, f"--out is {str(out)!r}; it must end in {what}")
    check(out.parent.is_dir(), f"--out is {str(out)!r}; there is no folder {out.parent}")
    check(not out.is_dir(), f"--out is {str(out)!r}, which is a folder; name a file in it")
    check(os.access(out.parent, os.W_OK), f"--out is {str(out)!r}; the folder {out.parent} cannot be written")


def add_json(p: argparse.ArgumentParser) -> None:
    """`--json`."""
    p.add_argument("--json", action="store_true", help="print JSON")


def print_json(value: Any) -> None:
    """Print JSON values.

    Raises:
        ConfigError: a number that is not finite, which JSON has no word for.
    """
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        raise ConfigError("a figure is not a finite number (NaN or infinite), so nothing was printed") from None
    print(text)


def find_checkpoint(name: str, device: torch.device) -> Checkpoint:
    """A checkpoint by its folder, a released one by its name, or one on the Hub by its id, `owner/name`.

    Raises:
        CheckpointError: none is there; the message lists the released names.
    """
    if Path(name).is_dir() or hub.is_repository(name):
        return checkpoints.load(name, device)
    ships = {p.name: p for p in checkpoints.released()}
    if name not in ships:
        raise CheckpointError(f"there is no checkpoint {name!r}; released are: {', '.join(ships) or 'none'}")
    return checkpoints.load(ships[name], device)


@contextmanager
def progress_bar(shown: bool = True) -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error with the time left, for what reports `(what, fraction done)`.

    A first report above 0 is work that was done before: it does not count as speed.
    """
    with tqdm(
        total=100, unit="%", smoothing=0, disable=not shown, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
    ) as bar:
        told = False

        def tell(what: str, fraction: float) -> None:
            nonlocal told
            first, told = not told, True
            if first:
                bar.initial = 100 * fraction
            bar.set_description(what, refresh=first)  # what came before is said even where all goes quickly
            bar.update(100 * fraction - bar.n)

        yield tell
