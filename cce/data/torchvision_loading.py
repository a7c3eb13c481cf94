"""Import torchvision beside a CPU-only torch, where its C++ library cannot load.

The registry's torchvision wheel is built for CUDA. Beside a CPU-only torch its compiled library
fails to load, silently, and the import then dies at the first operator that library would have
declared (``operator torchvision::nms does not exist``). Data sets and transforms need none of
those operators, so it is enough to declare them by name. Where the library does load it declares
them itself, and declaring them first would collide: hence try first, declare only on that error.
"""

import importlib
import sys
import threading
from types import ModuleType

import torch

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# A torch.library.Library that is collected takes its declarations with it, so it lives here.
_declarations: torch.library.Library | None = None
_lock = threading.Lock()


def import_torchvision() -> ModuleType:
    """Import torchvision, whether or not its compiled library can load.

    Call this instead of ``import torchvision`` before using its data sets or transforms. What
    needs the compiled library (non-maximum suppression, its picture decoders) stays unusable
    where that cannot load; decode pictures with Pillow.

    Returns:
        The ``torchvision`` module; the same one at every call.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
        RuntimeError: the import failed for another reason than the missing operators.

    Side effects:
        Where the compiled library cannot load, declares ``torchvision::nms`` and
        ``torchvision::qnms``, without an implementation, for the life of the process.
    """
    with _lock:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            if _declarations is not None or "torchvision::" not in str(error):
                raise
        _forget_half_import()
        _declare_operators()
        return importlib.import_module("torchvision")


def _declare_operators() -> None:
    """Declare, without implementing them, the operators torchvision names while it is imported."""
    global _declarations
    _declarations = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        _declarations.define(name + _SIGNATURE)


def _forget_half_import() -> None:
    """Drop the submodules a failed import left behind, so that the next one starts afresh."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
