"""Weight files: what a checkpoint's files must be before they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the file and the field."""


TYPES = ("F64", "F32", "F16", "BF16", "I8")
"""Number types of weights, as safetensors names them; int8 comes with scales (`cce.checkpoints.compact`)."""

_NAMES = {
    **{"F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2", "C64": "complex64", "BOOL": "bool", "U8": "uint8"},
    **{"I16": "int16", "I32": "int32", "I64": "int64", "U16": "uint16", "U32": "uint32", "U64": "uint64"},
}


def check_types(path: Path, types: Mapping[str, str]) -> None:
    """Refuse weights of a number type that would load as nonsense, or not at all.

    Args:
        path: the file, for the message.
        types: of each tensor, as safetensors names it.

    Raises:
        CheckpointError: it names the first such tensor and its type.
    """
    for name, kind in sorted(types.items()):
        counts_batches = name.endswith("num_batches_tracked") and kind == "I64"
        if kind not in TYPES and not counts_batches:
            raise CheckpointError(
                f"{path}: the tensor {name} has the type {_NAMES.get(kind, kind)}; weights are float32, float64, "
                "float16, bfloat16, or int8 with scales. Save them as one of these"
            )


def refuse_pointer(path: Path) -> None:
    """Name a Git LFS pointer that lies in the place of a file.

    Raises:
        CheckpointError: it is one.
    """
    try:
        with path.open("rb") as file:
            head = file.read(48)
    except OSError:
        return
    if head.startswith(b"version https://git-lfs.github.com/spec"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; run 'git lfs pull' there to get it")
