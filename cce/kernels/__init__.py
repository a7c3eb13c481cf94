"""Optional native code for x86 CPUs: tensors in, tensors out; it knows nothing of models.

`seam.call` is the only place where the address of a tensor is taken. `library` finds and compiles the C++ in `source/`,
and `agreement` checks it against PyTorch. `winograd`, `residual_block` and `network` are what it computes, as functions
of PyTorch.

May be imported by: `cce.fast`, which uses these functions in models, and the command line and the Studio for `prepare`.
Must not go in: models, losses, anything that needs a name from another package of this project.
"""

from cce.kernels.agreement import agrees
from cce.kernels.library import available, checks, prepare, turned_off

checks.append(agrees)

__all__ = ["agrees", "available", "prepare", "turned_off"]
