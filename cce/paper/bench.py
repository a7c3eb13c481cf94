"""Bench: measures what the paper's cells ask for, and remembers it, so that what several print is measured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cce.attacks.in_parts import attack_in_parts
from cce.checkpoints.folder import Checkpoint, common_test_split
from cce.checkpoints.measurements import read_measurement
from cce.config import AttackConfig, check
from cce.data import datasets as data
from cce.evaluation.detection import DetectionReport, report_from_json
from cce.evaluation.evaluate import Outcome, detect, outcome
from cce.evaluation.transferability import Transferability, from_outcomes

Images = tuple[Tensor, Tensor]


class Bench:
    """Measures on demand and remembers, so that a figure that several tables print is measured once.

    Args:
        checkpoints: all on one device. Those whose data set is none of `cce.data.datasets.DATASETS`, as of class
            folders, are in `left_out` instead: the paper has no cell for them, and their pictures have no known place.
        root: folder of the data sets.
        n: images of a measurement, from the first; 0 measures nothing that needs a test set.
        steps: no attack takes more; 0 leaves the paper's own number.
        adaptive: of the images, how many the detector-aware attacks get.
        seed: of random starts, noise and v.
        slow: whether slow attacks are run too; else only what was measured at release is given of them.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        root: Path | None,
        n: int,
        steps: int,
        adaptive: int,
        seed: int,
        slow: bool = False,
    ) -> None:
        check(n >= 0, f"--n is {n}; it must be 0 or more")
        check(steps >= 0, f"--steps is {steps}; it must be 0 or more")
        check(adaptive >= 1, f"--adaptive is {adaptive}; detection is never shown without the attacker who knows")
        self.checkpoints = [c for c in checkpoints if c.dataset in data.DATASETS]
        self.left_out = [c for c in checkpoints if c.dataset not in data.DATASETS]
        names = [c.id for c in self.checkpoints]
        twice = sorted({n for n in names if names.count(n) > 1})
        check(not twice, f"two checkpoints are called {twice[0] if twice else ''}; name one of them")
        self.root, self.n, self.steps, self.adaptive, self.seed = root, n, steps, adaptive, seed
        self.slow = slow
        self._images: dict[tuple[str, int], Images | None] = {}
        self._examples: dict[tuple[int, AttackConfig | None], Tensor] = {}
        self._outcomes: dict[tuple[int, int, AttackConfig | None], Outcome] = {}
        self._reports: dict[int, DetectionReport] = {}

    def capped(self, config: AttackConfig) -> AttackConfig:
        """The attack with no more steps than asked for."""
        return replace(config, steps=min(config.steps, self.steps)) if self.steps else config

    def images(self, c: Checkpoint) -> Images | None:
        """Images and labels on the checkpoint's device; None: not here.

        None of them calibrated a detector, or chose one of the checkpoints among the states of its run.
        """
        size = c.model.config.input_shape[1]
        key = (c.dataset, size)
        if key not in self._images:
            self._images[key] = self._load(*key) if self.n else None
        found = self._images[key]
        return found and tuple(t.to(device_of(c)) for t in found)  # type: ignore[return-value]

    def _load(self, dataset: str, size: int) -> Images | None:
        if not data.available(dataset, self.root):
            return None
        if dataset == "digits":
            split = data.load("digits", size=size).detection_test
        else:
            test = data.load_test(dataset, self.root)
            split = test.first(len(test) - len(test) // 10)  # the last tenth calibrates detectors
        measured = [c for c in self.checkpoints if (c.dataset, c.model.config.input_shape[1]) == (dataset, size)]
        split = common_test_split(measured, split).first(self.n)
        return split.pixels(), split.labels

    def outcome(self, judge: Checkpoint, source: Checkpoint, config: AttackConfig | None) -> Outcome:
        """What `judge` says of the examples that attack `source` (None: of clean images)."""
        key = (id(judge), id(source) if config else 0, config)
        if key not in self._outcomes:
            found = self.images(judge)
            assert found is not None
            x, labels = found
            self._outcomes[key] = outcome(judge.model, self._attacked(source, config, x, labels), labels)
        return self._outcomes[key]

    def _attacked(self, source: Checkpoint, config: AttackConfig | None, x: Tensor, labels: Tensor) -> Tensor:
        if config is None:
            return x
        key = (id(source), config)
        if key not in self._examples:
            self._examples[key] = attack_in_parts(source.model, x, labels, config, seed=self.seed)
        return self._examples[key]

    def transfer(self, c: Checkpoint, config: AttackConfig) -> Transferability:
        """Table 6's figures."""
        targets = [*(f"member {m + 1}" for m in range(c.model.config.members)), "ensemble"]
        attacked = [self.outcome(c, c, replace(config, target=t)) for t in targets]
        return from_outcomes(self.outcome(c, c, None), attacked, config)

    def detection(self, c: Checkpoint, attacks: Sequence[AttackConfig], epsilon: float) -> DetectionReport | None:
        """The report, measured now, else the one that ships with the checkpoint, else None."""
        found = self.images(c)
        if found is None:
            shipped = read_measurement(c, "detection")
            return report_from_json(shipped["report"]) if shipped else None
        if id(c) not in self._reports:
            plan = [self.capped(a) for a in attacks]
            self._reports[id(c)] = detect(
                c, *found, plan, adaptive=min(self.adaptive, self.n), epsilon=epsilon, seed=self.seed
            )
        return self._reports[id(c)]

    def example(self, c: Checkpoint) -> tuple[Tensor, int, str]:
        """A picture `(C, H, W)`, its label, and which it is: the first test picture that f_en labels right."""
        size = c.model.config.input_shape[1]
        split = data.load("digits", size=size).test if c.dataset == "digits" else data.samples(c.dataset)
        x, labels = split.pixels().to(device_of(c)), split.labels.to(device_of(c))
        right = outcome(c.model, x[:20], labels[:20]).right.nonzero().flatten().tolist()
        place = right[0] if right else 0
        words = "the first that the ensemble labels right" if right else "it labels none of the first 20 right"
        return x[place], int(labels[place]), f"test picture {place} ({words})"


def device_of(c: Checkpoint) -> torch.device:
    """Where the checkpoint computes."""
    return next(c.model.parameters()).device
