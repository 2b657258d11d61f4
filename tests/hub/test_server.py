"""The tests' own Hub satisfies the real client, by LFS and by Xet, and what that client does.

A change here after an upgrade of huggingface_hub or hf_xet is a change of what stores rely on.
"""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.server import Fault, Hub

REPO = "ada/store"
UPLOAD = """
import random, sys
from huggingface_hub import CommitOperationAdd, HfApi
content = random.Random(7).randbytes(2_000_000) + sys.argv[2].encode()
HfApi(sys.argv[1], token="hf_write").create_commit(
    "ada/store", [CommitOperationAdd(sys.argv[2], content)], commit_message="m", repo_type="dataset"
)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        api(made).create_repo(REPO, repo_type="dataset", private=True)
        yield made


@pytest.fixture(params=["lfs", "xet"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    off = request.param == "lfs"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", off)
    return str(request.param)


def api(hub: Hub, token: str = "hf_write") -> HfApi:
    return HfApi(hub.url, token=token)


def commit(hub: Hub, parent: str | None = None, **files: bytes) -> str:
    adds = [CommitOperationAdd(name.replace("_", "."), c) for name, c in files.items()]
    made = api(hub).create_commit(
        REPO, adds, commit_message="m", repo_type="dataset", parent_commit=parent
    )
    return str(made.oid)


def download(hub: Hub, to: Path) -> Path:
    found = huggingface_hub.snapshot_download(
        REPO, repo_type="dataset", endpoint=hub.url, token="hf_write", local_dir=to
    )
    return Path(found)


def test_files_of_every_kind_come_back(hub: Hub, way: str, tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(9_000_000)  # two parts of LFS, many chunks of Xet
    floats = bytes(range(256)) * 3000
    commit(hub, a_parquet=noise, b_zip=b"words " * 50_000, c_bin=floats, d_json=b"{}", e_txt=b"")
    commit(hub, f_parquet=noise[:4_000_000] + b"inserted" + noise[4_000_000:])
    there = download(hub, tmp_path)
    assert (there / "a.parquet").read_bytes() == noise
    assert (there / "b.zip").read_bytes() == b"words " * 50_000
    assert (there / "c.bin").read_bytes() == floats
    assert (there / "d.json").read_bytes() == b"{}"
    assert (there / "e.txt").read_bytes() == b""
    assert (there / "f.parquet").read_bytes()[4_000_000:4_000_008] == b"inserted"
    assert hub.leaks == []
    assert api(hub).verify_repo_checksums(REPO, repo_type="dataset", local_dir=there)
    assert any("/xet/" in seen.path for seen in hub.log) == (way == "xet")
    assert [
        seen for seen in hub.log if seen.status == 404 and "/xet/v1/chunks/" not in seen.path
    ] == []


@pytest.mark.slow
def test_xet_sends_new_chunks_only_even_from_a_new_machine(hub: Hub, tmp_path: Path) -> None:
    sent = []
    for name in ("first.parquet", "second.parquet"):
        before = len(hub.log)
        environment = {**os.environ, "HF_HOME": str(tmp_path / name), "HF_HUB_DISABLE_XET": "0"}
        environment["HF_XET_CACHE"] = str(tmp_path / name / "xet")
        subprocess.run([sys.executable, "-c", UPLOAD, hub.url, name], env=environment, check=True)
        sent.append(hub.received(before))
    assert sent[0] > 2_000_000
    assert sent[1] < 400_000


def test_a_stale_parent_and_a_commit_under_way_are_told_apart(hub: Hub) -> None:
    first = commit(hub, a_json=b"1")
    commit(hub, parent=first, a_json=b"2")
    with pytest.raises(HfHubHTTPError) as caught:
        commit(hub, parent=first, a_json=b"3")
    assert caught.value.response.status_code == 412
    hub.repos[REPO].busy = True
    with pytest.raises(HfHubHTTPError) as caught:
        commit(hub, a_json=b"4")
    assert caught.value.response.status_code == 409
    assert hub.content(hub.repos[REPO].tree["a.json"].sha256) == b"2"


def test_a_commit_is_whole_or_nothing(hub: Hub) -> None:
    head = commit(hub, a_json=b"1")
    with pytest.raises(HfHubHTTPError):
        api(hub).create_commit(
            REPO,
            [CommitOperationAdd("b.json", b"2"), CommitOperationDelete("never.json")],
            commit_message="m",
            repo_type="dataset",
        )
    assert hub.repos[REPO].head == head
    assert "b.json" not in hub.repos[REPO].tree


def test_a_squash_forgets_history_and_bytes(hub: Hub, way: str) -> None:
    old = commit(hub, a_parquet=random.Random(2).randbytes(100_000))
    commit(hub, a_parquet=random.Random(3).randbytes(100_000))
    gone = hub.repos[REPO].at(old)
    assert gone is not None
    assert len(api(hub).list_repo_commits(REPO, repo_type="dataset")) == 4
    api(hub).super_squash_history(REPO, repo_type="dataset")
    assert len(api(hub).list_repo_commits(REPO, repo_type="dataset")) == 1
    with pytest.raises(RevisionNotFoundError):
        api(hub).dataset_info(REPO, revision=old)
    with pytest.raises(KeyError):
        hub.content(gone.tree["a.parquet"].sha256)
    listed = list(api(hub).list_lfs_files(REPO, repo_type="dataset"))
    assert [(file.filename, file.size) for file in listed] == [("a.parquet", 100_000)]


def test_rights(hub: Hub) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api(hub, "hf_other").dataset_info(REPO)
    with pytest.raises(HfHubHTTPError) as caught:
        api(hub, "hf_expired").dataset_info(REPO)
    assert caught.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError) as caught:
        api(hub, "hf_read").create_commit(
            REPO, [CommitOperationAdd("a", b"1")], commit_message="m", repo_type="dataset"
        )
    assert caught.value.response.status_code == 403
    api(hub).update_repo_settings(REPO, repo_type="dataset", visibility="public", gated="auto")
    with pytest.raises(GatedRepoError):
        api(hub, "hf_other").list_repo_files(REPO, repo_type="dataset")


def test_a_long_tree_comes_in_pages(hub: Hub) -> None:
    hub.page = 7
    commit(hub, **{f"f{n}_json": b"%d" % n for n in range(30)})
    assert len(api(hub).list_repo_files(REPO, repo_type="dataset")) == 31


def test_faults_hit_the_requests_they_name(hub: Hub) -> None:
    hub.faults = [Fault("GET", f"/api/datasets/{REPO}$", status=503, skip=1, times=1)]
    outcomes = []
    for _ in range(3):
        try:
            outcomes.append(api(hub).dataset_info(REPO).sha is not None)
        except HfHubHTTPError as problem:
            outcomes.append(problem.response.status_code)
    assert outcomes == [True, 503, True]


@pytest.mark.slow
def test_a_download_cut_short_goes_on_and_a_flipped_byte_is_taken(
    hub: Hub, way: str, tmp_path: Path
) -> None:
    """The client checks the length, not the hash: hashing is ours to do."""
    content = random.Random(5).randbytes(500_000)
    commit(hub, a_parquet=content)
    body = "/cdn/" if way == "lfs" else "/xet-xorbs/"
    hub.faults = [Fault("GET", body, status=0, truncate=1000)]
    assert (download(hub, tmp_path / "cut") / "a.parquet").read_bytes() == content
    hub.faults = [Fault("GET", body, corrupt=True)]
    try:
        flipped = (download(hub, tmp_path / "flipped") / "a.parquet").read_bytes()
    except (OSError, RuntimeError):
        flipped = b""  # the frame around the chunk was hit
    assert flipped != content


def test_a_commit_that_asks_for_what_was_never_uploaded_is_refused(hub: Hub) -> None:
    operation = CommitOperationAdd("a.parquet", b"never")
    operation._is_uploaded, operation._upload_mode = True, "lfs"
    with pytest.raises(BadRequestError):
        api(hub).create_commit(REPO, [operation], commit_message="m", repo_type="dataset")
