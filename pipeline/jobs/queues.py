"""The queues: how many at once, whose turn, and how often they are looked at.

A look costs two milliseconds. A queue that is looked at ten times a second takes a batch up at once; so
that is done only while there are jobs, and most often where all of a job's batches follow each other.
"""

from dbos import DBOS

from pipeline.jobs.queue import (
    QUEUE_AGAIN,
    QUEUE_INDEX,
    QUEUE_JOBS,
    QUEUE_NEW,
    QUEUE_OUT,
    QUEUE_PAGES,
    QUEUE_SMALL,
    VISITORS,
)

ALL = (QUEUE_NEW, QUEUE_SMALL, QUEUE_JOBS, QUEUE_AGAIN, QUEUE_PAGES, QUEUE_INDEX, QUEUE_OUT)
_BUSY = {  # seconds
    QUEUE_NEW: 0.2, QUEUE_SMALL: 0.2, QUEUE_JOBS: 0.3, QUEUE_AGAIN: 0.5, QUEUE_PAGES: 0.1,
    QUEUE_INDEX: 0.05, QUEUE_OUT: 0.3,
}  # fmt: skip
_IDLE = 0.3
_VISITORS = 0.3


def names(*, visitors: bool, reader: bool = False) -> list[str]:
    """The queues that a worker takes from."""
    own = [QUEUE_PAGES] if reader else list(ALL)
    return own + [name + VISITORS for name in own] if visitors else own


def register(pages: int, *, busy: bool, visitors: bool) -> None:
    """After DBOS is launched; `pages` is how many are read at once. Visitors' jobs have queues beside
    the others, which leave most of the worker to those who are signed in."""
    every = _every(busy)
    _register(QUEUE_NEW, every[QUEUE_NEW], 16, jobs=1)
    _register(QUEUE_SMALL, every[QUEUE_SMALL], 32, jobs=4)
    _register(QUEUE_JOBS, every[QUEUE_JOBS], 32, jobs=4)
    _register(QUEUE_AGAIN, every[QUEUE_AGAIN], 64, jobs=32)  # at the time that was told
    _register(QUEUE_PAGES, every[QUEUE_PAGES], pages, each=pages)
    # A save waits in there for its turn, with all others, for up to a minute.
    _register(QUEUE_OUT, every[QUEUE_OUT], 32, each=4)
    # A user's batches follow each other; nobody waits for another's.
    _register(QUEUE_INDEX, every[QUEUE_INDEX], 2, each=1)
    if visitors:
        share = visitor_pages(pages)
        _register(QUEUE_NEW + VISITORS, _VISITORS, 4, jobs=1)
        _register(QUEUE_SMALL + VISITORS, _VISITORS, 8, jobs=4)
        _register(QUEUE_JOBS + VISITORS, _VISITORS, 8, jobs=4)
        _register(QUEUE_AGAIN + VISITORS, _VISITORS, 16, jobs=8)
        _register(QUEUE_PAGES + VISITORS, _VISITORS, share, each=share)
        _register(QUEUE_OUT + VISITORS, _VISITORS, 8, each=4)
        _register(QUEUE_INDEX + VISITORS, _VISITORS, 1, each=1)


def visitor_pages(pages: int) -> int:
    """How many pages of visitors' documents are read at once, beside the others."""
    return max(1, pages - 1)


def _register(
    name: str, seconds: float, all_of_it: int, *, each: int | None = None, jobs: int | None = None
) -> None:
    """How much of it this worker does at once, how much of that for one user or address (`each`), and
    how much for those on all workers (`jobs`); `seconds` between two looks."""
    DBOS.register_queue(
        name,
        worker_concurrency=all_of_it,
        partition_worker_concurrency=each,
        partition_concurrency=jobs,
        polling_interval_sec=seconds,
    )


def look(*, busy: bool) -> None:
    """From now on as often as that needs."""
    for name, seconds in _every(busy).items():
        queue = DBOS.retrieve_queue(name)
        if queue is not None:
            queue.set_polling_interval_sec(seconds)


def _every(busy: bool) -> dict[str, float]:
    return _BUSY if busy else dict.fromkeys(ALL, _IDLE)
