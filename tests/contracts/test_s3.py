"""What the bucket as a Remote does when the server, the network or a person goes wrong.

Each server only for what it is right about: moto for preconditions under races, Swift for
signatures, rights and digests. Failures come from a proxy in front of them.
"""

import concurrent.futures
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import botocore.auth
import botocore.endpoint
import pytest

from errors import NotFound, QuireError, Refused, Unavailable
from storage.remotes.remote import Change
from storage.remotes.retrying import Retrying
from storage.remotes.s3 import S3Remote, connect
from tests.contracts.stores import KEYS, MANIFEST, bucket, change, digest
from tests.hub.faults import Fault
from tests.loopback import Proxy

pytestmark = pytest.mark.slow  # Swift is a process of its own
ROUNDS = 40
ERROR = "<Error><Code>{}</Code><Message>made to fail</Message></Error>"


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again without the waits in between: up to seven seconds for one call."""
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    upstream = request.getfixturevalue(getattr(request, "param", "moto"))
    with Proxy(upstream) as made:
        yield made


@pytest.fixture
def remote(proxy: Proxy) -> S3Remote:
    made = bucket(proxy.url)
    proxy.log.clear()
    return made


def test_of_two_writers_of_one_key_one_wins_every_time(moto: str) -> None:
    remote = bucket(moto)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        for number in range(ROUNDS):
            key = f"users/u/manifest.json.log/{number:013d}"
            won = list(threads.map(lambda n, key=key: remote._create(key, b"%d" % n), range(2)))
            assert sorted(won) == [False, True]
            assert remote.client.get_object(Bucket=remote.bucket, Key=key)["Body"].read() == (
                b"%d" % won.index(True)
            )


def test_a_server_that_lets_two_writers_win_is_refused(swift_url: str) -> None:
    """Swift refuses a second create that comes later, but not one that comes at the same time."""
    remote = bucket(swift_url)
    assert remote._create("key", b"1")
    assert not remote._create("key", b"2")
    with pytest.raises(Refused) as caught:
        for _ in range(5):
            remote.check()
    assert caught.value.code == "s3_no_preconditions"
    assert list(remote.names("")) == ["key"]  # the probe leaves nothing


def test_a_server_that_ignores_the_precondition_is_refused(proxy: Proxy, remote: S3Remote) -> None:
    proxy.without = frozenset({b"if-none-match"})
    with pytest.raises(Refused) as caught:
        remote.check()
    assert caught.value.code == "s3_no_preconditions"


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3_refused"),
        ({"AWS_ACCESS_KEY_ID": "test:nobody"}, "s3_refused"),
        ({"AWS_ACCESS_KEY_ID": "test:reader", "AWS_SECRET_ACCESS_KEY": "readread"}, "s3_refused"),
        ({"AWS_ACCESS_KEY_ID": ""}, "s3_refused"),
    ],
    ids=["secret", "key", "rights", "none"],
)
def test_a_caller_without_the_right_is_refused_and_writes_nothing(
    swift_url: str, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str], code: str
) -> None:
    remote = bucket(swift_url)
    remote.commit(change(b"one", None))
    for name, value in keys.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    stranger = connect(remote.bucket, "", swift_url)
    with pytest.raises(Refused) as caught:
        stranger.check()
    assert caught.value.code == code
    with pytest.raises(Refused):
        stranger.read(MANIFEST)
    with pytest.raises(Refused):
        stranger.commit(change(b"two", b"one", a=b"1"))
    assert remote.read(MANIFEST) == b"one"


def test_a_clock_that_is_wrong_is_told(swift_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bucket(swift_url)
    real = botocore.auth.get_current_datetime
    late = real().timestamp() - 3600 * 2
    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda: type(real()).fromtimestamp(late)
    )
    with pytest.raises(Refused) as caught:
        made.check()
    assert caught.value.code == "clock_skew"


@pytest.mark.parametrize("server", ["moto", "swift_url"])
def test_a_bucket_that_is_not_there_is_no_empty_store(
    server: str, request: pytest.FixtureRequest
) -> None:
    remote = connect("quire-nobody-made", "", request.getfixturevalue(server))
    for ask in (
        remote.check,
        lambda: remote.read(MANIFEST),
        lambda: list(remote.names("users")),
        lambda: remote.commit(change(b"one", None)),
    ):
        with pytest.raises(Refused) as caught:
            ask()
        assert caught.value.code == "s3_no_bucket"


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (301, "PermanentRedirect", "s3_region"),
        (400, "AuthorizationHeaderMalformed", "s3_region"),
        (400, "ExpiredToken", "s3_refused"),
        (403, "RequestTimeTooSkewed", "clock_skew"),
        (403, "AccessDenied", "s3_refused"),
    ],
)
def test_what_aws_refuses_is_told_by_its_code(
    proxy: Proxy, remote: S3Remote, status: int, code: str, told: str
) -> None:
    remote.commit(change(b"one", None))
    region = {"x-amz-bucket-region": "eu-central-1"}
    proxy.faults = [Fault("*", ".", status, xml=ERROR.format(code), times=99, headers=region)]
    with pytest.raises(Refused) as caught:
        remote.commit(change(b"two", b"one", a=b"1"))
    assert caught.value.code == told
    proxy.faults = []
    assert remote.read(MANIFEST) == b"one"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", ".", status=500, after=True),
        Fault("PUT", ".", status=503, after=True),
        Fault("PUT", ".", drop=True, after=True),
        Fault("PUT", "manifest", status=500, after=True),
        Fault("PUT", "manifest", drop=True, after=True),
        Fault("PUT", ".", status=500),
        Fault("PUT", "manifest", drop=True),
    ],
    ids=lambda fault: f"{fault.path}-{fault.drop or fault.status}-{fault.after}",
)
@pytest.mark.parametrize("proxy", ["moto", "swift_url"], indirect=True)
def test_a_write_whose_answer_was_lost_is_a_success(
    proxy: Proxy, remote: S3Remote, fault: Fault
) -> None:
    """The client asks again by itself, and is told that the object is there: it is ours."""
    proxy.faults = [replace(fault)]
    remote.commit(change(b"one", None, a=b"1"))
    assert not proxy.faults[0].times
    assert remote.read(MANIFEST) == b"one"
    assert list(remote.names("")) == [MANIFEST, "users/u/segments/a.parquet"]
    assert len(list(remote._keys(""))) == 2


def test_a_server_that_is_away_is_unavailable_and_nothing_is_written(
    proxy: Proxy, remote: S3Remote
) -> None:
    remote.commit(change(b"one", None))
    proxy.faults = [Fault("PUT", "manifest", status=503, times=99, xml=ERROR.format("SlowDown"))]
    with pytest.raises(Unavailable):
        remote.commit(change(b"two", b"one", a=b"1"))
    proxy.faults = []
    assert remote.read(MANIFEST) == b"one"
    with pytest.raises(Unavailable):
        connect("quire", "", "http://127.0.0.1:9").read("x")


def test_a_wait_that_the_server_asks_for_reaches_the_caller(proxy: Proxy, remote: S3Remote) -> None:
    asked = {"Retry-After": "7"}
    answer = {"status": 503, "times": 5, "headers": asked, "xml": ERROR.format("SlowDown")}
    proxy.faults = [Fault("GET", ".", **answer)]
    waited: list[float] = []
    with pytest.raises(NotFound):
        Retrying(remote, sleep=waited.append).read("x")
    assert waited == [7]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "segments", status=0, truncate=100),
        Fault("GET", "segments", drop=True, times=9),
    ],
    ids=["cut", "dropped"],
)
@pytest.mark.parametrize("proxy", ["moto", "swift_url"], indirect=True)
def test_a_download_that_breaks_is_no_file(
    proxy: Proxy, remote: S3Remote, tmp_path: Path, fault: Fault
) -> None:
    remote.commit(change(b"one", None, a=b"1" * 300))
    for ask in (
        lambda: remote.read("users/u/segments/a.parquet"),
        lambda: remote.fetch("users/u/segments/a.parquet", tmp_path / "a"),
    ):
        proxy.faults = [replace(fault)]
        with pytest.raises(Unavailable):
            ask()
        proxy.faults = []
    assert remote.read("users/u/segments/a.parquet") == b"1" * 300


def test_a_full_disk_is_not_the_servers_fault(remote: S3Remote) -> None:
    remote.commit(change(b"one", None, a=b"1" * 300))
    with pytest.raises(OSError, match="No space left"):
        remote.fetch("users/u/segments/a.parquet", Path("/dev/full"))


def test_no_key_in_a_log_or_an_error(swift_url: str, caplog: pytest.LogCaptureFixture) -> None:
    made = bucket(swift_url)
    caplog.set_level(logging.DEBUG)
    made.commit(change(b"one", None, a=b"1"))
    with pytest.raises(QuireError) as caught:
        connect("quire-nobody-made", "", swift_url).check()
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in caplog.text
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value.as_dict())


def test_a_bucket_with_versions_forgets_what_was_deleted(moto: str) -> None:
    remote = bucket(moto, "quire")
    remote.client.put_bucket_versioning(
        Bucket=remote.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    name = "users/u/segments/a.parquet"
    remote.commit(change(b"one", None, a=b"secret", b=b"stays", c=b"secret, too"))
    gone = Change(
        files={}, manifests={MANIFEST: b"two"},
        deletes=frozenset({name, "users/u/segments/c.parquet"}),  # the other one by its age
        expected={MANIFEST: digest(b"one")},
    )  # fmt: skip
    remote.commit(gone)
    assert remote.forget(frozenset({name, MANIFEST})) == 0
    left = remote.client.list_object_versions(Bucket=remote.bucket)
    keys = [v["Key"].removeprefix("quire/users/u/") for v in left["Versions"]]
    assert keys == ["manifest.json.log/0999999999999", "segments/b.parquet"]
    assert "DeleteMarkers" not in left
    assert remote.read(MANIFEST) == b"two"
