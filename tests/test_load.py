"""Many at once: two hundred open pages follow twenty uploads, and nobody misses an end."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from quire_client import Quire
from storage.catalog.catalog import FINISHED
from tests.conftest import Running

PAGES, FILES = 200, 20


class Watcher:
    """An open page: what it was told last of each job of the collection."""

    def __init__(self, url: str, collection: str) -> None:
        self.url, self.collection = urlsplit(url), collection
        self.told: dict[str, str] = {}
        self.opened, self.over = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection(
            self.url.hostname, self.url.port, limit=1 << 24
        )
        writer.write(f"GET /events HTTP/1.1\r\nHost: {self.url.netloc}\r\n\r\n".encode())
        try:
            while line := await reader.readline():
                self.opened.set()
                if line.startswith(b'data: {"jobs"'):
                    for job in json.loads(line[6:])["jobs"]:
                        if job["collection"] == self.collection:
                            self.told[job["id"]] = job["status"]
                if len(self.told) == FILES and set(self.told.values()) <= {*FINISHED}:
                    self.over.set()
        finally:
            writer.close()


@pytest.mark.slow
def test_two_hundred_pages_follow_twenty_uploads(
    app: Running, make_pdf: Callable[..., Path]
) -> None:
    quire = Quire(app.url)
    collection = quire.call("create_collection", title="crowd")["id"]
    files = [make_pdf(f"crowd-{n}.pdf", pages=1) for n in range(FILES)]
    for n, file in enumerate(files):
        file.write_bytes(file.read_bytes() + b"%%%d\n" % n)  # no two alike

    async def crowd() -> tuple[list[Watcher], list[str]]:
        watchers = [Watcher(app.url, collection) for _ in range(PAGES)]
        tasks = [asyncio.create_task(w.run()) for w in watchers]
        await asyncio.gather(*(w.opened.wait() for w in watchers))
        made = await asyncio.to_thread(quire.submit, *files, collection=collection)
        others = await asyncio.to_thread(quire.collections)  # whoever else calls is answered
        assert collection in {c["id"] for c in others}
        await asyncio.gather(*(w.over.wait() for w in watchers))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return watchers, [job["id"] for job in made]

    watchers, made = asyncio.run(crowd())
    assert len(set(made)) == FILES
    ends = {i: quire.job(i)["status"] for i in made}
    assert set(ends.values()) == {"succeeded"}
    assert all(w.told == ends for w in watchers)
