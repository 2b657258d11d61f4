"""Page processes: answers, errors, limits, death."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import Cancelled, InputError, PageProcessDied
from pipeline.processes.pool import Lane, Limits, Pool
from tests.in_child import add, burn, count_then, die, fill, hang, limits, refuse

LIMITS = Limits(seconds=20, cpu_seconds=20, memory_mb=600)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1, memory_mb=600) as made:
        yield made


def test_an_answer_comes_back(pool: Pool) -> None:
    assert pool.run(add, 2, 3, seconds=20) == 5
    assert pool.run(limits, seconds=20) == ("1", "1", 600)


def test_a_call_may_ask_for_a_process_of_another_size(pool: Pool) -> None:
    sizes = [pool.run(limits, seconds=20, memory_mb=mb)[2] for mb in (None, 900, 900, None)]
    assert sizes == [600, 900, 900, 600]


def test_an_error_keeps_its_kind_code_and_advice(pool: Pool) -> None:
    with pytest.raises(InputError) as caught:
        pool.run(refuse, seconds=20)
    assert (caught.value.code, caught.value.advice) == ("not_a_pdf", "Try another.")


def test_a_place_is_free_again_when_no_process_can_be_started() -> None:
    given, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Pool(1) as pool:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, most))
        try:
            with pytest.raises(OSError, match="open files"):
                pool.run(add, 1, 1, seconds=20)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (given, most))
        assert pool.run(add, 2, 3, seconds=20) == 5


@pytest.mark.slow
@pytest.mark.parametrize("function", [die, fill, hang], ids=["killed", "memory", "time"])
def test_a_child_that_fails_is_replaced(pool: Pool, function: object) -> None:
    with pytest.raises(PageProcessDied):
        pool.run(function, seconds=1.5)  # type: ignore[arg-type]
    assert pool.run(add, 1, 1, seconds=20) == 2


def test_values_come_one_by_one_and_those_before_a_death_are_kept(pool: Pool) -> None:
    with pool.held(LIMITS) as lane:
        assert list(lane.each(count_then, "rest")) == [0, 1, 2]
        seen = []
        with pytest.raises(PageProcessDied):
            for value in lane.each(count_then, "die"):
                seen.append(value)
        assert seen == [0, 1, 2]
        assert list(lane.each(count_then, "rest")) == [0, 1, 2]
    assert pool.run(add, 1, 1, seconds=20) == 2


def test_a_held_process_is_the_same_until_it_is_given_back_or_fails() -> None:
    def process(lane: Lane) -> int:
        ((answer, _),) = lane.answers(os.getpid, ())
        return int(answer)

    with Pool(2) as two:
        with two.held(LIMITS) as one, two.held(LIMITS) as other:
            first, second = process(one), process(other)
            assert [process(one), process(other)] == [first, second]
            assert first != second
        with pytest.raises(ZeroDivisionError), two.held(LIMITS) as one:
            broken = process(one)
            raise ZeroDivisionError
        assert broken in {first, second}
        assert not Path(f"/proc/{broken}").exists()


@pytest.mark.slow
def test_a_child_that_takes_too_much_of_the_processor_is_late(pool: Pool) -> None:
    with pytest.raises(PageProcessDied) as caught:
        pool.run(burn, seconds=60, cpu_seconds=1)
    assert caught.value.code == "page_timeout"


def test_a_cancelled_call_ends_and_its_process_is_gone(pool: Pool) -> None:
    with pytest.raises(Cancelled):
        pool.run(hang, seconds=60, cancelled=lambda: True)
    assert pool.run(add, 1, 1, seconds=20) == 2


def test_no_child_outlives_the_pool() -> None:
    with Pool(1) as made:
        pid = made.run(os.getpid, seconds=20)
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
