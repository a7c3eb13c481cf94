"""The command line: `python -m cce COMMAND`; each command is in `cce.cli`.

Exit status: 0 done, 1 failed, 2 bad usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from cce.checkpoints.folder import CheckpointError
from cce.cli import Commands, analysis, comparison, evaluation, models, pictures, training
from cce.config import ConfigError
from cce.data.datasets import DataError
from cce.data.pictures import PictureError
from cce.training.run_folder import RunError

FAILURES = (CheckpointError, DataError, RunError, PictureError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        return options.run(options)
    except ConfigError as error:
        print(f"cce {options.command}: {error}", file=sys.stderr)
        return 2
    except FAILURES as error:
        print(f"cce {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"cce {options.command}: interrupted", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="python -m cce", description="Train, attack and evaluate CCE ensembles.")
    commands = Commands(parser)
    for topic in (training, evaluation, comparison, pictures, analysis, models):
        topic.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
