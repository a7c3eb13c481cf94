"""Many threads on fresh copies, again and again: what `make sanitize` runs on a native library with a sanitizer.

Exit status 1 where a thread's result differs from the others'; the sanitizer itself ends the process at what it finds.
"""

import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from cce import kernels
from cce.config import CCE_RM, ModelConfig, Phase, TrainingAttack
from cce.fast import SearchCopy, use_kernels
from cce.models import Ensemble
from cce.training.step import train_step

THREADS = 4


def looks(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logits and pixel gradients."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    return torch.cat([logits.detach().flatten(), gradient.flatten()])


def share_a_copy(architecture: str, rounds: int) -> bool:
    """Threads are the first to use one copy, at the same time; whether all get the same."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x = Ensemble(ModelConfig(architecture, 2, 10, (1, 16, 16))).eval(), torch.rand(8, 1, 16, 16)
    wanted, same = looks(SearchCopy(model, torch.float32).model, x), True
    for _ in range(rounds):
        search, together = SearchCopy(model, torch.float32), threading.Barrier(THREADS)

        def first(_: int, search: SearchCopy = search, together: threading.Barrier = together) -> torch.Tensor:
            torch.set_num_threads(1)
            together.wait()
            return looks(search.model, x)

        with ThreadPoolExecutor(THREADS) as pool:
            same &= all(torch.equal(found, wanted) for found in pool.map(first, range(THREADS)))
        gc.collect()
    return same


def train(architecture: str, steps: int) -> bool:
    """Steps of training, each call's work shared by native threads; whether two runs give the same weights."""
    torch.set_num_threads(3)
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Ensemble(ModelConfig(architecture, 2, 10, (1, 16, 16))).train()
        use_kernels(model)
        search, optimizer = SearchCopy(model, torch.float32), torch.optim.SGD(model.parameters(), lr=0.01)
        phase = Phase("p", 1, CCE_RM, TrainingAttack((2, 2), (0.1, 0.1), (1.0, 1.0)))
        generator, x, labels = torch.Generator().manual_seed(0), torch.rand(24, 1, 16, 16), torch.arange(24) % 10
        for _ in range(steps):
            train_step(list(model.members), search, optimizer, x, labels, phase, generator)
        runs.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return torch.equal(*runs)


def main() -> int:
    """Run all of it."""
    if not kernels.available():
        print("there is no native code here to stress", file=sys.stderr)
        return 1
    results = {
        **{f"{name} shared by threads": share_a_copy(name, 20) for name in ("resnet8", "cnn-mnist")},
        **{f"{name} in training": train(name, 3) for name in ("resnet8", "cnn-mnist")},
    }
    for name, same in results.items():
        print(f"{name}: {'the same' if same else 'DIFFERENT'} in every thread and run")
    return not all(results.values())


if __name__ == "__main__":
    sys.exit(main())
