"""What abuse costs those who behave: `python bench/abuse.py [--minutes 30]`.

A Space on loopback, with a sign-in provider of its own. First a signed-in person asks and submits in
quiet; then visitors at many addresses hold slow heads and bodies, open streams and half uploads, bring
made-up tokens, flood searches and submit PDF bombs, all in bounded numbers, while that person goes on.
Prints a table; exits 1 when the person waits three times as long, or memory or disk pass their limits.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from tests.conftest import SAMPLES, Running, start_app
from tests.engine import make_pdf
from tests.oidc import Provider
from tests.people import Person, Refusal, form, signed_in
from tests.test_hostile_pdfs import endless, file, forms, operators, picture

TIMES, MEMORY_MB, QUOTA_MB = 3.0, 2500, 20
HEADS, BODIES, STREAMS, UPLOADS, BOMBS = 300, 200, 2000, 200, 20
KINDS = "heads,bodies,streams,uploads,tokens,searches,bombs"
ADDRESSES = [f"198.51.100.{n}" for n in range(1, 21)]


# The one who behaves


@dataclass
class Waits:
    """Seconds of each search and of each job of five pages."""

    search: list[float] = field(default_factory=list)
    job: list[float] = field(default_factory=list)
    failed: "Counter[str]" = field(default_factory=Counter)

    def p95(self) -> float:
        return sorted(self.search)[int(len(self.search) * 0.95)] if self.search else float("inf")

    def typical(self) -> float:
        return statistics.median(self.job) if self.job else float("inf")


def behave(ada: Person, collection: str, seconds: float, folder: Path, tag: str) -> Waits:
    """Searches twice a second; one job after the other."""
    waits, ends = Waits(), time.monotonic() + seconds

    def search() -> None:
        while time.monotonic() < ends:
            began = time.monotonic()
            asked = {"query": "rain in the north", "top_k": 10}
            status, told = ada.post(f"/collections/{collection}/search", asked, X_Quire="1")
            if status == 200:
                waits.search.append(time.monotonic() - began)
            else:
                waits.failed[f"search {status} {told}"[:120]] += 1
            time.sleep(max(0.0, 0.5 - (time.monotonic() - began)))

    def submit() -> None:
        number = 0
        while time.monotonic() < ends:
            number += 1
            began = time.monotonic()
            pdf = make_pdf(folder / f"{tag}-{number}.pdf", 5, f"{tag} {number}")
            try:
                _, paths = ada.upload(pdf)
                job = ada.call("submit", files=[{"path": paths[0]}])[0]["id"]
                while (now := json.loads(ada.ask(f"/jobs/{job}")[1])["status"]) not in {
                    "succeeded", "partial", "failed", "cancelled",
                }:  # fmt: skip
                    time.sleep(0.2)
            except (Refusal, KeyError, TypeError) as problem:
                waits.failed[f"job {problem}"[:120]] += 1
                time.sleep(1.0)
                continue
            if now == "succeeded":
                waits.job.append(time.monotonic() - began)
            else:
                waits.failed[f"job {now}"] += 1

    threads = [threading.Thread(target=one) for one in (search, submit)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits


# What is measured meanwhile


@dataclass
class Peaks:
    memory_mb: float = 0.0
    visitors_mb: float = 0.0
    biggest: dict[str, int] = field(default_factory=dict)

    def watch(self, app: Running, ada: str, stop: threading.Event) -> None:
        while not stop.wait(3.0):
            sizes = _memory(app.process.pid)
            if sum(sizes.values()) > self.memory_mb:
                self.memory_mb, self.biggest = sum(sizes.values()), sizes
            self.visitors_mb = max(self.visitors_mb, _visitors_mb(app.data, ada))


def _memory(pid: int) -> dict[str, int]:
    """MB of each process, what several share counted once."""
    found = {}
    top = psutil.Process(pid)  # the app: all others are its children
    for process in [top, *top.children(recursive=True)]:
        try:
            name = " ".join(process.cmdline()[1:3])[:40]
            found[f"{process.pid} {name}"] = process.memory_full_info().pss >> 20
        except psutil.Error:
            continue
    return found


def _visitors_mb(data: Path, ada: str) -> float:
    """What lies there that is not the person's."""
    total = 0
    for folder in (data / "users", data / "uploads", data / "exports"):
        for path in folder.glob("*/**/*") if folder.exists() else ():
            try:
                if path.relative_to(folder).parts[0] != ada and path.is_file():
                    total += path.stat().st_blocks * 512
            except OSError:
                continue
    return total / (1 << 20)


# Those who do not, in a process of their own


class Crowd:
    """`told` counts what became of each kind of request."""

    def __init__(self, url: str, ends: float, folder: Path, kinds: str = KINDS) -> None:
        self.url, self.ends, self.folder = url, ends, folder
        self.host, self.port = urlsplit(url).hostname, urlsplit(url).port
        self.kinds = kinds.split(",")
        self.told: Counter[str] = Counter()
        self.cookies: dict[str, list[str]] = {}

    async def run(self) -> None:
        await asyncio.to_thread(self._arrive)
        many = {
            "heads": (self._slow_head, 5.0, HEADS),
            "bodies": (self._slow_body, 10.0, BODIES),
            "streams": (self._stream, 20.0, STREAMS),
            "uploads": (self._half_upload, 20.0, UPLOADS),
            "tokens": (self._token, 0.25, 5),
            "searches": (self._search, 0.2, 10),
        }
        bombs = [asyncio.to_thread(self._bombs)] if "bombs" in self.kinds else []
        await asyncio.gather(
            *bombs,
            *(
                self._again(one, pause, n)
                for kind, (one, pause, count) in many.items()
                if kind in self.kinds
                for n in range(count)
            ),
        )

    def _arrive(self) -> None:
        """Three cookies at each address, sixty at the first."""
        for address in ADDRESSES:
            cookies = []
            for _ in range(60 if address == ADDRESSES[0] else 3):
                person = Person(self.url, {"X-Forwarded-For": address})
                person.ask("/")
                cookies.append("; ".join(f"{k}={v}" for k, v in person.cookies.items()))
            self.cookies[address] = cookies

    async def _again(self, one: Callable[..., Any], pause: float, number: int) -> None:
        await asyncio.sleep(random.uniform(0, 15))
        while time.time() < self.ends:
            try:
                async with asyncio.timeout(max(0.1, self.ends - time.time())):
                    told = await one(number)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as problem:
                told = type(problem).__name__
            self.told[f"{one.__name__.strip('_')} {told}"] += 1
            await asyncio.sleep(pause)

    def _headers(self, number: int, kind: str = "application/json") -> str:
        address = ADDRESSES[number % len(ADDRESSES)]
        cookies = self.cookies[address]
        cookie = cookies[number // len(ADDRESSES) % len(cookies)]
        return (
            f"Host: {self.host}:{self.port}\r\nX-Forwarded-For: {address}\r\nCookie: {cookie}\r\n"
            "X-Quire: 1\r\n"
            f"Content-Type: {kind}\r\n"
        )

    async def _open(self, head: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(head.encode())
        return reader, writer

    async def _until_closed(self, head: str, drip: bytes, every: float) -> str:
        reader, writer = await self._open(head)
        try:
            while True:
                try:
                    async with asyncio.timeout(every):
                        return _status(await reader.read(4096))
                except TimeoutError:
                    writer.write(drip)
                    await writer.drain()
        finally:
            writer.close()

    async def _slow_head(self, _: int) -> str:
        return await self._until_closed("GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n", 3.0)

    async def _slow_body(self, number: int) -> str:
        head = f"POST /import HTTP/1.1\r\n{self._headers(number)}Content-Length: 100000\r\n\r\n"
        return await self._until_closed(head, b" ", 3.0)

    async def _half_upload(self, number: int) -> str:
        body, kind = form(bytes(5 << 20), "half.pdf")
        head = (
            f"POST /gradio_api/upload HTTP/1.1\r\n{self._headers(number, kind)}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        reader, writer = await self._open(head)
        try:
            writer.write(body[: 1 << 20])
            await writer.drain()
            return _status(await reader.read(4096))
        finally:
            writer.close()

    async def _stream(self, number: int) -> str:
        reader, writer = await self._open(f"GET /events HTTP/1.1\r\n{self._headers(number)}\r\n")
        try:
            status = _status(await reader.read(4096))
            while status == "200" and await reader.read(4096):
                pass
            return status
        finally:
            writer.close()

    async def _ask(self, head: str, body: bytes) -> str:
        reader, writer = await self._open(
            f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        try:
            writer.write(body)
            return _status(await reader.read())
        finally:
            writer.close()

    async def _token(self, number: int) -> str:
        head = (
            f"POST /collections HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {ADDRESSES[number]}\r\n"
            f"Authorization: Bearer hf_{number}_{time.time_ns()}\r\nX-Quire: 1\r\n"
        )
        return await self._ask(head, b"{}")

    async def _search(self, number: int) -> str:
        """Every second one by the queue, all of the address with sixty cookies."""
        headers = self._headers(len(ADDRESSES) * number)
        path = "/gradio_api/call/v2/search" if number % 2 else "/collections/default/search"
        asked = json.dumps({"query": f"rain {time.time_ns()}", "top_k": 100}).encode()
        return await self._ask(f"POST {path} HTTP/1.1\r\n{headers}", asked)

    def _bombs(self) -> None:
        """Of one visitor, who has something to search as well."""
        bomber = Person(self.url, {"X-Forwarded-For": ADDRESSES[0]})
        name, _, value = self.cookies[ADDRESSES[0]][0].split("; ")[0].partition("=")
        bomber.cookies[name] = value
        made = [(SAMPLES / "report.pdf").read_bytes()]
        for n in range(BOMBS):  # no two alike
            bomb = (self.folder / f"bomb-{n % 2}.pdf").read_bytes()
            made.append(bomb + b"\n%% %d\n" % n)
        for pdf in made:
            if time.time() > self.ends:
                return
            try:
                status, paths = bomber.upload(pdf)
                job = bomber.call("submit", files=[{"path": paths[0]}])[0] if status == 200 else {}
                self.told[f"bomb {status} {job.get('status')}"] += 1
            except Refusal as problem:
                self.told[f"bomb {problem.code}"] += 1


def _status(answer: bytes) -> str:
    return answer.split(b" ", 2)[1].decode(errors="replace") if b" " in answer else "closed"


# All of it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--kinds", default=KINDS, help="of abuse")
    parser.add_argument("--crowd", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.crowd:
        url, ends, folder = asked.crowd
        crowd = Crowd(url, float(ends), Path(folder), asked.kinds)
        asyncio.run(crowd.run())
        print(json.dumps(crowd.told))
        return 0
    with tempfile.TemporaryDirectory() as temporary, Provider() as provider:
        folder = Path(temporary)
        quota = {"QUIRE_VISITOR_QUOTA_MB": str(QUOTA_MB)}
        app = start_app(folder / "data", **{**provider.environment(), **quota})
        try:
            return measure(app, provider, folder, asked.minutes * 60, asked.kinds)
        finally:
            app.stop()


def measure(app: Running, provider: Provider, folder: Path, seconds: float, kinds: str) -> int:
    ada = signed_in(app.url, provider, "ada")
    ada.headers["X-Forwarded-For"] = "192.0.2.9"
    _, paths = ada.upload(SAMPLES / "report.pdf")
    job = ada.call("submit", files=[{"path": paths[0]}])[0]["id"]
    ada.call("watch", job_id=job)
    (collection,) = [c["id"] for c in ada.call("collections")]
    (key,) = [p.name for p in (app.data / "users").iterdir() if p.is_dir()]
    behave(ada, collection, 10, folder, "warm")
    quiet = behave(ada, collection, max(30.0, seconds / 6), folder, "quiet")
    asks, peaks, stop = provider.asked, Peaks(), threading.Event()
    watcher = threading.Thread(target=peaks.watch, args=(app, key, stop))
    watcher.start()
    attack = max(60.0, seconds * 5 / 6)
    file(folder / "bomb-0.pdf", *[operators, forms, endless] * 3)
    file(folder / "bomb-1.pdf", picture, *[forms, operators] * 4)
    crowd = subprocess.Popen(
        [
            sys.executable,
            __file__,
            "--kinds",
            kinds,
            "--crowd",
            app.url,
            str(time.time() + attack),
            str(folder),
        ],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.nice(5),  # theirs are other machines
    )
    time.sleep(5.0)
    busy = behave(ada, collection, attack - 10, folder, "busy")
    try:
        told, _ = crowd.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        crowd.kill()
        told = b'{"the crowd did not end": 1}'
    stop.set()
    watcher.join()
    limit_mb = QUOTA_MB * len(ADDRESSES)
    rows = [
        ("search p95, ms", f"{1000 * quiet.p95():.0f}", f"{1000 * busy.p95():.0f}",
         busy.p95() <= TIMES * quiet.p95()),
        ("5-page job, s", f"{quiet.typical():.1f}", f"{busy.typical():.1f}",
         busy.typical() <= TIMES * quiet.typical()),
        ("searches, jobs", f"{len(quiet.search)}, {len(quiet.job)}",
         f"{len(busy.search)}, {len(busy.job)}", not busy.failed),
        ("memory of all processes, MB", "", f"{peaks.memory_mb:.0f}",
         peaks.memory_mb <= MEMORY_MB),
        ("disk of visitors, MB", "", f"{peaks.visitors_mb:.0f}", peaks.visitors_mb <= limit_mb),
        ("the Hub was asked", "", f"{provider.asked - asks}", True),
    ]  # fmt: skip
    print(f"| {'':<30} | {'quiet':>10} | {'abused':>10} | |")
    for title, before, after, good in rows:
        print(f"| {title:<30} | {before:>10} | {after:>10} | {'ok' if good else 'TOO MUCH'} |")
    for name, size in sorted(peaks.biggest.items(), key=lambda x: -x[1])[:8]:
        print(f"  {size:>6} MB  {name}")
    for reason, times in busy.failed.items():
        print(f"  failed {times} times: {reason}")
    for kind, times in sorted(json.loads(told).items()):
        print(f"  {times:>7}  {kind}")
    return 0 if all(good for *_, good in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
