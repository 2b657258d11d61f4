"""Small samples of the stores' campaigns in `bench/`: each runs there in full, by the same code."""

import subprocess
import sys

import pytest

from bench import store_flips, store_kills, store_pairs, store_reads
from tests.conftest import ROOT

pytestmark = [pytest.mark.campaign, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(("kills", "aimed"), [(2, False), (1, True)])
def test_what_is_saved_outlives_a_kill(kills: int, aimed: bool) -> None:
    found = store_kills.campaign(kills, aimed=aimed, seed=3)
    assert found.violations == []
    assert found.kills == kills
    assert found.changes
    assert found.recall >= 0.99


def test_a_flipped_bit_of_any_object_is_told_and_never_served() -> None:
    for kind, found in store_flips.campaign(5, 0).items():
        assert found.violations == [], kind
        assert found.detected == found.flips == 5, kind


def test_the_mirror_is_whole_and_goes_forward_while_it_is_written() -> None:
    found = store_reads.campaign(30)
    assert found.violations == []
    assert found.reads == 30
    assert found.seen > 3


def test_two_instances_through_real_servers_keep_what_both_wrote() -> None:
    found = store_pairs.campaign(4)
    assert found.violations == []
    assert found.saves + found.refused == 8


def test_stores_that_are_closed_give_back_what_they_held() -> None:
    size = ["--users", "18", "--chunks", "60", "--cycles", "40"]
    done = subprocess.run(  # it measures its own process
        [sys.executable, "-m", "bench.store_users", *size],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n      40 " in done.stdout
