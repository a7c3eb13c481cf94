"""The Paper tab in a browser: Eq. 5 moves with its sliders as the library computes it, and the tables are read."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from app.services.method import push
from cce.config import CCE_DM, CCE_RM
from studio_page import choose_tab

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def open_tab(page: Page) -> None:
    choose_tab(page, "Paper")
    expect(page.locator("#method")).to_be_visible()


def part(page: Page, name: str) -> str:
    return page.locator(f"#method [data-part={name}]").inner_text().replace("−", "-")


def test_the_method_moves_as_the_library_computes_it_and_the_tables_lead_to_the_figures(open_page: Callable[..., Page]):
    page = open_page()
    open_tab(page)
    for defense in (CCE_RM, CCE_DM):
        page.get_by_role("radio", name=defense.name).check()
        for f_y, share in ((0.05, 0.8), (0.5, 0.8), (0.9, 0.3), (0.3, 1.0)):
            for name, value in (("fy", f_y), ("share", share)):
                page.locator(f"#method [data-part={name}]").evaluate(
                    "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })); }", str(value)
                )
            wanted = push(f_y, defense, share) if share < 1 else push(f_y, defense, 1 - 1e-9)
            for name, number in (
                ("C", wanted.cross_entropy),
                ("H", wanted.entropy),
                ("promoting", wanted.promoting),
                ("demoting", wanted.demoting),
                ("total", wanted.total),
                ("descent", wanted.descent[0]),
            ):
                assert float(part(page, name)) == pytest.approx(number, abs=6e-4), (defense.name, f_y, share, name)
            raises = "raises f_y" if wanted.descent[0] > 0 else "lowers f_y"
            assert raises in part(page, "verdict")

    # The slider moves with the keyboard, and without a button.
    slider = page.get_by_role("slider", name=re.compile("probability of the true class"))
    before = part(page, "w-words")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert part(page, "w-words") != before and part(page, "fy-value") == "0.31"

    page.get_by_role("tab", name="Tables", exact=True).click()
    table3 = page.locator("#paper-table3")
    expect(table3).to_contain_text("45.8")
    expect(table3).to_contain_text("measured at release")
    expect(table3).to_contain_text("no checkpoint")
    expect(page.locator("#tables .studio-paper")).to_have_count(14)
    page.get_by_role("tab", name="Figures", exact=True).click()
    expect(page.locator("#detection-figures")).to_contain_text("wrong and unflagged")
    for number in range(1, 9):
        expect(page.locator(f"#figure{number}-drawing-0 .main-svg").first).to_be_visible()
    page.locator("#figure3-foot").get_by_role("button", name="Open the Detection tab").click()
    expect(page.get_by_role("tab", name="Detection")).to_have_attribute("aria-selected", "true")


def test_nothing_is_wider_than_a_phone(open_page: Callable[..., Page]):
    page = open_page(390, 844, "dark")
    open_tab(page)
    for name in ("Method", "Tables", "Figures"):
        page.get_by_role("tab", name=name, exact=True).click()
        if name == "Tables":
            expect(page.locator("#paper-table3")).to_be_visible()
        page.wait_for_timeout(500)  # fonts and the row of tabs settle
        wide = "() => [...document.querySelectorAll('body *')].filter(x => !x.closest('.studio-scroll, svg')"
        wide += " && x.getBoundingClientRect().right > innerWidth + 1)"
        wide += ".map(x => `${x.tagName}#${x.id}.${x.className}`).slice(-6)"
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, (name, page.evaluate(wide))
