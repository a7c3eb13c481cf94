"""Picking a picture: from the gallery of test pictures, or an upload. Any tab can use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import gradio as gr
from gradio.context import Context

from app.components import HOLD, PRIVATE, RELEASE, choice_of, rest_of, spoken
from app.figures.pictures import fitting
from app.services import gallery
from app.services.attacks import AUTO, Picture, move_crop, open_upload, refit
from app.services.gallery import Collection
from app.studio import Studio
from app.upload_limit import MEGABYTES
from cce.checkpoints.folder import Checkpoint
from cce.data.pictures import movable
from cce.evaluation import own_pictures

ALL = "all"


@dataclass
class PicturePicker:
    """The components, and the session's picture.

    `picture` holds a `Picture`, which knows what it is judged by. `label`, the list in which a visitor says what an
    upload shows, is an input of its own listener alone: what two quick picks write to a list out of sight may be lost.
    """

    studio: Studio
    model: gr.Dropdown
    picture: gr.State
    label: gr.Dropdown
    gallery: gr.Gallery
    wanted: gr.Dropdown
    page: gr.State
    place: gr.HTML
    note: gr.HTML
    get: gr.Button
    folder: gr.Textbox
    upload: gr.File
    sample: gr.Gallery
    fitting: gr.HTML
    crop: gr.Slider
    back: gr.Button
    next_page: gr.Button
    picked: list[Any] = field(default_factory=list)
    loaded: Any = None
    """The event after which the shelf is that of a fresh page."""

    @property
    def shelf(self) -> list[Any]:
        """What `stocked` fills."""
        return [self.gallery, self.page, self.place, self.wanted, self.get, self.folder, self.note]

    @property
    def choice(self) -> list[Any]:
        """What `chosen` fills."""
        return [self.picture, self.label, self.fitting, self.crop]

    def then(self, listener: Callable[..., Any], inputs: list[Any], outputs: list[Any], **kwargs: Any) -> None:
        """Run the one listener that shows a picture when it, or what it shows, was picked; `SETTLED` waits for it."""
        for event in self.picked:
            event.success(listener, inputs, outputs, trigger_mode="multiple", **kwargs).then(**RELEASE)


def build(studio: Studio, model: gr.Dropdown, checkpoint: Checkpoint, prefix: str = "", at: int = 0) -> PicturePicker:
    """Lay out the picker for the ensemble that is shown first.

    Args:
        studio: what the whole app shares.
        model: the dropdown of ensembles whose pictures are offered.
        checkpoint: the one that is chosen at first.
        prefix: begins the components' ids, where a page has several pickers.
        at: which picture of the gallery's first page is chosen.
    """
    pictures = studio.collection(checkpoint)
    indices, _, _ = gallery.page(pictures.indices(), 0)
    first = from_gallery(pictures, at) if at in indices else first_of(pictures, checkpoint)
    page = gr.State({"number": 0, "indices": indices})
    picture = gr.State(first)
    with gr.Tabs(elem_classes="studio-source"):
        with gr.Tab("Gallery", id="gallery"):
            with gr.Row(elem_classes="studio-pages"):
                wanted = gr.Dropdown(
                    class_choices(pictures),
                    value=ALL,
                    label="Class",
                    show_label=False,
                    container=False,
                    min_width=130,
                    elem_id=f"{prefix}class-filter",
                    elem_classes="class-filter",
                )
                back = gr.Button("Back", size="sm", min_width=48, elem_id=f"{prefix}gallery-back")
                place = gr.HTML(
                    place_line(pictures.indices(), 0), elem_id=f"{prefix}gallery-place", elem_classes="gallery-place"
                )
                next_page = gr.Button("Next", size="sm", min_width=48, elem_id=f"{prefix}gallery-next")
            shown = gr.Gallery(
                thumbnails(pictures, indices),
                show_label=False,
                label="Test pictures",
                selected_index=at,
                columns=5,
                height="auto",
                allow_preview=False,
                buttons=[],
                format="png",
                elem_id=f"{prefix}gallery",
                elem_classes="studio-gallery pixelated",
            )
            with gr.Row(elem_classes="studio-pages"):
                note = gr.HTML(note_line(pictures), elem_id=f"{prefix}gallery-note", elem_classes="gallery-note")
                get = gr.Button(**get_settings(pictures), size="sm", min_width=48, elem_id=f"{prefix}get-test-set")
            folder = gr.Textbox(
                visible=pictures.wants_folder,
                label="Folder of the pictures",
                placeholder="/home/me/pictures/pets",
                max_lines=1,
                elem_id=f"{prefix}own-folder",
            )
        with gr.Tab("Upload", id="upload"):
            upload = gr.File(
                label=f"Drop a picture here, at most {MEGABYTES} MB",
                type="binary",
                height=130,
                elem_id=f"{prefix}upload",
                elem_classes="studio-upload",
            )
            gr.HTML('<p class="studio-note">Or try one of these:</p>')
            sample = gr.Gallery(
                [(str(path), name) for name, path in gallery.examples()],
                show_label=False,
                label="Pictures to try",
                columns=4,
                height="auto",
                allow_preview=False,
                buttons=[],
                elem_id=f"{prefix}samples",
                elem_classes="studio-gallery",
            )
            fit = gr.HTML(fitted(first), elem_id=f"{prefix}fitting")
            crop = gr.Slider(**crop_settings(first), minimum=0, maximum=100, step=1, elem_id=f"{prefix}crop")
    label = gr.Dropdown(**label_settings(first, checkpoint), label="Label", elem_id=f"{prefix}label")
    picker = PicturePicker(
        studio,
        model,
        picture,
        label,
        shown,
        wanted,
        page,
        place,
        note,
        get,
        folder,
        upload,
        sample,
        fit,
        crop,
        back,
        next_page,
    )
    _wire(picker, len(pictures.split))
    return picker


# What the components show


def from_gallery(pictures: Collection, index: int) -> Picture:
    """A picture of the gallery, with its true class."""
    key = f"test:{pictures.split.start + index}"
    return Picture(pictures.pixels(index), pictures.label(index), pictures.name(index), pictures.dataset, key=key)


def first_of(pictures: Collection, checkpoint: Checkpoint) -> Picture:
    """The gallery's first picture; the first one to try where it has none."""
    if len(pictures.split):
        return from_gallery(pictures, 0)
    name, path = gallery.examples()[0]
    return open_upload(path, checkpoint.model.config.input_shape, name, key=name)


def thumbnails(pictures: Collection, indices: list[int]) -> list[tuple[Any, str]]:
    """One page of the gallery, each picture with its class."""
    return [(pictures.picture(i), pictures.label(i)) for i in indices]


def class_choices(pictures: Collection) -> list[tuple[str, str]]:
    """The filter: all, or a class that the gallery has."""
    counts = pictures.split.labels.bincount(minlength=len(pictures.classes)).tolist()
    known = [(f"{name} ({n})", name) for name, n in zip(pictures.classes, counts, strict=True) if n]
    return [(f"all classes ({len(pictures.split):,})", ALL), *known]


def place_line(indices: list[int], number: int) -> str:
    """Where in the gallery one is."""
    shown, number, _ = gallery.page(indices, number)
    first = number * gallery.PAGE_SIZE + min(1, len(shown))
    return f'<p class="studio-note">{first:,} to {first + max(0, len(shown) - 1):,} of {len(indices):,}</p>'


def note_line(pictures: Collection) -> str:
    """Which pictures these are."""
    return f'<p class="studio-note">{escape(pictures.note)}</p>'


def get_settings(pictures: Collection) -> dict[str, Any]:
    """The button that gets the test set, or takes a folder for it."""
    if pictures.wants_folder:
        return dict(value="Use this folder", visible=True)
    return dict(value=get_words(pictures), visible=pictures.missing_megabytes is not None)


def get_words(pictures: Collection) -> str:
    """The button that gets the test set."""
    return f"Get the test set ({pictures.missing_megabytes} MB)"


def label_settings(picture: Picture, checkpoint: Checkpoint) -> dict[str, Any]:
    """The label's dropdown: a choice for an upload, out of sight where the true class is known."""
    choices = [("the clean prediction", AUTO), *((name, name) for name in checkpoint.classes)]
    return dict(
        choices=choices,
        value=picture.said or AUTO,
        visible=picture.label is None,
        info="What is in your picture, if it is one of these classes. Else the model's own answer stands for it.",
    )


def fitted(picture: Picture) -> str:
    """An upload as it is cropped and as the model sees it; nothing for a picture of the gallery."""
    return fitting(picture.crop, picture.size, picture.pixels, picture.place) if picture.crop is not None else ""


def crop_settings(picture: Picture) -> dict[str, Any]:
    """The slider that moves the crop, in percent; out of sight where all of the picture is taken."""
    height, width = picture.shape[1:]
    side = movable(picture.size, width / height) if picture.size and picture.whole is not None else None
    along = "top to bottom" if side == "height" else "left to right"
    return dict(value=100 * picture.place, visible=side is not None, label=f"Part that is used, {along} (%)")


def turned(pictures: Collection, wanted: str, number: int, picked: Picture | None = None) -> list[Any]:
    """Another page of the gallery: its pictures, where one is, and that in words; `picked` is marked on it."""
    known = wanted in pictures.classes
    indices = pictures.indices(pictures.classes.index(wanted) if known else None)
    shown, number, _ = gallery.page(indices, number)
    state = {"number": number, "indices": shown}
    keys = [f"test:{pictures.split.start + i}" for i in shown]
    mark = keys.index(picked.key) if picked and picked.key in keys else None
    return [gr.Gallery(thumbnails(pictures, shown), selected_index=mark), state, place_line(indices, number)]


def stocked(pictures: Collection, number: int = 0, picked: Picture | None = None) -> list[Any]:
    """The whole shelf anew: another data set, or more pictures of this one; fills `PicturePicker.shelf`."""
    return [
        *turned(pictures, ALL, number, picked),
        gr.Dropdown(class_choices(pictures), value=ALL),
        gr.Button(**get_settings(pictures)),
        gr.Textbox(visible=pictures.wants_folder),
        note_line(pictures),
    ]


def chosen(picture: Picture, checkpoint: Checkpoint) -> list[Any]:
    """A picture that was chosen; fills `PicturePicker.choice`."""
    label, crop = gr.Dropdown(**label_settings(picture, checkpoint)), gr.Slider(**crop_settings(picture))
    return [picture, label, fitted(picture), crop]


# What happens


def _wire(p: PicturePicker, at_start: int) -> None:
    studio, shown, choice = p.studio, [p.gallery, p.page, p.place], p.choice

    def turn(model: str, wanted: str, page: dict[str, Any], by: int) -> list[Any]:
        return turned(studio.collection(studio.registry.get(model)), wanted, page["number"] + by)

    def filtered(model: str, wanted: str) -> list[Any]:
        return turn(model, wanted, {"number": 0}, 0)

    def picker_of(picture_at: Callable[[Checkpoint, dict[str, Any], int], Picture]) -> Callable[..., list[Any]]:
        def pick(model: str, page: dict[str, Any], last: int, number: int, event: gr.SelectData) -> list[Any]:
            if number < last:  # overtaken on its way here
                return [gr.skip() for _ in range(1 + len(choice))]
            checkpoint = studio.registry.get(model)
            return [number, *chosen(picture_at(checkpoint, page, event.index), checkpoint)]

        return pick

    def on_page(checkpoint: Checkpoint, page: dict[str, Any], place: int) -> Picture:
        return from_gallery(studio.collection(checkpoint), page["indices"][place])

    def to_try(checkpoint: Checkpoint, page: dict[str, Any], place: int) -> Picture:
        name, path = gallery.examples()[place]
        return open_upload(path, checkpoint.model.config.input_shape, name, key=name)

    def uploaded(model: str, content: bytes | None) -> list[Any]:
        checkpoint = studio.registry.get(model)
        return [*chosen(open_upload(content or b"", checkpoint.model.config.input_shape), checkpoint), None]

    def kept(model: str, picture: Picture) -> list[Any]:
        """The picture under another ensemble: the same where it fits, else the first of its gallery."""
        checkpoint = studio.registry.get(model)
        shape = checkpoint.model.config.input_shape
        if picture.crop is not None:
            return chosen(refit(picture, shape), checkpoint)
        if picture.dataset == checkpoint.dataset and picture.shape == shape:
            return chosen(picture, checkpoint)
        return chosen(first_of(studio.collection(checkpoint), checkpoint), checkpoint)

    def judged(picture: Picture, label: str) -> Picture:
        return replace(picture, said=None if label == AUTO else label)

    def moved(picture: Picture, crop: float) -> list[Any]:
        picture = move_crop(picture, crop)
        return [picture, fitted(picture)]

    def restock(model: str) -> list[Any]:
        return stocked(studio.collection(studio.registry.get(model)))

    def fetch(model: str, folder: str, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        checkpoint = studio.registry.get(model)
        if own_pictures.is_own(checkpoint):
            return stocked(studio.own.name(checkpoint, folder))
        dataset = checkpoint.dataset
        gallery.download(dataset, studio.data_root, lambda fraction, text: progress(fraction, desc=text))
        return restock(model)

    def revisited(model: str) -> list[Any]:
        """On a page load: what another visit has downloaded since the Studio started."""
        now = studio.collection(studio.registry.get(model))
        return [gr.skip()] * len(p.shelf) if len(now.split) == at_start else stocked(now)

    quiet = {**PRIVATE, "show_progress": "hidden"}
    # A second pick while the first is under way counts; one at a time is looked at, so that the last one wins.
    every = {**quiet, "trigger_mode": "multiple", "concurrency_id": "picking", "concurrency_limit": 1}
    last, number = gr.State(0), gr.Number(0, visible=False)
    numbered = [p.model, p.page, last, number]
    in_order = {**every, "js": "(...given) => window.cceStudio.numbered(...given)"}
    choice_of(p.wanted).click(spoken(filtered), [p.model, p.wanted], shown, **quiet)
    for button, by in ((p.back, -1), (p.next_page, 1)):
        listener = spoken(_bound(turn, by))
        button.click(listener, [p.model, p.wanted, p.page], shown, **quiet)
    got = dict(concurrency_id="download", show_progress_on=[p.gallery], **PRIVATE)
    p.get.click(spoken(fetch), [p.model, p.folder], p.shelf, **got)
    p.loaded = Context.root_block.load(spoken(revisited), [p.model], p.shelf, **quiet)
    another, said, rests = choice_of(p.model), choice_of(p.label), rest_of(p.crop)
    for trigger in (p.gallery.select, p.upload.upload, p.sample.select, another.click, said.click, rests.click):
        trigger(**HOLD)
    sent = p.upload.upload(spoken(uploaded), [p.model, p.upload], [*choice, p.upload], **every)
    sent.failure(lambda: None, None, [p.upload], **quiet)  # ready for another file
    restocked = another.click(spoken(restock), [p.model], p.shelf, **every)
    restocked.failure(**RELEASE)
    p.picked = [
        p.gallery.select(spoken(picker_of(on_page)), numbered, [last, *choice], **in_order),
        sent,
        p.sample.select(spoken(picker_of(to_try)), numbered, [last, *choice], **in_order),
        restocked.success(spoken(kept), [p.model, p.picture], choice, **every),
        said.click(spoken(judged), [p.picture, p.label], [p.picture], **every),
        rests.click(spoken(moved), [p.picture, p.crop], [p.picture, p.fitting], **every),
    ]
    for event in p.picked:
        event.failure(**RELEASE)


def _bound(turn: Callable[..., list[Any]], by: int) -> Callable[..., list[Any]]:
    def bound(model: str, wanted: str, page: dict[str, Any]) -> list[Any]:
        return turn(model, wanted, page, by)

    return bound
