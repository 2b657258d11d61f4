"""What every Remote promises; a new one is added to `REMOTES`."""

import concurrent.futures
import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from moto.server import ThreadedMotoServer

from errors import Conflict, Corrupt, InputError, NotFound, Refused, Unavailable
from storage.hub import HubRemote
from storage.hub import connect as hub_connect
from storage.local import LocalRemote
from storage.remote import Change, Remote
from storage.retrying import Proved, Retrying
from storage.s3 import S3Remote, connect
from tests.hub.server import Fault, Hub, Repo

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


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as made:
        yield made


def dataset(hub: Hub, token: str = "hf_write") -> HubRemote:
    made = hub_connect(f"ada/{secrets.token_hex(6)}", token, hub.url)
    return replace(made, sleep=lambda _: None)


@pytest.fixture
def xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own switch, which it asks at every upload."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)


@pytest.fixture(params=[*REMOTES, "hub", "hub-xet"])
def remote(request: pytest.FixtureRequest, tmp_path: Path, s3_url: str, hub: Hub) -> Remote:
    if request.param.startswith("hub"):
        if request.param == "hub-xet":
            request.getfixturevalue("xet")
        made: Remote = dataset(hub)
    else:
        made = REMOTES[request.param](tmp_path, s3_url)
    made.check()
    return made


def change(content: bytes, expected: bytes | None, **files: bytes) -> Change:
    return Change(
        files={f"users/u/segments/{n}.parquet": c for n, c in files.items()},
        manifests={MANIFEST: content},
        expected={MANIFEST: hashlib.sha256(expected).hexdigest() if expected else None},
    )


def test_a_commit_can_be_read_back(remote: Remote, tmp_path: Path) -> None:
    remote.commit(change(b"one", None, a=b"segment"))
    assert remote.read(MANIFEST) == b"one"
    remote.fetch("users/u/segments/a.parquet", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"segment"
    assert list(remote.names("users/u")) == [MANIFEST, "users/u/segments/a.parquet"]


def test_a_stale_commit_changes_nothing(remote: Remote) -> None:
    remote.commit(change(b"one", None))
    remote.commit(change(b"two", b"one"))
    with pytest.raises(Conflict):
        remote.commit(change(b"three", b"one", late=b"x"))
    with pytest.raises(Conflict):
        remote.commit(change(b"three", None))
    assert remote.read(MANIFEST) == b"two"
    assert "users/u/segments/late.parquet" not in list(remote.names("users/u"))


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
            deletes=frozenset({"users/u/segments/a.parquet"}),
        )
    )
    assert list(remote.names("users/u")) == [MANIFEST]


def test_a_commit_of_two_users_tells_which_one_moved(remote: Remote) -> None:
    other = "users/v/manifest.json"
    both = Change(
        files={}, manifests={MANIFEST: b"u1", other: b"v1"}, expected={MANIFEST: None, other: None}
    )
    remote.commit(both)
    assert (remote.read(MANIFEST), remote.read(other)) == (b"u1", b"v1")
    seen = {n: hashlib.sha256(c).hexdigest() for n, c in ((MANIFEST, b"u1"), (other, b"else"))}
    with pytest.raises(Conflict) as caught:
        remote.commit(Change(files={}, manifests={MANIFEST: b"u2", other: b"v2"}, expected=seen))
    assert caught.value.details["names"] == (other,)
    assert (remote.read(MANIFEST), remote.read(other)) == (b"u1", b"v1")


def test_no_more_is_read_than_was_asked(remote: Remote, tmp_path: Path) -> None:
    remote.commit(change(b"one", None, a=b"x" * 100))
    name = "users/u/segments/a.parquet"
    assert remote.read(name, 100) == b"x" * 100
    with pytest.raises(Corrupt) as caught:
        remote.read(name, 99)
    assert caught.value.code == "stored_file_too_large"
    with pytest.raises(Corrupt):
        remote.fetch(name, tmp_path / "a", 99)


def test_a_repair_puts_bytes_in_the_place_of_others(remote: Remote) -> None:
    remote.commit(change(b"one", None, a=b"damaged"))
    remote.commit(replace(change(b"two", b"one", a=b"right"), overwrite=True))
    assert remote.read("users/u/segments/a.parquet") == b"right"


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
        def read(self, name: str, at_most: int = 0) -> bytes:
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


def test_a_bucket_with_versions_forgets_what_was_deleted(s3_url: str) -> None:
    remote = bucket(s3_url, "quire")
    remote.client.put_bucket_versioning(
        Bucket=remote.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    name = "users/u/segments/a.parquet"
    remote.commit(change(b"one", None, a=b"secret", b=b"stays"))
    gone = Change(
        files={}, manifests={MANIFEST: b"two"}, deletes=frozenset({name}),
        expected={MANIFEST: hashlib.sha256(b"one").hexdigest()},
    )  # fmt: skip
    remote.commit(gone)
    assert remote.forget(frozenset({name, MANIFEST})) == 0
    left = remote.client.list_object_versions(Bucket=remote.bucket)
    keys = [v["Key"].removeprefix("quire/users/u/") for v in left["Versions"]]
    assert keys == ["manifest.json.log/0999999999999", "segments/b.parquet"]
    assert "DeleteMarkers" not in left
    assert remote.read(MANIFEST) == b"two"


def test_the_hub_dataset_must_be_private(hub: Hub) -> None:
    remote = dataset(hub)
    hub.repos[remote.repo] = Repo(private=False)
    with pytest.raises(Refused) as caught:
        remote.check()
    assert caught.value.code == "hub_public"


def test_a_token_that_may_only_read_is_refused(hub: Hub) -> None:
    with pytest.raises(Refused):
        dataset(hub, "hf_read").check()


def test_a_commit_that_landed_without_an_answer_is_a_success(hub: Hub) -> None:
    remote = dataset(hub)
    remote.check()
    before = len(hub.repos[remote.repo].commits)
    hub.faults = [Fault("POST", "/commit/", status=504, after=True)]
    remote.commit(change(b"one", None, a=b"1"))
    assert len(hub.repos[remote.repo].commits) == before + 1
    assert remote.read(MANIFEST) == b"one"


@pytest.mark.parametrize("status", [409, 412])
def test_a_busy_hub_is_asked_again(hub: Hub, status: int) -> None:
    remote = dataset(hub)
    remote.check()
    hub.faults = [Fault("POST", "/commit/", status=status, times=2)]
    remote.commit(change(b"one", None))
    assert remote.read(MANIFEST) == b"one"


def test_the_hourly_limit_is_waited_out_for_long(hub: Hub) -> None:
    remote = dataset(hub)
    remote.check()
    hub.faults = [Fault("POST", "/commit/", status=429)]
    with pytest.raises(Unavailable) as caught:
        remote.commit(change(b"one", None))
    assert (caught.value.retry_after or 0) >= 900
    with pytest.raises(NotFound):
        remote.read(MANIFEST)


def test_a_dataset_that_leaves_files_out_is_refused(hub: Hub) -> None:
    remote = dataset(hub)
    remote.check()
    hub.put(remote.repo, ".gitignore", b"*.parquet\n")
    with pytest.raises(Refused) as caught:
        remote.commit(change(b"one", None, a=b"1"))
    assert caught.value.code == "hub_ignored"
    with pytest.raises(NotFound):
        remote.read(MANIFEST)


def test_one_change_is_one_commit_and_no_token_reaches_the_cdn(hub: Hub, tmp_path: Path) -> None:
    remote = dataset(hub)
    remote.check()
    before = len(hub.repos[remote.repo].commits)
    remote.commit(change(b"one", None, **{f"s{n}": b"x" * n for n in range(1, 120)}))
    assert len(hub.repos[remote.repo].commits) == before + 1
    remote.fetch("users/u/segments/s7.parquet", tmp_path / "s")
    assert (tmp_path / "s").read_bytes() == b"x" * 7
    assert hub.leaks == []


def test_another_users_commit_in_between_is_no_conflict(hub: Hub) -> None:
    remote = dataset(hub)
    remote.check()
    remote.commit(change(b"one", None))
    other = Change(
        files={},
        manifests={"users/v/manifest.json": b"v"},
        expected={"users/v/manifest.json": None},
    )
    remote.commit(other)
    remote.commit(change(b"two", b"one"))
    assert remote.read("users/v/manifest.json") == b"v"
