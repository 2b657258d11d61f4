"""What the dataset as a Remote does when the Hub, the network or a person goes wrong.

The answers come from the tests' Hub to the real client. After each failure the head is what it was,
or what was asked for, and never something else.
"""

import concurrent.futures
import logging
import os
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from errors import NotFound, QuireError, Refused, Unavailable
from storage.remotes.hub import HubRemote
from storage.remotes.remote import Change
from storage.remotes.retrying import Retrying
from tests.contracts.stores import MANIFEST, change, dataset
from tests.hub.server import Fault, Hub, Repo


@pytest.fixture(params=["lfs", "xet"])
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "xet":
        request.getfixturevalue("xet")
    return str(request.param)


@pytest.fixture
def remote(hub: Hub) -> HubRemote:
    made = dataset(hub)
    made.check()
    return made


def commits(hub: Hub, remote: HubRemote) -> int:
    return len(hub.repos[remote.repo].commits)


def test_the_hub_dataset_must_be_private(hub: Hub) -> None:
    remote = dataset(hub)
    hub.repos[remote.repo] = Repo(private=False)
    with pytest.raises(Refused) as caught:
        remote.check()
    assert caught.value.code == "hub_public"


@pytest.mark.parametrize(
    ("token", "code"),
    [("hf_read", "hub_refused"), ("hf_other", "hub_refused"), ("hf_expired", "hub_token")],
)
def test_a_token_without_the_right_is_refused_and_writes_nothing(
    hub: Hub, remote: HubRemote, token: str, code: str
) -> None:
    remote.commit(change(b"one", None))
    stranger = replace(remote, api=HfApi(hub.url, token=token))
    with pytest.raises(Refused) as caught:
        stranger.check()
    assert caught.value.code == code
    with pytest.raises(Refused):
        stranger.commit(change(b"two", b"one", a=b"1"))
    assert remote.read(MANIFEST) == b"one"


@pytest.mark.parametrize("token", ["hf_other", "hf_expired"])
def test_a_dataset_that_cannot_be_seen_is_no_empty_store(
    hub: Hub, remote: HubRemote, token: str
) -> None:
    """ "Nothing saved yet" would let the next save begin anew over what is there."""
    remote.commit(change(b"one", None))
    stranger = replace(remote, api=HfApi(hub.url, token=token))
    with pytest.raises(Refused):
        stranger.read(MANIFEST)
    with pytest.raises(Refused):
        list(stranger.names("users"))
    with pytest.raises(Refused) as caught:
        replace(remote, repo="ada/never-made").read(MANIFEST)
    assert caught.value.code == "hub_no_dataset"


def test_a_dataset_made_public_gets_no_more_documents(hub: Hub, remote: HubRemote) -> None:
    remote.commit(change(b"one", None))
    hub.repos[remote.repo].private = False
    with pytest.raises(Refused) as caught:
        remote.commit(change(b"two", b"one"))
    assert caught.value.code == "hub_public"
    assert remote.read(MANIFEST) == b"one"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/commit/", status=504, after=True),
        Fault("POST", "/commit/", status=500, after=True),
        Fault("POST", "/commit/", drop=True, after=True),
        Fault("POST", "/commit/", status=0, truncate=5),
    ],
    ids=["504", "500", "dropped", "cut"],
)
def test_a_commit_that_landed_without_an_answer_is_a_success(
    hub: Hub, remote: HubRemote, way: str, fault: Fault
) -> None:
    before = commits(hub, remote)
    hub.faults = [replace(fault)]
    remote.commit(change(b"one", None, a=b"1"))
    assert commits(hub, remote) == before + 1
    assert remote.read(MANIFEST) == b"one"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/commit/", status=504),
        Fault("POST", "/commit/", drop=True),
        Fault("PUT", "/(cdn|xet-store)/", status=403, times=9),
        Fault("POST", "/(objects/batch|xorb-grants/.*)$", status=403),
        Fault("GET", "/api/datasets/[^/]*/[^/]*$", status=503),
    ],
    ids=["commit-504", "commit-dropped", "upload-403", "batch-403", "head-503"],
)
def test_a_save_that_did_not_land_changes_nothing_and_can_be_repeated(
    hub: Hub, remote: HubRemote, way: str, fault: Fault
) -> None:
    before, content = commits(hub, remote), secrets.token_bytes(300)
    hub.faults = [replace(fault)]
    with pytest.raises((Unavailable, Refused)):
        remote.commit(change(b"one", None, a=content))
    assert commits(hub, remote) == before
    hub.faults = []
    remote.commit(change(b"one", None, a=content))
    assert commits(hub, remote) == before + 1
    assert remote.read("users/u/segments/a.parquet") == content


def test_a_failed_upload_is_told_by_what_the_hub_answered(hub: Hub, remote: HubRemote) -> None:
    """The client wraps it in a plain RuntimeError."""
    hub.faults = [Fault("PUT", "/cdn/", status=403)]
    with pytest.raises(Refused):
        remote.commit(change(b"one", None, a=secrets.token_bytes(300)))


@pytest.mark.parametrize("status", [409, 412])
def test_a_busy_hub_is_asked_again(hub: Hub, remote: HubRemote, status: int) -> None:
    hub.faults = [Fault("POST", "/commit/", status=status, times=2)]
    remote.commit(change(b"one", None))
    assert remote.read(MANIFEST) == b"one"


def test_the_hourly_limit_says_when_it_ends(hub: Hub, remote: HubRemote) -> None:
    hub.commits_per_hour = 1  # the first was made by `check`
    with pytest.raises(Unavailable) as caught:
        Retrying(remote, sleep=pytest.fail).commit(change(b"one", None, a=b"1"))
    assert caught.value.code == "hub_hourly_limit"
    assert caught.value.retry_after == 3600
    assert "60 minutes" in caught.value.message
    hub.commits_per_hour = None
    remote.commit(change(b"one", None, a=b"1"))
    assert remote.read(MANIFEST) == b"one"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("You can retry this action in about 1 hour.", 3600),
        ("You can retry this action in 17 minutes.", 1020),
        ("exceeded our hourly quotas for action: commit. We invite you to retry later.", 900),
    ],
)
def test_the_hourly_limit_in_the_words_of_the_hub(
    hub: Hub, remote: HubRemote, text: str, seconds: int
) -> None:
    told = f"rate limit for repository commits. {text}"
    hub.faults = [Fault("POST", "/commit/", status=429, text=told)]
    with pytest.raises(Unavailable) as caught:
        remote.commit(change(b"one", None))
    assert caught.value.retry_after == seconds


def test_a_dataset_that_leaves_files_out_is_refused(hub: Hub, remote: HubRemote) -> None:
    hub.put(remote.repo, ".gitignore", b"*.parquet\n")
    with pytest.raises(Refused) as caught:
        remote.commit(change(b"one", None, a=b"1"))
    assert caught.value.code == "hub_ignored"
    with pytest.raises(NotFound):
        remote.read(MANIFEST)


def test_one_change_is_one_commit(hub: Hub, remote: HubRemote, tmp_path: Path) -> None:
    before = commits(hub, remote)
    remote.commit(change(b"one", None, **{f"s{n}": b"x" * n for n in range(1, 120)}))
    assert commits(hub, remote) == before + 1
    remote.fetch("users/u/segments/s7.parquet", tmp_path / "s")
    assert (tmp_path / "s").read_bytes() == b"x" * 7


def test_another_users_commit_in_between_is_no_conflict(remote: HubRemote) -> None:
    remote.commit(change(b"one", None))
    other = Change(
        files={},
        manifests={"users/v/manifest.json": b"v"},
        expected={"users/v/manifest.json": None},
    )
    remote.commit(other)
    remote.commit(change(b"two", b"one"))
    assert remote.read("users/v/manifest.json") == b"v"


def test_saves_of_two_instances_at_the_same_moment_both_land(hub: Hub, remote: HubRemote) -> None:
    hub.commit_takes = 0.05
    other = replace(remote, _heads=type(remote._heads)())
    theirs = Change(
        files={},
        manifests={"users/v/manifest.json": b"v"},
        expected={"users/v/manifest.json": None},
    )
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        saves = [
            threads.submit(remote.commit, change(b"one", None)),
            threads.submit(other.commit, theirs),
        ]
    assert [save.result() for save in saves] == [None, None]
    assert (remote.read(MANIFEST), other.read("users/v/manifest.json")) == (b"one", b"v")


def test_a_long_wait_is_the_callers_and_not_slept_inside(hub: Hub, remote: HubRemote) -> None:
    """The client itself would sleep for an hour before it tries the listing again."""
    hub.faults = [Fault("GET", "/tree/", status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(Unavailable) as caught:
        list(remote.names("users"))
    assert caught.value.retry_after == 3600
    hub.faults = [Fault("GET", "/tree/", status=429, headers={"RateLimit": '"api";r=0;t=120'})]
    with pytest.raises(Unavailable) as caught:
        list(remote.names("users"))
    assert caught.value.retry_after == 120


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/cdn/", status=0, truncate=3),
        Fault("GET", "/cdn/", drop=True),
        Fault("GET", "/cdn/", status=403),
        Fault("GET", "/cdn/", status=500),
        Fault("GET", "/resolve/", status=404, text="a gateway's own page"),
    ],
    ids=["cut", "dropped", "signature", "500", "gateway"],
)
def test_a_download_that_breaks_is_no_file_and_no_absence(
    hub: Hub, remote: HubRemote, way: str, tmp_path: Path, fault: Fault
) -> None:
    remote.commit(change(b"one", None, a=b"1" * 300))
    hub.faults = [replace(fault)]
    with pytest.raises((Unavailable, Refused)):
        remote.fetch("users/u/segments/a.parquet", tmp_path / "a")
    remote.fetch("users/u/segments/a.parquet", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"1" * 300


def test_a_flipped_byte_comes_as_it_is(hub: Hub, remote: HubRemote) -> None:
    """Neither the Hub's client nor this Remote hashes; `generations` does."""
    remote.commit(change(b"one", None, a=b"1" * 300))
    hub.faults = [Fault("GET", "/cdn/", corrupt=True)]
    assert remote.read("users/u/segments/a.parquet") != b"1" * 300


def test_a_history_that_was_rewritten_meanwhile_is_read_again(
    hub: Hub, remote: HubRemote, tmp_path: Path
) -> None:
    remote.commit(change(b"one", None, a=b"1"))
    hub.repos[remote.repo].squash("by somebody else")
    with pytest.raises(Unavailable):
        remote.fetch("users/u/segments/a.parquet", tmp_path / "a")
    assert remote.read(MANIFEST) == b"one"
    remote.fetch("users/u/segments/a.parquet", tmp_path / "a")


def test_no_token_in_a_log_or_an_error(
    hub: Hub, remote: HubRemote, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    remote.commit(change(b"one", None, a=b"1" * 300))
    with pytest.raises(QuireError) as caught:
        replace(remote, api=HfApi(hub.url, token="hf_expired")).check()
    written = [p.read_bytes() for p in Path(os.environ["HF_XET_CACHE"]).rglob("*") if p.is_file()]
    for token in (*hub.tokens, "hf_expired", *hub.cas.tokens):
        assert token not in caplog.text
        assert token not in str(caught.value.as_dict())
        assert not any(token.encode() in content for content in written)
