"""B&B (Brendel et al. 2019, arXiv 1907.01003) through foolbox, from our own PGD examples.

foolbox looks for the nearest misclassified point; an image counts as attacked where that is inside the
ball. It takes log f_en for logits and looks at differences of them only.

It goes image by image and waits for the device at every step: a hundred images of the released CIFAR-10 ensembles take
two CPU cores four to seven minutes, and were not done after seven on an H200 that other evaluations shared.
`evaluate --add --attacks bb --device cpu` measures it apart.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import torch
from torch import Tensor

from cce import shards
from cce.ascent import ascend, ball, loss_of, size_of, steepest
from cce.attack_task import Task
from cce.config import check

START_STEPS = 20
"""Of the PGD that finds the start: the paper's PGD1 (k=20, step epsilon / 4)."""


def run(task: Task) -> Tensor:
    """B&B, image by image: foolbox's step length grows with the number of images given together."""
    attack = _foolbox_attack(task.config.norm, task.config.steps)
    found = []
    for i in range(len(task.x)):
        found.append(_one(task.only(torch.tensor([i])), attack))
        task.tick((i + 1) / len(task.x))
    return torch.cat(found)


def _foolbox_attack(norm: str, steps: int) -> object:
    """The attack of foolbox, which needs numba.

    Raises:
        ConfigError: numba is not installed.
    """
    from foolbox.attacks import brendel_bethge

    missing = brendel_bethge.NUMBA_IMPORT_ERROR is not None
    check(not missing, "bb needs numba, which foolbox compiles its steps with: pip install numba==0.68.1")
    chosen = brendel_bethge.LinfinityBrendelBethgeAttack if norm == "linf" else brendel_bethge.L2BrendelBethgeAttack
    return chosen(steps=steps)


def _one(task: Task, attack: object) -> Tensor:
    """The nearest misclassified point if it is in the ball, else the image moved that way as far as the ball goes."""
    if bool(task.fooled(task.x)):
        return task.x.clone()
    start = _start(task)
    if start is None:
        return task.x.clone()
    from foolbox import Misclassification, PyTorchModel

    device = task.x.device
    wrapped = PyTorchModel(task.judge, bounds=(0, 1), device=device)
    with shards.alone:
        state = np.random.get_state()
        logging.disable(logging.WARNING)
        try:
            np.random.seed(int(torch.randint(2**31, (1,), generator=task.generators[0])))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                near = attack.run(wrapped, task.x, Misclassification(task.labels), starting_points=start)  # type: ignore[attr-defined]
        finally:
            logging.disable(logging.NOTSET)
            np.random.set_state(state)
    best = near if size_of(near - task.x, task.config.norm) < size_of(start - task.x, task.config.norm) else start
    return task.project()(best)


def _start(task: Task) -> Tensor | None:
    """A misclassified point: PGD in the ball, else in balls twice as large each time; None where all fail."""
    c, epsilon = task.config, task.config.epsilon
    largest = 1.0 if c.norm == "linf" else float(task.x[0].numel()) ** 0.5
    noise = task.random_start() - task.x
    while True:
        x = ascend(
            loss_of(task.judge, task.labels),
            (task.x + noise * (epsilon / c.epsilon)).clamp(0, 1),
            step_size=epsilon / 4,
            steps=START_STEPS,
            direction=steepest(c.norm),
            project=ball(task.x, epsilon, c.norm),
        )
        if bool(task.fooled(x)):
            return x
        if epsilon >= largest:
            return None
        epsilon = min(2 * epsilon, largest)
