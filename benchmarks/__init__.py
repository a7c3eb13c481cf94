"""Benchmarks: speed as ratios, fast and plain side by side in one run. `python -m benchmarks.NAME`."""

import cce  # noqa: F401  before PyTorch: it says how its threads wait
