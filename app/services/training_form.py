"""Training form service: what is typed on screen becomes the trainer's own config, and its command line.

A form starts from a base, a preset or another run. A field that belongs to a phase changes the last
phase and every phase that had the same value as the last one; epochs scale all phases alike.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cce.checkpoints.folder import released
from cce.config import (
    OPTIMIZERS,
    READINGS,
    SCHEDULES,
    ConfigError,
    Defense,
    ModelConfig,
    Phase,
    TrainConfig,
    check,
    default_attack,
    mirror_keeps_class,
    to_json,
)
from cce.config.overrides import override
from cce.config.recipes import INPUTS
from cce.data.datasets import CLASS_NAMES, DATASETS, DataError
from cce.data.folder_layout import name_of, read_layout
from cce.evaluation import presets

ARCHITECTURES = (
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet56", "resnet20-w32", "resnet20-w64"),
    *("cnn-mnist", "cnn-cifar10", "cnn-cifar100"),
)
CUSTOM = ("architecture", "init")
"""The choices that also take what is not listed: the library checks it."""
DEVICES = ("auto", "cpu", "cuda", "mps")
FIRST = "digits-quick"
RUN = "run: "
"""Before the name of a run where a form starts from one."""


@dataclass(frozen=True)
class Field:
    """One field of the form.

    `kind` is `number`, `whole`, `choice` or `switch`; `info` tells unit and meaning. Numbers lie from
    `low` to `high`.
    """

    key: str
    label: str
    info: str
    kind: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 1e9


_RELEASED = (("none", ""), *(path.name for path in released()))
_METHOD_NAMES = (("CCE (Eq. 5)", "cce"), ("ADV-EN; ADV with one member", "adv-en"), ("ADP", "adp"), ("NAT", "nat"))

MAIN = (
    Field("dataset", "Data set", "What it learns from, or a folder of your own by its path.", "choice", DATASETS),
    Field("architecture", "Architecture", "Of each member.", "choice", ARCHITECTURES),
    Field("members", "Members", "Networks in the ensemble.", "whole", low=1, high=8),
    Field(
        "method", "Defense", "CCE: Eq. 5. ADV-EN: plain adversarial. ADP: diverse. NAT: none.", "choice", _METHOD_NAMES
    ),
    Field("lambda_pm", "lambda_pm", "Weight of promoting; 1 in robustness mode.", "number", high=1000),
    Field("lambda_dm", "lambda_dm", "Weight of demoting; 5 in detection mode.", "number", high=1000),
    Field("epsilon_low", "Epsilon from, in 1/255", "Smallest attack it trains on.", "number", high=255),
    Field("epsilon_high", "Epsilon to, in 1/255", "Largest; drawn anew for each batch.", "number", high=255),
    Field("steps_low", "Attack steps from", "PGD steps for each example; 0: noise.", "whole", high=200),
    Field("steps_high", "Attack steps to", "Drawn anew for each batch.", "whole", high=200),
    Field("epochs", "Epochs", "Times through the data, all phases.", "number", low=0.01, high=10_000),
    Field("batch_size", "Batch", "Images in a step.", "whole", low=1, high=65_536),
    Field("seed", "Seed", "Of every random draw.", "whole", high=2**31),
    Field("precision", "Precision", "auto: bfloat16 where it is fast.", "choice", ("auto", "float32", "bfloat16")),
)
"""What matters most; `device` comes beside them, as it is not part of the config."""

FOLDED = (
    Field("learning_rate", "Learning rate", "The highest of the curve, last phase.", "number", low=1e-7, high=10),
    Field("schedule", "Learning-rate schedule", "Of the last phase.", "choice", SCHEDULES),
    Field("ema_decay", "Average of weights", "Decay a step, as 0.999; 0: none.", "number", high=0.99999),
    Field("awp_gamma", "Weight perturbation", "AWP's gamma, as 0.005; 0: none.", "number", high=1),
    Field("awp_start", "Perturb from epoch", "Before it, weights are not perturbed.", "number", high=10_000),
    Field("label_smoothing", "Label smoothing", "Share of a target on all classes.", "number", high=0.99),
    Field("init", "Start from the weights of", "A released ensemble, or a folder.", "choice", _RELEASED),
    Field("optimizer", "Optimizer", "SGD has Nesterov momentum 0.9.", "choice", OPTIMIZERS),
    Field("weight_decay", "Weight decay", "On weights of layers, a step.", "number", high=1),
    Field("clip_norm", "Gradient clip", "Largest norm; 0: none.", "number", high=1e6),
    Field("indicator", "Indicator", "soft: Eqs. 3-5. hard: Eqs. 1-2.", "choice", ("soft", "hard")),
    Field("reading", "Reading of Eq. 5", "released: what the authors' code computes.", "choice", READINGS),
    Field("alpha", "alpha", "ADP's weight of entropy; 2 in the paper.", "number", high=1000),
    Field("beta", "beta", "ADP's weight of diversity; 0.5 in the paper.", "number", high=1000),
    Field(
        "reach_low", "Smallest relative step size", "Step size = this x epsilon / steps.", "number", low=0.01, high=100
    ),
    Field("reach_high", "Largest relative step size", "Drawn anew for each batch.", "number", low=0.01, high=100),
    Field("flip", "Mirror images", "Half of each batch.", "switch"),
    Field("shift", "Shift", "At most, as a fraction of the side.", "number", high=0.5),
    Field("train_images", "Training images", "Use only the first N (0 = all).", "whole", high=1e7),
    Field(
        "evaluate_every", "Evaluate every (epochs)", "Epochs between two evaluations.", "number", low=0.01, high=1000
    ),
    Field(
        "evaluate_images",
        "Images to evaluate",
        "Test images at each evaluation, at most half.",
        "whole",
        low=1,
        high=10_000,
    ),
    Field("save_every", "Save every", "Steps between two saved states.", "whole", low=1, high=100_000),
    Field("compile", "Compile", "Slower start, faster steps on a GPU.", "switch"),
)
"""The rest of the config."""

FIELDS = (*MAIN, *FOLDED)
KEYS = tuple(field.key for field in FIELDS)


@dataclass(frozen=True)
class Base:
    """What a form starts from: its name on screen, its config, and how the command line names it."""

    name: str
    config: TrainConfig
    words: tuple[str, ...]


def preset_base(name: str) -> Base:
    """A preset as a base."""
    return Base(name, presets.preset(name), (name,))


def run_base(name: str, config: TrainConfig, folder: Path) -> Base:
    """A run as a base."""
    return Base(name, config, ("--config", str(folder / "config.json")))


def values(config: TrainConfig) -> dict[str, Any]:
    """What the form shows of a config, by key; sizes in 1/255."""
    last = config.phases[-1]
    of_attack = {
        f"{name}_{end}": getattr(last.attack, name)[i]
        for name in ("epsilon", "steps", "reach")
        for i, end in enumerate(("low", "high"))
    }
    of_attack = {k: round(255 * v, 4) if k.startswith("epsilon") else v for k, v in of_attack.items()}
    found = {
        "dataset": config.dataset,
        "architecture": config.model.architecture,
        "members": config.model.members,
        "epochs": round(config.epochs, 4),
        "learning_rate": last.learning_rate,
        "schedule": last.schedule,
        **{f.name: getattr(last.defense, f.name) for f in fields(Defense)},
        **of_attack,
        **{f.name: getattr(config, f.name) for f in fields(TrainConfig) if f.name in KEYS},
    }
    return {key: found[key] for key in KEYS}


def data_set_values(dataset: str) -> dict[str, Any]:
    """What goes with a data set: the size of its usual attack, and whether mirror images keep their class."""
    epsilon = round(255 * default_attack(dataset).epsilon, 4)
    return {"epsilon_low": epsilon, "epsilon_high": epsilon, "flip": mirror_keeps_class(dataset)}


def config(base: TrainConfig, typed: Mapping[str, Any], lines: str = "") -> TrainConfig:
    """The config that a form stands for.

    Args:
        base: what the form started from.
        typed: a value for each of `KEYS`.
        lines: any further fields, `FIELD=VALUE` a line.

    Raises:
        ConfigError: a value that cannot be used, named as on screen.
    """
    base, typed = _with_folder(base, typed)
    own = {"dataset": base.dataset} if base.data_dir else {}  # the name of class folders is in no list
    kept = {key: value for key, value in own.items() if typed[key] == value}
    told = {**{field.key: _read(field, typed[field.key]) for field in FIELDS if field.key not in kept}, **kept}
    for name in ("epsilon", "steps", "reach"):
        low, high = told[f"{name}_low"], told[f"{name}_high"]
        first = next(field.label for field in FIELDS if field.key == f"{name}_low")
        check(low <= high, f"{first} is {low:g}; it must not exceed where it goes to, {high:g}")
    shown = values(base)
    changed = {key: value for key, value in told.items() if value != shown[key]}
    made = replace(
        base,
        model=_model(base, told),
        phases=_phases(base, told, changed),
        data_dir=base.data_dir if told["dataset"] == base.dataset else "",
        **{k: v for k, v in changed.items() if k in TrainConfig.__dataclass_fields__},
    )
    extra = [line.strip() for line in lines.splitlines() if line.strip()]
    return override(made, extra) if extra else made


def _with_folder(base: TrainConfig, typed: Mapping[str, Any]) -> tuple[TrainConfig, Mapping[str, Any]]:
    """Where a folder is typed for the data set: the base on its pictures, and its name in the folder's place.

    Raises:
        ConfigError: a folder that cannot be used.
    """
    text = str(typed["dataset"] or "").strip()
    if text in DATASETS or (base.data_dir and text == base.dataset) or not ("/" in text or "\\" in text):
        return base, typed
    folder = Path(text).expanduser()
    check(folder.is_absolute(), f"Data set is {text!r}; give the whole path of the folder")
    try:
        layout, name = read_layout(folder), name_of(folder)
    except DataError as error:
        raise ConfigError(str(error)) from error
    model = replace(base.model, classes=len(layout.classes))
    made = replace(base, dataset=name, data_dir=str(folder.resolve()), model=model)
    return made, {**typed, "dataset": name}


def _read(field: Field, value: Any) -> Any:
    """A typed value of the right kind.

    Raises:
        ConfigError: it is empty, no number, or out of range.
    """
    if field.kind == "switch":
        return bool(value)
    if field.kind == "choice":
        known = [c[1] if isinstance(c, tuple) else c for c in field.choices]
        custom = field.key in CUSTOM and isinstance(value, str)
        check(value in known or custom, f"{field.label} is {value!r}; it is one of {', '.join(map(str, known))}")
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    shown = "empty" if value is None else f"{value:g}" if number else repr(value)
    whole = field.kind == "whole"
    kind = "a whole number" if whole else "a number"
    good = number and field.low <= value <= field.high and (not whole or value == int(value))
    check(good, f"{field.label} is {shown}; it is {kind} from {field.low:g} to {field.high:g}")
    return int(value) if whole else float(value)


def _model(base: TrainConfig, told: Mapping[str, Any]) -> ModelConfig:
    same = told["dataset"] == base.dataset
    shape = base.model.input_shape if same else INPUTS[told["dataset"]]
    classes = base.model.classes if same else len(CLASS_NAMES[told["dataset"]])
    return ModelConfig(told["architecture"], told["members"], classes, shape)


def _phases(base: TrainConfig, told: Mapping[str, Any], changed: Mapping[str, Any]) -> tuple[Phase, ...]:
    last = base.phases[-1]
    factor = told["epochs"] / base.epochs if "epochs" in changed else 1.0
    return tuple(_phase(phase, last, told, changed, factor) for phase in base.phases)


def _phase(phase: Phase, last: Phase, told: Mapping[str, Any], changed: Mapping[str, Any], factor: float) -> Phase:
    """A phase with what was changed, where it had the last phase's value."""
    more: dict[str, Any] = {}
    if factor != 1:
        more["epochs"] = phase.epochs * factor
        more["milestones"] = tuple(m * factor for m in phase.milestones)
    if phase.defense == last.defense and changed.keys() & {f.name for f in fields(Defense)}:
        more["defense"] = _defense(told)
        if phase.name == last.defense.name:
            more["name"] = more["defense"].name_with(told["members"])
    for name in ("learning_rate", "schedule"):
        if name in changed and getattr(phase, name) == getattr(last, name):
            more[name] = told[name]
    ranges = {}
    for name in ("epsilon", "steps", "reach"):
        ends = (f"{name}_low", f"{name}_high")
        if changed.keys() & set(ends) and getattr(phase.attack, name) == getattr(last.attack, name):
            unit = 255 if name == "epsilon" else 1
            ranges[name] = tuple(
                told[end] / unit if end in changed else getattr(last.attack, name)[i] for i, end in enumerate(ends)
            )
    if ranges:
        more["attack"] = replace(phase.attack, **ranges)
    return replace(phase, **more) if more else phase


def _defense(told: Mapping[str, Any]) -> Defense:
    weighted = told["method"] == "cce"
    weights = {name: told[name] if weighted else 0.0 for name in ("lambda_pm", "lambda_dm")}
    reading = told["reading"] if weighted else "paper"
    return Defense(told["method"], **weights, indicator=told["indicator"], reading=reading, **_of_adp(told))


def _of_adp(told: Mapping[str, Any]) -> dict[str, float]:
    return {name: told[name] for name in ("alpha", "beta")}


def command_line(base: Base, made: TrainConfig, name: str, folder: Path, device: str) -> str:
    """The command that trains the same in a terminal."""
    words = ["python", "-m", "cce", "train", *base.words, "--run", str(folder / (name or "my-run"))]
    own = made.data_dir != base.config.data_dir and made.data_dir
    words += ["--data-dir", made.data_dir] if own else []
    for path, value in differences(to_json(base.config), to_json(made)):
        if own and path in ("dataset", "data_dir", "model.classes"):
            continue
        words += ["--seed", str(value)] if path == "seed" else ["--set", f"{path}={_told(value)}"]
    words += ["--device", device] if device != "auto" else []
    return " ".join(shlex.quote(word) for word in words)


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any]]:
    """Where two plain values differ, as dotted paths with the new value.

    >>> differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]})
    [('a.1.b', 3)]
    """
    old, new = (list(v) if isinstance(v, tuple) else v for v in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        pairs: Sequence[tuple[Any, Any, Any]] = [(k, old[k], new[k]) for k in new]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [(path, new)]
    return [d for k, a, b in pairs for d in differences(a, b, f"{path}.{k}" if path else str(k))]


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def phase_rows(made: TrainConfig) -> list[list[str]]:
    """What each phase does, for people: name, epochs, loss, attack, learning rate."""
    return [
        [
            phase.name,
            f"{phase.epochs:.3g}",
            phase.defense.name_with(made.model.members),
            "none" if phase.defense.method == "nat" else _attack_words(phase),
            f"{phase.learning_rate:g}, {phase.schedule}",
        ]
        for phase in made.phases
    ]


def _attack_words(phase: Phase) -> str:
    def span(pair: tuple[float, float]) -> str:
        low, high = (f"{v:.3g}" for v in pair)
        return low if low == high else f"{low} to {high}"

    a = phase.attack
    what = f"PGD, {span(a.steps)} steps" if a.steps[1] else "noise alone"
    return f"{what}, epsilon {span(tuple(255 * e for e in a.epsilon))} /255"


def base_of(choice: str, runs: Mapping[str, Base]) -> Base:
    """The base of a choice: a preset, or `run: NAME`.

    Raises:
        ConfigError: neither is there.
    """
    name = str(choice).removeprefix(RUN)
    if choice != name and name in runs:
        return runs[name]
    if choice in presets.PRESETS:
        return preset_base(choice)
    raise ConfigError(f"There is no preset or run called {name!r}.")
