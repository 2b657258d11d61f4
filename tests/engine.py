"""A worker under its supervisor, and the seam beside it: what the app process holds, without a page."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pikepdf
import psutil

from pipeline.ingest.partition import BATCH, FIRST_BATCH
from pipeline.jobs.health import Health
from pipeline.jobs.queue import catalog_url
from pipeline.jobs.service import Jobs, Request
from pipeline.options import PartitionOptions
from pipeline.processes.rpc import Link
from settings import Settings
from storage.catalog.catalog import FINISHED, Catalog
from storage.catalog.schema import PATIENCE
from storage.paths import Paths
from tests.conftest import ROOT

USER, OTHER = "0" * 32, "1" * 32


@dataclass(frozen=True, slots=True)
class Engine:
    data: Path
    jobs: Jobs
    link: Link
    process: "subprocess.Popen[bytes]"
    heard: Health

    def health(self) -> dict[str, Any]:
        self.heard.look()
        return self.heard.now()

    def submit(self, pdf: Path, user: str = USER, **request: Any) -> str:
        options = PartitionOptions(strategy=request.pop("strategy", "fast"))
        address = request.pop("address", None)
        made = self.jobs.submit(
            user,
            Request(path=pdf, filename=pdf.name, partition=options, **request),
            address=address,
        )
        return str(made["id"])

    def pdf(self, pages: int, name: str = "made") -> Path:
        return make_pdf(self.data / f"{name.replace(' ', '-')}.pdf", pages, name)

    def finished(self, job: str, user: str = USER, seconds: float = 300) -> dict[str, Any]:
        return self.until(job, lambda j: j["status"] in FINISHED, user, seconds)

    def until(
        self,
        job: str,
        fits: Callable[[dict[str, Any]], object],
        user: str = USER,
        seconds: float = 300,
    ) -> dict[str, Any]:
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            found = self.jobs.job(user, job)
            if fits(found):
                return found
            time.sleep(0.05)
        raise AssertionError(f"{found}\n{self.log()[-3000:]}")

    def eventually(self, fits: Callable[[], object], seconds: float = 300) -> None:
        limit = time.monotonic() + seconds
        while not fits():
            assert time.monotonic() < limit, self.log()[-3000:]
            time.sleep(0.05)

    def kill_worker(self) -> None:
        """The one that runs, or the next one where the supervisor has yet to start it."""
        self.eventually(self._killed)

    def _killed(self) -> bool:
        told = [x for x in lines(self.data / "worker.log") if x["message"] == "worker started"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(told[-1]["worker"], signal.SIGKILL)
            return True
        return False

    def whole(self) -> list[psutil.Process]:
        """The supervisor, the worker, every page process."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def at_work(self) -> set[psutil.Process]:
        """Page processes that use the processor; another one may stand between two batches."""
        pages = [p for p in self.whole() if "pipeline.processes.pool" in " ".join(p.cmdline())]
        before = {p: sum(p.cpu_times()[:2]) for p in pages}
        at_work: set[psutil.Process] = set()

        def worked() -> bool:
            at_work.update(p for p in pages if sum(p.cpu_times()[:2]) > before[p])
            return bool(at_work)

        self.eventually(worked, 20)
        return at_work

    def kill_all(self) -> None:
        """As a container ends that nobody asks."""
        psutil.wait_procs(self._each(psutil.Process.kill), timeout=20)

    def _each(self, act: Callable[[psutil.Process], None]) -> list[psutil.Process]:
        whole = self.whole()
        for process in whole:
            with contextlib.suppress(psutil.NoSuchProcess):
                act(process)
        return whole

    def log(self) -> str:
        return (self.data / "worker.log").read_text(encoding="utf-8")

    def started(self, **wanted: Any) -> list[dict[str, Any]]:
        """Log lines of stages that started, with these fields."""
        return self._stages("stage started", wanted)

    def done(self, **wanted: Any) -> list[dict[str, Any]]:
        """Log lines of stages that ended well, with these fields."""
        return self._stages("stage ended", {"code": None, **wanted})

    def _stages(self, message: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        told = (x for x in lines(self.data / "worker.log") if x["message"] == message)
        return [x for x in told if all(x.get(k) == v for k, v in wanted.items())]


@contextmanager
def engine(
    data: Path, *, patience: float = 240, calls: float = PATIENCE, **extra: str
) -> Iterator[Engine]:
    """With `patience` for it to be ready; 0: it need not be. A call waits `calls` seconds for a database."""
    data.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "QUIRE_DATA_DIR": str(data),
        "QUIRE_PAGE_PROCESSES": "2",
        "HF_HUB_OFFLINE": "1",
        **extra,
    }
    with (data / "worker.log").open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.processes.supervisor"],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=out,
        )
    settings, paths = Settings.from_env(environment), Paths(data)
    seam = Jobs(settings, paths, Catalog(catalog_url(settings, paths), calls))
    link = Link(paths)
    running = Engine(data, seam, link, process, Health(link))
    try:
        if patience:
            running.eventually(running.jobs.engine.ready, patience)
        yield running
    finally:
        process.terminate()
        process.wait(60)  # the supervisor itself gives a save 20 s


def pages_of(batches: int) -> int:
    """How many pages make that many batches."""
    return FIRST_BATCH + BATCH * (batches - 1)


def make_pdf(path: Path, pages: int, name: str) -> Path:
    """One short paragraph a page, no two pages alike."""
    with pikepdf.new() as document:
        font = document.make_indirect(
            pikepdf.Dictionary(
                Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica
            )
        )
        for number in range(1, pages + 1):
            page = document.add_blank_page(page_size=(595, 842))
            page.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F1=font))
            text = (
                f"BT /F1 12 Tf 72 700 Td (Page {number} of {name} tells about the weather.) Tj ET"
            )
            page.Contents = document.make_stream(text.encode())
        document.save(path)
    return path


def lines(log: Path) -> list[dict[str, Any]]:
    found = []
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            found.append(json.loads(line))
    return found
