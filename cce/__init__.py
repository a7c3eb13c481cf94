"""CCE: ensembles trained by collaboratively promoting and demoting adversarial robustness (AAAI 2021).

The library behind the Studio. Images are float32 `(B, C, H, W)` in [0, 1]; epsilon and step_size
are in pixel units (8 / 255, not 8); entropies are nats; accuracies are fractions in [0, 1].
"""

import os

__version__ = "0.1.0"

# How often the threads of an OpenMP team look for more work before they sleep; read when PyTorch is imported. With
# libgomp's own number, a team of two beside three busy processes took 8.5 s for what takes it 0.75 s so; on an idle
# machine both take 0.19 s.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
