"""What is in sight without scrolling: the example that the page opens on, and what came of an attack."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from app.services import examples, gallery

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SIZES = [(1366, 900), (390, 844)]
PHOTO = gallery.ASSETS / "cat.jpg"


def in_sight(page: Page, *parts: str) -> None:
    """Each part lies in the window as a whole, and above a bar that is fixed to its bottom."""
    for part in parts:
        found = page.locator(part)
        expect(found).to_be_visible()
        page.wait_for_function(
            """(part) => {
                const node = document.querySelector(part), box = node.getBoundingClientRect();
                const bar = document.querySelector("#attack-bar");
                const fixed = getComputedStyle(bar).position === "fixed" && !bar.contains(node);
                const floor = fixed ? bar.getBoundingClientRect().top : window.innerHeight;
                return box.height > 0 && box.top >= -1 && box.bottom <= floor + 1;
            }""",
            arg=part,
        )


def attack(page: Page) -> None:
    key = page.locator("#pictures [data-key]").get_attribute("data-key")
    page.locator("#attack-go").click()
    expect(page.locator(f"#pictures [data-key]:not([data-key='{key}'])")).to_have_count(1)


def dots(page: Page) -> Locator:
    return page.locator("#subsets .dot.after")


@pytest.mark.parametrize("size", SIZES)
def test_the_page_opens_on_an_attacked_example_with_its_flag(open_page: Callable[..., Page], size: tuple[int, int]):
    page = open_page(*size)
    in_sight(page, "#what-to-see p", "#verdict .studio-told h3", "#verdict .card.caught", "#pictures")
    expect(page.locator("#verdict .card.caught")).to_contain_text("⚑ Flagged")
    expect(page.locator("#pictures img.after")).to_be_visible()
    expect(page.locator("#subsets")).to_contain_text("after it in S01")
    assert "story" not in page.url


@pytest.mark.parametrize("size", SIZES)
def test_after_an_attack_on_an_upload_the_answer_is_in_sight(
    open_page: Callable[..., Page], size: tuple[int, int], tmp_path: Path
):
    page = open_page(*size)
    page.get_by_role("tab", name="Upload").first.click()
    page.locator("#upload input[type=file]").set_input_files(PHOTO)
    expect(page.locator("#verdict .card h3").first).to_have_text("Your picture")
    expect(page.locator("#verdict")).not_to_contain_text("lagged")
    in_sight(page, "#attack-go")
    attack(page)
    in_sight(page, "#verdict", "#pictures", "#subsets", "#attack-go")
    expect(page.locator("#subsets")).to_contain_text("Say on the left what the picture shows")


@pytest.mark.parametrize("size", SIZES)
def test_after_an_attack_on_a_test_picture_table_1_is_in_sight_too(open_page: Callable[..., Page], size):
    page = open_page(*size)
    page.locator("#gallery button.thumbnail-item").nth(1).click()
    expect(page.locator("#verdict")).to_contain_text("Test picture 1,")
    expect(page.locator("#what-to-see")).not_to_contain_text("What to see")
    expect(page.locator("#trajectory")).to_be_hidden()  # nothing to draw yet
    attack(page)
    in_sight(page, "#verdict", "#pictures", "#subsets svg", "#attack-go")
    expect(dots(page)).to_have_count(1)


def test_a_story_sets_the_controls_plays_and_has_a_link(open_page: Callable[..., Page]):
    page = open_page()
    for story in examples.STORIES:
        page.locator(f"#story-{story.id}").click()
        page.wait_for_url(f"**{story.link}")
        expect(page.locator("#what-to-see")).to_contain_text(story.see)
        expect(page.locator("#epsilon input[type=number]")).to_have_value("8")
        expect(page.locator("#replay output")).to_have_text(re.compile("^the result"))
        expect(page.locator("#stale p")).to_be_hidden()
    assert page.locator("#attack-name input").input_value().startswith("Agreeing members")
    linked = open_page(query=examples.STORIES[0].link)
    expect(linked.locator("#what-to-see")).to_contain_text(examples.STORIES[0].see)
    expect(linked.locator("#verdict .studio-told h3")).to_have_text("Not fooled")
    assert "CCE-RM" in linked.locator("#model input").input_value()


def test_surprise_me_attacks_another_picture(open_page: Callable[..., Page]):
    page = open_page()
    expect(page.locator("#verdict")).to_contain_text("Test picture 17,")
    page.locator("#surprise").click()
    expect(page.locator("#verdict")).to_contain_text(re.compile("Test picture (?!17,)"))
    expect(page.locator("#download a.picture")).to_be_visible()


def test_a_control_that_was_moved_marks_the_result_until_it_is_moved_back(open_page: Callable[..., Page]):
    page = open_page()
    stale, epsilon = page.locator("#stale p"), page.locator("#epsilon input[type=number]")
    expect(stale).to_be_hidden()
    for value, shown in (("2", True), ("1", False), ("3", True)):
        epsilon.fill(value)
        epsilon.press("Tab")
        expect(stale).to_be_visible() if shown else expect(stale).to_be_hidden()
    attack(page)
    expect(stale).to_be_hidden()
    expect(page.locator("#verdict")).to_contain_text("epsilon 3/255")


def test_the_arrow_keys_move_pictures_members_entropy_and_table_1_together(open_page: Callable[..., Page]):
    page = open_page()

    def shown() -> list[str]:
        entropy = page.evaluate("document.querySelector('#entropy .studio-figure').data[1].x[0]")
        after = page.locator("#pictures img.after").get_attribute("src")
        return [after, page.locator("#answers").inner_text(), str(entropy), dots(page).get_attribute("cx")]

    page.wait_for_selector("#entropy .main-svg")
    result = shown()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#replay output")).to_have_text("step 19 of 20")
    for _ in range(19):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#replay output")).to_have_text("before the attack")
    page.wait_for_function("document.querySelector('#entropy .studio-figure').data[1].x[0] < 1")
    assert all(now != then for now, then in zip(shown(), result, strict=True))
    epsilon = page.locator("#epsilon input[type=number]")
    epsilon.focus()
    page.keyboard.press("ArrowRight")  # it is the field's
    expect(page.locator("#replay output")).to_have_text("before the attack")


def test_before_is_wiped_over_after_and_both_are_shown_large_and_sharp(open_page: Callable[..., Page]):
    page = open_page()
    wipe = page.locator("#pictures .studio-wipe input")
    wipe.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.locator("#pictures .studio-wipe").evaluate("node => node.style.getPropertyValue('--wipe')") == "3%"
    page.get_by_role("button", name="Show before and after large").click()
    large = page.locator("dialog.studio-zoom img")
    expect(large).to_be_visible()
    assert large.evaluate("node => getComputedStyle(node).imageRendering") == "pixelated"
    assert large.evaluate("node => node.getBoundingClientRect().width") > 400
    page.keyboard.press("Escape")
    expect(page.locator("dialog.studio-zoom")).to_have_count(0)


def test_the_focus_stays_on_attack_and_thumbnails_have_names(open_page: Callable[..., Page]):
    page = open_page()
    expect(page.get_by_role("button", name="cat, 1 of 20")).to_be_visible()
    page.locator("#attack-go").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#attack-progress")).to_contain_text("Done in")
    page.wait_for_function("document.activeElement?.id === 'attack-go'")


def test_a_figure_is_saved_as_svg_png_and_its_numbers_as_csv(open_page: Callable[..., Page], tmp_path: Path):
    page = open_page()
    page.locator("#probabilities").hover()
    starts = {"SVG": b"<svg", "PNG": b"\x89PNG", "CSV": b"trace,x,y,z,label\n"}
    for kind, start in starts.items():
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save as {kind}: probabilities").click()
        assert download.value.suggested_filename == f"probabilities.{kind.lower()}"
        download.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().startswith(start)
    rows = (tmp_path / "CSV").read_text().splitlines()
    assert len(rows) == 1 + 6 * 10 and any(row.startswith("f1,0.4") and row.endswith(",cat") for row in rows)


def test_the_preview_of_a_link_has_the_studio_s_name(open_page: Callable[..., Page]):
    page = open_page()
    for meta in ("og:title", "twitter:title"):
        tag = page.locator(f"meta[property='{meta}'], meta[name='{meta}']").first
        assert tag.get_attribute("content") == "CCE Studio"
    assert page.locator("meta[property='og:image']").count() == 0


def test_the_attacks_of_a_visit_are_kept_brought_back_and_saved(open_page: Callable[..., Page], tmp_path: Path):
    page = open_page()
    attack(page)
    first = page.locator("#answers").inner_text()
    page.get_by_role("tab", name="Upload").first.click()
    page.locator("#upload input[type=file]").set_input_files(PHOTO)
    expect(page.locator("#verdict .card h3").first).to_have_text("Your picture")
    attack(page)
    mine = page.locator("#answers").inner_text()
    pressed = page.locator("#history [data-past]")
    expect(pressed).to_have_count(2)
    pressed.nth(1).click()
    expect(page.locator("#verdict")).to_contain_text("Test picture 17,")
    expect(pressed).to_have_count(3)  # made anew
    assert page.locator("#answers").inner_text() == first
    pressed.nth(1).click()
    expect(page.locator("#verdict")).to_contain_text("Your picture,")
    expect(pressed).to_have_count(4)
    assert page.locator("#answers").inner_text() == mine
    with page.expect_download() as download:
        page.locator("#history a", has_text="JSON").click()
    download.value.save_as(tmp_path / "attacks.json")
    saved = json.loads((tmp_path / "attacks.json").read_text())
    assert [one["picture"] for one in saved] == ["your picture", "test:17"] * 2
    assert saved[1]["subset"] == "S01" and saved[1]["verdict"] == "Fooled, but noticed"
