"""Sequences of work and damage: some hundred here, thousands by `make campaigns`, which also go over a Hub
and a bucket on loopback, and show that each broken variant is found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from errors import NotFound
from storage.live import chroma
from storage.remotes.local import LocalRemote
from storage.remotes.remote import Remote
from tests.campaigns.broken import BROKEN
from tests.campaigns.independent import Read
from tests.campaigns.local_state import LocalState
from tests.contracts.stores import bucket, dataset, keys, moto
from tests.hub.server import Hub
from tests.sequences import IN_FULL, limit, sequences

pytestmark = [pytest.mark.slow, pytest.mark.timeout(limit(600))]
CAMPAIGN = pytest.mark.skipif(not IN_FULL, reason="in make campaigns")
STEPS = 10
Make = Callable[[Path], tuple[Remote, Remote | None, Read]]


def folders(root: Path) -> tuple[Remote, Remote | None, Read]:
    def read(name: str) -> bytes | None:
        path = root / "remote" / name
        return path.read_bytes() if path.exists() else None

    return LocalRemote(root / "remote"), LocalRemote(root / "mirror", "mirror"), read


def run(make: Make, sequences: int, **options: Any) -> None:
    class Sequences(LocalState):
        pass

    Sequences.make = staticmethod(make)
    chosen = settings(
        max_examples=sequences,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=not IN_FULL,
        suppress_health_check=list(HealthCheck),
        **options,
    )
    with (
        mock.patch("os.fsync"),
        mock.patch("gc.collect"),  # of each of a thousand clients
        mock.patch.object(chroma, "_give_back"),
    ):
        run_state_machine_as_test(Sequences, settings=chosen)
    print(f"\n{dict(Sequences.total.most_common())}")


def test_what_was_confirmed_outlives_any_damage_to_local_files() -> None:
    run(folders, sequences(60))


@CAMPAIGN
def test_it_does_over_a_hub_and_a_bucket() -> None:
    with Hub() as hub, moto() as url, keys():

        def served(_root: Path) -> tuple[Remote, Remote | None, Read]:
            primary = dataset(hub)
            primary.check()

            def read(name: str) -> bytes | None:
                try:
                    return primary.read(name)
                except NotFound:
                    return None

            return primary, bucket(url), read

        run(served, sequences(10, share=10))


def test_each_broken_variant_can_be_put_in_place() -> None:
    for variant in BROKEN.values():
        with variant():
            pass


@CAMPAIGN
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_variant_is_found(name: str) -> None:
    with BROKEN[name](), pytest.raises(Exception) as found:
        run(folders, 400, phases=[Phase.generate], report_multiple_bugs=False)
    print(f"\n{name}: {found.value!r:.200}")
    rotten = (AttributeError, NameError, TypeError)  # of the variant itself
    assert not isinstance(found.value, rotten)
