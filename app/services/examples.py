"""Examples service: attacked pictures whose results ship, so that the page opens on one with nothing to wait for.

`python -m assets.measure_examples` measures them anew. Of each picture only its place in its test set is kept, and
what the attack adds to it.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.services import attacks, gallery, links
from app.services.attacks import Picture
from app.services.replay import Stop, replay, to_bytes
from app.studio import Studio
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig
from cce.evaluation.attack_outcome import outcome_of
from cce.evaluation.engine import digest
from cce.evaluation.one_picture import AttackedPicture, answers, subset_of

log = logging.getLogger(__name__)

FILE = gallery.ASSETS / "examples.json"
OPENING = "falling-apart"
"""The one that the page opens on."""

_DETECTS, _ROBUST = "cifar10-resnet20-cce-dm-long", "cifar10-resnet20-cce-rm-long"


@dataclass(frozen=True)
class Example:
    """An attack on a test picture, and what there is to see in it. `place` counts from the test set's first picture."""

    id: str
    title: str
    see: str
    model: str
    place: int
    config: AttackConfig

    @property
    def link(self) -> str:
        """Its part of the page's address."""
        return f"?story={self.id}"


EXAMPLES = (
    Example(
        OPENING,
        "The members fall apart",
        "A change of 1/255 a pixel, which no eye sees, and f1 says cat while f2 still says horse. As the "
        "members fall apart, the entropy passes its limit: the picture is flagged.",
        _DETECTS,
        17,
        AttackConfig("bim", 1 / 255, 0.25 / 255, 20, "member 1"),
    ),
    Example(
        "one-fooled",
        "One member is fooled, the ensemble holds",
        "These members were trained to cover for each other: f1 is fooled, f2 still says ship, and so does "
        "the ensemble. The dot ends in S01.",
        _ROBUST,
        1,
        AttackConfig("bim", 8 / 255, 2 / 255, 20, "member 1"),
    ),
    Example(
        "all-fooled",
        "All are fooled, the detector sees it",
        "After a few steps no member says cat (S00). But all are unsure: the entropy goes far above its "
        "limit, and the picture is flagged. Plain noise of this size is flagged too.",
        _DETECTS,
        0,
        AttackConfig("pgd", 8 / 255, 2 / 255, 20),
    ),
    Example(
        "attacker-knows",
        "The attacker knows, and passes",
        "An attacker who knows of the detector makes both members agree on frog. They are sure of it, the "
        "entropy stays near 0, and nothing is flagged.",
        _DETECTS,
        0,
        AttackConfig("agree", 8 / 255, 0, 50),
    ),
)
"""The opening first, then the stories in the order in which they are told."""

STORIES = tuple(example for example in EXAMPLES if example.id != OPENING)


@dataclass(frozen=True)
class Shown:
    """An example with its result, as if it had just been attacked. `noise`: see `attacks.same_size_noise`."""

    example: Example
    checkpoint: Checkpoint
    picture: Picture
    made: AttackedPicture
    stops: list[Stop]
    noise: dict[str, Any]


def offered(studio: Studio) -> list[Example]:
    """The stories whose ensemble is here and whose result ships."""
    here = {entry.id for entry in studio.registry.entries()}
    return [story for story in STORIES if story.model in here and story.id in _records(FILE)]


def find(name: str | None) -> Example | None:
    """The example with that id."""
    return next((example for example in EXAMPLES if example.id == name), None)


def setting(example: Example) -> dict[str, str]:
    """The example's setting by the keys of a link."""
    picture = f"test:{example.place}"
    made = links.Setting(example.model, picture, attacks.AUTO, example.config)
    return links.read(links.query(made, ()))


def shown(studio: Studio, example: Example) -> Shown | None:
    """An example with its result; None where its ensemble is not here, or is not the one it was measured with."""
    record = _records(FILE).get(example.id)
    if record is None or example.model not in {entry.id for entry in studio.registry.entries()}:
        return None
    checkpoint = studio.registry.get(example.model)
    picture = _picture(studio, checkpoint, example)
    if picture is None or record["digest"] != _digest(checkpoint, picture):
        log.warning("the example %s was measured with another ensemble; it is not shown", example.id)
        return None
    return _rebuilt(example, checkpoint, picture, record)


def measure(studio: Studio, example: Example) -> dict[str, Any]:
    """Attack the example's picture and give the record of it that ships."""
    checkpoint = studio.registry.get(example.model)
    picture = _picture(studio, checkpoint, example)
    if picture is None:
        raise LookupError(f"there is no test picture {example.place}")
    made = attacks.attack_in_steps(checkpoint, picture.pixels, picture.judged, example.config)
    stops = replay(picture.pixels, made, example.config.name)
    noise = attacks.same_size_noise(checkpoint, picture.pixels, example.config)
    added = torch.stack([stop.pixels.int() - to_bytes(picture.pixels).int() for stop in stops]).to(torch.int8)
    return {
        "id": example.id,
        "digest": _digest(checkpoint, picture),
        "attack": asdict(example.config),
        "places": [{"name": stop.name, "log_p": _log_p(stop.said)} for stop in stops],
        "noise": _log_p(noise),
        "added": base64.b64encode(zlib.compress(added.numpy().tobytes(), 9)).decode("ascii"),
    }


@cache
def _records(path: Path) -> dict[str, dict[str, Any]]:
    """What ships, by id."""
    if not path.is_file():
        return {}
    return {record["id"]: record for record in json.loads(path.read_text(encoding="utf-8"))}


def _picture(studio: Studio, checkpoint: Checkpoint, example: Example) -> Picture | None:
    found = links.picture_of(f"test:{example.place}", studio.collection(checkpoint), checkpoint)
    return found[0] if found else None


def _digest(checkpoint: Checkpoint, picture: Picture) -> str:
    """Of the weights and the picture: a result is shown with those that it was measured on."""
    return digest(checkpoint.model, to_bytes(picture.pixels), torch.tensor([0]))[:32]


def _log_p(said: dict[str, Any]) -> list[list[float]]:
    """Members' log-probabilities, to five places."""
    return [[round(math.log(max(p, 1e-12)), 5) for p in row] for row in said["members"]]


def _said(checkpoint: Checkpoint, rows: Sequence[list[list[float]]]) -> list[dict[str, Any]]:
    """What `classify` gives, from log-probabilities."""
    return answers(checkpoint, torch.tensor(rows).transpose(0, 1))


def _rebuilt(example: Example, checkpoint: Checkpoint, picture: Picture, record: dict[str, Any]) -> Shown:
    places = record["places"]
    *said, noise = _said(checkpoint, [*(place["log_p"] for place in places), record["noise"]])
    added = torch.frombuffer(bytearray(zlib.decompress(base64.b64decode(record["added"]))), dtype=torch.int8)
    frames = to_bytes(picture.pixels).int() + added.reshape(len(places), *picture.shape).int()
    index = checkpoint.classes.index(picture.judged)
    subsets = [subset_of(s, index) for s in said]
    stops = [
        Stop(place["name"], frame.to(torch.uint8), s, subset, last=place is places[-1])
        for place, frame, s, subset in zip(places, frames, said, subsets, strict=True)
    ]
    x_adv = stops[-1].pixels.float() / 255
    made = AttackedPicture(x_adv, _result(checkpoint, picture, stops, x_adv), x_adv[None][:0], [])
    return Shown(example, checkpoint, picture, made, stops, noise)


def _result(checkpoint: Checkpoint, picture: Picture, stops: list[Stop], x_adv: Tensor) -> dict[str, Any]:
    """What `attack_picture` tells, its trajectory at the places that were kept."""
    label, before, after = picture.judged, stops[0].said, stops[-1].said
    index = checkpoint.classes.index(label)
    return {
        "label": label,
        "benign": before,
        "adversarial": after,
        "benign_subset": stops[0].subset,
        "subset": stops[-1].subset,
        "succeeded": before["label"] == label != after["label"],
        "outcome": outcome_of(label, before["label"], after["label"]),
        "toward": None,
        "linf": (x_adv - picture.pixels).abs().max().item(),
        "trajectory": [
            {
                "step": stop.name,
                "entropy": stop.said["entropy"],
                "probability": stop.said["ensemble"][index],
                "subset": stop.subset,
            }
            for stop in stops
        ],
    }
