"""A test's hold on the device API's process, and on app processes that use it."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass
class Device:
    url: str
    home: Path

    def set(self, **told: Any) -> None:
        body = json.dumps(told).encode()
        urllib.request.urlopen(f"{self.url}/__set", body, timeout=10).close()

    def log(self, path: str) -> list[Json]:
        return [e for e in self._state()["log"] if e["path"] == path]

    def held(self) -> int:
        """GPUs granted and not given back."""
        return int(self._state()["held"])

    def environment(self) -> dict[str, str]:
        return {
            "SPACES_ZERO_GPU": "true",
            "SPACES_ZERO_DEVICE_API_URL": self.url,
            "HOME": str(self.home),
        }

    def _state(self) -> Json:
        with urllib.request.urlopen(f"{self.url}/__log", timeout=10) as answer:
            return dict(json.load(answer))


@dataclass
class InZero:
    """An app process with ZeroGPU's variables; `run` gives its broker calls, one after another."""

    process: "subprocess.Popen[str]"

    def run(self, *calls: Any) -> list[Json]:
        return [self._one(call) for call in calls]

    def _one(self, call: Any) -> Json:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                return dict(json.loads(line.removeprefix("answer ")))
        raise AssertionError("the app process ended")


@contextmanager
def in_zero(device: Device, errors: int | None = subprocess.DEVNULL) -> Iterator[InZero]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.space.in_zero"],
        cwd=ROOT, env={**os.environ, **device.environment()}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
    )  # fmt: skip
    with process:
        try:
            yield InZero(process)
        finally:  # it ends its forks, which nobody else would
            assert process.stdin
            process.stdin.close()
            process.wait(60)


@contextmanager
def started(home: Path) -> Iterator[Device]:
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "space" / "device_api.py")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout
    port = int(server.stdout.readline())
    try:
        yield Device(f"http://127.0.0.1:{port}", home)
    finally:
        server.kill()
        server.wait()
