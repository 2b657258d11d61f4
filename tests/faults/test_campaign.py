"""A small sample of `bench/kills.py`: SIGKILLs at random moments of concurrent jobs."""

import asyncio
from pathlib import Path

import pytest

from bench.kills import campaign

pytestmark = [pytest.mark.campaign, pytest.mark.slow, pytest.mark.timeout(600)]


def test_killed_at_random_every_job_finishes_and_little_is_done_twice(tmp_path: Path) -> None:
    found = asyncio.run(
        campaign(
            tmp_path / "data", jobs=2, batches=12, kills=2, watchers=3, seed=7, every=(0.5, 2.5)
        )
    )
    assert found.statuses == ["succeeded"] * 2
    assert found.kills == 2
    assert found.integrity == ["ok"] * 2
    assert found.gaps == 0
    assert 24 <= found.started["partition"] <= 24 + 2 * found.kills
    assert 24 <= found.started["index"] <= 24 + found.kills
