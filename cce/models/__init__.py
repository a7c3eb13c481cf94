"""Members, the ensemble, and its copy with batch norm folded in: plain PyTorch.

May be imported by: fast, attacks and what follows, the app. Must not go in: native code, attacks, losses, files.
"""

from cce.models.devices import IN_CACHE, fast_dtype, resolve_device
from cce.models.ensemble import Ensemble, entropy, evaluating, log_mean_probability
from cce.models.folded import FoldedConv, fold
from cce.models.members import ConvNorm, ResidualBlock, ResNet, StandardCNN, build_member

__all__ = [
    "IN_CACHE",
    "ConvNorm",
    "Ensemble",
    "FoldedConv",
    "ResNet",
    "ResidualBlock",
    "StandardCNN",
    "build_member",
    "entropy",
    "evaluating",
    "fast_dtype",
    "fold",
    "log_mean_probability",
    "resolve_device",
]
