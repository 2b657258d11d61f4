"""What the page costs: `python bench/page.py [--watchers 1000] [--chunks 20000] [--sessions 2400]`.

Starts the app with a data directory of its own, talks to it over loopback only, prints a table. CPU is
that of the app process alone, in percent of one core; times are wall clock and suffer from whatever
else the machine does.
"""

import argparse
import asyncio
import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
from playwright.sync_api import sync_playwright

from quire_client import Quire
from storage.catalog.catalog import Catalog, JobRow
from storage.live.chroma import Record
from storage.live.workspace import Space
from storage.paths import Paths, user_key
from storage.remotes.local import LocalRemote
from storage.stores import open_stores
from tests.conftest import SAMPLES, Running, start_app

MODEL, DIMENSION = "sentence-transformers/all-MiniLM-L6-v2", 384
WORDS = [
    "rain",
    "river",
    "bridge",
    "harvest",
    "grain",
    "price",
    "month",
    "valley",
    "north",
    "south",
    "water",
    "level",
    "report",
]


def rows(title: str, value: str, wanted: str) -> None:
    print(f"| {title:<58} | {value:>24} | {wanted:<18} |", flush=True)


def fill(data: Path, secret: str, chunks: int) -> None:
    """A collection of that many records with random unit vectors, written as the worker does."""
    paths, user = Paths(data), user_key(secret.encode(), "local")
    data.mkdir(parents=True, exist_ok=True)
    catalog = Catalog(f"sqlite:///{paths.catalog}")
    made = catalog.create_collection(user, "many")
    catalog.set_model(user, made.id, MODEL)
    spaces = open_stores(paths, catalog, LocalRemote(paths.remote)).workspaces
    chance = random.Random(1)
    space = Space(collection=made.id, title="many", model=MODEL, dimension=DIMENSION)
    with spaces.open(user) as workspace:
        for start in range(0, chunks, 2000):
            records = []
            for n in range(start, min(chunks, start + 2000)):
                vector = [chance.gauss(0, 1) for _ in range(DIMENSION)]
                length = sum(x * x for x in vector) ** 0.5
                text = " ".join(chance.choices(WORDS, k=60)) + f" {n}"
                metadata = {
                    "source_id": "0" * 64, "filename": "many.pdf", "page": n // 8 + 1,
                    "element_type": "Text", "boxes": "[]",
                }  # fmt: skip
                identity = hashlib.sha256(str(n).encode()).hexdigest()
                unit = tuple(x / length for x in vector)
                records.append(
                    Record(id=identity, document=text, embedding=unit, metadata=metadata)
                )
            workspace.upsert(space, records)
    spaces.close()
    catalog.close()


def get(url: str, body: dict[str, Any] | None = None) -> bytes:
    headers = {"X-Quire": "1", "Content-Type": "application/json"} if body is not None else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def times(act: Callable[[int], Any], count: int) -> list[float]:
    found = []
    for n in range(count):
        began = time.perf_counter()
        act(n)
        found.append(1000 * (time.perf_counter() - began))
    return found


def spread(found: list[float]) -> str:
    ordered = sorted(found)
    return f"p50 {statistics.median(ordered):.0f}, p95 {ordered[int(0.95 * (len(ordered) - 1))]:.0f} ms"


def arrivals(app: Running) -> None:
    """A browser that was never here, until the list is there and a click would be heard."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )

        def arrive(_: int) -> None:
            context = browser.new_context()
            page = context.new_page()
            page.goto(f"{app.url}/?collection=pages", wait_until="commit")
            page.wait_for_selector("button.row-main")
            context.close()

        arrive(0)
        rows("the page, in a new browser, until it can be used", spread(times(arrive, 10)), "≤ 2 s")
        browser.close()


def search(app: Running) -> None:
    ask = f"{app.url}/collections/many/search"
    get(ask, {"query": "warm"})
    chance = random.Random(2)
    found = times(
        lambda _: get(ask, {"query": " ".join(chance.choices(WORDS, k=5)), "top_k": 20}), 100
    )
    rows("hit list, 20 of the records above, by both lists", spread(found), "p95 ≤ 300 ms")


def pictures(app: Running, source: str, pages: int) -> None:
    def page(n: int, width: int) -> bytes:
        return get(f"{app.url}/pages/{source}/{n % pages + 1}?w={width}")

    get(f"{app.url}/pages/{source}/1?w=200")
    cold = times(lambda n: page(n, 1200), pages)
    rows("page image, 1,200 px, cold", spread(cold), "≤ 150 ms")
    rows("page image, 1,200 px, cached", spread(times(lambda n: page(n, 1200), 100)), "≤ 20 ms")


class Watcher:
    """One open stream; notes how old each told time was when it came."""

    def __init__(self, url: str) -> None:
        self.url = urlsplit(url)
        self.ages: list[float] = []
        self.opened = asyncio.Event()

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection(self.url.hostname, self.url.port)
        writer.write(f"GET /events HTTP/1.1\r\nHost: {self.url.netloc}\r\n\r\n".encode())
        try:
            while line := await reader.readline():
                self.opened.set()
                if line.startswith(b"data: ") and (at := line.find(b"told at ")) >= 0:
                    told = float(line[at + 8 : at + 26].split(b" ")[0])
                    self.ages.append(time.time() - told)
        finally:
            writer.close()


async def crowd(
    app: Running, count: int, catalog: Catalog, job: str, upload: Callable[[], None] | None = None
) -> tuple[float, list[float]]:
    """CPU in percent of a core, and the ages of what was told, over twelve seconds of changes."""
    process = psutil.Process(app.process.pid)
    watchers = [Watcher(app.url) for _ in range(count)]
    tasks = []
    for n in range(0, count, 50):
        tasks += [asyncio.create_task(w.run()) for w in watchers[n : n + 50]]
        await asyncio.gather(*(w.opened.wait() for w in watchers[n : n + 50]))
    uploads = asyncio.create_task(asyncio.to_thread(upload)) if upload else None
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    while time.monotonic() - began < 12:
        message = f"told at {time.time():.6f} "
        await asyncio.to_thread(catalog.update_job, job, summary={"message": message})
        await asyncio.sleep(0.5)
    used = 100 * (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
    if uploads:
        await uploads
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return used, sorted(a for w in watchers for a in w.ages)


def watched(app: Running, data: Path, secret: str, count: int) -> None:
    catalog = Catalog(f"sqlite:///{Paths(data).catalog}")
    user, now = user_key(secret.encode(), "local"), time.time()
    job = "0" * 24
    collection = catalog.create_collection(user, "watched").id
    catalog.put_job(
        JobRow(
            id=job, user=user, collection=collection, sha256="", filename="watched.pdf",
            status="running", spec={}, summary={}, created_at=now, started_at=now, finished_at=None,
        )
    )  # fmt: skip
    idle, _ = asyncio.run(crowd(app, 1, catalog, job))
    rows("CPU with one watcher", f"{idle:.1f} % of a core", "")
    busy, ages = asyncio.run(crowd(app, count, catalog, job))
    rows(
        f"CPU with {count:,} watchers of one job",
        f"{busy:.1f} %: {busy - idle:+.1f}",
        "+20 at most",
    )
    late = f"p50 {ages[len(ages) // 2]:.2f}, p95 {ages[int(len(ages) * 0.95)]:.2f} s"
    rows(f"  age of what they were told ({len(ages):,} times)", late, "≤ 1 s")

    def upload() -> None:
        files = [*SAMPLES.glob("*.pdf")] * 5
        Quire(app.url).submit(*files[:20], collection="uploads")

    busy, ages = asyncio.run(crowd(app, 200, catalog, job, upload))
    rows("CPU with 200 watchers and 20 uploads", f"{busy:.1f} %", "")
    rows("  age of what they were told", f"p95 {ages[int(len(ages) * 0.95)]:.2f} s", "≤ 1 s")
    catalog.update_job(job, status="cancelled", finished_at=time.time())


def sessions(app: Running, count: int) -> None:
    process = psutil.Process(app.process.pid)
    before = process.memory_info().rss
    for _ in range(count):
        for path in ("/", "/collections", "/status"):
            get(app.url + path)
        get(f"{app.url}/gradio_api/call/v2/jobs", {})
    grown = (process.memory_info().rss - before) / (1 << 20)
    rows(f"memory after {count:,} visits with a call each", f"{grown:+.0f} MB", "+250 at most")


async def stop_with_streams(app: Running) -> float:
    watchers = [Watcher(app.url) for _ in range(20)]
    tasks = [asyncio.create_task(w.run()) for w in watchers]
    await asyncio.gather(*(w.opened.wait() for w in watchers))
    began = time.monotonic()
    code = await asyncio.to_thread(app.stop)
    took = time.monotonic() - began
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert code == 0, code
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--sessions", type=int, default=2400)
    parser.add_argument("pdf", nargs="?", type=Path, default=SAMPLES / "report.pdf")
    asked = parser.parse_args()
    secret = "only for this measurement"
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        fill(data, secret, asked.chunks)
        app = start_app(data, QUIRE_SECRET=secret)
        try:
            quire = Quire(app.url)
            job = quire.submit(asked.pdf, collection="pages")[0]
            assert list(quire.watch(job["id"]))[-1]["status"] == "succeeded"
            pages = quire.job(job["id"])["source"]["pages"]
            load = psutil.getloadavg()[0]
            print(f"{asked.chunks:,} records; {asked.pdf.name}, {pages} pages; load {load:.1f}")
            arrivals(app)
            search(app)
            pictures(app, job["source"]["id"], min(pages, 40))
            watched(app, data, secret, asked.watchers)
            sessions(app, asked.sessions)
            took = asyncio.run(stop_with_streams(app))
            rows("clean stop on SIGTERM with 20 streams open", f"{took:.1f} s", "≤ 3 s")
        finally:
            if app.process.poll() is None:
                app.stop()


if __name__ == "__main__":
    main()
