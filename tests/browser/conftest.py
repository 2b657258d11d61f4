"""Debian's Chromium, driven by Playwright; a page that fails its test on any error of a script, and on
anything that its policy had to stop."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from quire_client import Quire
from tests.conftest import SAMPLES, Running

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page in a browser context of its own, as another device would."""
    problems: list[str] = []
    contexts = []

    def make(width: int = 1280, height: int = 900, **options: object) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            **options,  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda problem: problems.append(str(problem)))
        page.on(
            "console",
            lambda told: problems.append(told.text) if "Content Security" in told.text else None,
        )
        return page

    yield make
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()


@pytest.fixture
def collection(app: Running) -> str:
    """A new, empty collection's id."""
    made = Quire(app.url).call("create_collection", title=f"T {secrets.token_hex(4)}")
    return str(made["id"])


@pytest.fixture(scope="session")
def shelf(app: Running) -> str:
    """A collection that holds the samples; tests only look at it."""
    quire = Quire(app.url)
    made = quire.call("create_collection", title="Shelf")
    for job in quire.submit(*sorted(SAMPLES.glob("*.pdf")), collection=made["id"]):
        assert list(quire.watch(job["id"]))[-1]["status"] == "succeeded"
    return str(made["id"])


def choose(page: Page, *files: Path) -> None:
    expect(page.locator("#drop")).to_be_visible()
    page.locator("#files").set_input_files([str(f) for f in files])


def status(page: Page, name: str) -> Locator:
    return page.locator(".row", has_text=name).first.locator(".pill")


def drawn(image: Locator) -> int:
    """How wide a picture is once it is there. The page's policy forbids to poll for it: that is `eval`."""
    return int(image.evaluate("async e => { await e.decode(); return e.naturalWidth; }"))


def repaint(page: Page) -> None:
    """Every view is painted anew, as news from the server does at any moment."""
    page.evaluate("dispatchEvent(new PopStateEvent('popstate'))")
