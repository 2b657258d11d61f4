"""A small sample of `bench/store_faults.py`, and the test of that test: broken variants."""

from unittest import mock

import pytest

from bench.store_broken import BROKEN
from bench.store_faults import campaign

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_no_fault_and_no_second_writer_breaks_a_promise() -> None:
    with mock.patch("os.fsync"):
        found = campaign(1, 8, every=30)
    assert found.violations == []
    assert found.pairs == 8
    assert found.runs >= 16


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_protocol_is_caught(name: str) -> None:
    with mock.patch("os.fsync"), BROKEN[name]():
        assert campaign(1, 40, every=7, first=True).violations
