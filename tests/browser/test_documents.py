"""Documents in the browser: adding, watching, coming back, deleting."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from quire_client import Quire
from tests.browser.conftest import choose, drawn, repaint, status
from tests.conftest import OTHER_MODEL, SAMPLES, Running, start_app

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_files_become_rows_that_end_done_and_are_there_after_a_reload(
    page: Page, app: Running, collection: str
) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    expect(page.get_by_text("Drop PDFs or whole folders here")).to_be_visible()
    expect(page.locator("#drop")).to_contain_text("up to 200 MB")
    choose(page, SAMPLES / "report.pdf", SAMPLES / "greek.pdf")
    for name in ("report.pdf", "greek.pdf"):
        expect(status(page, name)).to_have_text("done", timeout=180_000)
    expect(page.get_by_role("button", name="Done 2")).to_be_visible()
    expect(page.locator(".head .facts")).to_contain_text("2 documents")
    page.reload()
    expect(status(page, "report.pdf")).to_have_text("done", timeout=4_000)
    expect(page.locator("#side")).to_contain_text("live")
    assert page.locator(".note").count() == 0


def test_a_gpu_can_be_declined_among_the_options(page: Page, app: Running, collection: str) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    expect(page.locator("#drop")).to_be_visible()
    expect(page.get_by_label("Borrow a GPU")).to_be_hidden()  # folded
    page.get_by_text("Options").click()
    page.get_by_label("Borrow a GPU").select_option("never")
    with page.expect_request(lambda r: r.method == "POST" and r.url.endswith("/documents")) as sent:
        choose(page, SAMPLES / "greek.pdf")
    assert sent.value.post_data_json["gpu"] == "never"
    expect(status(page, "greek.pdf")).to_have_text("done", timeout=180_000)


def test_in_its_frame_the_page_asks_with_the_quota_that_is_lent(page: Page, app: Running) -> None:
    page.add_init_script("""
        window.supports_zerogpu_headers = true;
        window.parent = { postMessage: (what, to, ports) => {
            const asked = what === "zerogpu-headers" && to === "https://huggingface.co";
            if (asked) ports[0].postMessage({ "x-ip-token": "lent" });
        } };
    """)
    with page.expect_request(lambda r: r.url.endswith("/status")) as sent:
        page.goto(app.url)
    assert sent.value.headers["x-ip-token"] == "lent"


def test_a_refused_file_says_why_and_what_to_do(
    page: Page, app: Running, collection: str, tmp_path: Path
) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    text, empty = tmp_path / "letter.pdf", tmp_path / "empty.pdf"
    text.write_bytes(b"not a pdf at all")
    empty.touch()
    choose(page, text, empty)
    expect(status(page, "letter.pdf")).to_have_text("failed")
    expect(page.locator(".row", has_text="letter.pdf")).to_contain_text("Upload PDF files only")
    expect(page.locator(".row", has_text="empty.pdf")).to_contain_text("The file is empty")
    page.get_by_role("button", name="Leave out empty.pdf").click()
    expect(page.locator(".row")).to_have_count(1)


def test_a_broken_upload_can_be_repeated_and_nothing_is_lost(
    page: Page, app: Running, collection: str
) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    expect(page.locator("#drop")).to_be_visible()
    page.route("**/gradio_api/upload*", lambda route: route.abort("connectionreset"))
    choose(page, SAMPLES / "greek.pdf")
    expect(page.locator(".row", has_text="greek.pdf")).to_contain_text("connection broke")
    page.unroute("**/gradio_api/upload*")
    page.get_by_role("button", name="Upload greek.pdf again").click()
    expect(status(page, "greek.pdf")).to_have_text("done", timeout=180_000)
    expect(page.locator(".row")).to_have_count(1)


def test_what_may_succeed_later_is_tried_again_by_itself(
    page: Page, app: Running, collection: str
) -> None:
    """Refused once on each of its two ways, in the words of errors that pass."""
    codes = {"upload": "database_busy", "documents": "worker_busy"}
    left = dict(codes)

    def once(route: Route) -> None:
        code = route.request.method == "POST" and left.pop(route.request.url.split("/")[-1], None)
        told = {"code": code, "message": f"It is {code}.", "advice": ""}
        route.fulfill(status=503, json={"error": told}) if code else route.fallback()

    page.goto(f"{app.url}/?collection={collection}")
    expect(page.locator("#drop")).to_be_visible()
    page.route(re.compile("/(upload|documents)$"), once)
    choose(page, SAMPLES / "greek.pdf")
    for code in codes.values():
        expect(page.locator(".row", has_text="greek.pdf")).to_contain_text(f"It is {code}.")
    expect(status(page, "greek.pdf")).to_have_text("done", timeout=180_000)


def test_a_second_device_sees_a_job_begin_and_its_link_opens_it(
    open_page: Callable[..., Page],
    app: Running,
    collection: str,
    make_pdf: Callable[..., Path],
) -> None:
    here, there = open_page(), open_page(390, 844)
    there.goto(f"{app.url}/?collection={collection}")
    expect(there.locator("#drop")).to_be_visible()
    here.goto(f"{app.url}/?collection={collection}")
    choose(here, make_pdf("shared.pdf", pages=24))
    expect(there.locator(".row", has_text="shared.pdf")).to_be_visible()
    here.locator(".row-main", has_text="shared.pdf").click()
    here.wait_for_url(re.compile("job="))
    there.goto(f"{app.url}/?job={here.url.split('job=')[1].split('&')[0]}")
    expect(there.locator(".doc-name")).to_contain_text("shared.pdf")
    for page in (here, there):
        expect(page.locator(".doc-name .pill")).to_have_text("done", timeout=180_000)
        expect(page.locator(".cells .cell")).to_have_count(24)
        expect(page.locator(".cells .cell.todo")).to_have_count(0)


def test_a_document_opens_with_its_pages_beside_their_elements(
    page: Page, app: Running, shelf: str
) -> None:
    page.goto(f"{app.url}/?collection={shelf}")
    page.locator(".row-main", has_text="report.pdf").click()
    expect(page.locator(".doc-page img")).to_be_visible()
    assert drawn(page.locator(".doc-page img")) > 400
    expect(page.locator(".element .table td", has_text="April").first).to_be_visible()
    page.locator(".element", has_text="April").first.locator(".kind").click()
    expect(page.locator(".doc-page .place.lit")).to_be_visible()
    page.locator(".doc-page .place").first.click()
    expect(page.locator(".element.lit")).to_have_count(1)
    page.get_by_role("button", name="Markdown").click()
    expect(page.locator(".doc-elements pre")).to_contain_text("# ")
    page.get_by_role("button", name="JSON").click()
    expect(page.locator(".doc-elements pre")).to_contain_text('"coordinates"')
    page.get_by_text("Log", exact=True).click()
    expect(page.locator(".log-lines")).to_contain_text("Saved as generation")
    page.get_by_role("button", name="Back to the documents").click()
    expect(page.locator(".rows")).to_be_visible()


def test_a_page_is_read_again_another_way(
    page: Page, app: Running, collection: str, make_pdf: Callable[..., Path]
) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    choose(page, make_pdf("again.pdf", pages=2))
    expect(status(page, "again.pdf")).to_have_text("done", timeout=180_000)
    page.locator(".row-main", has_text="again.pdf").click()
    page.locator(".cells .cell").nth(1).click()
    page.get_by_label("How to read this page again").select_option("ocr_only")
    page.get_by_role("button", name="Read this page again").click()
    expect(page.locator(".cells .cell.ocr")).to_have_count(1, timeout=180_000)
    expect(page.locator(".cells .cell.text")).to_have_count(1)


def test_a_deletion_is_asked_for_twice_and_gives_a_receipt(
    page: Page, app: Running, collection: str, make_pdf: Callable[..., Path]
) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    choose(page, make_pdf("gone.pdf", pages=2))
    expect(status(page, "gone.pdf")).to_have_text("done", timeout=180_000)
    page.get_by_label("Select gone.pdf").check()
    page.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("dialog")).to_contain_text("This cannot be undone.")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator(".row")).to_have_count(1)
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".note")).to_contain_text("It is in the next save.")
    expect(page.locator(".row")).to_have_count(0)
    choose(page, make_pdf("gone.pdf", pages=2))  # what was deleted can be added again
    expect(status(page, "gone.pdf")).to_have_text("done", timeout=180_000)


def test_collections_are_made_renamed_and_deleted(page: Page, app: Running) -> None:
    page.goto(app.url)
    page.get_by_role("button", name="New collection").click()
    page.get_by_role("textbox", name="Name", exact=True).fill("Öl & <b>Wasser</b>")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Öl & <b>Wasser</b>")
    page.get_by_label("More for Öl").click()
    repaint(page)
    page.get_by_role("button", name="Rename…").click()
    page.get_by_label("New name").fill("Wasser")
    page.get_by_role("button", name="Rename", exact=True).click()
    expect(page.locator("h1")).to_have_text("Wasser")
    expect(page.locator("#side")).to_contain_text("Wasser")
    page.get_by_label("More for Wasser").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete the collection").click()
    expect(page.locator(".note")).to_contain_text("Deleted “Wasser”")
    expect(page.locator("#side")).not_to_contain_text("Wasser")


def test_a_collection_is_given_another_model(page: Page, app: Running, collection: str) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    choose(page, SAMPLES / "greek.pdf")
    expect(page.locator(".head .facts")).to_contain_text("all-MiniLM-L6-v2", timeout=180_000)
    page.get_by_label("More for").click()
    page.get_by_role("button", name="Change model…").click()
    asks = page.get_by_role("dialog")
    expect(asks).to_contain_text("Until the last one is made, the model of now answers.")
    expect(asks.get_by_role("radio", name="the model of now")).to_be_disabled()
    expect(page.get_by_role("radio", name=OTHER_MODEL)).to_be_checked()
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.locator(".transfers").first).to_contain_text(f"are searched by {OTHER_MODEL} now")
    expect(page.locator(".head .facts")).not_to_contain_text("all-MiniLM-L6-v2")
    page.get_by_label("More for").click()
    page.get_by_role("button", name="Change model…").click()
    expect(page.get_by_role("radio", name="all-MiniLM-L6-v2")).to_be_checked()


@pytest.mark.timeout(300)  # starts the app twice
def test_an_open_page_comes_back_after_a_restart_of_the_server(
    page: Page, tmp_path: Path, make_pdf: Callable[..., Path]
) -> None:
    first = start_app(tmp_path / "data")
    running = [first]
    try:
        page.goto(first.url)
        choose(page, make_pdf("kept.pdf", pages=12))
        expect(page.locator(".row", has_text="kept.pdf")).to_be_visible()
        assert first.stop() == 0
        expect(page.locator("#side")).to_contain_text("reconnecting")
        second = start_app(tmp_path / "data", port=int(first.url.rsplit(":", 1)[1]))
        running.append(second)
        expect(page.locator("#side")).to_contain_text("live")
        expect(status(page, "kept.pdf")).to_have_text("done", timeout=180_000)
        assert page.locator(".note.bad").all_text_contents() == []
        assert Quire(second.url).search("rain")[0]["filename"] == "kept.pdf"
        assert second.stop() == 0  # with the page's stream open
    finally:
        for app in running:
            if app.process.poll() is None:
                app.stop()


def test_a_failed_row_can_be_taken_off_the_list(
    page: Page, app: Running, collection: str, tmp_path: Path
) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    text = tmp_path / "letter.pdf"
    text.write_bytes(b"not a pdf at all")
    choose(page, text)
    page.get_by_role("button", name="Take letter.pdf off the list").click()
    expect(page.locator(".row")).to_have_count(0)
    page.reload()
    expect(page.get_by_text("Drop PDFs or whole folders here")).to_be_visible()


def test_a_token_is_told_once_and_revoked(page: Page, app: Running) -> None:
    page.goto(app.url)
    page.get_by_role("button", name="Tokens").click()
    page.get_by_label("Name of a new token").fill("<i>laptop</i>")
    page.keyboard.press("Enter")
    expect(page.locator(".secret")).to_have_text(re.compile(r"^quire_\w+"))
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Tokens").click()
    expect(page.locator(".tokens")).to_contain_text("<i>laptop</i>")
    assert page.locator(".secret").count() == 0
    page.get_by_role("button", name="Revoke <i>laptop</i>").click()
    expect(page.locator(".tokens li")).to_have_count(0)


def test_a_running_job_is_stopped_and_what_it_read_is_removed(
    page: Page, app: Running, collection: str, make_pdf: Callable[..., Path]
) -> None:
    page.goto(f"{app.url}/?collection={collection}")
    choose(page, make_pdf("long.pdf", pages=400))
    page.locator("button.row-main", has_text="long.pdf").click()
    page.locator(".document [data-act=cancel]").click()
    page.get_by_role("button", name="Stop, remove it").click()
    expect(page.locator(".doc-name .pill")).to_have_text("cancelled")
    page.get_by_role("button", name="Back to the documents").click()
    expect(page.locator(".row")).to_contain_text("what was indexed is removed")
