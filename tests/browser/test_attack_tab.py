"""The Attack tab in a browser: pick, attack, see it flagged, download, upload again, see it flagged again."""

import io
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from app.services import attacks, gallery
from app.services.models import Registry
from cce.data.pictures import to_png
from studio_page import choose_model, put

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@dataclass
class Caught:
    """A picture of the gallery whose adversarial version a detection-mode ensemble flags."""

    model: str
    first: int  # the number of the gallery's first picture in its official set
    place: int
    result: dict
    png: bytes


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> Caught:
    """Looked for among the pictures that ship, with the attack that the tab starts with."""
    registry = Registry((), "cpu")
    detectors = [entry for entry in registry.entries() if entry.defense == "CCE-DM"]
    if not detectors:
        pytest.skip("no ensemble in detection mode is released")
    for entry in sorted(detectors, key=lambda e: e.dataset != "digits"):
        checkpoint = registry.get(entry.id)
        shape = checkpoint.model.config.input_shape
        pictures = gallery.collection(entry.dataset, tmp_path_factory.mktemp("none"), shape)
        for place in range(gallery.PAGE_SIZE):
            x, config = pictures.pixels(place), attacks.defaults(checkpoint)
            x_adv, result = attacks.attack(checkpoint, x, pictures.label(place), config, 0)
            if result["succeeded"] and result["adversarial"]["flagged"] and not result["benign"]["flagged"]:
                return Caught(entry.title, pictures.split.start, place, result, to_png(x_adv))
    raise AssertionError("no ensemble in detection mode flags an attack on a picture that ships")


def choose(page: Page, name: str, title: str | re.Pattern[str]) -> None:
    page.locator(f"#{name} input").click()
    page.get_by_role("option", name=title, exact=True).first.click()


def steps_field(page: Page) -> Locator:
    return page.locator("#more-settings").get_by_label("Steps", exact=True)


def slide(page: Page, keys: str, times: int = 1) -> None:
    for _ in range(times):
        page.locator("#replay input[type=range]").press(keys)


def attack(page: Page) -> None:
    """Attack, and wait for the result: that of an earlier attack may be on screen."""
    key = page.locator("#pictures [data-key]").get_attribute("data-key")
    page.locator("#attack-go").click()
    expect(page.locator(f"#pictures [data-key]:not([data-key='{key}'])")).to_have_count(1)
    expect(page.locator("#download a.picture")).to_be_visible()


def before_attack(open_page: Callable[..., Page], *given: Any) -> Page:
    """A page on which nothing was attacked yet: the first test picture under the usual attack."""
    page = open_page(*given, query="?image=test:0")
    expect(page.locator("#verdict")).to_contain_text("Test picture 0,")
    expect(page.locator("#verdict .card").nth(1)).to_contain_text("Press Attack")
    return page


def flagged(result: dict) -> str:
    return f"the ensemble is unsure ({result['adversarial']['entropy']:.2f}, limit"


def test_pick_attack_download_and_upload_again(open_page: Callable[..., Page], caught: Caught, tmp_path: Path):
    page = open_page()
    choose_model(page, "#model", caught.model)
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first},")
    page.locator("#gallery button.thumbnail-item").nth(caught.place).click()
    before = page.locator("#verdict .card").first
    after = page.locator("#verdict .card").nth(1)
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first + caught.place},")
    expect(before).to_contain_text("Nothing unusual")
    expect(after).to_contain_text("Press Attack")

    attack(page)
    expect(after).to_contain_text(flagged(caught.result))
    expect(page.locator("#verdict h3").first).to_have_text("Fooled, but noticed")
    expect(page.locator("#subsets")).to_contain_text(f"after it in {caught.result['subset']}.")
    assert caught.result["adversarial"]["label"] in page.locator("#answers").inner_text()
    expect(page.locator("#pictures img")).to_have_count(3)

    with page.expect_download() as download:
        page.locator("#download a.picture").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    with Image.open(saved) as mine, Image.open(io.BytesIO(caught.png)) as theirs:
        assert mine.format == "PNG"
        assert mine.tobytes() == theirs.tobytes()

    page.get_by_role("tab", name="Upload").click()
    page.locator("#upload input[type=file]").set_input_files(saved)
    expect(page.locator("#verdict")).to_contain_text("Your picture")
    expect(before).to_contain_text(f"Unusual: {flagged(caught.result)}")
    expect(page.locator("#fitting")).to_contain_text("taken as it is, bit for bit")


def test_one_press_shows_everything_and_settings_count(open_page: Callable[..., Page]):
    page = before_attack(open_page)
    expect(page.locator("#pictures img")).to_have_count(1)
    attack(page)
    expect(page.locator("#pictures img")).to_have_count(3)
    page.get_by_role("button", name="More settings").click()
    expect(steps_field(page)).to_be_visible()
    choose(page, "attack-name", "FGSM")
    expect(page.locator("#attack-explanation")).to_contain_text("One step of epsilon")
    expect(steps_field(page)).to_have_count(0)
    attack(page)
    expect(page.locator("#verdict")).to_contain_text("FGSM, epsilon")
    figure = page.locator("#probabilities .studio-figure")
    assert figure.get_attribute("role") == "img"
    assert "After it:" in figure.get_attribute("aria-label")


def huge_png() -> bytes:
    """12000 x 12000 by its header alone."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = (12000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def truncated_png() -> bytes:
    content = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(content, "PNG")
    return content.getvalue()[:2000]


def test_bad_uploads_are_told_and_the_page_goes_on(open_page: Callable[..., Page], tmp_path: Path):
    page = open_page()
    page.get_by_role("tab", name="Upload").click()
    bad = {
        "text file, not a picture": b"hello, this is no picture",
        "12000x12000 pixels": huge_png(),
        "damaged or incomplete": truncated_png(),
    }
    for words, content in bad.items():
        path = tmp_path / "picture.png"
        path.write_bytes(content)
        page.locator("#upload input[type=file]").set_input_files(path)
        expect(page.locator(".toast-body").filter(has_text=words)).to_be_visible()
        expect(page.locator("#upload input[type=file]")).to_be_attached()
    page.locator("#samples button.thumbnail-item").first.click()
    expect(page.locator("#verdict")).to_contain_text("Airplane")
    expect(page.locator("#fitting img")).to_have_count(2)
    attack(page)


def test_a_phone_in_the_dark_scrolls_only_down(open_page: Callable[..., Page]):
    page = before_attack(open_page, 390, 844, "dark")
    assert page.evaluate("document.body.classList.contains('dark')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    attack(page)
    for fold in ("About this model", "How to read this", "One member at a time"):
        page.get_by_role("button", name=fold).click()
    for summary in page.locator("#attack-results summary").all():
        summary.click()
    choose(page, "beside-it", re.compile("^Beside it: CIFAR-10"))
    page.locator("#crossing-go").click()
    expect(page.locator("#crossing table")).to_be_visible()
    attack(page)
    expect(page.locator("#beside section")).to_have_count(2)
    expect(page.locator("#about table").first).to_be_visible()
    expect(page.locator("#attack-results .studio-numbers table").last).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_keyboard_reaches_picture_and_button(open_page: Callable[..., Page]):
    page = before_attack(open_page)
    page.locator("#gallery button.thumbnail-item").nth(1).press("Enter")
    expect(page.locator("#gallery button.thumbnail-item").nth(1)).to_have_class(re.compile(r"\bselected\b"))
    page.locator("#attack-go").press("Enter")
    expect(page.locator("#download a.picture")).to_be_visible()


def test_attack_takes_the_picture_that_was_just_picked(open_page: Callable[..., Page], caught: Caught):
    page = open_page()
    choose_model(page, "#model", caught.model)
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first},")
    # All in one turn of the page's loop: the server knows of no pick yet when Attack is pressed.
    page.evaluate(
        """() => {
            const pictures = document.querySelectorAll("#gallery button.thumbnail-item");
            pictures[3].click();
            pictures[5].click();
            const button = document.querySelector("#attack-go");
            (button.matches("button") ? button : button.querySelector("button")).click();
        }"""
    )
    expect(page.locator("#download a.picture")).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first + 5},")
    page.wait_for_timeout(500)  # nothing late clears it
    expect(page.locator("#download a.picture")).to_be_visible()


def test_a_pick_that_is_overtaken_on_its_way_is_left_out(open_page: Callable[..., Page], caught: Caught):
    page = open_page()
    choose_model(page, "#model", caught.model)
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first},")
    page.evaluate(
        """() => {
            const send = window.fetch;
            window.fetch = async (where, what) => {
                const slow = String(what?.body).includes('"event_data":{"index":3');
                if (slow) await new Promise((go) => setTimeout(go, 1500));
                return send(where, what);
            };
        }"""
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.post_data or "") if "/queue/join" in request.url else None)
    for place in (3, 5):
        page.locator("#gallery button.thumbnail-item").nth(place).click()
    page.locator("#attack-go").click()
    expect(page.locator("#download a.picture")).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first + 5},")
    picks = [place for said in asked for place in (3, 5) if f'"event_data":{{"index":{place}' in said]
    assert picks == [5, 3]


def test_an_upload_is_judged_by_what_its_visitor_says_it_is(open_page: Callable[..., Page]):
    page = open_page()
    page.get_by_role("tab", name="Upload").first.click()
    page.locator("#samples button.thumbnail-item").first.click()
    expect(page.locator("#label")).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text("its true class is not known")
    expect(page.locator("#subsets")).to_contain_text("the members")
    choose(page, "label", "truck")
    expect(page.locator("#verdict")).to_contain_text("true class truck")
    attack(page)
    expect(page.locator("#verdict")).to_contain_text("true class truck")
    page.get_by_role("tab", name="Gallery").first.click()
    page.locator("#gallery button.thumbnail-item").nth(2).click()
    expect(page.locator("#verdict")).to_contain_text("Test picture 2, true class ship")
    expect(page.locator("#label")).to_be_hidden()


def test_walking_past_the_lists_with_the_keyboard_changes_nothing(open_page: Callable[..., Page], caught: Caught):
    page = open_page()
    choose_model(page, "#model", caught.model)
    page.get_by_role("button", name="More settings").click()
    put(steps_field(page), "7")
    page.locator("#gallery-next").click()
    expect(page.locator("#gallery-place")).to_contain_text("21 to 40")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/queue/join" in request.url else None)
    for name in ("model", "class-filter", "attack-name"):
        page.locator(f"#{name} input").focus()
        page.keyboard.press("Tab")
    page.wait_for_timeout(500)
    assert not asked
    expect(steps_field(page)).to_have_value("7")
    page.locator("#attack-name input").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")  # a choice by keyboard counts
    expect(page.locator("#attack-explanation")).not_to_contain_text("Many small steps up the loss")


def test_of_two_models_chosen_in_a_row_the_last_one_counts_with_its_own_settings(
    open_page: Callable[..., Page], caught: Caught
):
    page = open_page()
    first = page.locator("#model input").input_value()
    for title in (caught.model, first, caught.model):
        choose(page, "model", title)
    page.locator("#attack-go").click()
    expect(page.locator("#download a.picture")).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first},")
    expect(page.locator("#verdict")).to_contain_text("PGD k=20, epsilon 38.25/255, step 9.562/255")


def test_the_slider_replays_the_attack_without_the_server(open_page: Callable[..., Page], tmp_path: Path):
    page = before_attack(open_page)
    attack(page)
    said, card = page.locator("#replay output"), page.locator("#verdict .card").nth(1)
    after, between = page.locator("#pictures img.after"), page.locator("#pictures img.between")
    expect(said).to_have_text("the result, after 20 steps")
    shown, outcome = after.get_attribute("src"), card.inner_text()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/queue/join" in request.url else None)

    slide(page, "Home")
    expect(said).to_have_text("before the attack")
    expect(card.locator("h3")).to_have_text("Before the attack")
    assert after.get_attribute("src") != shown
    expect(page.locator("#subsets")).to_contain_text("before and after the attack")
    slide(page, "ArrowRight", 3)
    expect(said).to_have_text("step 2 of 20")
    expect(card.locator("h3")).to_have_text("Step 2 of 20")
    line = "() => document.querySelector('#trajectory .studio-figure').layout.shapes[0].x0"
    page.wait_for_function(f"{line.removeprefix('() => ')} === 3")
    page.locator("#replay select").select_option("64")
    expect(page.locator("#pictures .between-factor")).to_have_text("64")
    many = between.get_attribute("src")
    page.locator("#replay select").select_option("1")
    assert between.get_attribute("src") != many

    page.locator("#replay button").click()
    expect(said).to_have_text("the result, after 20 steps")
    assert card.inner_text() == outcome
    assert not [url for url in asked if "join" in url], "the slider asked the server"
    for kind, ending in (("perturbation", "-perturbation-x1.png"), ("numbers", ".json")):
        with page.expect_download() as download:
            page.locator(f"#download a.{kind}").click()
        assert download.value.suggested_filename.endswith(ending)
        download.value.save_as(tmp_path / kind)
    numbers = json.loads((tmp_path / "numbers").read_text())
    assert numbers["attack"]["steps"] == 20 and len(numbers["result"]["trajectory"]) == 21
    with Image.open(tmp_path / "perturbation") as picture:
        assert picture.format == "PNG" and picture.size == (32, 32)


def test_an_unfolded_table_stays_so_under_the_next_attack(open_page: Callable[..., Page]):
    page = before_attack(open_page)
    attack(page)
    numbers = page.locator("#attack-results details").nth(1)
    numbers.locator("summary").click()
    expect(numbers).to_have_attribute("open", "")
    attack(page)
    expect(page.locator("#attack-results details").nth(1)).to_have_attribute("open", "")
    expect(page.locator("#attack-results details").first).not_to_have_attribute("open", "")


def start_long_attack(page: Page) -> None:
    page.get_by_role("button", name="More settings").click()
    put(steps_field(page), "500")
    put(page.get_by_label("Restarts"), "20")
    page.locator("#attack-go").click()
    expect(page.locator("#attack-progress .bar i")).to_be_visible()


def test_cancel_frees_the_processor(open_page: Callable[..., Page]):
    page = before_attack(open_page)
    start_long_attack(page)
    expect(page.locator("#attack-progress")).to_contain_text(re.compile(r"Attacking: \d+ %"))
    page.locator("#attack-cancel").click()
    expect(page.locator("#attack-progress")).to_contain_text("Cancelled after")
    expect(page.locator("#verdict .card").nth(1)).to_contain_text("Press Attack to see")
    expect(page.locator("#attack-cancel")).to_be_disabled()
    put(steps_field(page), "3")
    put(page.get_by_label("Restarts"), "1")
    attack(page)
    expect(page.locator("#verdict")).to_contain_text("PGD k=3,")


def test_a_reload_in_the_middle_of_work_ends_it_and_the_page_works(open_page: Callable[..., Page]):
    page = before_attack(open_page)
    start_long_attack(page)
    page.reload()
    expect(page.locator("#verdict")).to_contain_text("Test picture 0,")  # the address says so
    expect(page.locator("#attack-progress .bar i")).to_have_count(0)
    attack(page)  # it would wait minutes behind the other one
    expect(page.locator("#verdict")).to_contain_text("PGD k=20")


def test_a_link_opens_the_setting_and_shows_its_result(open_page: Callable[..., Page]):
    query = "?model=digits-cce-rm&image=test:1460&attack=mim&epsilon=20&step=4&steps=7&target=member 2&seed=3"
    page = open_page(query=f"{query}&beside=digits-cce-dm&show=each")
    expect(page.locator("#verdict")).to_contain_text("Test picture 1460, true class")
    expect(page.locator("#verdict")).to_contain_text("MIM k=7, epsilon 20/255, step 4/255, on member 2")
    expect(page.locator("#beside section")).to_have_count(2)
    expect(page.locator("#beside img")).to_have_count(2)
    assert page.locator("#model input").input_value().startswith("Digits, CCE-RM")
    assert page.locator("#gallery-place").inner_text().startswith("21 to 40")
    page.locator("#copy-link").click()
    expect(page.locator("#link input")).to_have_value(
        re.compile("^http.*model=digits-cce-rm&image=test:1460&attack=mim")
    )
    link = page.locator("#link input").input_value()
    shown = page.locator("#answers").inner_text()
    assert page.url == link  # the address is the link
    page.goto(link)
    expect(page.locator("#beside section")).to_have_count(2)
    assert page.locator("#answers").inner_text() == shown


def test_a_link_with_bad_values_is_told_and_the_page_is_as_usual(open_page: Callable[..., Page]):
    page = open_page(query="?model=nobody&image=test:99999999&attack=magic&epsilon=900")
    note = page.locator("#link-note")
    for words in ("no model 'nobody'", "no picture 'test:99999999'", "no attack 'magic'", "Epsilon is 900"):
        expect(note).to_contain_text(words)
    expect(page.locator("#download a")).to_have_count(0)
    attack(page)
    expect(page.locator("#verdict")).to_contain_text("PGD k=20, epsilon 8/255")


def test_each_member_is_attacked_and_its_example_shown_to_the_others(open_page: Callable[..., Page]):
    page = open_page()
    page.get_by_role("button", name="One member at a time").click()
    page.locator("#crossing-go").click()
    rows = page.locator("#crossing tbody tr")
    expect(rows).to_have_count(3)
    for row, name in zip(rows.all(), ("f1", "f2", "the ensemble"), strict=True):
        assert f"made on {name}" in row.inner_text()
        expect(row.locator("img")).to_be_visible()
    page.locator("#gallery button.thumbnail-item").nth(2).click()
    expect(page.locator("#crossing table")).to_have_count(0)
