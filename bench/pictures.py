"""Pictures of the page for the documentation: `make pictures`, or with PDFs of your own as arguments.

Starts the app with a fresh data directory, adds the samples and the given files, opens the page in
Chromium, light and dark, wide and narrow, and writes docs/pictures/*.webp.
"""

import io
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from quire_client import Quire
from tests.conftest import ROOT, SAMPLES, start_app

FOLDER = ROOT / "docs" / "pictures"
LARGEST = 300_000


def keep(page: Page, name: str) -> None:
    """The page as it is seen, as a WebP below 300 kB."""
    page.wait_for_timeout(700)  # pictures of pages fade in
    picture = Image.open(io.BytesIO(page.screenshot()))
    for quality in (86, 70, 50):
        picture.save(FOLDER / f"{name}.webp", "WEBP", quality=quality, method=6)
        if (FOLDER / f"{name}.webp").stat().st_size < LARGEST:
            break
    print(f"{name}.webp {(FOLDER / f'{name}.webp').stat().st_size // 1000} kB")


def look(page: Page, url: str, document: str, question: str, suffix: str) -> None:
    page.goto(url)
    page.wait_for_selector(".row")
    keep(page, f"documents-{suffix}")
    page.locator(".row-main", has_text=document).first.click()
    page.wait_for_selector(".element")
    page.locator(".element", has=page.locator("table")).first.locator(".kind").click()
    keep(page, f"document-{suffix}")
    page.goto(f"{url}&q={question}")
    page.wait_for_selector(".hit")
    keep(page, f"search-{suffix}")
    page.goto(f"{url}&view=gallery")
    page.wait_for_selector(".card")
    keep(page, f"gallery-{suffix}")


def main(given: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        app = start_app(Path(folder) / "data")
        try:
            quire = Quire(app.url)
            made = quire.call("create_collection", title="Rainfall reports")
            files = [*sorted(SAMPLES.glob("*.pdf")), *map(Path, given)]
            for job in quire.submit(*files, collection=made["id"]):
                print(job["source"]["filename"], list(quire.watch(job["id"]))[-1]["status"])
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
            )
            url = f"{app.url}/?collection={made['id']}"
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": 1280, "height": 800}, color_scheme=scheme
                )
                look(page, url, "report.pdf", "how+much+rain+fell+in+April", scheme)
                page.close()
            phone = browser.new_page(viewport={"width": 390, "height": 844}, device_scale_factor=2)
            phone.goto(f"{url}&q=how+much+rain+fell+in+April")
            phone.wait_for_selector(".hit")
            keep(phone, "phone")
            browser.close()
        finally:
            app.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
