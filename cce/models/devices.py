"""What a model is computed on, and in which precision."""

from __future__ import annotations

import torch

from cce.config import ConfigError

IN_CACHE = 32
"""Images at a time on a CPU, in training: their activations stay in its caches.

One core, bfloat16, the CIFAR-10 CNN's gradient: 0.75 ms an image by 32, 1.0 by 128. More are faster on a GPU.
"""


def resolve_device(name: str) -> torch.device:
    """`auto` (the GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        ConfigError: a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device is {name!r}, which cannot be used here ({reason}); try --device auto") from error
    return device


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32
