"""Sequences of work and damage: a few hundred here, thousands by `make campaigns`."""

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from storage.live import chroma
from storage.remotes.local import LocalRemote
from storage.remotes.remote import Remote
from tests.campaigns.independent import Read
from tests.campaigns.local_state import LocalState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SEQUENCES = int(os.environ.get("QUIRE_TEST_SEQUENCES", "100"))
STEPS = 10


def folders(root: Path) -> tuple[Remote, Remote | None, Read]:
    def read(name: str) -> bytes | None:
        path = root / "remote" / name
        return path.read_bytes() if path.exists() else None

    return LocalRemote(root / "remote"), LocalRemote(root / "mirror", "mirror"), read


def run(make: Callable[[Path], tuple[Remote, Remote | None, Read]], sequences: int) -> None:
    class Sequences(LocalState):
        pass

    Sequences.make = staticmethod(make)
    options = settings(
        max_examples=sequences,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with (
        mock.patch("os.fsync"),
        mock.patch("gc.collect"),
        mock.patch.object(chroma, "_give_back"),
    ):
        run_state_machine_as_test(Sequences, settings=options)
    print(f"\n{dict(Sequences.total.most_common())}")


def test_what_was_confirmed_outlives_any_damage_to_local_files() -> None:
    run(folders, SEQUENCES)
