"""Benchmarks: speed as ratios, fast and plain side by side in one run. `python -m benchmarks.NAME`."""
