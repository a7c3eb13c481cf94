"""`turned_off` holds in the threads that share a thread's work, and there alone."""

import threading

import torch

from cce import kernels
from cce.machine import shards


def test_native_code_is_off_in_shared_work_too(monkeypatch):
    monkeypatch.setattr("cce.kernels.library._found", [object()])
    shards.use(2)
    try:
        with kernels.turned_off():
            shared = shards.each(lambda part: kernels.available(), [0, 1, 2], torch.device("cpu"))
            beside = []
            another = threading.Thread(target=lambda: beside.append(kernels.available()))
            another.start()
            another.join()
        after = shards.each(lambda part: kernels.available(), [0, 1], torch.device("cpu"))
    finally:
        shards.use(None)
    assert shared == [False] * 3 and beside == [True] and after == [True] * 2
