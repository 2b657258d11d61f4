"""Questions, hits with their place, and the gallery, in the browser."""

import csv
import html
import io
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import drawn
from tests.conftest import Running

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_question_by_keyboard_shows_the_marked_place(
    page: Page, app: Running, shelf: str
) -> None:
    page.goto(f"{app.url}/?collection={shelf}")
    expect(page.locator(".row").first).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("how much rain fell in April")
    page.keyboard.press("Enter")
    first = page.locator(".hit").first
    expect(first).to_contain_text("report.pdf")
    expect(first.locator(".score")).to_contain_text(re.compile(r"#\d+ by meaning"))
    expect(first.locator(".thumb .place").first).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".hit").nth(1)).to_be_focused()
    page.keyboard.press("ArrowUp")
    assert drawn(page.locator("#preview .sheet img")) > 400
    mark, sheet = page.locator("#preview .place").first, page.locator("#preview .sheet")
    inner, outer = mark.bounding_box(), sheet.bounding_box()
    assert inner and outer
    assert outer["y"] <= inner["y"] <= outer["y"] + outer["height"] / 3
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#query")).to_be_focused()
    page.get_by_role("button", name="Open the document").click()
    expect(page.locator(".doc-name")).to_contain_text("report.pdf")


def test_filters_and_modes_are_in_the_address(page: Page, app: Running, shelf: str) -> None:
    page.goto(f"{app.url}/?collection={shelf}&q=rain")
    page.get_by_role("button", name="Tables", exact=True).click()
    expect(page.locator(".hit .table").first).to_be_visible()
    page.get_by_role("button", name="Words", exact=True).click()
    expect(page.locator(".hit .score").first).not_to_contain_text("meaning")
    assert "mode=keyword" in page.url
    assert "kind=Table" in page.url
    page.reload()
    expect(page.locator(".hit mark").first).to_have_text(re.compile("rain", re.I))
    expect(page.get_by_role("button", name="Tables", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.go_back()
    page.goto(f"{app.url}/?collection={shelf}&q=θάλασσα&mode=keyword")
    expect(page.locator(".hit").first).to_contain_text("greek.pdf")


def test_questions_that_cannot_be_asked_say_so(page: Page, app: Running, shelf: str) -> None:
    page.goto(f"{app.url}/?collection={shelf}&view=search")
    expect(page.locator("#preview")).to_contain_text("Ask in your own words")
    page.locator("#query").fill("x" * 9_000)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("2000 at most")
    page.locator("#query").fill("   ")
    page.keyboard.press("Enter")
    expect(page.locator("#preview")).to_contain_text("Ask in your own words")
    page.locator("#query").fill("zzyzx")
    page.get_by_role("button", name="Words", exact=True).click()
    page.locator("#query").press("Enter")
    expect(page.locator("#preview")).to_contain_text("Nothing found")


def test_the_gallery_gives_a_table_as_csv_text_and_picture(
    open_page: Callable[..., Page], app: Running, shelf: str
) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"], accept_downloads=True)
    page.goto(f"{app.url}/?collection={shelf}&view=gallery")
    page.get_by_role("button", name="Tables").last.click()
    page.locator(".card", has_text="report.pdf").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("td, th", has_text="April").first).to_be_visible()
    with page.expect_download() as saved:
        dialog.get_by_role("button", name="CSV").click()
    lines = saved.value.path().read_text(encoding="utf-8-sig").splitlines()
    assert any(line.startswith('"April"') for line in lines)
    with page.expect_download() as picture:
        dialog.get_by_role("button", name="PNG").click()
    assert picture.value.path().read_bytes()[:4] == b"\x89PNG"
    dialog.get_by_role("button", name="Copy").click()
    expect(page.locator(".note")).to_have_text("Copied.")
    assert "April\t" in page.evaluate("navigator.clipboard.readText()")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


FORMULAS = (
    "=1+1", "+1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)", "\uff1d1+1", "-1+1%", "--1", "-1;=2",
)  # fmt: skip
NUMBERS = ("-2.5", "+3", "-1,234.50", "-5 %", "12", "1.5e3", "April", "2020-2021", "a=b", "-", "")


def test_no_cell_of_a_table_is_a_formula_in_a_spreadsheet(
    open_page: Callable[..., Page], app: Running
) -> None:
    """Opened as CSV or pasted as text: a cell stays one cell, and what would run begins with a quote."""
    page = open_page()
    page.goto(app.url)
    cells = "".join(f"<tr><td>{html.escape(c)}</td></tr>" for c in (*FORMULAS, *NUMBERS))
    written = f"<table>{cells}<tr><td>a\t=1+1\n=2+2</td></tr></table>"
    asked = "async ([name, html]) => (await import('/page/0/dom.js'))[name](html)"
    comma = csv.reader(io.StringIO(page.evaluate(asked, ["csv", written]).removeprefix("\ufeff")))
    wanted = [*(f"'{f}" for f in FORMULAS), *NUMBERS]
    assert [row[0] for row in comma][:-1] == wanted
    assert page.evaluate(asked, ["tsv", written]).split("\n") == [*wanted, "a =1+1 =2+2"]
