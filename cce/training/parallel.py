"""Data parallel: one training run over several processes, through Hugging Face `accelerate`.

Start it as `accelerate launch --num_processes 2 -m cce train PRESET` or with `torchrun`. Every process draws
the whole batch's random numbers and takes its own share, gradients are averaged, and batch norm takes the
whole batch's statistics: up to rounding, the steps are those of one process. Dropout alone differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cce.config import check
from cce.machine.processes import Processes, join_processes
from cce.training.draws import uniform


@dataclass(frozen=True)
class Team(Processes):
    """This process among those that train together."""

    def share(self, whole: Tensor, first: int = 0) -> Tensor:
        """This process's rows of a batch: every `count`-th, so that all shares together are the batch.

        Args:
            whole: the batch, or what is left of it from the row `first` on.
            first: place in the batch of the first row of `whole`.
        """
        return whole[(self.index - first) % self.count :: self.count]

    def rand(self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
        """Uniform numbers for this process's share, of `shape`, from draws for the whole batch."""
        return self.share(uniform((shape[0] * self.count, *shape[1:]), generator, device))

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of every process's tensor."""
        if self.count == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Give every process the mean of all gradients, in one exchange."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        means = self.mean(torch.cat([g.flatten() for g in gradients])).split([g.numel() for g in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so."""
        return flag if self.count == 1 else self.mean(torch.tensor(float(flag), device=device)).item() > 0


ALONE = Team()


def join(device: torch.device) -> Team:
    """The team that this process was started in, as `join_processes`; `device` in it is where it computes."""
    found = join_processes(device)
    return Team(found.index, found.count, found.device)


def share_batch_size(batch_size: int, team: Team) -> int:
    """Images of a batch that each process takes.

    Raises:
        ConfigError: a batch that cannot be divided evenly.
    """
    check(
        batch_size % team.count == 0,
        f"batch_size is {batch_size}; {team.count} processes cannot share it evenly",
    )
    return batch_size // team.count


def share_batch_norm(model: nn.Module, team: Team) -> nn.Module:
    """Let batch norm take the statistics of all processes' images; the state keeps its names."""
    if team.count == 1:
        return model
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
                shared.load_state_dict(child.state_dict())
                setattr(module, name, shared.to(child.weight.device))
    return model


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over every process's images, where torch has none (`SyncBatchNorm` is for CUDA alone)."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        if not self.training:
            return super().forward(x)
        exact = x.float()
        sums = torch.stack([exact.sum((0, 2, 3)), exact.square().sum((0, 2, 3))])
        count = exact.numel() // exact.shape[1] * dist.get_world_size()
        mean, square = _AllSum.apply(sums) / count
        variance = (square - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul((self.bias - mean * scale)[:, None, None], exact, scale[:, None, None]).to(x.dtype)


class _AllSum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
