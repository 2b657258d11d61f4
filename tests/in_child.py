"""Functions that the tests run in page processes."""

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator

from errors import InputError


def add(a: int, b: int) -> int:
    return a + b


def rest() -> None:
    pass


def refuse() -> None:
    raise InputError("not_a_pdf", "No.", "Try another.")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    while True:
        time.sleep(1)


def fill() -> int:
    return len(bytearray(2 << 30))


def burn() -> None:
    while True:
        pass


def count_then(last: str) -> Iterator[int]:
    yield from range(3)
    globals()[last]()


def imported() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules}


def limits() -> tuple[str | None, str | None, int]:
    """Threads of tesseract, whether libraries may report to their makers, MB of addresses."""
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0] >> 20
    return os.environ.get("OMP_THREAD_LIMIT"), os.environ.get("DO_NOT_TRACK"), allowed
