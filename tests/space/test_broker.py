"""GPU borrowing over the real `spaces` package and a device API that grants, refuses and kills."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.borrow import PART, Borrower
from quire_client import Quire
from storage.paths import Paths
from tests.conftest import ROOT, SAMPLES, start_app
from tests.tiny_models import layout_model, table_model
from web.broker import Broker, classify

pytestmark = pytest.mark.slow

Json = dict[str, Any]


@dataclass
class Device:
    url: str
    home: Path

    def set(self, **told: Any) -> None:
        body = json.dumps(told).encode()
        urllib.request.urlopen(f"{self.url}/__set", body, timeout=10).close()

    def log(self, path: str) -> list[Json]:
        with urllib.request.urlopen(f"{self.url}/__log", timeout=10) as answer:
            return [e for e in json.load(answer) if e["path"] == path]

    def run(self, *calls: Json) -> list[Json]:
        """Those calls, one after another, in an app process with ZeroGPU's variables."""
        environment = {
            **os.environ,
            "SPACES_ZERO_GPU": "true",
            "SPACES_ZERO_DEVICE_API_URL": self.url,
            "HOME": str(self.home),
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.space.in_zero"],
            cwd=ROOT, env=environment, input=json.dumps(calls), capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "space" / "device_api.py")],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout
    port = int(server.stdout.readline())
    made = Device(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("home"))
    yield made
    server.kill()


def test_each_owner_pays_with_their_own_token(device: Device) -> None:
    device.set()
    ada, bob, nobody = device.run(
        {"user": "ada", "count": 300, "token_seconds": 60},
        {"user": "bob", "count": 10, "token_seconds": 60},
        {"user": "eve", "count": 10},
    )
    assert (ada["found"], ada["right"]) == (300, True)
    assert ada["note"].startswith("GPU: 300 chunks in ")
    assert (bob["found"], bob["right"]) == (10, True)
    assert nobody["found"] == 0
    assert "No fresh request" in nobody["note"]
    asked = device.log("/schedule")
    assert [e["user"] for e in asked] == ["ada", "bob"]
    assert all(10 <= int(e["durationSeconds"]) <= 40 for e in asked)
    assert len(device.log("/release")) == len(asked)


def test_a_killed_call_keeps_what_was_finished(device: Device) -> None:
    device.set(kill_after=[2.0] * 5)
    texts = ["x"] * PART + ["slow"]
    (one,) = device.run({"user": "ada", "texts": texts, "count": 0, "token_seconds": 60})
    assert one["found"] == PART
    assert one["note"].startswith(f"GPU: {PART} chunks")
    assert "cut short" in one["note"]
    assert len(device.log("/schedule")) == 3
    assert len(device.log("/release")) == 3


QUOTA = {
    "status": 429, "body": {"left": 3, "wait": 600},
    "headers": {"X-Authenticated": "regular", "X-Approve-Result": "quota-exceeded"},
}  # fmt: skip
ILLEGAL = {**QUOTA, "body": {"left": 0, "wait": -1}}


@pytest.mark.parametrize(
    ("script", "asked", "found", "says"),
    [
        ([QUOTA], 1, 0, "quota is used up"),
        ([{"status": 503}] * 3, 3, 0, "No GPU is free"),
        ([{"status": 503}], 2, 20, "GPU: 20 chunks"),
        ([ILLEGAL], 2, 20, "GPU: 20 chunks"),
        ([{"status": 401}], 1, 0, "No fresh request"),
        ([{"status": 500}], 2, 20, "GPU: 20 chunks"),
    ],
    ids=["quota", "busy for long", "busy", "illegal duration", "token refused", "broken once"],
)
def test_what_the_device_answers(
    device: Device, script: list[Json], asked: int, found: int, says: str
) -> None:
    device.set(script=script)
    (one,) = device.run({"user": "ada", "count": 20, "token_seconds": 60})
    assert says in one["note"]
    assert one["found"] == found
    assert len(device.log("/schedule")) == asked


def test_a_space_on_zerogpu_starts_reports_and_does_the_work(
    device: Device, tmp_path: Path
) -> None:
    device.set()
    app = start_app(
        tmp_path / "data",
        SPACES_ZERO_GPU="true",
        SPACES_ZERO_DEVICE_API_URL=device.url,
        HOME=str(device.home),
        QUIRE_LAYOUT_MODEL=str(layout_model(tmp_path / "layout")),
        QUIRE_TABLE_MODEL=str(table_model(tmp_path / "table")),
    )
    quire = Quire(app.url)
    job = quire.submit(SAMPLES / "report.pdf", strategy="hi_res")[0]
    events = list(quire.watch(job["id"]))
    assert events[-1]["status"] == "succeeded", events[-1]
    assert any("by hi_res" in e["message"] for e in events)
    assert quire.search("rain in April")
    assert len(device.log("/startup-report")) == 1
    assert app.stop() == 0


def test_a_fault_in_the_work_is_not_tried_again(device: Device) -> None:
    device.set()
    (one,) = device.run({"user": "ada", "texts": ["break"], "count": 0, "token_seconds": 60})
    assert one["found"] == 0
    assert "failed" in one["note"]
    assert len(device.log("/schedule")) == 1


@pytest.mark.parametrize(
    ("title", "message", "wanted"),
    [
        ("ZeroGPU client error", "Expired ZeroGPU proxy token", "token"),
        ("ZeroGPU quota exceeded", "No GPU was available after 60s", "busy"),
        ("ZeroGPU pending credits exceeded", "You have too many", "busy"),
        ("ZeroGPU illegal duration", "The requested GPU duration", "shrink"),
        ("ZeroGPU quota exceeded", "Space app has reached its GPU limit.", "quota"),
        ("ZeroGPU worker error", "GPU task aborted", "aborted"),
        ("", "os.fork is unsafe while filelock is changing descriptor ownership", "race"),
        ("ZeroGPU worker error", "ZeroDivisionError", "bug"),
    ],
)
def test_what_spaces_raises_is_told_apart(title: str, message: str, wanted: str) -> None:
    assert classify(title, message) == wanted


class Encoder:
    name, dimension, device = "two", 2, "cpu"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Any) -> list[list[float]]:
        self.texts += texts
        return [[float(len(t)), 1.0] for t in texts]

    def encode_query(self, text: str) -> list[float]:
        return [float(len(text)), 1.0]


def test_without_a_broker_the_worker_computes_itself(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.run.mkdir(parents=True)
    encoder = Encoder()
    found, note = Borrower(paths, lambda: encoder, worth=0).encode("ada", ["a", "bb"])
    assert (found, note) == ([[1.0, 1.0], [2.0, 1.0]], None)


def test_vectors_cross_over_and_what_is_missing_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off ZeroGPU `spaces.GPU` gives the function itself, so broker and worker run here whole."""
    paths = Paths(tmp_path)
    paths.run.mkdir(parents=True)
    given: list[int] = []

    def load() -> Callable[[Any], list[list[float]]]:
        def encode(texts: Any) -> list[list[float]]:
            given.append(len(texts))
            bad = float("nan") if len(given) == 2 else 1.0
            return [[float(len(t)), bad] for t in texts]

        return encode

    broker = Broker(paths, load=load)
    broker.listen()
    request = type("Request", (), {"headers": {"x-ip-token": "t"}})()
    broker.saw("ada", request)
    encoder = Encoder()
    texts = ["x" * (i % 7) for i in range(2 * PART + 5)]
    found, note = Borrower(paths, lambda: encoder, worth=0).encode("ada", texts)
    assert found == [[float(len(t)), 1.0] for t in texts]
    assert (note or "").startswith(f"GPU: {len(texts):,} chunks")
    assert len(encoder.texts) == PART  # the part that was not a number
