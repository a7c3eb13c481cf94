"""The Detection tab in a browser: a picture is judged, many are measured, the threshold is dragged, Cancel frees."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from studio_page import choose_model, choose_tab

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def on_digits(page: Page) -> None:
    choose_tab(page, "Detection")
    expect(page.locator("#detection-verdict .card").first).to_be_visible()
    choose_model(page, "#detection-model", "Digits, CCE-DM")
    expect(page.locator("#detection-verdict")).to_contain_text("true class 0")


def test_judge_measure_drag_the_threshold_and_cancel(open_page: Callable[..., Page]):
    page = open_page()
    on_digits(page)
    page.locator("#detection-change").get_by_label("Benign change").check()
    expect(page.locator("#detection-verdict")).to_contain_text("Nobody attacked.")
    expect(page.locator("#detection-evidence")).to_contain_text("clean test pictures")

    page.locator("#detection-count input").fill("30")
    page.locator("#detection-aware input").fill("2")
    page.locator("#detection-go").click()
    expect(page.locator("#detection-source")).to_contain_text("Measured here on the first 30 Digits test pictures")
    expect(page.locator("#detection-board .main-svg").first).to_be_visible()
    rates = page.locator("#detection-board .rate")
    expect(rates).to_have_count(4)
    expect(rates.nth(2)).to_contain_text("Detector-aware")

    handle, words = page.locator(".studio-threshold"), page.locator(".threshold-words")
    expect(words).to_contain_text("the model's own threshold")
    page.mouse.move(0, 0)
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, max(60, box["y"] + 30)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(page.locator("#detection-board").bounding_box()["x"] + 60, y, steps=4)
    page.mouse.up()
    expect(words).to_contain_text("dragged here")
    assert float(rates.first.locator("[data-rate=flagged]").inner_text().split()[0]) > 20
    page.locator(".threshold-reset").click()
    expect(words).to_contain_text("the model's own threshold")
    handle.focus()
    handle.press("End")
    expect(rates.nth(1).locator("[data-rate=flagged]")).to_have_text("0.0 %")

    curve = page.locator("#curve-table")
    expect(page.locator("#detector-curves .main-svg").first).to_be_visible()
    expect(curve).to_contain_text("flagged: JPEG")
    page.locator("#curve-rate input[type=number]").fill("50")
    page.locator("#curve-rate input[type=number]").press("Enter")
    expect(curve).to_contain_text("Where at most 50.0 % of clean pictures are flagged")

    page.reload()
    page.wait_for_selector("#probabilities .main-svg")
    on_digits(page)
    expect(page.locator("#detection-source")).to_contain_text("Measured here on the first 30")

    page.locator("#detection-count input").fill("360")
    page.locator("#detection-aware input").fill("200")
    page.locator("#detection-go").click()
    expect(page.locator("#detection-progress [role=progressbar]")).to_be_visible()
    page.locator("#detection-cancel").click()
    expect(page.locator("#detection-progress")).to_contain_text("Cancelled after")
    expect(page.locator("#detection-go")).to_be_enabled()
    expect(page.locator("#detection-source")).to_contain_text("Measured here on the first 30")  # what was there stays


@pytest.mark.parametrize("width", [390, 1366])
def test_the_first_seconds_are_not_blank_and_nothing_jumps(open_page: Callable[..., Page], width: int):
    """While the server is held up, every figure's place is there and says what it waits for."""
    page = open_page(width=width, height=844)
    page.route("**/queue/join**", lambda route: None)  # never answered
    choose_tab(page, "Detection")
    expect(page.locator("#detection-pictures")).to_contain_text("Working it out")
    figures = ("board", "roc", "auc")
    waiting = page.locator(", ".join(f"#detection-{name} .studio-figure" for name in figures))
    expect(waiting).to_have_count(3)
    said = "(nodes) => nodes.map((node) => getComputedStyle(node, '::before').content)"
    assert waiting.evaluate_all(said) == ['"Working it out …"'] * 3
    early = page.evaluate("document.documentElement.scrollHeight")
    page = open_page(width=width, height=844, color_scheme="dark" if width == 390 else "light")
    choose_tab(page, "Detection")
    expect(page.locator("#detection-verdict .card").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.locator("#detection-auc .main-svg").first).to_be_visible()
    assert abs(page.evaluate("document.documentElement.scrollHeight") / early - 1) < 0.12
