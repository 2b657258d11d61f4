"""Page processes: answers, errors, limits, death."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import InputError
from pipeline.pool import Cancelled, PageProcessDied, Pool
from tests.in_child import add, die, fill, hang, limits, refuse


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1, memory_mb=600) as made:
        yield made


def test_an_answer_comes_back(pool: Pool) -> None:
    assert pool.run(add, 2, 3, seconds=20) == 5
    assert pool.run(limits, seconds=20) == "1"


def test_an_error_keeps_its_kind_code_and_advice(pool: Pool) -> None:
    with pytest.raises(InputError) as caught:
        pool.run(refuse, seconds=20)
    assert (caught.value.code, caught.value.advice) == ("not_a_pdf", "Try another.")


@pytest.mark.parametrize("function", [die, fill, hang], ids=["killed", "memory", "time"])
def test_a_child_that_fails_is_replaced(pool: Pool, function: object) -> None:
    with pytest.raises(PageProcessDied):
        pool.run(function, seconds=1.5)  # type: ignore[arg-type]
    assert pool.run(add, 1, 1, seconds=20) == 2


def test_a_cancelled_call_ends_and_its_process_is_gone(pool: Pool) -> None:
    with pytest.raises(Cancelled):
        pool.run(hang, seconds=60, cancelled=lambda: True)
    assert pool.run(add, 1, 1, seconds=20) == 2


def test_no_child_outlives_the_pool() -> None:
    with Pool(1) as made:
        pid = made.run(os.getpid, seconds=20)
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
