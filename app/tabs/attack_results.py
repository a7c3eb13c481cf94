"""What the Attack tab shows of a picture: before an attack, after it, and at every step between."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from app.components import figure, heading
from app.figures import entropies, pictures, probabilities, replay, side_by_side, subsets, trajectory, verdict
from app.figures.side_by_side import Side
from app.services import attacks, verdicts
from app.services.attacks import Picture
from app.services.partners import EACH
from app.services.replay import Stop, to_bytes
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig, to_json
from cce.evaluation.one_picture import AttackedPicture, subset_of

_SIDES = {
    "same": "The example made on the first is shown to both. The slider above moves both.",
    "each": "Each is attacked by itself, with the same settings. The slider above moves both.",
}
_WAITING = "Press Attack, then look at each step."
_STRIP = f"""
<div class="studio-replay" role="group" aria-label="Step by step">
<button type="button" class="play" aria-label="Play the attack" disabled><i></i></button>
<input type="range" min="0" max="1" value="1" step="1" aria-label="Step of the attack" disabled>
<output>{_WAITING}</output>
<label>Perturbation × <select aria-label="Magnification of the perturbation" disabled>
<option value="auto" selected>auto</option>{"".join(f"<option>{n}</option>" for n in (1, 2, 4, 8, 16, 32, 64, 128))}
</select></label></div>
"""


_STALE = (
    '<p class="studio-stale" role="status" hidden>This is the result of the earlier setting. Press Attack for that of '
    "the new one.</p>"
)


@dataclass(frozen=True)
class Second:
    """The other ensemble: its name and the first one's, what it is shown, and what it says.

    `benign` is what `classify` says of the picture before the attack; `made` the attack on itself, where
    each was attacked.
    """

    title: str
    first_title: str
    mode: str
    benign: dict[str, Any]
    stops: list[Stop]
    made: AttackedPicture | None = None


@dataclass(frozen=True)
class Done:
    """A finished attack, ready to be shown.

    `link` is the permanent link to its setting, empty where the page's address stays. `noise`: what is said of plain
    noise of its size. `typed`: the settings as they stood in the controls. `see`: what there is to see in it.
    """

    made: AttackedPicture
    config: AttackConfig
    seed: int
    stops: list[Stop]
    link: str
    second: Second | None = None
    noise: dict[str, Any] | None = None
    typed: tuple[Any, ...] = ()
    see: str = ""


@dataclass
class Results:
    """The panels, in the order in which `show` fills them."""

    panels: list[Any]


def build(values: list[Any], between: Callable[[], None] = lambda: None) -> Results:
    """Lay out the panels with what they show first.

    What an attack came to stands together, in one view of a small screen; the rest is beside it where there is room.

    Args:
        values: what `show` gives.
        between: lays out what follows the first part.
    """
    with gr.Row(elem_classes="studio-halves"):
        with gr.Column(scale=6, min_width=600, elem_classes="studio-answer"):
            see = gr.HTML(values[15], elem_id="what-to-see")
            gr.HTML(_STALE, elem_id="stale")
            cards = gr.HTML(values[0], elem_id="verdict")
            with gr.Row(elem_classes="studio-first"):
                with gr.Column(scale=5, min_width=300):
                    triptych = gr.HTML(values[1], elem_id="pictures")
                    strip = gr.HTML(
                        values[2],
                        html_template=_STRIP,
                        js_on_load="window.cceStudio.mountReplay(element, props, watch);",
                        apply_default_css=False,
                        elem_id="replay",
                    )
                with gr.Column(scale=3, min_width=250):
                    table1 = gr.HTML(values[5], elem_id="subsets")
            with gr.Row(elem_classes="studio-pair"):
                with gr.Column(min_width=300):
                    answers = gr.HTML(values[4], elem_id="answers")
                with gr.Column(min_width=300):
                    entropy = figure(values[7], height=entropies.HEIGHT, elem_id="entropy")
                    entropy_numbers = gr.HTML(values[8], elem_classes="studio-numbers")
            between()
            download = gr.HTML(values[3], elem_id="download")
            beside = gr.HTML(values[6], elem_id="beside")
        with gr.Column(scale=5, min_width=600, elem_classes="studio-more"):
            heading("Probability of each class", 3)
            legend = gr.HTML(values[9])
            bars = figure(values[10], height=probabilities.HEIGHT, elem_id="probabilities")
            bar_numbers = gr.HTML(values[11], elem_classes="studio-numbers")
            with gr.Column(elem_classes="studio-after-attack"):
                heading("Step by step", 3)
                path = figure(values[12], height=trajectory.HEIGHT, elem_id="trajectory")
                path_numbers = gr.HTML(values[13], elem_classes="studio-numbers")
            limits = gr.HTML(values[14], elem_id="limits")
    first = [cards, triptych, strip, download, answers, table1, beside, entropy, entropy_numbers, legend]
    return Results([*first, bars, bar_numbers, path, path_numbers, limits, see])


def show(checkpoint: Checkpoint, picture: Picture, done: Done | None = None) -> list[Any]:
    """What the panels show.

    Args:
        checkpoint: the ensemble.
        picture: the picture before the attack.
        done: what the attack made of it, None before one.
    """
    before = done.made.result["benign"] if done else attacks.classify(checkpoint, picture.pixels)
    view = _View(checkpoint, picture, before, done)
    after = done.made.result["adversarial"] if done else None
    stops = done.stops if done else []
    said, names = [stop.said for stop in stops], [stop.name for stop in stops]
    html = view.html(len(stops) - 1 if done else None)
    members = len(before["members"])
    return [
        html["verdict"],
        view.triptych(),
        view.strip(),
        view.downloads(),
        html["answers"],
        html["subsets"],
        html["beside"],
        entropies.figure(before, after),
        entropies.numbers(before, after),
        probabilities.legend(members),
        probabilities.figure(view.judged, before, after, view.known is not None),
        probabilities.numbers(before, after),
        trajectory.figure(view.judged, names, said, members),
        trajectory.numbers(view.judged, names, said, [stop.subset for stop in stops]),
        verdict.limits(verdicts.limits(checkpoint)),
        f'<p class="studio-see"><b>What to see:</b> {escape(done.see)}</p>' if done and done.see else "",
    ]


class _View:
    """One picture with what is known of it, as HTML."""

    def __init__(self, checkpoint: Checkpoint, picture: Picture, before: dict[str, Any], done: Done | None) -> None:
        self.checkpoint, self.picture, self.before, self.done = checkpoint, picture, before, done
        self.known = None if picture.judged == attacks.AUTO else picture.judged
        self.judged = self.known or before["label"]
        self.key = secrets.token_hex(4)

    def html(self, place: int | None) -> dict[str, str]:
        """The panels that follow the slider, at a place of the replay; None before an attack."""
        stop = self.done.stops[place] if self.done and place is not None else None
        after = stop.said if stop else None
        index = self.before["classes"].index(self.judged)
        panels = {
            "verdict": self._cards(stop),
            "answers": verdict.answers(self.judged, self.before, after, self.known is not None),
            "subsets": self._subsets(index, stop),
            "beside": self._beside(place) if place is not None else "",
        }
        return {name: replay.swap(content) for name, content in panels.items()}

    def _subsets(self, index: int, stop: Stop | None) -> str:
        """The place in Table 1; whether the members agree, where nobody has told what the picture shows."""
        if self.known is None:
            return subsets.agreement(self.before, stop.said if stop else None)
        return subsets.picture(subset_of(self.before, index), stop.subset if stop else None)

    def _cards(self, stop: Stop | None) -> str:
        first = (verdicts.flag(self.before), verdicts.kind_of(self.before))
        subject = verdicts.subject(self.picture.name, self.known)
        if stop is None or self.done is None:
            title = "The picture" if self.picture.dataset else "Your picture"
            return verdict.cards(subject, first, titles=(title, "After the attack"))
        title = "After the attack" if stop.last else f"{stop.name[:1].upper()}{stop.name[1:]}"
        outcome = verdicts.danger(stop.said, self.judged, self.known is not None)
        return verdict.cards(
            f"{subject} {attacks.describe(self.done.config)}.",
            first,
            (verdicts.flag(stop.said, attacked=True), outcome.kind),
            self._outcome(self.before, stop.said),
            titles=("Before the attack", title),
            headline=self._headline(outcome.words),
            aside=verdicts.noise(self.done.noise),
        )

    def _headline(self, words: str) -> str:
        wrong = self.known is not None and self.before["label"] != self.known
        return "Wrong before the attack already" if wrong else words

    def _outcome(self, before: dict[str, Any], after: dict[str, Any]) -> str:
        told = verdicts.change(before, after, self.known)
        target = self.done.made.result.get("toward") if self.done else None
        if target is None:
            return told
        return f"{told} The attack aimed for {target}{'.' if after['label'] == target else ', in vain.'}"

    def _beside(self, place: int) -> str:
        """The two ensembles beside one another, at a place of the first one's replay."""
        if self.done is None or self.done.second is None:
            return ""
        done, second = self.done, self.done.second
        other = second.stops[self._same_place(place)]
        mine = done.stops[place]
        each = second.mode == EACH
        sides = [
            self._side(second.first_title, self.before, mine, each),
            self._side(second.title, second.benign, other, each),
        ]
        return f"<h3>Two models, side by side</h3>{side_by_side.columns(*sides, _SIDES[second.mode])}"

    def _same_place(self, place: int) -> int:
        """Where the second replay is when the first is at `place`: both end together."""
        assert self.done and self.done.second
        mine, others = len(self.done.stops), len(self.done.second.stops)
        return others - 1 if place == mine - 1 else min(place, others - 1)

    def _side(self, title: str, before: dict[str, Any], stop: Stop, pictured: bool) -> Side:
        index = before["classes"].index(self.judged)
        return Side(
            title,
            verdict.answers(self.judged, before, stop.said, self.known is not None),
            (verdicts.flag(before), verdicts.kind_of(before)),
            (verdicts.flag(stop.said, attacked=True), verdicts.danger(stop.said, self.judged).kind),
            self._outcome(before, stop.said),
            (subset_of(before, index), stop.subset) if self.known else ("", None),
            stop.pixels.float() / 255 if pictured else None,
        )

    def triptych(self) -> str:
        """The three pictures, of the result."""
        right = None if self.known is None else self.before["label"] == self.known
        if self.done is None:
            return pictures.triptych(self.picture.pixels, self.before["label"], right)
        made, epsilon = self.done.made, self.done.config.epsilon
        said = made.result["adversarial"]["label"]
        after = (made.x_adv, said, self._is_right(said), self._size(epsilon), made.result["linf"])
        return pictures.triptych(self.picture.pixels, self.before["label"], right, after, key=self.key)

    def _is_right(self, said: str) -> bool | None:
        return None if self.known is None else said == self.known

    def _size(self, epsilon: float) -> float:
        """What the perturbation is magnified for: epsilon, or in L2 its largest pixel."""
        assert self.done
        return epsilon if self.done.config.norm == "linf" else self.done.made.result["linf"]

    def strip(self) -> dict[str, Any]:
        """What the step slider is given."""
        if self.done is None:
            return {}
        places = []
        for i, stop in enumerate(self.done.stops):
            said = stop.said["label"]
            places.append(
                replay.Place(
                    stop.name,
                    stop.pixels,
                    stop.said,
                    pictures.said_line(said, self._is_right(said)),
                    f"the picture, {stop.name}; the ensemble says {said}",
                    self.html(i),
                )
            )
        shown = probabilities.shown_classes(self.judged, self.before, self.done.made.result["adversarial"])
        factor = pictures.magnification(self._size(self.done.config.epsilon))
        value = replay.value(self.key, to_bytes(self.picture.pixels), places, shown, factor, self.done.link)
        return value | {"typed": list(self.done.typed)}

    def downloads(self) -> str:
        """The links that save the result."""
        if self.done is None:
            return ""
        factor = pictures.magnification(self._size(self.done.config.epsilon))
        text = json.dumps(self.numbers(), indent=1)
        name = file_name(self.checkpoint, self.done.config)
        return pictures.downloads(self.picture.pixels, self.done.made.x_adv, factor, text, name)

    def numbers(self) -> dict[str, Any]:
        """All that was computed, as JSON values; the perturbation in 1/255, `(C, H, W)`."""
        assert self.done
        x_adv = to_bytes(self.done.made.x_adv).int()
        return {
            "model": self.checkpoint.id,
            "picture": self.picture.key or self.picture.name,
            "link": self.done.link,
            "attack": to_json(self.done.config),
            "seed": self.done.seed,
            "result": self.done.made.result,
            "perturbation": (x_adv - to_bytes(self.picture.pixels).int()).tolist(),
            "units": "epsilon, step_size and linf in pixels from 0 to 1; perturbation in 1/255; entropy in nats",
        } | self._numbers_of_second()

    def _numbers_of_second(self) -> dict[str, Any]:
        second = self.done.second if self.done else None
        if second is None:
            return {}
        said = {"shown": second.mode, "benign": second.benign, "adversarial": second.stops[-1].said}
        return {"beside": {"model": second.title, **said, "subset": second.stops[-1].subset}}


def file_name(checkpoint: Checkpoint, config: AttackConfig) -> str:
    """What the downloads are saved as, without an ending."""
    epsilon = f"{attacks.in_255ths(config.epsilon):g}".replace(".", "_")
    return f"{checkpoint.id}-{config.name}-epsilon-{epsilon}"
