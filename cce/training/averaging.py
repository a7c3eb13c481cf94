"""Weight averaging: an exponential moving average of the weights in training, and what is released of it.

Averaged weights are more robust than those of the last step (Gowal et al. 2020, arXiv 2010.03593). Batch norm's
statistics do not average with them and are estimated again (Izmailov et al. 2018, arXiv 1803.05407).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from cce.config import Phase, TrainConfig
from cce.data.augmentation import augment
from cce.data.datasets import Dataset
from cce.fast import SearchCopy, use_kernels
from cce.models import Ensemble, fast_dtype
from cce.training.step import make_examples, noisy

STATISTICS_IMAGES = 2048
"""Training images that batch norm's statistics are estimated on."""


class Average:
    """The moving average of an ensemble's weights and of its running statistics, in `model`.

    After step t, from 1: average <- d average + (1 - d) weights with d = min(decay, (1 + t) / (10 + t)), so that the
    first weights of a run are soon forgotten.

    Args:
        source: the ensemble in training; its tensors stay where they are in memory.
        decay: d of a long run.
    """

    def __init__(self, source: Ensemble, decay: float) -> None:
        self.decay = decay
        self.model = copy_of(source)
        own, given = self.model.state_dict(), source.state_dict()
        self._pairs = [(own[name], tensor) for name, tensor in given.items()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the source's weights after `step` steps."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        numbers = [pair for pair in self._pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([own for own, _ in numbers], [given for _, given in numbers], share)
        for own, given in self._pairs:
            if not own.is_floating_point():  # how many batches the statistics are of
                own.copy_(given)


def copy_of(source: Ensemble) -> Ensemble:
    """An ensemble of the same weights in evaluation mode, of this process alone, channels-last.

    It draws no random number.
    """
    with torch.device("meta"):
        made = Ensemble(source.config)
    made.load_state_dict({k: v.detach().clone() for k, v in source.state_dict().items()}, assign=True)
    if next(made.parameters()).device.type == "cpu":
        use_kernels(made)
    made.to(memory_format=torch.channels_last)  # rounding depends on the layout
    return made.requires_grad_(False).eval()


def released(
    average: Ensemble, images: Tensor, labels: Tensor, config: TrainConfig, phase: Phase, dtype: torch.dtype
) -> tuple[Ensemble, SearchCopy]:
    """What an average is evaluated and released as: its weights, with batch norm's statistics of its own.

    They are those of `phase`'s training batches, clean and attacked, of `STATISTICS_IMAGES` images. The draws come from
    the config's seed alone: the same average gives the same ensemble.

    Args:
        average: averaged weights; it is not changed.
        images: training images `(B, C, H, W)` uint8, on the average's device.
        labels: theirs, `(B,)`.
        config: of the run.
        phase: whose examples.
        dtype: of the copy that is searched on.

    Returns:
        The ensemble in evaluation mode, and a copy of it to search on.
    """
    made = copy_of(average)
    search = SearchCopy(made, dtype)
    estimate_statistics(made, training_inputs(search, images, labels, config, phase))
    search.refresh()
    return made, search


def released_at(average: Ensemble, dataset: Dataset, config: TrainConfig, step: int) -> Ensemble:
    """`released` of the averaged weights of a run's saved state after `step` steps, on the average's device."""
    device = next(average.parameters()).device
    train = dataset.train.first(config.train_images) if config.train_images else dataset.train
    ends = config.phase_ends(len(train) // config.batch_size)
    phase = config.phases[next(i for i, end in enumerate(ends) if step <= end)]
    dtype = fast_dtype(device) if config.precision == "auto" else getattr(torch, config.precision)
    return released(average, train.images.to(device), train.labels.to(device), config, phase, dtype)[0]


def training_inputs(
    search: SearchCopy, images: Tensor, labels: Tensor, config: TrainConfig, phase: Phase
) -> Iterator[Tensor]:
    """Batches as members see them in training, clean images and all examples: `((1 + K) B, C, H, W)` each."""
    size = min(config.batch_size, len(images))
    generator = torch.Generator().manual_seed(config.seed ^ 0xBA7C4)
    order = torch.randperm(len(images), generator=generator).to(images.device)
    for i in range(max(1, min(STATISTICS_IMAGES, len(images)) // size)):
        chosen = order[i * size : (i + 1) * size]
        x = augment(images[chosen], generator, config.flip, config.shift).float().div_(255)
        x = x.contiguous(memory_format=torch.channels_last)
        given = (x, labels[chosen], phase.defense, phase.attack, generator)
        examples = make_examples(search.model, *given, rows=search.search_rows)
        benign = noisy(x, phase.attack, generator)
        yield torch.cat([benign, *examples]).contiguous(memory_format=torch.channels_last)


def estimate_statistics(model: Ensemble, inputs: Iterable[Tensor]) -> None:
    """Replace batch norm's running statistics by the means of those of batches; without batch norm, do nothing.

    Side effects: the model is in evaluation mode afterwards.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    usual = [norm.momentum for norm in norms]
    try:
        model.train()
        for i, x in enumerate(inputs):
            for norm in norms:
                norm.momentum = 1 / (1 + i)  # the mean of all batches so far
            with torch.no_grad():
                model.member_logits(x)
    finally:
        model.eval()
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
