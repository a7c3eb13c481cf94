"""Training: `Trainer.fit` runs the phases, logs, looks, saves; each step is `cce.training.step.train_step`.

Every random draw of a step comes from (seed, step) alone, and the learning rate from the step, so
that weights, optimizer and step are the whole state: a run that was killed goes on to the same losses.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cce.checkpoints.folder import machine_name
from cce.config import TrainConfig, check, default_attack, to_json
from cce.data.augmentation import augment
from cce.data.datasets import Dataset
from cce.data.picture_split import FILE as PICTURES
from cce.fast import SearchCopy, use_kernels
from cce.machine.files import write_atomically
from cce.models import Ensemble, fast_dtype
from cce.training import state as training_state
from cce.training.averaging import Average, released
from cce.training.collapse import LEARNING, TrainingError, epoch_means, is_uniform, refuse_collapse
from cce.training.monitoring import monitor_line, monitoring_figures, monitoring_split, standing
from cce.training.parallel import ALONE, Team, share_batch_norm, share_batch_size
from cce.training.run_folder import RunError, RunFolder, refusing
from cce.training.state import Start
from cce.training.step import make_optimizer, train_step

Log = Callable[[dict[str, Any]], None]
"""Called with every line of `metrics.jsonl`."""


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's random draws."""
    return (seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF_FFFF


class Trainer:
    """A run: its model, optimizer, data on the device, and its place in the phases."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        folder: RunFolder,
        device: torch.device | str = "cpu",
        team: Team = ALONE,
        log: Log | None = None,
        keep_going: bool = False,
    ) -> None:
        self.config, self.folder, self.device = config, folder, torch.device(device)
        self.team, self.log = team, log
        self.share = share_batch_size(config.batch_size, team)
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
        self.ends = config.phase_ends(self.steps_per_epoch)
        self.total_steps = self.ends[-1]
        last_phase = [0, *self.ends][-2]
        rising = 0.25 if config.phases[-1].schedule == "one-cycle" else 0.1  # of the phase, until the rate is whole
        self.warm_up = last_phase + max(self.steps_per_epoch, round((self.total_steps - last_phase) * rising))
        self.keep_going = keep_going

        self.dtype = fast_dtype(self.device) if config.precision == "auto" else getattr(torch, config.precision)
        self.autocast = self.dtype == torch.bfloat16
        torch.manual_seed(config.seed)
        self.model = Ensemble(config.model).to(self.device, memory_format=torch.channels_last)
        if self.device.type == "cpu":
            use_kernels(self.model)
        share_batch_norm(self.model, team)
        self.optimizer = make_optimizer(self.model, config)
        self.search = SearchCopy(self.model, self.dtype, compile=config.compile)
        self.average = Average(self.model, config.ema_decay) if config.ema_decay else None
        self._released: tuple[int, Ensemble, SearchCopy] | None = None  # of the average, and of which step
        members = list(self.model.members)
        self.forwards = [torch.compile(m, dynamic=False) for m in members] if config.compile else members
        self.order = -1, torch.empty(0)  # an epoch, and its order of the images
        self.step = 0
        self.pending: list[dict[str, Tensor]] = []  # scalars of the steps since the last logged line
        self.seconds = 0.0
        self.best: float | None = None  # standing of the best state so far
        self.best_step = 0
        self.looks_uniform = False  # at the last logged line, after the warm-up
        self.epoch_entropy: list[float] = []
        self.epoch_loss: list[float] = []  # on clean images, of this epoch's logged lines
        self.lowest_loss = math.inf  # mean of an epoch before
        self.stop_requested = False

    @property
    def machines(self) -> tuple[str, ...]:
        """Those that have worked on the run, in turn."""
        return self.folder.machines()

    @property
    def started_from(self) -> dict[str, Any] | None:
        """Whose weights the run started from (see `state.Start`); None where they were random."""
        return self.folder.started_from() if self.config.init else None

    def begin(self, start: Start) -> None:
        """Take the weights of `config.init`; the run has not begun."""
        self.model.load_state_dict(start.weights)
        if self.average:
            self.average.model.load_state_dict(start.weights)
        if self.team.main:
            self.folder.note_start(start.record)

    @property
    def released(self) -> Ensemble:
        """What is evaluated and exported: the ensemble in training, or the present average of its weights."""
        return self._evaluated()[0]

    def _evaluated(self) -> tuple[Ensemble, Ensemble]:
        """`released` in evaluation mode, and its copy to search on."""
        if self.average is None:
            self.model.eval()
            return self.model, self.search.refresh()
        if self._released is None or self._released[0] != self.step:
            phase = self.config.phases[self.phase_at(max(0, self.step - 1))[0]]
            given = (self.images, self.labels, self.config, phase, self.dtype)
            self._released = (self.step, *released(self.average.model, *given))
        return self._released[1], self._released[2].model

    @property
    def _average_model(self) -> Ensemble | None:
        return self.average.model if self.average else None

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs besides the step, as named tensors."""
        tensors = training_state.pack(self.model, self.optimizer, self.pending, self._average_model)
        tensors["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        if self.best is not None:
            tensors["best"] = torch.tensor([self.best, self.best_step], dtype=torch.float64)
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
        if self.team.main:
            self.folder.save_state(tensors, self.step)

    def keep_best(self, row: dict[str, Any]) -> None:
        """Keep the weights where an evaluation in the last phase is better than all before (see `standing`)."""
        if self.step <= [0, *self.ends][-2]:
            return
        now = standing(row, self.config.defense)
        if self.best is None or now > self.best:
            self.best, self.best_step = now, self.step
            if self.team.main:
                self.folder.save_state(self.released.state_dict(), self.step, "best")

    def best_model(self) -> Ensemble | None:
        """The ensemble of the best step, in evaluation mode; None where that is the present one.

        Raises:
            RunError: it cannot be read.
        """
        if self.best is None or self.best_step == self.step:
            return None
        saved = self.folder.load_state("best")
        if saved is None or saved[1] != self.best_step:
            return None  # removed by hand, or of a state that this one was never resumed from
        model = Ensemble(self.config.model)
        try:
            model.load_state_dict(saved[0])
        except RuntimeError as error:
            raise RunError(f"{self.folder.state_file('best')} does not fit this config: {error}") from error
        return model.to(self.device, memory_format=torch.channels_last).eval()

    def restore(self) -> bool:
        """Take up the folder's saved state, if there is one.

        Raises:
            RunError: a state that is damaged or belongs to another model.
        """
        saved = self.team.gather(self.folder.load_state() if self.team.main else None)[0]
        if self.team.main:  # without a state, of an attempt that died before its first save
            self.folder.truncate_metrics(saved[1] if saved else 0)
        if saved is None:
            return False
        tensors, step = saved
        try:
            self.pending = training_state.unpack(tensors, self.model, self.optimizer, self._average_model)
            self.seconds = float(tensors["seconds"])
            if "best" in tensors:
                self.best, self.best_step = tensors["best"][0].item(), int(tensors["best"][1])
        except (RuntimeError, KeyError, ValueError) as error:
            raise RunError(f"the state in {self.folder.path} does not fit this config: {error}") from error
        self.step = step
        start = step - step % self.steps_per_epoch
        rows = self.team.gather(self.folder.metrics() if self.team.main else None)[0]
        looks = [r for r in rows if r["kind"] == "evaluation" and r["step"] == self.best_step]
        if any(r.get("images", len(self.monitored)) != len(self.monitored) for r in looks):
            self.best = None  # chosen on other images, by a version that evaluated more of them: choose anew
        logged = [r for r in rows if r["kind"] == "training"]
        self.epoch_entropy = [r["entropy_clean"] for r in logged if r["step"] > start]
        self.epoch_loss = [r["natural"] for r in logged if r["step"] > start]
        self.lowest_loss = min(epoch_means(logged, start, self.steps_per_epoch), default=math.inf)
        return True

    def phase_at(self, step: int) -> tuple[int, float]:
        """Index of the phase that `step` is in, and the fraction of it that is done."""
        index = next(i for i, end in enumerate(self.ends) if step < end)
        start = self.ends[index - 1] if index else 0
        return index, (step - start) / (self.ends[index] - start)

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """This process's share of a step's augmented batch.

        Returns:
            `(B, C, H, W)` in [0, 1], channels-last, and labels `(B,)`.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        if self.order[0] != epoch:
            generator_of_order = torch.Generator().manual_seed(step_seed(self.config.seed, epoch) ^ 0x5EED)
            order = torch.randperm(len(self.images), generator=generator_of_order)
            self.order = epoch, order.to(self.device)
        size = self.config.batch_size
        chosen = self.order[1][within * size : (within + 1) * size]
        images = self.team.share(augment(self.images[chosen], generator, self.config.flip, self.config.shift))
        x = images.float().div_(255).contiguous(memory_format=torch.channels_last)
        return x, self.team.share(self.labels[chosen])

    def advance(self) -> dict[str, Tensor]:
        """Take the next step and count it; returns its scalars."""
        index, progress = self.phase_at(self.step)
        phase = self.config.phases[index]
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, self.step))
        torch.manual_seed(step_seed(self.config.seed + self.team.index, self.step))  # dropout
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
            team=self.team,
            **self.settings(self.step),
        )
        self.step += 1
        if self.average:
            self.average.update(self.step)
        return scalars

    def settings(self, step: int) -> dict[str, Any]:
        """What `train_step` is told besides the batch and its phase."""
        config = self.config
        return {
            "autocast": self.autocast,
            "clip_norm": config.clip_norm,
            "label_smoothing": config.label_smoothing,
            "awp_gamma": config.awp_gamma if step >= config.awp_start * self.steps_per_epoch else 0.0,
        }

    def monitor(self) -> dict[str, Any]:
        """Natural and robust accuracy, subsets, T and entropies on the monitored images (PGD, k=10)."""
        model, search = self._evaluated()
        attack = replace(default_attack(self.config.dataset), steps=10)
        return monitoring_figures(model, search, self.monitored, attack, self.config.batch_size, self.team)

    def fit(self, *, log_every: int = 20, quiet: bool = False) -> str:
        """Run from the present step to the end; returns `finished` or `stopped`.

        Raises:
            TrainingError: a loss that is not finite, or a collapse to uniform predictions.
        """
        config, quiet = self.config, quiet or not self.team.main
        evaluate_steps = max(1, round(config.evaluate_every * self.steps_per_epoch))
        bar = tqdm(total=self.total_steps, initial=self.step, unit="step", disable=quiet, mininterval=2)
        mark = time.perf_counter()
        with stopping_by_signal(self), bar:
            while self.step < self.total_steps and not self.team.any(self.stop_requested, self.device):
                self.pending.append(self.advance())
                bar.update(1)
                last = self.step == self.total_steps

                if self.step % log_every == 0 or last:
                    now = time.perf_counter()
                    self.seconds += now - mark
                    row = self.log_row(self.pending, now - mark)
                    mark, self.pending = now, []
                    self.refuse_infinite(row["loss"])
                    self.epoch_entropy.append(row["entropy_clean"])
                    self.epoch_loss.append(row["natural"])
                    self.looks_uniform = self.step > self.warm_up and is_uniform(row["entropy_clean"], config)
                    self.write(row)
                    bar.set_postfix(loss=f"{row['loss']:.3f}", phase=row["phase"])

                if self.step % self.steps_per_epoch == 0:
                    self.end_epoch()

                if self.step % evaluate_steps == 0 or last:
                    row = {"kind": "evaluation", "step": self.step, **self.monitor()}
                    self.keep_best(row)
                    self.write(row)
                    tqdm.write(monitor_line(row), file=bar.fp) if not quiet else None
                    self.seconds += time.perf_counter() - mark
                    mark = time.perf_counter()

                # While predictions look uniform, the state of before is the last good one.
                if (self.step % config.save_every == 0 and not self.looks_uniform) or last:
                    self.save()
        if self.step < self.total_steps:
            self.save()
        return "stopped" if self.step < self.total_steps else "finished"

    def end_epoch(self) -> None:
        """Look back on an epoch.

        Raises:
            TrainingError: it has collapsed, and was not told to keep going.
        """
        now = sum(self.epoch_loss) / len(self.epoch_loss) if self.epoch_loss else math.inf
        learning = now < (1 - LEARNING) * self.lowest_loss and math.isfinite(self.lowest_loss)
        began_whole = self.step - self.steps_per_epoch >= self.warm_up  # at the whole rate from its first step
        if not (self.keep_going or learning) and began_whole:
            refuse_collapse(self.epoch_entropy, self.config.model.classes, self.step, self.warm_up, self.config.defense)
        self.lowest_loss = min(self.lowest_loss, now)
        self.epoch_entropy, self.epoch_loss = [], []

    def refuse_infinite(self, loss: float) -> None:
        """Stop a run whose loss is no number."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.step}; the state of the last save is kept. "
                "Try a lower learning_rate or a clip_norm of 1"
            )

    def write(self, row: dict[str, Any]) -> None:
        """A line for `metrics.jsonl`, with the place in `status.json` where it is one of training."""
        if not self.team.main:
            return
        self.folder.log_metrics(row)
        if self.log:
            self.log(row)
        if row["kind"] == "training":
            self.folder.write_status("running", **self.place(row))

    def log_row(self, interval: list[dict[str, Tensor]], seconds: float) -> dict[str, Any]:
        """A line of `metrics.jsonl`: means over the interval."""
        means = {k: torch.stack([s[k] for s in interval]).mean() for k in interval[0]}
        means = {k: self.team.mean(v).item() for k, v in means.items()}
        index, progress = self.phase_at(self.step - 1)
        return {
            "kind": "training",
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            "phase": self.config.phases[index].name,
            **means,
            "learning_rate": self.config.phases[index].rate(progress),
            "images_per_second": (speed := len(interval) * self.config.batch_size / seconds),
            "seconds_left": (self.total_steps - self.step) * self.config.batch_size / speed,
        }

    def place(self, row: dict[str, Any]) -> dict[str, Any]:
        """Where the run stands, for `status.json`."""
        place = {k: row[k] for k in ("step", "epoch", "phase", "loss", "seconds_left")}
        return {**place, "total_steps": self.total_steps, "seconds": self.seconds}


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


def run(
    config: TrainConfig,
    dataset: Dataset,
    folder: RunFolder,
    device: torch.device,
    quiet: bool = False,
    team: Team = ALONE,
    tensorboard: bool = False,
    start: Callable[[], Start] | None = None,
    keep_going: bool = False,
) -> Trainer:
    """Train in `folder`, resuming what it holds; keeps `status.json` true to the end.

    Args:
        config: what to train.
        dataset: on what.
        folder: of the run; only the team's main process writes to it.
        device: where.
        quiet: no progress bar.
        team: the processes that train together.
        keep_going: go on where predictions look collapsed.
        tensorboard: also write event files to the folder's `tensorboard/`.
        start: reads the weights of `config.init`; called where the run has no state yet.

    Raises:
        RunError, TrainingError: after `status.json` says `failed` and why.
        ConfigError: tensorboard is asked for and not installed.
    """

    def say(state: str, **more: Any) -> None:
        if team.main:
            folder.write_status(state, **more)

    log = None
    if tensorboard and team.main:
        from cce.training.tensorboard_log import TensorBoardLog  # an optional package

        log = TensorBoardLog(folder.path / "tensorboard")
    lock = None
    if team.main:
        folder.create(to_json(config))
        if dataset.record is not None and not (folder.path / PICTURES).exists():
            with refusing(f"{folder.path / PICTURES}"):
                write_atomically(folder.path / PICTURES, json.dumps(dataset.record.to_json()) + "\n")
        lock = folder.lock()
    try:
        trainer = Trainer(config, dataset, folder, device, team, log, keep_going)
        if not trainer.restore() and config.init:
            check(start is not None, f"init is {config.init!r}; give run() the `start` that reads its weights")
            trainer.begin(start())
        if team.main:
            folder.note_machine(machine_name(trainer.device), anew=trainer.step == 0)
        say("running", step=trainer.step, total_steps=trainer.total_steps)
        state = trainer.fit(quiet=quiet)
        say(state, step=trainer.step, total_steps=trainer.total_steps, seconds=trainer.seconds)
    except Exception as error:
        with contextlib.suppress(RunError):  # a full disk takes no status either; the error itself is told
            say("failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        if log:
            log.close()
        if lock:
            lock.close()
    return trainer
