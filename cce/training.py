"""Training: `train_step` makes examples and takes one optimizer step; `Trainer.fit` runs the phases.

Every random draw of a step comes from (seed, step) alone, and the learning rate from the step, so
that weights, optimizer and step are the whole state: a run that was killed goes on to the same losses.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cce.attacks import loss_of, pgd_sign, uniform_start
from cce.config import AttackConfig, Defense, Phase, TrainConfig, TrainingAttack, check, default_attack, to_json
from cce.data import Dataset, Split, augment
from cce.evaluation import Outcome, outcome
from cce.losses import LossTerms, cce_terms, pair_terms
from cce.models import Ensemble, SearchCopy, entropy, fast_dtype, log_mean_probability
from cce.runs import RunError, RunFolder


class TrainingError(RuntimeError):
    """Training that cannot go on: the message says why; the last good state is kept."""


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's random draws."""
    return (seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF_FFFF


def draw_attack(attack: TrainingAttack, generator: torch.Generator) -> tuple[int, float, float]:
    """(steps, epsilon, step_size) of one batch, uniform over the config's ranges."""
    u = torch.rand(3, generator=generator).tolist()
    low, high = attack.steps
    steps = min(high, low + int(u[0] * (high - low + 1)))
    epsilon = attack.epsilon[0] + u[1] * (attack.epsilon[1] - attack.epsilon[0])
    reach = attack.reach[0] + u[2] * (attack.reach[1] - attack.reach[0])
    return steps, epsilon, reach * epsilon / steps


def make_examples(
    search: Ensemble,
    x: Tensor,
    labels: Tensor,
    defense: Defense,
    attack: TrainingAttack,
    generator: torch.Generator,
) -> Tensor:
    """The examples that a defense trains on: none (NAT), on f_en (ADV-EN), on each member (CCE).

    Args:
        search: the copy that is attacked; its parameters take no gradient.
        x: `(B, C, H, W)` in [0, 1].
        labels: true labels `(B,)`.
        defense: which examples.
        attack: ranges of the settings.
        generator: of the draws (CPU).

    Returns:
        `(K, B, C, H, W)` with K = 0, 1 or N.
    """
    targets: dict[str, list[int | None]] = {"nat": [], "adv-en": [None]}
    steps, epsilon, step_size = draw_attack(attack, generator)
    examples = []
    for member in targets.get(defense.method, range(len(search.members))):
        noise = torch.rand(x.shape, generator=generator).to(x, memory_format=torch.channels_last)
        start = (x + epsilon * (2 * noise - 1)).clamp(0, 1)
        objective = loss_of(search, labels, member)
        examples.append(pgd_sign(objective, x, start, epsilon=epsilon, step_size=step_size, steps=steps))
    return torch.stack(examples) if examples else x.new_empty((0, *x.shape))


def member_terms(member: int, logits: Tensor, labels: Tensor, defense: Defense) -> LossTerms:
    """A member's terms from its logits `(1 + K, B, classes)` on x and on the K sets of examples."""
    clean, attacked = logits[0], logits[1:]
    if defense.method == "cce":
        return cce_terms(member, clean, attacked, labels, defense)
    return pair_terms(clean, attacked[0] if len(attacked) else None, labels)


def train_step(
    forwards: list[Callable[[Tensor], Tensor]],
    search: SearchCopy,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
    phase: Phase,
    generator: torch.Generator,
    *,
    autocast: bool = False,
    clip_norm: float = 0.0,
) -> dict[str, Tensor]:
    """One optimizer step on one batch: Eq. 5 summed over the members.

    Clean images and all examples pass each member in one batch, so that batch norm sees the mixture
    it will be evaluated on and cannot tell clean from attacked by the batch.

    Returns:
        Detached scalars: loss, natural, direct, promoting, demoting (member sums), entropy_clean of f_en.
    """
    examples = make_examples(search.refresh(), x, labels, phase.defense, phase.attack, generator)
    groups = 1 + len(examples)
    inputs = torch.cat([x, *examples]).contiguous(memory_format=torch.channels_last)
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    clean = []
    for member, forward in enumerate(forwards):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            logits = forward(inputs).float()
        logits = logits.view(groups, len(x), -1)
        terms = member_terms(member, logits, labels, phase.defense)
        loss = terms.total(phase.defense)
        loss.backward()
        clean.append(logits[0].detach())
        for name, value in {"loss": loss, **vars(terms)}.items():
            sums[name] = sums.get(name, 0) + value.detach()
    if clip_norm:
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip_norm)
    optimizer.step()
    sums["entropy_clean"] = entropy(log_mean_probability(torch.stack(clean))).mean()
    return sums


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, or SGD with Nesterov momentum 0.9; weight decay on convolution and linear weights only."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=1e-3, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=1e-3, fused=fused)


class Trainer:
    """A run: its model, optimizer, data on the device, and its place in the phases."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        folder: RunFolder,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.folder, self.device = config, folder, torch.device(device)
        shape = tuple(dataset.train.images.shape[1:])
        check(
            shape == config.model.input_shape,
            f"input_shape is {config.model.input_shape}; {dataset.name} has {shape}",
        )
        check(
            len(dataset.classes) == config.model.classes,
            f"classes is {config.model.classes}; {dataset.name} has {len(dataset.classes)}",
        )
        self.classes = dataset.classes
        train = dataset.train.first(config.train_images) if config.train_images else dataset.train
        self.images, self.labels = train.images.to(self.device), train.labels.to(self.device)
        self.monitored = monitoring_split(dataset, config.evaluate_images)
        check(
            len(train) >= config.batch_size,
            f"batch_size is {config.batch_size}; there are only {len(train)} training images",
        )
        self.steps_per_epoch = len(train) // config.batch_size
        self.ends = []
        for phase in config.phases:
            length = max(1, round(phase.epochs * self.steps_per_epoch))
            self.ends.append(length + (self.ends[-1] if self.ends else 0))
        self.total_steps = self.ends[-1]
        last_phase = [0, *self.ends][-2]
        self.warm_up = last_phase + max(self.steps_per_epoch, (self.total_steps - last_phase) // 10)

        dtype = fast_dtype(self.device) if config.precision == "auto" else getattr(torch, config.precision)
        self.autocast = dtype == torch.bfloat16
        torch.manual_seed(config.seed)
        self.model = Ensemble(config.model).to(self.device, memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.model, config)
        self.search = SearchCopy(self.model, dtype, compile=config.compile)
        members = list(self.model.members)
        self.forwards = [torch.compile(m, dynamic=False) for m in members] if config.compile else members
        self.step = 0
        self.pending: list[dict[str, Tensor]] = []  # scalars of the steps since the last logged line
        self.seconds = 0.0
        self.stop_requested = False

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs besides the step, as named tensors."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            for name, value in slots.items():
                if value is not None:
                    tensors[f"optimizer/{index}/{name}"] = torch.as_tensor(value)
        for name in self.pending[0] if self.pending else ():
            tensors[f"pending/{name}"] = torch.stack([scalars[name] for scalars in self.pending])
        tensors["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        return tensors

    def save(self) -> None:
        """Replace the folder's resumable state.

        Raises:
            TrainingError: weights or moments that are not finite, which would replace a good state.
        """
        tensors = self.state()
        if not all(t.isfinite().all() for t in tensors.values()):
            raise TrainingError(
                f"the weights are not finite at step {self.step}; the state of the last save is kept. "
                "Try a lower learning_rate or a clip_norm of 1"
            )
        self.folder.save_state(tensors, self.step)

    def restore(self) -> bool:
        """Take up the folder's saved state, if there is one.

        Raises:
            RunError: a state that is damaged or belongs to another model.
        """
        saved = self.folder.load_state()
        if saved is None:
            self.folder.truncate_metrics(0)  # of an attempt that died before its first save
            return False
        tensors, step = saved
        weights = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, name = key.split("/")
                slots.setdefault(int(index), {})[name] = value
        try:
            self.seconds = float(tensors["seconds"])
            self.model.load_state_dict(weights)
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        except (RuntimeError, KeyError, ValueError) as error:
            raise RunError(f"the state in {self.folder.path} does not fit this config: {error}") from error
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():  # a fused step pairs elements by their place in memory
                if value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter).copy_(value)
        pending = {k.removeprefix("pending/"): v for k, v in tensors.items() if k.startswith("pending/")}
        rows = zip(*(v.to(self.device).unbind() for v in pending.values()), strict=True)
        self.pending = [dict(zip(pending, row, strict=True)) for row in rows]
        self.step = step
        self.folder.truncate_metrics(self.step)
        return True

    def phase_at(self, step: int) -> tuple[int, float]:
        """Index of the phase that `step` is in, and the fraction of it that is done."""
        index = next(i for i, end in enumerate(self.ends) if step < end)
        start = self.ends[index - 1] if index else 0
        return index, (step - start) / (self.ends[index] - start)

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The augmented batch of a step: `(B, C, H, W)` in [0, 1], channels-last, and labels `(B,)`."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = torch.Generator().manual_seed(step_seed(self.config.seed, epoch) ^ 0x5EED)
        size = self.config.batch_size
        chosen = torch.randperm(len(self.images), generator=order)[within * size : (within + 1) * size]
        chosen = chosen.to(self.device)
        images = augment(self.images[chosen], generator, self.config.flip, self.config.shift)
        x = images.float().div_(255).contiguous(memory_format=torch.channels_last)
        return x, self.labels[chosen]

    def advance(self) -> dict[str, Tensor]:
        """Take the next step and count it; returns its scalars."""
        index, progress = self.phase_at(self.step)
        phase = self.config.phases[index]
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, self.step))
        torch.manual_seed(step_seed(self.config.seed, self.step))  # dropout
        rate = phase.rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        x, labels = self.batch(self.step, generator)
        scalars = train_step(
            self.forwards,
            self.search,
            self.optimizer,
            x,
            labels,
            phase,
            generator,
            autocast=self.autocast,
            clip_norm=self.config.clip_norm,
        )
        self.step += 1
        return scalars

    def monitor(self) -> dict[str, Any]:
        """Natural and robust accuracy, subsets and entropies on the monitored images (PGD, k=10)."""
        self.model.eval()
        search, size = self.search.refresh(), self.config.batch_size
        attack = replace(default_attack(self.config.dataset), steps=10)
        return monitoring_figures(self.model, search, self.monitored, attack, size)

    def fit(self, *, log_every: int = 20, quiet: bool = False) -> str:
        """Run from the present step to the end; returns `finished` or `stopped`.

        Raises:
            TrainingError: a loss that is not finite, or a collapse to uniform predictions.
        """
        config, folder = self.config, self.folder
        evaluate_steps = max(1, round(config.evaluate_every * self.steps_per_epoch))
        epoch_entropy: list[float] = []
        bar = tqdm(total=self.total_steps, initial=self.step, unit="step", disable=quiet, mininterval=2)
        mark = time.perf_counter()
        with stopping_by_signal(self), bar:
            while self.step < self.total_steps and not self.stop_requested:
                self.pending.append(self.advance())
                bar.update(1)
                last = self.step == self.total_steps

                if self.step % log_every == 0 or last:
                    now = time.perf_counter()
                    self.seconds += now - mark
                    row = self.log_row(self.pending, now - mark)
                    mark, self.pending = now, []
                    if not math.isfinite(row["loss"]):
                        raise TrainingError(
                            f"the loss is {row['loss']} at step {self.step}; the state of the last save is kept. "
                            "Try a lower learning_rate or a clip_norm of 1"
                        )
                    epoch_entropy.append(row["entropy_clean"])
                    folder.log_metrics(row)
                    folder.write_status("running", **self.place(row))
                    bar.set_postfix(loss=f"{row['loss']:.3f}", phase=row["phase"])

                if self.step % self.steps_per_epoch == 0:
                    refuse_collapse(epoch_entropy, config.model.classes, self.step, self.warm_up)
                    epoch_entropy = []

                if self.step % evaluate_steps == 0 or last:
                    row = {"kind": "evaluation", "step": self.step, **self.monitor()}
                    folder.log_metrics(row)
                    tqdm.write(monitor_line(row), file=bar.fp) if not quiet else None
                    self.seconds += time.perf_counter() - mark
                    mark = time.perf_counter()

                if self.step % config.save_every == 0 or last:
                    self.save()
        if self.stop_requested:
            self.save()
        return "stopped" if self.step < self.total_steps else "finished"

    def log_row(self, interval: list[dict[str, Tensor]], seconds: float) -> dict[str, Any]:
        """A line of `metrics.jsonl`: means over the interval."""
        means = {k: torch.stack([s[k] for s in interval]).mean().item() for k in interval[0]}
        index, progress = self.phase_at(self.step - 1)
        return {
            "kind": "training",
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            "phase": self.config.phases[index].name,
            **means,
            "learning_rate": self.config.phases[index].rate(progress),
            "images_per_second": len(interval) * self.config.batch_size / seconds,
        }

    def place(self, row: dict[str, Any]) -> dict[str, Any]:
        """Where the run stands, for `status.json`."""
        left = (self.total_steps - self.step) * self.config.batch_size / row["images_per_second"]
        place = {k: row[k] for k in ("step", "epoch", "phase", "loss")}
        return {**place, "total_steps": self.total_steps, "seconds": self.seconds, "seconds_left": left}


def refuse_collapse(entropies: list[float], classes: int, step: int, warm_up: int) -> None:
    """Stop a run whose predictions on clean images stayed uniform for an epoch after the first phase."""
    uniform = math.log(classes)
    if step > warm_up and entropies and min(entropies) > 0.98 * uniform:
        mean = sum(entropies) / len(entropies)
        raise TrainingError(
            f"collapsed: the mean entropy on clean images was {mean:.3f} of at most {uniform:.3f} nats for an epoch. "
            "Start with a longer natural phase or a lower lambda_dm; the last state is kept"
        )


def monitoring_split(dataset: Dataset, count: int) -> Split:
    """Images watched during training: the last of the test set that detectors may be tested on."""
    test = dataset.detection_test
    start = max(0, len(test) - count)
    return Split(test.images[start:], test.labels[start:], test.start + start)


def monitoring_figures(
    model: Ensemble, search: Ensemble, split: Split, attack: AttackConfig, batch_size: int
) -> dict[str, Any]:
    """Figures of one look at a model in training: searched on `search`, judged by `model` in float32."""
    device = next(model.parameters()).device
    x, labels = split.pixels(), split.labels.to(device)
    start = uniform_start(x, attack.epsilon, torch.Generator().manual_seed(0)).to(device)
    x = x.to(device)
    shape = {"epsilon": attack.epsilon, "step_size": attack.step_size, "steps": attack.steps}
    found = []
    for i in range(0, len(x), batch_size):
        part = slice(i, i + batch_size)
        found.append(pgd_sign(loss_of(search, labels[part]), x[part], start[part], **shape))
    clean, attacked = outcome(model, x, labels), outcome(model, torch.cat(found), labels)
    return {**_prefixed("natural", clean), **_prefixed("robust", attacked), "images": len(labels)}


def _prefixed(name: str, result: Outcome) -> dict[str, Any]:
    return {
        f"{name}_accuracy": result.accuracy,
        f"{name}_member_accuracy": result.member_accuracy,
        f"{name}_subsets": result.subset_counts(),
        f"{name}_entropy": result.entropy.mean().item(),
    }


def monitor_line(row: dict[str, Any]) -> str:
    """One line for people of an evaluation row."""
    return (
        f"step {row['step']}: natural {row['natural_accuracy']:.3f}, PGD-10 {row['robust_accuracy']:.3f}, "
        f"entropy clean {row['natural_entropy']:.2f}, attacked {row['robust_entropy']:.2f} nats "
        f"({row['images']} images)"
    )


@contextmanager
def stopping_by_signal(trainer: Trainer) -> Iterator[None]:
    """SIGTERM and SIGINT ask the trainer to save and stop at the next step."""

    def ask(number: int, frame: Any) -> None:
        trainer.stop_requested = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(config: TrainConfig, dataset: Dataset, folder: RunFolder, device: torch.device, quiet: bool = False) -> Trainer:
    """Train in `folder`, resuming what it holds; keeps `status.json` true to the end.

    Raises:
        RunError, TrainingError: after `status.json` says `failed` and why.
    """
    folder.create(to_json(config))
    try:
        trainer = Trainer(config, dataset, folder, device)
        trainer.restore()
        folder.write_status("running", step=trainer.step, total_steps=trainer.total_steps)
        state = trainer.fit(quiet=quiet)
        folder.write_status(state, step=trainer.step, total_steps=trainer.total_steps, seconds=trainer.seconds)
    except Exception as error:
        folder.write_status("failed", error=f"{type(error).__name__}: {error}")
        raise
    return trainer
