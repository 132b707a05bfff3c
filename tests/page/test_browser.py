"""The report in a real browser: chromium, headless, driven by Playwright. Skipped where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from decompose_cli.page.report import SECTIONS, report
from tests.helpers.visits import SIZES, Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WriteResults = Callable[..., Path]


@pytest.fixture
def whole_page(whole: Path) -> Path:
    """A report with every section."""
    return whole / "report.html"


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")])
def test_every_section_is_there_and_fits(browser: Browser, whole_page: Path, size: str, scheme: Any) -> None:
    visit = Visit(browser, whole_page, SIZES[size], color_scheme=scheme)
    page = visit.page
    titles = page.locator("main > section h2").all_inner_texts()
    assert len(titles) == len(SECTIONS)
    assert page.locator("nav a").all_inner_texts() == titles
    assert all(section.is_visible() for section in page.locator("main > section").all())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
    charts = page.locator(".chart").count()
    assert page.locator(".chart svg").count() == 2 * charts > 0, "each for a screen and for a phone"
    for selector in ("body", ".lead", "figcaption", "nav a", ".figures .value", ".figures dt", ".grid td.more", "th"):
        assert contrast(page, selector) >= 4.5, selector
    for number in range(6):
        assert contrast(page, "body", f"--series-{number}") >= 3, number
    visit.check()


_CONTRAST = """([selector, variable]) => {
  const element = document.querySelector(selector), style = getComputedStyle(element);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const lightness = (colour) => {
    for (const layer of [getComputedStyle(document.body).backgroundColor, colour]) { // some let the page through
      canvas.fillStyle = layer;
      canvas.fillRect(0, 0, 1, 1);
    }
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((byte) => {
      const value = byte / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let ground = element;
  while (ground.parentElement && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") {
    ground = ground.parentElement;
  }
  const [low, high] = [
    lightness(variable ? style.getPropertyValue(variable) : style.color),
    lightness(getComputedStyle(ground).backgroundColor),
  ].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


def contrast(page: Page, selector: str, variable: str | None = None) -> float:
    """Of a text, or a colour of curves, with what it stands on, as WCAG 2 defines it."""
    return float(page.evaluate(_CONTRAST, [selector, variable]))


def test_tables_are_sorted_by_mouse_and_keyboard(browser: Browser, whole_page: Path) -> None:
    visit = Visit(browser, whole_page)
    page = visit.page
    table = page.locator("#accuracy table", has_text="Change, points").first
    heading = table.locator("thead th", has_text="Decomposed %")

    def column() -> list[str]:
        return table.locator("tbody td:nth-child(6)").all_inner_texts()

    before = column()
    assert before[:4] == ["80.00", "80.00", "80.00", "100.00"]
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(before, key=float)
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert column() == sorted(before, key=float, reverse=True)
    name = table.locator("thead th").first
    name.locator("button").press("Space")
    assert heading.get_attribute("aria-sort") is None
    assert table.locator("tbody th").all_inner_texts() == [f"class {number}" for number in range(10)]
    visit.check()


def test_an_atlas_is_searched_and_sorted(browser: Browser, whole_page: Path) -> None:
    visit = Visit(browser, whole_page)
    page = visit.page
    rows, status = page.locator(".atlas tbody tr"), page.locator(".atlas [aria-live=polite]")
    field = page.get_by_label("Search filters by name, number or class")

    def shown() -> list[str]:
        return [row.locator("th").inner_text() for row in rows.all() if row.is_visible()]

    assert shown() == ["feature 3", "feature 30"]
    for wanted, expected in (("3", ["feature 3"]), ("feat 30", ["feature 30"]), ("CLASS 0", ["feature 3"]), ("x", [])):
        field.fill(wanted)
        assert shown() == expected, wanted
        assert status.inner_text() == f"{len(expected)} of 2 filters shown"
    field.fill("")
    for _ in range(2):
        page.locator(".atlas thead button", has_text="Filter").click()
    assert shown() == ["feature 30", "feature 3"]
    visit.check()


@pytest.mark.parametrize("size", SIZES)
def test_an_atlas_is_whole_without_scripts(browser: Browser, whole_page: Path, size: str) -> None:
    visit = Visit(browser, whole_page, SIZES[size], java_script_enabled=False)
    page = visit.page
    assert page.locator(".atlas tbody tr:visible").count() == 2
    assert page.locator(".atlas input").count() == 0
    sizes = [float(text) for text in page.locator(".atlas td span, .atlas th").evaluate_all(_FONT_SIZES)]
    assert min(sizes) >= 12
    visit.check()


_FONT_SIZES = "found => found.map((one) => parseFloat(getComputedStyle(one).fontSize))"


def test_what_is_missing_stays_below(browser: Browser, whole_page: Path) -> None:
    visit = Visit(browser, whole_page)
    table = visit.page.locator("#by-k table", has_text="Features of all classes").last
    for _ in range(2):  # the row without a value comes first
        table.locator("thead button").first.click()
    assert table.locator("tbody td:nth-child(2)").all_inner_texts() == ["\N{EN DASH}", "2"]
    for _ in range(2):
        table.locator("thead button").nth(1).click()
        assert table.locator("tbody td:nth-child(2)").all_inner_texts() == ["2", "\N{EN DASH}"]
    visit.check()


def test_points_and_cells_say_what_they_are(browser: Browser, whole_page: Path) -> None:
    visit = Visit(browser, whole_page)
    page, tip = visit.page, visit.page.locator("#tip")
    assert tip.is_hidden()
    page.locator("#by-k .chart .told use").first.hover()
    assert tip.inner_text() == "frequency, k = 1: -6.00 points, 90.00% (80.00 to 95.00)"
    cell = page.locator("#confusion .grid td.more").nth(1)
    cell.hover()
    page.wait_for_timeout(100)  # until the page has been scrolled to it, which takes away what was said
    cell.hover(position={"x": 4, "y": 4})
    assert tip.is_visible()
    assert "class 2 taken for class 3: 1" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.locator("#essentiality .chart .wide .told[data-tip*='class 0: +']").hover()
    assert "this network, class 0: +40.00 points (20.00 to 60.00); random sets -3.00" in tip.inner_text()
    visit.check()


def test_charts_are_drawn_for_a_phone_and_their_texts_can_be_read(browser: Browser, whole_page: Path) -> None:
    small = """[...document.querySelectorAll("svg text")].filter((text) => {
      const { a, b } = text.getScreenCTM() ?? {}, box = text.getBoundingClientRect();
      return box.width && Math.hypot(a, b) * parseFloat(getComputedStyle(text).fontSize) < 12;
    }).map((text) => text.textContent)"""
    for size, shown in (("desktop", "wide"), ("phone", "narrow")):
        visit = Visit(browser, whole_page, SIZES[size])
        charts = visit.page.locator(f".chart > .{shown}")
        assert charts.count() == visit.page.locator(".chart > div:visible").count()
        assert visit.page.evaluate(small) == []
        charts.first.locator(".told use").first.hover()
        assert visit.page.locator("#tip").inner_text()
        visit.check()


def test_a_finger_gets_answers_too(browser: Browser, write_results: WriteResults, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    report([write_results([f"n{number}" for number in range(30)], only=("validate",))], output=path)
    visit = Visit(browser, path, SIZES["phone"], has_touch=True)
    visit.page.locator("#confusion .section details summary").first.tap()
    visit.page.locator("#confusion .raster img").first.tap(position={"x": 2, "y": 2})
    assert visit.page.locator("#tip").inner_text().startswith("n0, n0: ")
    visit.check()


def test_the_keyboard_reaches_what_scrolls_and_what_folds(browser: Browser, whole_page: Path) -> None:
    visit = Visit(browser, whole_page)
    page = visit.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#content"
    fold = page.locator("#by-k .section details").first
    fold.locator("summary").first.press("Enter")
    assert fold.locator("table").is_visible()
    unreachable = (
        "[...document.querySelectorAll('.scroll')].filter((region) => region.tabIndex !== 0 || !region.ariaLabel)"
    )
    assert page.evaluate(f"{unreachable}.length") == 0
    visit.check()


def test_on_paper_nothing_is_folded(browser: Browser, whole_page: Path) -> None:
    visit = Visit(browser, whole_page, is_folded=True)
    before = visit.page.locator("details[open]").count()
    visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert visit.page.locator("details:not([open])").count() == 0
    visit.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert visit.page.locator("details[open]").count() == before
    visit.page.emulate_media(media="print", color_scheme="dark")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert visit.page.locator("nav").is_hidden()
    visit.check()


def test_the_page_is_whole_without_scripts(browser: Browser, whole_page: Path) -> None:
    visit = Visit(browser, whole_page, java_script_enabled=False)
    assert visit.page.locator("main > section").count() == len(SECTIONS)
    assert visit.page.locator("#accuracy table, #accuracy svg").first.is_visible()
    visit.check()


def test_hostile_names_do_nothing(browser: Browser, write_results: WriteResults, tmp_path: Path) -> None:
    names = [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "'-alert(1)-'",
        "</svg><svg onload=alert(1)>",
    ]
    names += [f"n{number}" for number in range(30)]
    path = tmp_path / "hostile.html"
    report([write_results(names)], output=path)
    visit = Visit(browser, path)
    visit.page.locator("#confusion .section details summary").first.click()
    visit.page.locator("#confusion .raster img").first.hover()
    visit.page.wait_for_timeout(50)
    assert names[0] in visit.page.locator("body").inner_text()
    visit.check()


def test_a_thousand_classes_are_painted_soon_and_say_what_they_are(browser: Browser, large: Path) -> None:
    names = json.loads((large / "found/validate.json").read_text(encoding="utf-8"))["dataset"]["classes"]
    visit = Visit(browser, large / "report.html")
    painted = visit.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted < 2000
    visit.page.locator("#confusion .section details summary").first.click()
    image = visit.page.locator("#confusion .raster img").nth(1)  # that of the full head
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    assert box is not None
    # The second cell of the first row: the one image that the full head gets wrong.
    visit.page.mouse.move(box["x"] + 1.5 * box["width"] / 1000, box["y"] + 0.5 * box["height"] / 1000)
    assert visit.page.locator("#tip").inner_text() == f"{names[0]}, {names[1]}: 1 images"
    # A cell of the diagonal is as dark as the largest error, and says what it is.
    visit.page.mouse.move(box["x"] + 4.5 * box["width"] / 1000, box["y"] + 4.5 * box["height"] / 1000)
    assert visit.page.locator("#tip").inner_text() == f"{names[4]}, {names[4]}: 5 images"
    table = visit.page.locator("#accuracy details table").last
    visit.page.locator("#accuracy details summary").last.click()
    table.locator("thead button").nth(1).click()
    assert table.locator("tbody tr").count() == 1000
    assert table.locator("tbody td:nth-child(2)").first.inner_text() == "-20.00"
    visit.check()


def test_the_folded_page_is_short_and_its_first_answer_is_in_sight(browser: Browser, whole_page: Path) -> None:
    visit = Visit(browser, whole_page, is_folded=True)
    assert visit.page.evaluate("document.documentElement.scrollHeight") <= 5000
    box = visit.page.locator(".verdict dd").first.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < SIZES["desktop"][1]
    visit.check()


def test_links_open_what_is_folded_and_all_can_be_opened(browser: Browser, whole_page: Path) -> None:
    visit = Visit(browser, whole_page, is_folded=True)
    page = visit.page
    assert page.locator("#glance p").first.is_visible()
    assert page.locator("#provenance .lead").is_hidden()
    page.locator("nav a", has_text="Provenance").click()
    assert page.locator("#provenance .lead").is_visible()
    page.goto(f"{visit.own}#overlap")
    page.reload()
    assert page.locator("#overlap .lead").is_visible()
    page.goto(f"{visit.own}#%")  # no address that can be decoded
    page.reload()
    everything = page.locator("#fold-all")
    everything.click()
    assert page.locator("details.section:not([open])").count() == 0
    everything.get_by_text("Fold all sections").wait_for()
    everything.click()
    assert page.locator("details.section[open]").count() == 0
    visit.context.close()
