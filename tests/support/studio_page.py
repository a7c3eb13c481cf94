"""How a browser test finds its way on the Studio's page."""

from playwright.sync_api import Page

WAIT = 120_000  # milliseconds; a loaded machine is slow, not wrong


def choose_tab(page: Page, name: str) -> None:
    """Open a tab; on a narrow page the last ones are in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True).first
    if not tab.is_visible():
        page.get_by_role("button", name="More tabs").first.click()
        tab = page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True)
    tab.click()
