"""The address of the page: links, reloads and restored tabs lead back to where one was."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Running

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def report(page: Page, app: Running, shelf: str) -> str:
    """The key of the sample report."""
    page.goto(f"{app.url}/?collection={shelf}")
    row = page.locator(".row", has_text="report.pdf")
    expect(row).to_be_visible()
    return str(row.get_attribute("data-key"))


def test_a_page_is_found_again_by_link_by_reload_and_in_a_restored_tab(
    open_page: Callable[..., Page], page: Page, app: Running, shelf: str, report: str
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{app.url}/?collection={shelf}&document={report}")
    expect(page.locator(".element").first).to_be_visible()
    page.locator(".cell").nth(1).click()
    expect(page.locator(".sheet img")).to_have_attribute("alt", "Page 2")
    page.get_by_role("button", name="Copy link").click()
    links = [page.evaluate("navigator.clipboard.readText()"), page.url]
    links.append(f"{app.url}/?collection={shelf}&document={report}&page=2")  # as it once was
    page.reload()
    other = open_page()
    for one, link in [(page, None), *((other, link) for link in links)]:
        if link:
            assert (one.goto(link) or pytest.fail(link)).status == 200
        expect(one.locator(".sheet img")).to_have_attribute("alt", "Page 2")
        assert "p=2" in one.url.split("?")[1].split("&")


def test_the_page_leads_to_what_its_api_is(page: Page, app: Running) -> None:
    page.goto(app.url)
    there = page.get_by_role("link", name="API").evaluate("link => link.href")
    told = page.request.get(there).json()
    assert any(path.endswith("/search") for path in told["paths"])
