"""The Transferability tab in a browser: measure, look at a subset's pictures, cancel, another ensemble, phone width."""

import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from studio_page import choose_tab

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def open_tab(page: Page, model: str | None = None) -> None:
    choose_tab(page, "Transferability")
    expect(page.locator("#transferability-source")).to_be_visible()
    if model:
        page.locator("#transferability-model input").click()
        page.get_by_role("option", name=model).click()


def count(page: Page, images: int) -> None:
    field = page.locator("#transferability-count input")
    field.fill(str(images))
    field.blur()


def test_measure_and_look_at_the_pictures_of_a_subset(open_page: Callable[..., Page]):
    page = open_page()
    open_tab(page, "Digits, CCE-DM")
    count(page, 30)
    page.locator("#transferability-go").click()
    source = page.locator("#transferability-source")
    expect(source).to_contain_text("Digits, CCE-DM")
    expect(source).to_contain_text("n = 30")
    expect(source).to_contain_text("epsilon 38.25/255")  # the ensemble's own: the button waits for the choice
    page.wait_for_function(  # the flow is drawn after the words
        """() => [...document.querySelectorAll("#flow .node[data-before=''] .share")]
            .reduce((sum, share) => sum + parseInt(share.textContent), 0) === 30"""
    )
    ribbon = page.locator("#flow .ribbon").first
    words = int(re.match(r"\d+", ribbon.get_attribute("aria-label")).group())
    ribbon.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#flow-pictures figure")).to_have_count(min(words, 24))
    expect(page.locator("#flow-pictures")).to_contain_text(f"{words} picture")
    assert ribbon.get_attribute("aria-pressed") == "true"
    said = page.locator("#a-matrix .studio-figure")
    expect(said).to_have_attribute("aria-label", re.compile("clean: f1 .*attack on en: f1"))
    expect(page.locator("#transferability-metrics .value")).to_have_count(3)
    page.locator("#black-box-go").click()
    expect(page.locator("#black-box-source")).to_contain_text("n = 30")
    rows = page.locator("#black-box tbody th")
    expect(rows).to_have_text(["clean", re.compile(r"^1\. CCE"), re.compile(r"^2\. CCE")])
    expect(page.locator("#black-box td.own")).to_have_count(2)


def test_cancel_stops_the_work_and_leaves_what_was_there_and_a_refusal_is_said(open_page: Callable[..., Page]):
    page = open_page()
    open_tab(page, "Digits, CCE-RM")
    count(page, 360)
    page.get_by_role("button", name="More settings").last.click()
    expect(page.locator("#transferability-data")).to_contain_text("Digits")  # the choice has arrived
    source = page.locator("#transferability-source p")
    before = source.inner_text()
    steps = page.locator("#transferability-steps input")
    steps.fill("150")
    steps.blur()
    page.locator("#transferability-go").click()
    line = page.locator("#transferability-progress")
    expect(line.get_by_role("progressbar")).to_be_visible()
    expect(line).to_contain_text(re.compile(r"Attacking: \d+ %"))
    page.locator("#transferability-cancel").click()  # may wait long itself, for a busy browser to draw
    pressed = time.monotonic()
    expect(line).to_contain_text("Cancelled after")
    assert time.monotonic() - pressed < 10  # the work itself stops within a second: see test_transferability_service.py
    assert source.inner_text() == before
    expect(page.locator("#transferability-go")).to_be_enabled()
    expect(page.locator("#transferability-cancel")).to_be_disabled()
    expect(page.locator("#transferability-cancel")).to_have_text("Cancel")

    count(page, 0)
    page.locator("#transferability-go").click()
    expect(page.get_by_text("The number of images is 0; it is a whole number from 1 to 2,000.")).to_be_visible()
    expect(page.locator("#transferability-progress")).to_contain_text("It stopped.")
    expect(page.locator("#transferability-go")).to_be_enabled()


def test_a_page_loaded_anew_in_the_middle_of_the_work_is_ready_for_more_on_a_phone_too(open_page: Callable[..., Page]):
    page = open_page(390, 844)
    open_tab(page, "Digits, CCE-RM")
    count(page, 360)
    page.locator("#transferability-go").click()
    expect(page.locator("#transferability-progress")).to_contain_text("Attacking")
    page.reload()
    page.wait_for_selector("#probabilities .main-svg")
    open_tab(page, "Digits, CCE-DM")
    count(page, 4)
    page.locator("#transferability-go").click()
    expect(page.locator("#transferability-source")).to_contain_text("n = 4")
    expect(page.locator("#flow svg")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
