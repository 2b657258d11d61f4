"""An open page stays usable: over repaints, a silent network, a proxy whose server is away."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import repaint
from tests.conftest import Running

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_news_takes_nothing_from_under_a_finger_or_the_keyboard(
    page: Page, app: Running, shelf: str
) -> None:
    page.goto(f"{app.url}/?collection={shelf}")
    row = page.locator(".row-main", has_text="report.pdf")
    expect(row).to_be_visible()
    here = page.locator("#side").get_by_role("link", name="Shelf")
    here.focus()
    repaint(page)
    expect(here).to_be_focused()
    row.hover()
    page.mouse.down()
    repaint(page)
    page.mouse.up()
    expect(page.locator(".doc-name")).to_contain_text("report.pdf")
    cell = page.locator(".cells .cell").first
    cell.focus()
    repaint(page)
    expect(cell).to_be_focused()


def test_a_stream_that_fell_silent_is_opened_anew(page: Page, app: Running) -> None:
    page.clock.install()
    page.goto(app.url)
    expect(page.locator("#side")).to_contain_text("live")
    with page.expect_request(re.compile("/events")):
        page.clock.fast_forward(25_000)
    expect(page.locator("#side")).to_contain_text("live")


def test_a_page_behind_a_proxy_asks_until_its_server_is_there(page: Page, app: Running) -> None:
    def away(route: Route) -> None:
        route.fulfill(status=502, body="Bad gateway")

    page.clock.install()
    page.route(re.compile("/events"), away)
    with page.expect_response(re.compile("/events")):
        page.goto(app.url)
    for _ in range(8):
        with page.expect_response(re.compile("/events"), timeout=8_000):
            page.clock.fast_forward(1_500)
    page.unroute(re.compile("/events"))
    expect(page.locator("#side")).to_contain_text("live")
    assert page.locator(".note").count() == 0
