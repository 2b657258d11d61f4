"""The stores that the contract suite runs against, and the changes it commits to them."""

import hashlib
import io
import logging
import os
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from moto.server import ThreadedMotoServer

from storage.remotes.hub import HubRemote
from storage.remotes.hub import connect as hub_connect
from storage.remotes.remote import Change
from storage.remotes.s3 import S3Remote, connect
from tests.hub.server import Hub

SWIFT = Path(__file__).resolve().parent.parent / "swift"
SWIFT_HOME = Path(__file__).resolve().parent.parent.parent / ".venv-swift"
MANIFEST = "users/u/manifest.json"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test:tester",
    "AWS_SECRET_ACCESS_KEY": "testtest",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def keys() -> Iterator[None]:
    """What the tests' servers know their clients by; boto3 reads it from the environment."""
    with mock.patch.dict(os.environ, KEYS):
        yield


@contextmanager
def moto() -> Iterator[str]:
    """moto checks neither signatures nor digests; its preconditions hold, one write at a time."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    http: Any = server._server
    http.app = _atomic(http.app)
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _atomic(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Writes happen one after the other, as S3's do: moto looks for the key and then writes it, and
    seldom, between the two, another thread does as well."""
    one = threading.Lock()

    def serve(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return app(environ, start)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with one:
            return list(app({**environ, "wsgi.input": io.BytesIO(body)}, start))

    return serve


def bucket(url: str, prefix: str = "") -> S3Remote:
    """A new bucket of the server at `url`."""
    made = connect(f"quire-{secrets.token_hex(6)}", prefix, url)
    made.client.create_bucket(Bucket=made.bucket)
    return made


def dataset(hub: Hub, token: str = "hf_write") -> HubRemote:
    made = hub_connect(f"ada/{secrets.token_hex(6)}", token, hub.url)
    return replace(made, sleep=lambda _: None)


def change(content: bytes, expected: bytes | None, **files: bytes) -> Change:
    return Change(
        files={f"users/u/segments/{n}.parquet": c for n, c in files.items()},
        manifests={MANIFEST: content},
        expected={MANIFEST: digest(expected)},
    )


def digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


@contextmanager
def swift(folder: Path) -> Iterator[str]:
    """OpenStack Swift on loopback, in its own environment; the address of its S3 interface."""
    subprocess.run(["bash", SWIFT / "setup", SWIFT_HOME], check=True)
    command = [SWIFT_HOME / "bin" / "python", "-W", "ignore", SWIFT / "serve.py", folder]
    with (folder.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        port = process.stdout.readline().decode().strip()
        assert port, folder.with_suffix(".log").read_text(encoding="utf-8")[-2000:]
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def with_attributes(folder: Path) -> Path:
    """`folder`, or one beside Swift when its file system keeps no extended attributes."""
    try:
        os.setxattr(folder, "user.quire", b"1")
    except OSError:
        folder = SWIFT_HOME / f"data-{os.getpid()}-{secrets.token_hex(4)}"
    return folder / "swift"


def named() -> dict[str, str]:
    """Real stores that a person names: `QUIRE_TEST_HUB_OWNER` (with `HF_TOKEN`; private datasets
    are made there and deleted again), `QUIRE_TEST_S3_BUCKET` (with `AWS_*` and perhaps
    `QUIRE_TEST_S3_ENDPOINT_URL`; everything goes below `quire-test/`)."""
    return {
        n: os.environ[n]
        for n in ("QUIRE_TEST_HUB_OWNER", "QUIRE_TEST_S3_BUCKET")
        if os.environ.get(n)
    }
