"""Detection service: how well an ensemble tells attacked pictures from clean ones, measured here or at release."""

from __future__ import annotations

import copy
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from app.services.attacks import MAX_STEPS, is_number, typed
from app.services.gallery import Collection, examples
from app.services.models import dataset_title, read_released
from app.services.work import check_work
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig, ConfigError, check, default_attack
from cce.config.attack_registry import ATTACKS as REGISTRY
from cce.config.attack_registry import AttackInfo
from cce.data.datasets import Split
from cce.data.pictures import read_picture, to_model_input
from cce.detectors import calibrate
from cce.evaluation.detection import DetectionReport, Sample, report_from_json
from cce.evaluation.evaluate import detect, outcome, sample
from cce.fast import search_precision
from cce.models import Ensemble, fast_dtype

log = logging.getLogger(__name__)

Tell = Callable[[str, float], None]
"""Called with what is being done and the fraction done of all; it may raise to stop the work."""

ATTACKS = ("pgd", "bim", "mim", "fgsm")
"""What can be chosen for Figure 3."""

STRENGTHS = (1, 2, 4, 16, 24)
"""Figure 4's other strengths, in eighths of the usual epsilon: for CIFAR-10, in 1/255."""

COUNT, MOST = 200, 1000
"""Pictures of a measurement: unless told otherwise, and at most."""

AWARE = 12
"""Pictures for detector-aware attacks by default: each costs many times what PGD costs."""

AWARE_FIRST = ("agree", "smooth-8", "opgd")
"""The detector-aware attacks by default: the others take long, or are much alike."""

_KEPT = 16
_clean: dict[str, tuple[Checkpoint, Split, tuple[Sample, str]]] = {}  # by the ensemble: asked once, not at every pick


@dataclass(frozen=True)
class Found:
    """A report, and in a line where it comes from. `id` changes when the report does."""

    id: str
    report: DetectionReport
    source: str


class Reports:
    """What was measured here, the last of each ensemble: a page that is loaded anew finds it again."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Checkpoint, Found]] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def keep(self, checkpoint: Checkpoint, report: DetectionReport, source: str) -> Found:
        """Remember a report until there is a later one of this ensemble, or of many others."""
        with self._lock:
            found = Found(f"{checkpoint.id}:{next(self._numbers)}", report, source)
            self._kept.pop(checkpoint.id, None)
            self._kept[checkpoint.id] = (checkpoint, found)
            while len(self._kept) > _KEPT:
                self._kept.pop(next(iter(self._kept)))
            return found

    def latest(self, checkpoint: Checkpoint) -> Found | None:
        """What was measured here last, else what was measured at release; None where nothing was."""
        with self._lock:
            known = self._kept.get(checkpoint.id)
        if known and known[0] is checkpoint:  # the same weights: a changed folder is loaded anew
            return known[1]
        return released(checkpoint)

    def latest_or_none(self, checkpoint: Checkpoint) -> Found | None:
        """`latest`, or None where what ships is damaged."""
        try:
            return self.latest(checkpoint)
        except ConfigError as error:
            log.warning("%s: %s", checkpoint.id, error)
            return None


def released(checkpoint: Checkpoint) -> Found | None:
    """What was measured at release and ships with the checkpoint; None where nothing does.

    Raises:
        ConfigError: a record that is damaged.
    """
    record = read_released(checkpoint, "detection")
    if record is None:
        return None
    try:
        report, where = report_from_json(record["report"]), record["data"]
    except (ConfigError, KeyError, TypeError) as error:
        check(False, f"measurements/detection.json of {checkpoint.id} is not a whole record: {error!r}")
        raise
    where = where.replace(checkpoint.dataset, dataset_title(checkpoint.dataset))
    source = f"Measured at release on {where}; detector-aware attacks on {_least(report.adaptive)} of them."
    same_run = record.get("command") == checkpoint.metrics.get("command")
    if same_run and "search_precision" in checkpoint.metrics:
        source += f" {_searched(checkpoint.metrics['search_precision'])}"
    return Found(f"{checkpoint.id}:release", report, source)


def _searched(precision: str) -> str:
    return f"Examples searched for in {precision}, judged in float32."


def _least(samples: Sequence[Sample]) -> int:
    return min(len(s) for s in samples)


def attacks_of(dataset: str, names: Sequence[str], strengths: Sequence[float] = ()) -> list[AttackConfig]:
    """The chosen attacks at the usual epsilon, and PGD at other strengths.

    Raises:
        ConfigError: none, or a name that is not in the list.
    """
    from cce.evaluation.presets import figure_attacks  # imports the trainer, which the first page does not need

    unknown = [name for name in names if name not in ATTACKS]
    check(not unknown, f"The attack is {unknown[0] if unknown else ''!r}; there is {', '.join(ATTACKS)}.")
    check(bool(names) or bool(strengths), "No attack is chosen. Choose at least one.")
    return figure_attacks(dataset, names, strengths)


def attacks_from(dataset: str, names: Sequence[str], epsilons: Sequence[float]) -> list[AttackConfig]:
    """Every named attack at every epsilon, in 1/255; the step is half the usual one, as in Figure 4.

    Raises:
        ConfigError: nothing to do, or a value that cannot be used, in the units of the screen.
    """
    check(isinstance(epsilons, list | tuple), f"The epsilons are {typed(epsilons)}; they are a list, in 1/255.")
    for epsilon in epsilons:
        good = is_number(epsilon) and 0 < epsilon <= 255
        check(good, f"Epsilon is {typed(epsilon)}; it is a number above 0, at most 255, in 1/255.")
    check(bool(epsilons), "No epsilon is given. Give at least one, in 1/255.")
    base = attacks_of(dataset, list(names))
    return [replace(a, epsilon=e / 255) for a in base for e in dict.fromkeys(epsilons)]


def check_count(count: float, what: str = "The number of pictures", most: int = MOST) -> int:
    """A number of pictures as typed.

    Raises:
        ConfigError: not a whole number in the range.
    """
    good = is_number(count) and count == int(count) and 1 <= count <= most
    check(good, f"{what} is {typed(count)}; it is a whole number from 1 to {most:,}.")
    return int(count)


def measure(
    checkpoint: Checkpoint,
    pictures: Collection,
    attacks: Sequence[AttackConfig],
    count: float,
    aware: float,
    tell: Tell,
    knowing: Sequence[str] = AWARE_FIRST,
) -> tuple[DetectionReport, str]:
    """Measure detection on the first `count` pictures, examples searched for in the device's fast precision.

    Args:
        checkpoint: the ensemble.
        pictures: where they come from; fewer than `count` are all used.
        attacks: each on all of them.
        count: how many pictures.
        aware: of these, how many the detector-aware attacks get.
        tell: hears of every pass through the ensemble, so that raising in it stops the work within one.
        knowing: the detector-aware attacks, by name.

    Returns:
        The report, and a line on where it comes from.

    Raises:
        ConfigError: a number that cannot be used.
    """
    check(len(pictures.split) > 0, pictures.note)
    there = checkpoint.test_split(pictures.split)
    n = min(check_count(count), len(there))
    aware = min(check_count(aware, "The number of pictures for detector-aware attacks"), n)
    check(max(a.steps for a in attacks) <= MAX_STEPS, f"An attack takes at most {MAX_STEPS} steps here.")
    side = checkpoint.model.config.input_shape[2]
    fitting = [name for name, _ in aware_choices(side)]
    check(any(name in fitting for name in knowing), "Choose at least one detector-aware attack.")
    _check_work(attacks, n, [REGISTRY[name] for name in knowing if name in fitting], aware)
    split = there.first(n)
    device = next(checkpoint.model.parameters()).device
    pulse = _Pulse(tell)
    report = detect(
        replace(checkpoint, model=pulse.watching(checkpoint.model)),
        split.pixels().to(device),
        split.labels.to(device),
        attacks,
        adaptive=aware,
        aware=[name for name in knowing if name in fitting],
        epsilon=default_attack(checkpoint.dataset).epsilon,
        search_dtype=fast_dtype(device),
        report=pulse.tell,
    )
    kind = "test pictures" if pictures.missing_megabytes is None else "test pictures that ship"
    which = f"the first {n}" if n < len(pictures.split) else f"the {n}"
    where = f"{which} {dataset_title(checkpoint.dataset)} {kind}; detector-aware attacks on {aware}"
    precision = search_precision(checkpoint.model, fast_dtype(device))
    return report, f"Measured here on {where}. {_searched(precision)}"


def _check_work(attacks: Sequence[AttackConfig], n: int, knowing: Sequence[AttackInfo], aware: int) -> None:
    """Refuse more attacks x pictures x steps, at every epsilon, than one call may take."""
    plain = sum(a.steps if a.info.steps is not None else 1 for a in attacks)
    knows = sum(info.steps or 1 for info in knowing)
    words = f"{len(attacks):,} attacks, an epsilon each, x {n:,} pictures x their steps"
    check_work(plain * n + knows * aware, f"{words}; {len(knowing)} that know the detector on {aware:,}")


def aware_choices(side: int) -> list[tuple[str, str]]:
    """Name and title of the attacks that know the detector, for pictures `side` pixels wide."""
    return [(n, info.title) for n, info in REGISTRY.items() if info.aware and (info.grid is None or info.grid < side)]


class _Pulse:
    """Passes on what a measurement reports, and says it again at every pass through the ensemble.

    A report comes once a step at best, and from some attacks once a target: too seldom to stop within a second.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell, self._last = tell, ("Getting ready", 0.0)

    def tell(self, what: str, fraction: float) -> None:
        """Report, never going back."""
        self._last = (_plain(what), max(fraction, self._last[1]))
        self._tell(*self._last)

    def watching(self, model: Ensemble) -> Ensemble:
        """A copy of the ensemble whose first member reports each pass; copies of the copy do so too."""
        watched = copy.deepcopy(model)

        def passing(member: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._tell(*self._last)

        watched.members[0].register_forward_pre_hook(passing)
        return watched


def _plain(what: str) -> str:
    """What is being done, for the progress line: the attack without the rest of its settings.

    >>> _plain("PGD k=20, epsilon 8/255, step 1/255, on the ensemble")
    'PGD, epsilon 8/255'
    """
    parts = what.removesuffix(", on the ensemble").split(", ")
    said = ", ".join([parts[0].split(" k=")[0], *(p for p in parts[1:] if p.startswith("epsilon"))])
    return said[:1].upper() + said[1:]


def threshold(checkpoint: Checkpoint, report: DetectionReport) -> tuple[float, bool]:
    """The entropy above which a picture is flagged, and whether it is the model's own.

    One without a detector gets the threshold that flags 5% of the report's own clean pictures.
    """
    own = report.detectors.get("entropy") or checkpoint.detector
    if own:
        return own.threshold, True
    return calibrate(report.clean.scores["entropy"], 0.05, "the clean pictures themselves").threshold, False


def with_threshold(checkpoint: Checkpoint, report: DetectionReport) -> DetectionReport:
    """The report with a threshold for its entropies, the model's own or one from its clean pictures."""
    if "entropy" in report.detectors:
        return report
    found = checkpoint.detector or calibrate(report.clean.scores["entropy"], 0.05, "the clean pictures themselves")
    return replace(report, detectors={**report.detectors, "entropy": found})


def clean_reference(checkpoint: Checkpoint, pictures: Collection, found: Found | None) -> tuple[Sample, str]:
    """Clean pictures to lay a picture's scores beside, and what they are called.

    The test set where it is here, else those of the measurement at release, else the pictures that ship.
    """
    if found and (pictures.missing_megabytes is not None or not len(pictures.split)):
        return found.report.clean, f"{len(found.report.clean):,} clean test pictures"
    known = _clean.get(checkpoint.id)
    if known and known[0] is checkpoint and known[1] is pictures.split:
        return known[2]
    said = _clean_scores(checkpoint, pictures)
    if len(_clean) >= _KEPT:
        _clean.clear()
    _clean[checkpoint.id] = (checkpoint, pictures.split, said)
    return said


def _clean_scores(checkpoint: Checkpoint, pictures: Collection) -> tuple[Sample, str]:
    """Asked of the ensemble: the scores of the first pictures, and what these are called."""
    split = checkpoint.test_split(pictures.split).first(COUNT)
    if not len(split):
        split = _examples(checkpoint)
    device = next(checkpoint.model.parameters()).device
    with torch.no_grad():
        said = outcome(checkpoint.model, split.pixels().to(device), split.labels.to(device))
    if not len(pictures.split):
        return sample("clean", said), f"{len(split)} pictures to try, which are none of its data set"
    kind = "clean test pictures" if pictures.missing_megabytes is None else "test pictures that ship"
    return sample("clean", said), f"{len(split)} {kind}"


def _examples(checkpoint: Checkpoint) -> Split:
    """The everyday pictures that ship, at an ensemble's size; their labels mean nothing."""
    shape = checkpoint.model.config.input_shape
    pixels = [to_model_input(read_picture(path), *shape)[0] for _, path in examples()]
    images = torch.stack(pixels).mul(255).round().to(torch.uint8)
    return Split(images, torch.zeros(len(images), dtype=torch.int64))


def to_json(checkpoint: Checkpoint, report: DetectionReport, source: str) -> dict[str, Any]:
    """What `/detection` gives: for each sample of each kind its figures, ROC and entropies; histogram and threshold."""
    value, own = threshold(checkpoint, report)
    rated = with_threshold(checkpoint, report)
    rows = rated.rows()
    kinds: dict[str, dict[str, Any]] = {"attack": {}, "adaptive": {}, "benign": {}}
    for (kind, s), row in zip(rated.samples(), rows[1:], strict=True):
        false_positive, true_positive = (rates.round(5).tolist() for rates in rated.roc(s))
        kinds[kind][s.name] = {
            **{k: row[k] for k in ("images", "accuracy", "auc", "auc_successful", "wrong_and_unflagged")},
            "tpr": row["flagged"],
            "roc": {"fpr": false_positive, "tpr": true_positive},
            "entropies": [round(x, 6) for x in s.scores["entropy"].tolist()],
        }
    edges, shares = rated.histogram()
    return {
        "model": checkpoint.id,
        "source": source,
        "images": len(report.clean),
        "threshold": value,
        "threshold_is_calibrated": own,
        "fpr": rows[0]["flagged"],
        "tpr": {name: s["tpr"] for name, s in kinds["attack"].items()},
        "attacks": kinds["attack"],
        "adaptive": kinds["adaptive"],
        "benign": kinds["benign"],
        "clean": {
            "accuracy": rows[0]["accuracy"],
            "entropies": [round(x, 6) for x in report.clean.scores["entropy"].tolist()],
        },
        "histogram": {"edges": edges.tolist(), "shares": {name: s.tolist() for name, s in shares.items()}},
    }
