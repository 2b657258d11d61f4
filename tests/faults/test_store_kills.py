"""A small sample of `bench/store_kills.py`: a store's process killed, at random and near an index."""

import pytest

from bench.store_kills import campaign

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize(("kills", "aimed"), [(2, False), (1, True)])
def test_what_is_saved_outlives_a_kill(kills: int, aimed: bool) -> None:
    found = campaign(kills, aimed=aimed, seed=3)
    assert found.violations == []
    assert found.kills == kills
    assert found.changes
    assert found.recall >= 0.99
