"""What every Remote promises; a new one is added to `REMOTES`."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from errors import Conflict, InputError, NotFound, Unavailable
from storage.local import LocalRemote
from storage.remote import Change, Remote
from storage.retrying import Retrying

REMOTES: dict[str, Callable[[Path], Remote]] = {
    "local": lambda folder: LocalRemote(folder / "remote"),
    "retrying": lambda folder: Retrying(LocalRemote(folder / "remote"), waits=()),
}
MANIFEST = "users/u/manifest.json"


@pytest.fixture(params=REMOTES)
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    made = REMOTES[request.param](tmp_path)
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
    with pytest.raises(InputError):
        remote.read("../outside")


def test_retrying_waits_as_asked_and_gives_up(tmp_path: Path) -> None:
    class Away(LocalRemote):
        def read(self, name: str) -> bytes:
            raise Unavailable("away", "Away.", retry_after=3)

    waited: list[float] = []
    remote = Retrying(Away(tmp_path), waits=(1, 4), sleep=waited.append)
    with pytest.raises(Unavailable):
        remote.read("x")
    assert waited == [3, 4]
