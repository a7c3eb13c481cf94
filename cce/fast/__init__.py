"""Fast ways to compute an ensemble: models of `cce.models` with the native code of `cce.kernels` put in.

May be imported by: attacks, training, evaluation, the app, benchmarks. Must not go in: what a model computes
(`cce.models`), or how native code does (`cce.kernels`).
"""

from cce.fast.layers import use_kernels
from cce.fast.search import SearchCopy, search_precision

__all__ = ["SearchCopy", "search_precision", "use_kernels"]
