"""What every Remote promises; a new one is added to `REMOTES`."""

import concurrent.futures
import hashlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from errors import Conflict, InputError, NotFound, Refused, Unavailable
from storage.local import LocalRemote
from storage.remote import Change, Remote
from storage.retrying import Proved, Retrying
from storage.s3 import S3Remote, connect

REMOTES: dict[str, Callable[[Path, str], Remote]] = {
    "local": lambda folder, _: LocalRemote(folder / "remote"),
    "retrying": lambda folder, _: Retrying(LocalRemote(folder / "remote"), waits=()),
    "proved": lambda folder, _: Proved(LocalRemote(folder / "remote")),
    "s3": lambda _, url: bucket(url, ""),
    "s3-prefix": lambda _, url: bucket(url, "quire/one"),
}
MANIFEST = "users/u/manifest.json"


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """moto's S3 server on loopback, with keys that mean nothing elsewhere."""
    keys = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        server = ThreadedMotoServer(port=0)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


def bucket(url: str, prefix: str) -> S3Remote:
    made = connect(f"b-{secrets.token_hex(6)}", prefix, url)
    made.client.create_bucket(Bucket=made.bucket)
    return made


@pytest.fixture(params=REMOTES)
def remote(request: pytest.FixtureRequest, tmp_path: Path, s3_url: str) -> Remote:
    made = REMOTES[request.param](tmp_path, s3_url)
    made.check()
    return made


def change(content: bytes, expected: bytes | None, **files: bytes) -> Change:
    return Change(
        files={f"users/u/segments/{n}": c for n, c in files.items()},
        manifests={MANIFEST: content},
        expected={MANIFEST: hashlib.sha256(expected).hexdigest() if expected else None},
    )


def test_a_commit_can_be_read_back(remote: Remote, tmp_path: Path) -> None:
    remote.commit(change(b"one", None, a=b"segment"))
    assert remote.read(MANIFEST) == b"one"
    remote.fetch("users/u/segments/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"segment"
    assert list(remote.names("users/u")) == [MANIFEST, "users/u/segments/a"]


def test_a_stale_commit_changes_nothing(remote: Remote) -> None:
    remote.commit(change(b"one", None))
    remote.commit(change(b"two", b"one"))
    with pytest.raises(Conflict):
        remote.commit(change(b"three", b"one", late=b"x"))
    with pytest.raises(Conflict):
        remote.commit(change(b"three", None))
    assert remote.read(MANIFEST) == b"two"
    assert "users/u/segments/late" not in list(remote.names("users/u"))


def test_what_is_not_there_is_not_found(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        remote.read("users/u/none")
    with pytest.raises(NotFound):
        remote.fetch("users/u/none", tmp_path / "none")
    assert list(remote.names("users/nobody")) == []


def test_deletes_follow_the_commit(remote: Remote) -> None:
    remote.commit(change(b"one", None, a=b"1"))
    remote.commit(
        Change(
            files={},
            manifests={MANIFEST: b"two"},
            expected={MANIFEST: hashlib.sha256(b"one").hexdigest()},
            deletes=frozenset({"users/u/segments/a"}),
        )
    )
    assert list(remote.names("users/u")) == [MANIFEST]


def test_a_name_cannot_leave_the_store(remote: Remote) -> None:
    with pytest.raises((InputError, NotFound, Refused)):
        remote.read("../outside")


def test_of_many_writers_one_wins(remote: Remote) -> None:
    remote.commit(change(b"one", None))

    def write(n: int) -> bool:
        try:
            remote.commit(change(b"two by %d" % n, b"one"))
        except Conflict:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        won = list(threads.map(write, range(6)))
    assert won.count(True) == 1
    assert remote.read(MANIFEST) == b"two by %d" % won.index(True)


def test_s3_says_what_is_wrong(s3_url: str) -> None:
    with pytest.raises((NotFound, Refused)):
        connect("b-nobody-made", "", s3_url).check()
    with pytest.raises(Unavailable):
        connect("b", "", "http://127.0.0.1:9").read("x")


def test_retrying_waits_as_asked_and_gives_up(tmp_path: Path) -> None:
    class Away(LocalRemote):
        def read(self, name: str) -> bytes:
            raise Unavailable("away", "Away.", retry_after=3)

    waited: list[float] = []
    remote = Retrying(Away(tmp_path), waits=(1, 4), sleep=waited.append)
    with pytest.raises(Unavailable):
        remote.read("x")
    assert waited == [3, 4]


def test_an_unfit_remote_is_told_at_every_use_until_it_is_fit(tmp_path: Path) -> None:
    class Unfit(LocalRemote):
        def check(self) -> None:
            if not (self.root / "fit").exists():
                raise Refused("unfit", "Not fit.")

    remote = Proved(Unfit(tmp_path))
    for _ in range(2):
        with pytest.raises(Refused):
            remote.read(MANIFEST)
    (tmp_path / "fit").touch()
    with pytest.raises(NotFound):
        remote.read(MANIFEST)
