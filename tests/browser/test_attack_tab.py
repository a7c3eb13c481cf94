"""The Attack tab in a browser: pick, attack, see it flagged, download, upload again, see it flagged again."""

import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from app.services import attacks, gallery
from app.services.models import Registry
from cce.pictures import to_png

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


def choose_model(page: Page, title: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=title).click()


def attack(page: Page) -> None:
    page.locator("#attack-button").click()
    expect(page.locator("#download a")).to_be_visible()


def flagged(result: dict) -> str:
    return f"Flagged as adversarial: entropy {result['adversarial']['entropy']:.2f} nats"


def test_pick_attack_download_and_upload_again(open_page: Callable[..., Page], caught: Caught, tmp_path: Path):
    page = open_page()
    choose_model(page, caught.model)
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first},")
    page.locator("#gallery button.thumbnail-item").nth(caught.place).click()
    before = page.locator("#verdict .card").first
    after = page.locator("#verdict .card").nth(1)
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first + caught.place},")
    expect(before).to_contain_text("Not flagged")
    expect(after).to_contain_text("Press Attack")

    attack(page)
    expect(after).to_contain_text(flagged(caught.result))
    expect(page.locator("#verdict")).to_contain_text("The ensemble was fooled")
    expect(page.locator("#subsets")).to_contain_text(f"after it in {caught.result['subset']}.")
    assert caught.result["adversarial"]["label"] in page.locator("#answers").inner_text()
    expect(page.locator("#pictures img")).to_have_count(3)

    with page.expect_download() as download:
        page.locator("#download a").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    with Image.open(saved) as mine, Image.open(io.BytesIO(caught.png)) as theirs:
        assert mine.format == "PNG"
        assert mine.tobytes() == theirs.tobytes()

    page.get_by_role("tab", name="Upload").click()
    page.locator("#upload input[type=file]").set_input_files(saved)
    expect(page.locator("#verdict")).to_contain_text("Your picture")
    expect(before).to_contain_text(flagged(caught.result))
    expect(page.locator("#fitting")).to_contain_text("taken as it is, bit for bit")


def test_one_press_shows_everything_and_settings_count(open_page: Callable[..., Page]):
    page = open_page()
    expect(page.locator("#pictures img")).to_have_count(1)
    attack(page)
    expect(page.locator("#pictures img")).to_have_count(3)
    page.locator("#attack-name").get_by_label("FGSM").check()
    page.get_by_role("button", name="More settings").click()
    expect(page.get_by_label("Steps", exact=True)).to_be_disabled()
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
    page = open_page(390, 844, "dark")
    assert page.evaluate("document.body.classList.contains('dark')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    attack(page)
    page.get_by_role("button", name="About this model").click()
    page.get_by_role("button", name="How to read this").click()
    page.locator("summary").nth(1).click()
    expect(page.locator("#about table").first).to_be_visible()
    expect(page.locator(".studio-numbers table").last).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_keyboard_reaches_picture_and_button(open_page: Callable[..., Page]):
    page = open_page()
    page.locator("#gallery button.thumbnail-item").nth(1).press("Enter")
    expect(page.locator("#gallery button.thumbnail-item").nth(1)).to_have_class(re.compile(r"\bselected\b"))
    page.locator("#attack-button").press("Enter")
    expect(page.locator("#download a")).to_be_visible()


def test_attack_takes_the_picture_that_was_just_picked(open_page: Callable[..., Page], caught: Caught):
    page = open_page()
    choose_model(page, caught.model)
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first},")
    # All in one turn of the page's loop: the server knows of no pick yet when Attack is pressed.
    page.evaluate(
        """() => {
            const pictures = document.querySelectorAll("#gallery button.thumbnail-item");
            pictures[3].click();
            pictures[5].click();
            const button = document.querySelector("#attack-button");
            (button.matches("button") ? button : button.querySelector("button")).click();
        }"""
    )
    expect(page.locator("#download a")).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text(f"Test picture {caught.first + 5},")
    page.wait_for_timeout(500)  # nothing late clears it
    expect(page.locator("#download a")).to_be_visible()
