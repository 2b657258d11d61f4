"""Every Remote against every server: a new one is added to `REMOTES`."""

import functools
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import botocore.session
import huggingface_hub
import pytest

from storage.remotes.hub import connect as hub_connect
from storage.remotes.local import LocalRemote
from storage.remotes.remote import Remote
from storage.remotes.retrying import Proved, Retrying
from storage.remotes.s3 import connect
from tests.contracts import stores
from tests.contracts.stores import KEYS, bucket, dataset, named, swift, with_attributes
from tests.hub.server import Hub

Ask = Callable[[str], Any]  # a fixture by its name
REMOTES: dict[str, Callable[[Path, Ask], Remote]] = {
    "local": lambda folder, _: LocalRemote(folder / "remote"),
    "retrying": lambda folder, _: Retrying(LocalRemote(folder / "remote"), waits=()),
    "proved": lambda folder, _: Proved(LocalRemote(folder / "remote")),
    "hub-lfs": lambda _, ask: dataset(ask("hub")),
    "hub-xet": lambda _, ask: (ask("xet"), dataset(ask("hub")))[1],
    "s3-moto": lambda _, ask: bucket(ask("moto")),
    "s3-moto-prefix": lambda _, ask: bucket(ask("moto"), "quire/été & +%"),
    "s3-swift": lambda _, ask: bucket(ask("swift_url"), "quire"),
    "hub-named": lambda _, ask: ask("named_hub"),
    "s3-named": lambda _, ask: ask("named_s3"),
}
NAMED = {"hub-named": "QUIRE_TEST_HUB_OWNER", "s3-named": "QUIRE_TEST_S3_BUCKET"}
HERE = [name for name in REMOTES if NAMED.get(name, "") in {"", *named()}]
SLOW = {"s3-swift"}  # a process of its own
# Swift lets several of many writers create one object: its `check` says so, and it is refused.
UNFIT = {"s3-swift"}
GIVEN = {name: os.environ[name] for name in KEYS if name in os.environ}


def pytest_report_header() -> str:
    left = [variable for variable in NAMED.values() if variable not in named()]
    return f"stores: {', '.join(HERE)}" + "".join(f"; {name} names a real one" for name in left)


@pytest.fixture(scope="session")
def _keys() -> Iterator[None]:
    """What boto3 knows of S3 is read once, not for each of a hundred clients."""
    once = functools.cache(botocore.session.create_loader)
    with stores.keys(), mock.patch.object(botocore.session, "create_loader", once):
        yield


@pytest.fixture(scope="session")
def moto(_keys: None) -> Iterator[str]:
    with stores.moto() as url:
        yield url


@pytest.fixture(scope="session")
def swift_url(_keys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Swift checks signatures and digests and keeps files; its preconditions lose races."""
    folder = with_attributes(tmp_path_factory.mktemp("store"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder.parent, ignore_errors=True)
        yield stack.enter_context(swift(folder))


@pytest.fixture(scope="session")
def _hub() -> Iterator[Hub]:
    with Hub() as made:
        yield made


@pytest.fixture
def hub(_hub: Hub) -> Iterator[Hub]:
    """Whatever a test does, no token may reach another origin than the Hub's."""
    yield _hub
    _hub.faults, _hub.commits_per_hour, _hub.commit_takes = [], None, 0.0
    assert _hub.leaks == []


@pytest.fixture
def xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own switch, which it asks at every upload."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)


@pytest.fixture
def named_hub() -> Iterator[Remote]:
    repo = f"{os.environ['QUIRE_TEST_HUB_OWNER']}/quire-test-{secrets.token_hex(4)}"
    made = hub_connect(repo, os.environ.get("HF_TOKEN"))
    yield made
    made.api.delete_repo(repo, repo_type="dataset", missing_ok=True)


@pytest.fixture
def named_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    endpoint = os.environ.get("QUIRE_TEST_S3_ENDPOINT_URL")
    place = f"quire-test/{secrets.token_hex(6)}"
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    made = connect(os.environ["QUIRE_TEST_S3_BUCKET"], place, endpoint)
    yield made
    for key in list(made._keys(f"{place}/")):
        made.client.delete_object(Bucket=made.bucket, Key=key)


@pytest.fixture(params=[pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in HERE])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    made = REMOTES[request.param](tmp_path, request.getfixturevalue)
    if request.param not in UNFIT:
        made.check()
    return made
