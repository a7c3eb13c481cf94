"""CCE: ensembles trained by collaboratively promoting and demoting adversarial robustness (AAAI 2021).

The library behind the Studio. Images are float32 `(B, C, H, W)` in [0, 1]; epsilon and step_size
are in pixel units (8 / 255, not 8); entropies are nats; accuracies are fractions in [0, 1].
"""

__version__ = "0.1.0"
