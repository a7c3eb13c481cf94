"""How a browser test finds its way on the Studio's page."""

from playwright.sync_api import Locator, Page

WAIT = 120_000  # milliseconds; a loaded machine is slow, not wrong


def choose_tab(page: Page, name: str) -> None:
    """Open a tab; on a narrow page the last ones are in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True).first
    if not tab.is_visible():
        page.get_by_role("button", name="More tabs").first.click()
        tab = page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True)
    tab.click()


def put(field: Locator, text: str) -> None:
    """Type a value and see that it stays: a part that was just unfolded may be drawn once more."""
    for _ in range(20):
        field.fill(text)
        field.page.wait_for_timeout(250)
        if field.input_value() == text:
            return
    raise AssertionError(f"the field holds {field.input_value()!r} instead of {text!r}")


def choose_model(page: Page, where: str, title: str) -> None:
    """Choose another ensemble in a tab's list, and wait until nothing of that choice is under way.

    What acts on a choice goes on after twenty seconds even where one was forgotten; here none may be.
    """
    page.locator(f"{where} input").click()
    page.get_by_role("option", name=title).first.click()
    page.wait_for_timeout(100)  # the page's loop: the choice has been told
    page.wait_for_function("() => window.cceStudio.held() === 0")
