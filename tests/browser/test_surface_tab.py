"""The Loss surface tab in a browser: drawn on the first visit, one camera for all views, a phone's width."""

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from playwright.sync_api import Page, expect

from studio_page import choose_tab

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FIGURE = "#surface-views .studio-figure"
CAMERAS = """() => {
    const layout = document.querySelector("#surface-views .studio-figure")._fullLayout;
    return ["scene", "scene2", "scene3"].map((name) => JSON.stringify(layout[name]._scene.getCamera().eye));
}"""


def open_tab(page: Page) -> None:
    choose_tab(page, "Loss surface")
    expect(page.locator(f"{FIGURE} .main-svg").first).to_be_visible()


def test_dragging_one_view_turns_all_and_the_camera_outlives_another_attack(open_page: Callable[..., Page]):
    page = open_page()
    open_tab(page)
    figure = page.locator(FIGURE)
    assert "nats" in figure.get_attribute("aria-label")
    figure.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    before = page.evaluate(CAMERAS)
    assert len(set(before)) == 1
    scene = page.locator(f"{FIGURE} #scene").bounding_box()
    x, y = scene["x"] + scene["width"] / 2, scene["y"] + scene["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y + 30, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1000)
    after = [json.loads(eye) for eye in page.evaluate(CAMERAS)]
    assert abs(after[0]["x"] - json.loads(before[0])["x"]) > 0.05
    for eye in after[1:]:
        assert eye == pytest.approx(after[0], abs=1e-3)

    page.locator("#surface-resolution").get_by_label("21 × 21").check()
    page.locator("#surface-attack").get_by_label("None").check()
    expect(page.locator("#surface-subject")).to_contain_text("The picture itself.")
    page.wait_for_timeout(1000)
    assert json.loads(page.evaluate(CAMERAS)[0]) == pytest.approx(after[0], abs=1e-3)


def test_a_phone_in_the_dark_scrolls_only_down(open_page: Callable[..., Page]):
    page = open_page(width=390, height=844, color_scheme="dark")
    open_tab(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    words = """() => Array.from(document.querySelectorAll("#surface-pictures h3"), (heading) => {
        const range = document.createRange();
        range.selectNodeContents(heading);
        const {left, right} = range.getBoundingClientRect();
        return [left, right];
    })"""
    page.wait_for_function("document.querySelector('#surface-pictures .between-factor')")
    placed = page.evaluate(words)
    assert len(placed) == 3 and all(a[1] < b[0] for a, b in pairwise(placed)), "one heading stands on another"
