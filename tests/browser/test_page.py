"""The page in a real browser: Debian's Chromium, driven by Playwright."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import SAMPLES, Running

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
HOSTILE = "${Object.assign(window,{__e:1})} <img src=x onerror=window.__e=2>.pdf"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    made = context.new_page()
    made.set_default_timeout(20_000)
    problems: list[str] = []
    made.on("pageerror", lambda problem: problems.append(str(problem)))
    yield made
    context.close()
    assert problems == []


def add(page: Page, app: Running, *files: Path) -> None:
    page.goto(app.url)
    page.locator("#files input[type=file]").set_input_files([str(f) for f in files])
    for file in files:
        expect(page.locator("#files")).to_contain_text(file.stem[:6])
    page.locator("#submit").click()


def test_upload_progress_reload_search_and_place(page: Page, app: Running) -> None:
    add(page, app, SAMPLES / "report.pdf", SAMPLES / "two-columns.pdf")
    card = page.locator(".job", has_text="report.pdf").first
    expect(card.locator("[data-part=status]")).to_have_text("succeeded", timeout=60_000)
    page.reload()
    page.get_by_role("tab", name="Jobs").click()
    expect(page.locator(".job", has_text="report.pdf").first).to_be_visible()

    page.get_by_role("tab", name="Search").click()
    page.locator("#query textarea, #query input").first.fill("how much rain fell in April")
    page.keyboard.press("Enter")
    hit = page.locator(".hit").first
    expect(hit).to_contain_text("report.pdf")
    hit.focus()
    page.keyboard.press("Enter")
    picture = page.locator("#preview .sheet img")
    expect(picture).to_be_visible()
    page.wait_for_function("document.querySelector('#preview .sheet img').naturalWidth > 400")
    mark = page.locator("#preview .mark").first
    expect(mark).to_be_visible()
    sheet, box = page.locator("#preview .sheet").bounding_box(), mark.bounding_box()
    assert sheet and box
    assert sheet["y"] <= box["y"] <= sheet["y"] + sheet["height"] / 3

    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator(".card").first).to_be_visible()
    page.get_by_role("tab", name="Sources").click()
    expect(page.locator("#sources")).to_contain_text("report.pdf")


def test_a_second_browser_finds_the_job_by_its_link(
    browser: Browser, page: Page, app: Running, make_pdf: Callable[..., Path]
) -> None:
    add(page, app, make_pdf("second-browser.pdf", pages=30))
    card = page.locator(".job", has_text="second-browser.pdf").first
    expect(card).to_be_visible()
    link = card.locator("a").get_attribute("href")
    other = browser.new_context().new_page()
    other.goto(f"{app.url}/{link}")
    same = other.locator(".job[data-open]")
    expect(same).to_contain_text("second-browser.pdf")
    expect(same.locator("[data-part=status]")).to_have_text("succeeded", timeout=60_000)
    other.context.close()


def test_a_hostile_name_is_only_text(
    page: Page, app: Running, make_pdf: Callable[..., Path]
) -> None:
    plain = make_pdf("hostile.pdf", pages=5)
    page.goto(app.url)
    payload = {"name": HOSTILE, "mimeType": "application/pdf", "buffer": plain.read_bytes()}
    page.locator("#files input[type=file]").set_input_files([payload])  # type: ignore[list-item]
    expect(page.locator("#files")).to_contain_text("Object")
    page.locator("#submit").click()
    card = page.locator(".job", has_text="Object").first
    expect(card.locator("[data-part=status]")).to_have_text("succeeded", timeout=60_000)
    page.get_by_role("tab", name="Sources").click()
    expect(page.locator("#sources")).to_contain_text("Object")
    assert page.evaluate("window.__e") is None
    assert page.locator("img[src=x]").count() == 0


def test_empty_states_teach_and_the_phone_has_no_overflow(browser: Browser, app: Running) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    page.goto(app.url)
    page.get_by_role("tab", name="Search").click()
    expect(page.locator("#results")).to_contain_text("Ask your documents")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
    context.close()
