"""Paper figures service: what each of the paper's eight figures shows here, from what ships.

Figures 2 to 4 are drawn from the detection that was measured when an ensemble was released, 1 and 5 to 8 from
`assets/paper_figures.json` (see `assets.measure_paper_figures`). No attack is run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import torch

from app.services import gallery
from app.services.models import read_released
from app.studio import Studio
from cce.checkpoints.folder import Checkpoint, CheckpointError
from cce.config import ConfigError, default_attack
from cce.evaluation.detection import DetectionReport, report_from_json
from cce.evaluation.detector_curve import curve
from cce.evaluation.surfaces import Surface
from cce.paper import printed
from cce.reporting.cards import percent

log = logging.getLogger(__name__)

FILE = gallery.ASSETS / "paper_figures.json"
_ONE_PICTURE = "One picture shows how it can look, not how often."


@dataclass(frozen=True)
class Shown:
    """A figure of the paper.

    `title` says what it shows; `printed` what the paper says of it; `limit` what it does not say; `tab` and `link` lead
    to the live view; `command` follows `python -m cce`. `report` is there for Figures 2 to 4, `panels` for the others:
    the records of `assets/paper_figures.json`. `missing` is why nothing is drawn.
    """

    id: str
    title: str
    printed: str
    limit: str
    tab: str
    command: str
    model: str = ""
    link: str = ""
    report: DetectionReport | None = None
    panels: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    missing: str = ""


TITLES = {
    "figure1": "Figure 1: a prediction in detection mode",
    "figure2": "Figure 2: the entropy of clean and of attacked pictures",
    "figure3": "Figure 3: ROC under PGD, BIM and MIM",
    "figure4": "Figure 4: AUC of PGD by its strength",
    "figure5": "Figure 5: predictions of three ensembles",
    "figure6": "Figure 6: loss surface of ADV-EN",
    "figure7": "Figure 7: loss surface of ADP",
    "figure8": "Figure 8: loss surface of CCE-RM",
}
PRINTED = {
    "figure1": "The paper: members are certain of a clean picture, and nearly uniform on its adversarial example.",
    "figure2": "The paper: clean pictures have low entropies, adversarial examples high ones.",
    "figure3": "The paper: all three attacks are told from clean pictures accurately. No number is printed.",
    "figure4": "The paper prints one number: AUC .934 at epsilon 1/255.",
    "figure5": "The paper: CCE-RM stays confident and right, ADP is less confident.",
    "figure6": "The paper: a region around the adversarial example is labelled wrong.",
    "figure7": "The paper: a region around the adversarial example is labelled wrong.",
    "figure8": "The paper: the label is right in the whole neighbourhood, and the surface is smoother.",
}
_DETECT, _SURFACE = "detect {model} --n 0 --figure {kind} --out FILE.html", "surface {model} {image} --out FILE.html"
_KINDS = {"figure2": "histogram", "figure3": "roc", "figure4": "auc"}


def figures(studio: Studio) -> list[Shown]:
    """All eight, in the paper's order; one that cannot be drawn says why."""
    try:
        shipped = json.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", FILE, error)
        shipped = {}
    detecting = _detecting(studio)
    made = []
    for name in TITLES:
        given = {"id": name, "title": TITLES[name], "printed": PRINTED[name]}
        if name in _KINDS:
            made.append(_of_detection(given, detecting))
        elif shipped.get(name):
            made.append(_of_picture(given, shipped[name], detecting, studio))
        else:
            made.append(Shown(**given, limit="", tab="Attack", command=f"reproduce {name}", missing=_NOT_SHIPPED))
    return made


_NOT_SHIPPED = "Its numbers are not here: `python -m assets.measure_paper_figures` measures them."


def _detecting(studio: Studio) -> tuple[Checkpoint, DetectionReport] | None:
    """The ensemble of Figures 2 to 4 and its detection at release."""
    wanted = printed.choose(["figure3"])[0].cells[0].wanted
    made = []
    for entry in studio.registry.entries():
        try:
            made.append(studio.registry.described(entry.id))
        except (CheckpointError, ConfigError) as error:
            log.warning("%s is left out: %s", entry.id, error)
    c = printed.find(wanted, made)
    try:
        record = read_released(c, "detection") if c else None
        return (c, report_from_json(record["report"])) if c and record else None
    except (ConfigError, KeyError) as error:
        log.warning("detection of %s cannot be read: %s", c and c.id, error)
        return None


def _of_detection(given: dict[str, str], detecting: tuple[Checkpoint, DetectionReport] | None) -> Shown:
    kind = _KINDS[given["id"]]
    if detecting is None:
        command = _DETECT.format(model="CHECKPOINT", kind=kind)
        missing = "No CCE-DM of two ResNet-20 with its detection measured is here."
        return Shown(**given, limit="", tab="Detection", command=command, missing=missing)
    c, report = detecting
    command = _DETECT.format(model=c.id, kind=kind)
    if given["id"] == "figure4":
        given = given | {"printed": f"{given['printed']} {_at_the_printed_strength(report)}"}
    return Shown(**given, limit=_limit(report), tab="Detection", command=command, model=c.id, report=report)


def _at_the_printed_strength(report: DetectionReport) -> str:
    """Our AUC where the paper prints its own."""
    for s, row in zip(report.attacks, report.rows()[1:], strict=False):
        if s.settings.get("name") == "pgd" and abs(255 * s.settings["epsilon"] - 1) < 1e-6:
            return f"Ours there is {row['auc']:.3f} (n = {len(s):,})."
    return "Ours was not measured there."


def _limit(report: DetectionReport) -> str:
    """What Figures 2 to 4 leave out, in a sentence with its figures."""
    loud = max(report.benign, key=lambda s: report.detectors["entropy"].flags(s.scores["entropy"]).mean())
    flagged = float(report.detectors["entropy"].flags(loud.scores["entropy"]).mean())
    point = curve(report).at(report.detectors["entropy"].threshold)
    count = min(len(s) for s in report.adaptive)
    return (
        f"Under the worst attack that knows the detector {percent(point.missed)} of {count} pictures are wrong and "
        f"unflagged; {loud.name}, which attacks nothing, is flagged on {percent(flagged)}."
    )


def _of_picture(
    given: dict[str, str],
    panels: Sequence[Mapping[str, Any]],
    detecting: tuple[Checkpoint, DetectionReport] | None,
    studio: Studio,
) -> Shown:
    first = panels[0]
    model = " and ".join(dict.fromkeys(p["model"] for p in panels))
    if "surface" in first:
        command = _SURFACE.format(model=first["model"], image=first["image"])
        wrong = {name: _wrong(view, first["surface"]["label"]) for name, view in first["surface"]["views"].items()}
        words = ", ".join(f"{name} {percent(share)}" for name, share in wrong.items())
        limit = f"Labelled wrong here: {words}. One picture and one random direction v; try others."
        return Shown(**given, limit=limit, tab="Loss surface", command=command, model=model, panels=panels)
    setting = {"model": panels[-1]["model"], "image": panels[-1]["image"], "attack": "pgd"}
    setting |= {"epsilon": _in_255ths(first["epsilon"]), "step": _in_255ths(first["step_size"])}
    link = "?" + urlencode(setting | {"steps": first["steps"]}, safe=":")
    limit = f"{_ONE_PICTURE} {_how_often(panels, studio)}" if len(panels) > 1 else _ONE_PICTURE
    if len(panels) == 1 and detecting:
        limit += f" {_limit(detecting[1])}"
    command = f"reproduce {given['id']}"
    return Shown(**given, limit=limit, tab="Attack", command=command, model=model, link=link, panels=panels)


def _how_often(panels: Sequence[Mapping[str, Any]], studio: Studio) -> str:
    """Natural and robust accuracy of the panels' ensembles, as measured at release."""
    said = []
    for p in panels:
        try:
            c = studio.registry.described(p["model"])
        except (CheckpointError, ConfigError):
            continue
        usual = default_attack(c.dataset)
        rows = [
            r
            for r in c.metrics.get("attacks", [])
            if r["name"] == usual.name and r["steps"] == usual.steps and abs(r["epsilon"] - usual.epsilon) < 1e-6
        ]
        if rows and "natural" in c.metrics:
            both = f"{percent(c.metrics['natural']['accuracy'])} clean, {percent(rows[0]['accuracy'])} under PGD"
            said.append(f"{p['defense']} {both}")
    return f"Right on the first 1,000 test pictures: {'; '.join(said)}." if said else ""


def surface_of(panel: Mapping[str, Any]) -> Surface:
    """The surface of a record; its axes u and v did not ship and are zero."""
    values = panel["surface"]
    loss = torch.tensor([view["loss"] for view in values["views"].values()])
    labels = torch.tensor([view["labels"] for view in values["views"].values()])
    nothing = torch.zeros(1, 1, 1)
    offsets = torch.tensor(values["offsets"]) / 255
    return Surface(offsets, nothing, nothing, loss, labels, values["label"], values["clipped"])


def _wrong(view: Mapping[str, Any], label: int) -> float:
    return float((torch.tensor(view["labels"]) != label).float().mean())


def _in_255ths(size: float) -> str:
    return f"{255 * size:g}"
