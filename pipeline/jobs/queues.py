"""The queues: how many at once, whose turn, and how often they are looked at.

A look costs two milliseconds. A queue that is looked at ten times a second takes a batch up at once; so
that is done only while there are jobs, and most often where all of a job's batches follow each other.
"""

from dbos import DBOS

from pipeline.jobs.queue import QUEUE_INDEX, QUEUE_JOBS, QUEUE_OUT, QUEUE_PAGES

ALL = (QUEUE_JOBS, QUEUE_PAGES, QUEUE_INDEX, QUEUE_OUT)
_BUSY = {QUEUE_JOBS: 0.3, QUEUE_PAGES: 0.1, QUEUE_INDEX: 0.05, QUEUE_OUT: 0.3}  # seconds
_IDLE = 0.3


def register(pages: int, *, busy: bool) -> None:
    """After DBOS is launched; `pages` is how many are read at once."""
    every = _every(busy)
    DBOS.register_queue(
        QUEUE_JOBS,
        worker_concurrency=32,
        partition_concurrency=4,
        polling_interval_sec=every[QUEUE_JOBS],
    )
    DBOS.register_queue(
        QUEUE_PAGES,
        worker_concurrency=pages,
        partition_worker_concurrency=pages,
        polling_interval_sec=every[QUEUE_PAGES],
    )
    DBOS.register_queue(  # a save waits here for its turn, with all others, for up to a minute
        QUEUE_OUT,
        worker_concurrency=32,
        partition_worker_concurrency=4,
        polling_interval_sec=every[QUEUE_OUT],
    )
    DBOS.register_queue(  # a user's batches follow each other; nobody waits for another's
        QUEUE_INDEX,
        worker_concurrency=2,
        partition_worker_concurrency=1,
        polling_interval_sec=every[QUEUE_INDEX],
    )


def look(*, busy: bool) -> None:
    """From now on as often as that needs."""
    for name, seconds in _every(busy).items():
        queue = DBOS.retrieve_queue(name)
        if queue is not None:
            queue.set_polling_interval_sec(seconds)


def _every(busy: bool) -> dict[str, float]:
    return _BUSY if busy else dict.fromkeys(ALL, _IDLE)
