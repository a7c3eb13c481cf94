"""CCE: ensembles trained by collaboratively promoting and demoting adversarial robustness (AAAI 2021).

May be imported by: the app and the benchmarks. Must not go in: anything of a screen.
Images are float32 `(B, C, H, W)` in [0, 1]; epsilon and step_size are in pixel units (8 / 255, not 8); entropies are
nats; accuracies are fractions in [0, 1].
"""

import os

__version__ = "0.1.0"

# How often the threads of an OpenMP team look for more work before they sleep; read when PyTorch is imported. Beside
# one busy process a short run on digits took 50 s with 20,000 and 24 s so, and more with libgomp's own number; on an
# idle machine all take 15 to 22 s.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
