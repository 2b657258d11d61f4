"""Everybody can use the page: axe's rules, keyboard alone, phone width, reduced motion."""

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import status
from tests.conftest import SAMPLES, Running

pytestmark = [pytest.mark.browser, pytest.mark.slow]
VIEWS = {
    "documents": ("", ".row"),
    "document": ("&document={report}", ".element"),
    "search": ("&q=rain+in+April", ".hit"),
    "gallery": ("&view=gallery", ".card"),
    "empty": ("&view=search", ".empty"),
}


def serious(page: Page) -> list[str]:
    """Rules of WCAG 2 A and AA that are broken, with where."""
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}})
    return [
        f"{v['id']} ({v['impact']}): {n['html'][:160]}"
        for v in found.response["violations"]
        if v["impact"] in {"serious", "critical"}
        for n in v["nodes"]
    ]


def may_push(route: Route) -> None:
    """What a Space says to whoever signed in and allowed it."""
    told = route.fetch().json()
    you = {**told["you"], "kind": "person", "name": "ada", "may_push": True}
    route.fulfill(json={**told, "you": you})


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious(
    open_page: Callable[..., Page], app: Running, shelf: str, width: int, scheme: str
) -> None:
    page = open_page(width, 900, color_scheme=scheme, reduced_motion="reduce")
    page.goto(f"{app.url}/?collection={shelf}")
    expect(page.locator(".row").first).to_be_visible()
    report = page.locator(".row", has_text="report.pdf").get_attribute("data-key")
    broken: dict[str, list[str]] = {}
    for name, (query, there) in VIEWS.items():
        page.goto(f"{app.url}/?collection={shelf}{query.format(report=report)}")
        expect(page.locator(there).first).to_be_visible()
        if name == "documents":
            page.get_by_text("Options").click()
            page.locator("summary", has_text="aved").first.evaluate("e => e.click()")
        broken[name] = serious(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    page.goto(f"{app.url}/?collection={shelf}&view=gallery")
    page.locator(".card").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    broken["dialog"] = serious(page)
    page.keyboard.press("Escape")
    page.route("**/status", may_push)
    page.goto(f"{app.url}/?collection={shelf}")
    expect(page.locator(".who")).to_contain_text("ada")
    expect(page.locator(".head .facts")).to_contain_text("records")
    for name in ("Push to Hugging Face…", "Rename…", "Delete…"):
        page.get_by_label("More for").click()
        page.get_by_role("button", name=name).click()
        expect(page.get_by_role("dialog")).to_be_visible()
        broken[name] = serious(page)
        dialog = page.get_by_role("dialog")
        assert "[object" not in dialog.inner_text(), name
        box = dialog.bounding_box()
        assert box and abs(2 * box["y"] + box["height"] - 900) < 2, name  # in the middle
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        page.keyboard.press("Escape")
    page.get_by_label("More for").click()
    page.get_by_role("button", name="Export as JSON elements").click()
    expect(page.locator(".transfers").get_by_role("link", name="Download").first).to_be_visible()
    broken["transfers"] = serious(page)
    texts = [{"name": n, "mimeType": "text/plain", "buffer": b"x"} for n in ("a.txt", "b.txt")]
    page.locator("#files").set_input_files(texts)  # type: ignore[arg-type]
    expect(page.locator(".note")).to_contain_text("only PDFs are taken")
    broken["note"] = serious(page)
    assert {name: found for name, found in broken.items() if found} == {}
    page.unroute_all(behavior="ignoreErrors")  # one may be under way


def test_the_whole_way_by_keyboard(page: Page, app: Running, collection: str) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    expect(page.locator("#drop")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the documents")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose files").press("Enter")
    chooser.value.set_files(str(SAMPLES / "report.pdf"))
    expect(status(page, "report.pdf")).to_have_text("done", timeout=180_000)
    page.locator(".row-main").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".element").first).to_be_visible()
    page.locator(".cell").first.focus()
    page.keyboard.press("Escape")
    expect(page.locator(".row-main")).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("rain")
    page.keyboard.press("Enter")
    expect(page.locator(".hit").first).to_be_visible()
    page.get_by_label("More for").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Rename…")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_label("More for")).to_be_focused()


def test_the_phone_s_sidebar_opens_and_closes(
    open_page: Callable[..., Page], app: Running, shelf: str, tmp_path: Path
) -> None:
    page = open_page(390, 844)
    page.goto(f"{app.url}/?collection={shelf}")
    expect(page.locator(".row").first).to_be_visible()
    expect(page.locator("#side")).not_to_be_visible()
    page.get_by_role("button", name="Collections").click()
    expect(page.locator("#side").get_by_text("Shelf")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#side")).not_to_be_visible()


def test_the_sidebar_stays_beside_a_long_page(
    open_page: Callable[..., Page], app: Running, collection: str
) -> None:
    page = open_page(height=300)
    page.goto(f"{app.url}/?collection={collection}")
    expect(page.locator("#drop")).to_be_visible()
    page.evaluate("scrollTo(0, 10_000)")
    assert page.evaluate("scrollY") > 50
    assert abs(page.evaluate("document.querySelector('#side').getBoundingClientRect().top")) < 2
