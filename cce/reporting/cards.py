"""Model cards: a checkpoint's README, built from its config and its metrics, never typed by hand."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cce.checkpoints.compact import kept_as
from cce.checkpoints.folder import Checkpoint, save
from cce.checkpoints.measurements import read_measurement
from cce.config import AttackConfig, ConfigError, Defense, TrainConfig, check, from_json
from cce.detectors import describe
from cce.evaluation.detection import report_from_json
from cce.evaluation.detector_curve import Curve, curves
from cce.machine.files import write_atomically
from cce.paper.equal_terms import family_of


def percent(value: float | None) -> str:
    """A fraction as percent for the eye.

    >>> percent(0.4567), percent(-1e-9), percent(None)
    ('45.7 %', '0.0 %', 'n/a')
    """
    return "n/a" if value is None else f"{100 * value:z.1f} %"


def model_card(checkpoint: Checkpoint) -> str:
    """Markdown with Hub front matter: how it was made, what was measured, what it cannot do."""
    parts = [_front_matter(checkpoint), _summary(checkpoint), _making(checkpoint), _measured(checkpoint)]
    parts += [_sanity(checkpoint), _equal_terms(checkpoint), _limits(checkpoint)]
    return "\n".join(p for p in parts if p)


def save_with_card(checkpoint: Checkpoint, folder: Path | str) -> Path:
    """Write a checkpoint's folder with its model card; see `cce.checkpoints.folder.save`."""
    return save(checkpoint, folder, model_card(checkpoint))


def write_card(checkpoint: Checkpoint) -> None:
    """Write the card anew into the checkpoint's folder, after its figures have changed."""
    assert checkpoint.folder is not None
    write_atomically(checkpoint.folder / "README.md", model_card(checkpoint))


def _front_matter(c: Checkpoint) -> str:
    return (
        "---\nlicense: mit\nlibrary_name: cce-studio\npipeline_tag: image-classification\n"
        f"tags:\n- adversarial-robustness\n- ensemble\n- {_quoted(c.dataset)}\n---\n"
    )


def _quoted(text: str) -> str:
    """A text for YAML: quoted, so that `null` and `2024` stay text (JSON's strings are YAML's)."""
    return json.dumps(text, ensure_ascii=False)


def _summary(c: Checkpoint) -> str:
    shape = c.model.config
    lines = [
        f"# {c.id}",
        "",
        f"{c.defense_name} ensemble: {shape.members} x {shape.architecture} on {c.dataset}, {shape.classes} classes, "
        f"input {' x '.join(map(str, shape.input_shape))} in [0, 1].",
        "",
        f"Loss: {_loss(c.defense)}.",
    ]
    kind = _ROUNDED.get(kept_as(c.model))
    if kind:
        lines += ["", f"Weights: rounded to {kind}; figures are of the rounded ones."]
    if c.detector:
        d = c.detector
        lines += [
            "",
            f"Detector: flagged where the entropy of f_en exceeds {d.threshold:.3f} nats; "
            f"{percent(d.false_positive_rate)} false positives on {d.calibrated_on} ({d.images} images).",
        ]
    if c.selected_on:
        lines += [
            "",
            f"Chosen among the states of its run on {c.selected_on.count:,} test images; no figure below is of these.",
        ]
    if c.detectors:
        lines += ["", "Further detectors:", "", *(f"- {describe(d)}" for d in c.detectors.values())]
    return "\n".join(lines) + "\n"


_ROUNDED = {"float16": "half precision", "int8": "int8 with a scale for each row, the rest to half precision"}
_READINGS = {
    "paper": "Eq. 5 with the stop-gradient",
    "released": "as in the released code: softmax applied twice, gradient through the indicator, "
    "attacks on predicted labels",
}


def _loss(d: Defense) -> str:
    """What was minimized, in a line."""
    if d.method == "adp":
        return f"`adp`, alpha {d.alpha:g}, beta {d.beta:g} (Pang et al. 2019)"
    if d.method != "cce":
        return f"`{d.method}`"
    return (
        f"`cce`, lambda_pm {d.lambda_pm:g}, lambda_dm {d.lambda_dm:g}, {d.indicator} indicator, "
        f"reading `{d.reading}` ({_READINGS[d.reading]})"
    )


def _making(c: Checkpoint) -> str:
    record = c.training
    if not record:
        return ""
    config: TrainConfig = from_json(TrainConfig, record["config"])
    rows = [
        "## How it was made",
        "",
        "| phase | epochs | loss | attack in training | learning rate |",
        "|---|---|---|---|---|",
    ]
    for p in config.phases:
        attack = "none" if p.defense.method == "nat" else _training_attack(p.attack)
        loss = p.defense.name_with(config.model.members)
        rows.append(f"| {p.name} | {p.epochs:g} | {loss} | {attack} | {p.schedule}, at most {p.learning_rate:g} |")
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    rows += [
        "",
        f"{record['images_seen']:,} images seen, batch {config.batch_size}, {config.optimizer}, weight decay "
        f"{config.weight_decay:g}, seed {config.seed}, precision {config.precision}; "
        f"{_time(record['seconds'])} on {record['machine']}; {versions}.",
        *(line for also in _also(config, record) for line in ("", also)),
    ]
    return "\n".join(rows) + "\n"


def _also(config: TrainConfig, record: dict[str, Any]) -> list[str]:
    """What else went into the training, where it did, a sentence each."""
    lines = []
    if config.init:
        source = record.get("started_from") or {"id": config.init}
        seen = f" after {source['images_seen']:,} images seen" if source.get("images_seen") else ""
        of = f" ({source['defense']})" if source.get("defense") else ""
        lines.append(f"Started from the weights of `{source['id']}`{of}{seen}, not from random ones.")
    if config.ema_decay:
        lines.append(
            f"Weights: exponential moving average over the steps, decay {config.ema_decay:g}; batch norm's statistics "
            "estimated again for it, on training images."
        )
    if config.awp_gamma:
        start = f", from epoch {config.awp_start:g} on" if config.awp_start else ""
        lines.append(
            f"Adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884), gamma {config.awp_gamma:g}{start}."
        )
    if config.label_smoothing:
        lines.append(f"Label smoothing {config.label_smoothing:g}.")
    return lines


def _time(seconds: float) -> str:
    """A duration in words.

    >>> _time(61.2), _time(338.8)
    ('61 seconds', '6 minutes')
    """
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _training_attack(a: Any) -> str:
    def span(low: float, high: float) -> str:
        return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"

    epsilon = span(255 * a.epsilon[0], 255 * a.epsilon[1])
    words = f"PGD, k {span(*a.steps)}, epsilon {epsilon} /255, step {span(*a.reach)} epsilon / k"
    if not a.steps[1]:
        words = f"noise alone, epsilon {epsilon} /255"
    if a.smooth:
        words += f"; {a.smooth:.0%} of each batch smooth, on grids of {', '.join(map(str, a.grids))}"
    words += f"; {a.momentum:.0%} of each batch with momentum" if a.momentum else ""
    words += f"; {a.aware:.0%} of them knowing the detector" if a.aware else ""
    return words + (f"; noise on {a.noise:.0%} of benign images" if a.noise else "")


def _measured(c: Checkpoint) -> str:
    m = c.metrics
    if not m:
        return "## Measured\n\nNothing yet: run `python -m cce evaluate` on this folder.\n"
    lines = [
        "## Measured",
        "",
        f"On {_said(m, 'data')}, {_said(m, 'images')} images unless a row says otherwise, seed {_said(m, 'seed')}, "
        f"{_said(m, 'device')}. Examples searched for in {_said(m, 'search_precision')}, judged in float32. "
        f"Again: `{_said(m, 'command')}`",
        "",
        *_added_lines(m),
    ]
    header = ["input", "accuracy", "members", "S1..1", "S0..0"]
    if c.detector:
        header += ["flagged", "wrong and unflagged", "AUC", "AUC, successful only"]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for title, row in measured_rows(m):
        lines.append("| " + " | ".join([title, *_cells(row, bool(c.detector))]) + " |")
    more = worst_case_lines(m)
    lines += ["", *(f"- {line}" for line in more)] if more else []
    lines += _curves(c)
    return "\n".join(lines) + "\n"


def _said(metrics: dict[str, Any], name: str) -> Any:
    """What an evaluation says of itself."""
    return metrics.get(name, "(not stated)")


def _added_lines(metrics: dict[str, Any]) -> list[str]:
    """A paragraph for each later command that rows were added with: which rows, where, how."""
    by_command: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for row in metrics.get("slow", []):
        if source := row.get("source"):
            by_command.setdefault(source["command"], (source, []))[1].append(row["name"].partition(",")[0])
    return [
        line
        for source, names in by_command.values()
        for line in (
            f"Measured later on {source['device']}, searched for in {source['search_precision']}: {', '.join(names)}. "
            f"Again: `{source['command']}`",
            "",
        )
    ]


def worst_case_lines(metrics: dict[str, Any]) -> list[str]:
    """What is left where an image counts as lost as soon as any attack fools it, at any step: a line a ball."""
    lines = []
    for row in metrics.get("worst_case", []):
        ball = f"{'L2 ' if row['norm'] == 'l2' else ''}epsilon {255 * row['epsilon']:.4g}/255"
        count, left = row.get("attacks", "some"), percent(row.get("accuracy"))
        line = f"Worst case of {count} attacks within {ball}: robust accuracy {left}"
        passing = row.get("wrong_and_unflagged")
        line += "" if passing is None else f", wrong and unflagged {percent(passing)}"
        lines.append(f"{line} (n = {row['images']})")
    return lines


def curve_lines(curves: Iterable[Curve]) -> list[str]:
    """Each detector's honest curve at 10 % of clean images flagged, a line each."""
    lines = []
    for one in curves:
        point = one.at_rate(0.1)
        worst, count = next(iter(one.worst.items()), ("no attack", 0))
        lines.append(
            f"{one.score}: with {percent(point.clean_flagged)} of clean images flagged, {percent(point.missed)} are "
            f"wrong and unflagged under the worst attack on each (n = {one.images}; most often {worst}, on {count})"
        )
    return lines


def _curves(c: Checkpoint) -> list[str]:
    """What passes each detector, from the report that ships; nothing where none does."""
    try:
        record = read_measurement(c, "detection")
        found = curves(report_from_json(record["report"])) if record else {}
    except (ConfigError, KeyError):  # damaged, or a stranger's: the rest of the card stays
        found = {}
    if not found:
        return []
    return [
        "",
        "Detectors against an attacker who knows them:",
        "",
        *(f"- {one}" for one in curve_lines(found.values())),
    ]


def sanity_lines(metrics: dict[str, Any]) -> list[str]:
    """The checks for masked gradients, a line each, with their figures."""
    found = metrics.get("sanity")
    lines = []
    for one in found["checks"] if found else []:
        figures = []
        for f in one["figures"]:
            beside = f.get("white_box_accuracy")
            against = "" if beside is None else f" against {percent(beside)} white-box"
            figures.append(f"{f['name']}: {percent(f['accuracy'])}{against} (n = {f['images']})")
        verdict = "holds" if one["holds"] else one["warning"]
        lines.append(f"Sanity, {one['name']}: {verdict}. {'; '.join(figures)}")
    return lines


def measured_rows(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every measured row of `metrics.json` with its title, in the order of a card."""
    rows = [("clean", metrics["natural"])] if "natural" in metrics else []
    rows += [(AttackConfig.of(row).describe(), row) for row in metrics.get("attacks", [])]
    for row in metrics.get("slow", []):
        rows.append((f"{row['name']} (n = {row.get('images', metrics.get('images'))})", row))
    for row in metrics.get("adaptive", []):
        images = row.get("images", metrics.get("images"))
        rows.append((f"detector-aware: {row['name']} (n = {images})", row))
    rows += [(f"not an attack: {row['name']}", row) for row in metrics.get("benign_corruptions", [])]
    return rows


def _sanity(c: Checkpoint) -> str:
    found = c.metrics.get("sanity")
    if not found:
        return ""
    lines = ["## Sanity", "", f"Signs of masked gradients, around {found['attack']}, robust accuracies:", ""]
    lines += [f"- {line.removeprefix('Sanity, ')}" for line in sanity_lines(c.metrics)]
    return "\n".join(lines) + "\n"


def _equal_terms(c: Checkpoint) -> str:
    try:
        family = family_of(c)
    except ConfigError:  # damaged, or a stranger's: the rest of the card stays
        family = None
    if family is None:
        return ""
    lines = [
        "## On equal terms",
        "",
        f"Ensembles of this recipe, the loss apart; {family.describe()}:",
        "",
        "| ensemble | loss | natural | robust accuracy | S1..1 | minutes of training |",
        "|---|---|---|---|---|---|",
    ]
    for s in family.standings:
        figures = " | ".join(percent(v) for v in (s.natural, s.robust, s.all_right))
        lines.append(f"| {s.id} | {s.defense} | {figures} | {s.took} |")
    if family.comparisons:
        lines += ["", *(f"- {one.describe()}" for one in family.comparisons)]
        lines += [
            "",
            "Margins are of the test images alone. Each was trained once: another seed may turn a small difference.",
        ]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any], detector: bool) -> list[str]:
    subsets = list(row.get("subsets", {}).values()) or [None]
    cells = [percent(row["accuracy"]), ", ".join(percent(a) for a in row.get("member_accuracy", [])) or "n/a"]
    cells += [percent(subsets[0]), percent(subsets[-1])]
    if detector:
        cells += [percent(row.get("flagged")), percent(row.get("wrong_and_unflagged"))]
        cells += ["" if row.get(k) is None else f"{row[k]:.4f}" for k in ("auc", "auc_successful")]
    return cells


def _limits(c: Checkpoint) -> str:
    lines = ["## What it cannot do", ""]
    if c.defense.detects:
        lines += [
            "- Robustness is given up on purpose in detection mode: accuracy under attack is low, it flags instead.",
            "- The detector is not proof against an attacker who knows of it: see the detector-aware rows.",
            "- High entropy does not prove an attack: noise and pictures unlike the training data are flagged too.",
            *_blind_spot(c),
        ]
    else:
        lines += [
            "- Robust accuracy under PGD is an upper bound; stronger attacks lower it.",
            "- Its entropy threshold is a by-product: this ensemble was not trained to detect.",
        ]
    lines += _odd_members(c)
    lines.append("- A research model on small pictures: not for decisions about people or safety.")
    return "\n".join(lines) + "\n"


BLIND = 0.95
"""An attack whose AUC is below this is named among the limits of the card."""


def _blind_spot(c: Checkpoint) -> list[str]:
    """The attack that ignores the detector and is told worst, where it is not told well."""
    plain = [*c.metrics.get("attacks", []), *c.metrics.get("slow", [])]
    told = [row for row in plain if row.get("auc") is not None]
    worst = min(told, key=lambda row: row["auc"], default=None)
    if worst is None or worst["auc"] >= BLIND:
        return []
    name = next(title for title, row in measured_rows(c.metrics) if row is worst)
    return [f"- Some attacks pass it without even knowing of it, most of all {name}: AUC {worst['auc']:.4f}."]


ODD = 0.6
"""A member is odd whose robust accuracy is below this share of the median member's."""


def _odd_members(c: Checkpoint) -> list[str]:
    """Members that went another way than the rest, under the first attack of the card."""
    row = next(iter(c.metrics.get("attacks", [])), None)
    if row is None or c.defense.method != "cce" or len(row.get("member_accuracy", [])) < 3:
        return []
    accuracies = row["member_accuracy"]
    usual = statistics.median(accuracies)
    odd = [n for n, a in enumerate(accuracies) if a < ODD * usual]
    if not odd:
        return []
    which = " and ".join(f"f{n + 1} ({percent(accuracies[n])})" for n in odd)
    return [
        f"- Its members went different ways: under the first attack above the median one is right on {percent(usual)}, "
        f"but not {which}. Eq. 5 rewards a member for being right on another's examples, and for being unsure once "
        "it is wrong on them: some settle in the second. S1..1 is small then, whatever the ensemble's accuracy is."
    ]


TABLE_MARKS = ("<!-- released:begin -->", "<!-- released:end -->")


def released_table(released: list[Checkpoint], folder: str = "") -> str:
    """Markdown table of checkpoints, from their metrics: of `checkpoints/README.md`, and a few in the README.

    Args:
        released: the checkpoints, a line each.
        folder: where their folders are, seen from the file that holds the table; with a slash at its end.
    """
    lines = [
        "| ensemble | loss | members | natural | robust (PGD) | detection AUC (PGD) "
        "| wrong and unflagged, attacker knows | random signs flagged | images |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in released:
        m = c.metrics
        first = (m.get("attacks") or [{}])[0]
        told = [row.get("wrong_and_unflagged") for row in m.get("adaptive", [])]
        aware = [share for share in told if share is not None]
        benign = m.get("benign_corruptions", [])
        area = "" if first.get("auc") is None else f"{first['auc']:.4f}"
        cells = [
            f"[{c.id}]({folder}{c.id}/README.md)",
            c.defense_name,
            f"{c.model.config.members} x {c.model.config.architecture}",
            percent(m.get("natural", {}).get("accuracy")),
            percent(first.get("accuracy")),
            area,
            percent(max(aware, default=None)),
            percent(next((row.get("flagged") for row in benign if row["name"].startswith("random signs")), None)),
            str(m.get("images", "")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(readme: str, table: str) -> str:
    """`readme` with `table` between its marks.

    Raises:
        ConfigError: a text without the marks.
    """
    begin, end = TABLE_MARKS
    check(begin in readme and end in readme, f"the file has no {begin} and {end} to put the table between")
    before, _, rest = readme.partition(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
