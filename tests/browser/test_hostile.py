"""Names and text that want to be markup or script are shown as text."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from reportlab.pdfgen.canvas import Canvas

from tests.conftest import ROOT, Running

pytestmark = [pytest.mark.browser, pytest.mark.slow]
HOSTILE = (
    "${Object.assign(window,{__e:1})}",
    '<img src=x onerror="window.__e=2">',
    "\\usepackage{x} \\xi C:\\new\\x41 \\u0041",
    "{{value}}{{#each this}}",
    "</p>${(()=>{window.__e=3})()}",
    "<script>window.__e=4</script>",
    "![x](https://track.example)",
)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Every string on a page, and a word of a million letters."""
    path = tmp_path / "hostile.pdf"
    canvas = Canvas(str(path))
    for number, line in enumerate(HOSTILE):
        canvas.drawString(60, 760 - 40 * number, f"zebra {line}")
    canvas.showPage()
    canvas.drawString(60, 760, "zebra " + "w" * 1_000_000)
    canvas.save()
    return path


def test_hostile_text_and_names_are_only_text(
    page: Page, app: Running, collection: str, hostile: Path, tmp_path: Path
) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    name = "${Object.assign(window,{__e:5})} <img src=x onerror=window.__e=6> \u202efdp.pdf"
    payload = {"name": name, "mimeType": "application/pdf", "buffer": hostile.read_bytes()}
    expect(page.locator("#drop")).to_be_visible()
    page.locator("#files").set_input_files([payload])  # type: ignore[list-item]
    row = page.locator(".row", has_text="Object.assign")
    expect(row.locator(".pill")).to_have_text("done", timeout=90_000)
    row.locator(".row-main").click()
    expect(page.locator(".doc-elements")).to_contain_text("<img src=x onerror=")
    expect(page.locator(".doc-elements")).to_contain_text("${Object.assign(window,{__e:1})}")
    expect(page.locator(".doc-elements")).to_contain_text("\\usepackage{x}")
    page.get_by_role("button", name="Markdown").click()
    expect(page.locator(".doc-elements pre")).to_contain_text("\\<img src=x onerror=")
    expect(page.locator(".doc-elements pre")).to_contain_text("!\\[x\\](https://track.example)")
    page.locator("#query").fill("zebra")
    page.keyboard.press("Enter")
    expect(page.locator(".hit").first).to_contain_text("zebra")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(f"{app.url}/?collection={collection}&q=%3Cimg src=x onerror=window.__e=7%3E")
    expect(page.locator(".hit, .empty").first).to_be_visible()
    assert page.evaluate("window.__e") is None
    assert page.locator("#quire img[src=x], #quire script").count() == 0


def test_no_script_of_the_page_parses_html_into_it() -> None:
    for path in (ROOT / "web" / "static").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert way not in text, (path.name, way)


def test_a_job_or_collection_of_nobody_is_said_to_be_none(
    open_page: Callable[..., Page], app: Running
) -> None:
    page = open_page()
    page.goto(f"{app.url}/?job=0000000000000000forged")
    expect(page.locator(".document")).to_contain_text("There is no such job")
    page.goto(f"{app.url}/?collection=c-forged")
    expect(page.locator(".view")).to_contain_text("There is no such collection")
