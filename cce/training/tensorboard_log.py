"""TensorBoard: the lines of `metrics.jsonl` as event files, for those who live in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cce.config import ConfigError
from cce.training.run_folder import refusing


class TensorBoardLog:
    """Writes every figure of a row as a scalar, `training/loss`, `evaluation/robust_member_accuracy/member 1`.

    A resumed run writes a further event file; TensorBoard shows the later of two values for a step.

    Args:
        folder: where the event files go.

    Raises:
        ConfigError: the package is not installed.
        RunError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "event files need the tensorboard package, which is not installed: pip install tensorboard"
            ) from error
        with refusing(str(folder)):
            self._writer = SummaryWriter(str(folder))

    def __call__(self, row: dict[str, Any]) -> None:
        """Write a row at its step."""
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """A row's figures by name; lists are one of each member, mappings one of each subset.

    >>> scalars({"kind": "evaluation", "step": 3, "a": [0.5, 0.25], "s": {"S11": 1.0}, "phase": "x"})
    {'evaluation/a/member 1': 0.5, 'evaluation/a/member 2': 0.25, 'evaluation/s/S11': 1.0}
    """
    found = {}
    for name, value in row.items():
        if isinstance(value, list):
            value = {f"member {i + 1}": v for i, v in enumerate(value)}
        parts = {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        found |= {f"{row['kind']}/{k}": float(v) for k, v in parts.items() if isinstance(v, (int, float))}
    return {k: v for k, v in found.items() if not re.fullmatch(r"\w+/step", k)}
