"""Threads that share one fresh copy: caches that are filled at first use, and nothing freed while it is read."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cce import kernels
from cce.config import ModelConfig
from cce.fast import SearchCopy
from cce.kernels import seam
from cce.models import Ensemble

compiled = pytest.mark.skipif(not kernels.available(), reason="no AVX, or no C++ compiler, here")
THREADS, COPIES = 4, 12


def looks(model, x):
    """Logits and pixel gradients."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    return torch.cat([logits.detach().flatten(), gradient.flatten()])


@compiled
@pytest.mark.parametrize("architecture", ["resnet8", "cnn-mnist"])
def test_threads_that_are_the_first_to_use_a_copy_all_get_its_result(architecture):
    """The loser's transformed weights used to be freed while native code read them: NaN in one run of three."""
    torch.manual_seed(0)
    model, x = Ensemble(ModelConfig(architecture, 2, 10, (1, 16, 16))).eval(), torch.rand(8, 1, 16, 16)
    own = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wanted = looks(SearchCopy(model, torch.float32).model, x)
        for _ in range(COPIES):
            search, together = SearchCopy(model, torch.float32), threading.Barrier(THREADS)

            def first(_, search=search, together=together):
                torch.set_num_threads(1)
                together.wait()
                return looks(search.model, x)

            with ThreadPoolExecutor(THREADS) as pool:
                for found in pool.map(first, range(THREADS)):
                    assert torch.equal(found, wanted)
            gc.collect()
    finally:
        torch.set_num_threads(own)


@compiled
def test_a_call_holds_its_tensors_until_it_returns(monkeypatch):
    """Another thread drops every other reference while native code runs."""
    alive, released = [], threading.Event()

    class Weight(torch.Tensor):
        def __del__(self):
            released.set()

    class Library:
        @staticmethod
        def cce_winograd_conv(*values):
            cache.clear()
            gc.collect()
            alive.append(not released.is_set())
            return 0

    cache = [torch.rand(16).as_subclass(Weight)]
    functions = kernels.library.Functions(Library, frozenset({"winograd_conv"}))
    with seam.using(functions):
        seam.call("winograd_conv", cache[0], [cache[0], None], 1)
    gc.collect()
    assert alive == [True] and released.is_set()
