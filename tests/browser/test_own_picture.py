"""A visitor's own picture in a browser: which part of it is used, and what is said of a file that is too large."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def settled(page: Page) -> None:
    page.wait_for_timeout(400)  # the slider has come to rest
    page.wait_for_function("() => window.cceStudio.held() === 0")


@pytest.mark.parametrize("width", [1366, 390])
def test_the_crop_is_moved_by_keys_and_kept_in_the_link(open_page: Callable[..., Page], width: int):
    page = open_page(width, 900)
    page.get_by_role("tab", name="Upload").click()
    expect(page.locator("#crop")).to_have_count(0)
    page.locator("#samples button.thumbnail-item").nth(3).click()  # the cat, which is wider than high
    expect(page.locator("#fitting")).to_contain_text("cropped to the middle 300 pixels")
    slider = page.locator("#crop input[type=range]")
    expect(slider).to_be_visible()
    box = slider.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width
    before = page.locator("#fitting img").first.get_attribute("src")
    slider.focus()
    page.keyboard.press("End")
    settled(page)
    expect(page.locator("#fitting")).to_contain_text("cropped to the right 300 pixels")
    assert page.locator("#fitting img").first.get_attribute("src") != before
    page.locator("#copy-link").click()
    expect(page.locator("#link input")).to_have_value(re.compile("image=cat&crop=100"))
    page.goto(page.locator("#link input").input_value())
    page.get_by_role("tab", name="Upload").click()
    expect(page.locator("#fitting")).to_contain_text("cropped to the right 300 pixels")
    expect(page.locator("#crop input[type=range]")).to_have_value("100")


def test_a_square_picture_has_nothing_to_move(open_page: Callable[..., Page], tmp_path: Path):
    page = open_page()
    page.get_by_role("tab", name="Upload").click()
    Image.new("RGB", (60, 90), "red").save(tmp_path / "tall.png")
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "tall.png")
    expect(page.locator("#crop")).to_contain_text("top to bottom")
    page.locator("#samples button.thumbnail-item").first.click()
    expect(page.locator("#fitting")).to_contain_text("256 × 256")
    expect(page.locator("#crop input[type=range]")).to_have_count(0)


def test_a_file_over_the_limit_is_told_with_the_way_out_before_it_is_sent(
    open_page: Callable[..., Page], tmp_path: Path
):
    page = open_page()
    sent: list[str] = []
    page.on("request", lambda r: sent.append(r.url) if "/upload" in r.url else None)
    page.get_by_role("tab", name="Upload").click()
    expect(page.locator("#upload")).to_contain_text("at most 25 MB")
    (tmp_path / "large.png").write_bytes(bytes(25_500_000))
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "large.png")
    told = page.get_by_role("alert").filter(has_text="larger than 25 MB")
    expect(told).to_contain_text("Make the picture smaller, for instance 2000 pixels across")
    assert not sent and page.locator(".toast-body").count() == 0
    Image.new("RGB", (60, 60), "red").save(tmp_path / "small.png")
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "small.png")
    expect(page.locator("#fitting")).to_contain_text("60 × 60")
    expect(told).to_have_count(0)
