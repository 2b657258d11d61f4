"""Functions that the tests run in page processes."""

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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


def connect(port: int) -> str:
    """The kind of error with which no connection comes to be."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return "connected"
    except OSError as problem:
        return type(problem).__name__


def tried(paths: list[Path]) -> dict[str, str]:
    """What comes of reading each of these files: its first byte, or the kind of error."""
    found = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                file.seek(0)
                found[str(path)] = file.read(1).decode("ascii", "replace")
        except OSError as problem:
            found[str(path)] = type(problem).__name__
    return found


def made(folder: Path) -> list[str]:
    """What may be made in a folder, and what may be done to this process's parent."""
    acts: dict[str, Callable[[], object]] = {
        "file": lambda: (folder / "file").write_text("x"),
        "folder": lambda: (folder / "folder").mkdir(),
        "link": lambda: (folder / "link").symlink_to("/etc/passwd"),
        "pipe": lambda: os.mkfifo(folder / "pipe"),
        "signal": lambda: os.kill(os.getppid(), 0),
    }
    done = []
    for name, act in acts.items():
        try:
            act()
            done.append(name)
        except OSError:
            continue
    return done


def imported() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules}


def limits() -> tuple[str | None, str | None, int]:
    """Threads of tesseract, whether libraries may report to their makers, MB of addresses."""
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0] >> 20
    return os.environ.get("OMP_THREAD_LIMIT"), os.environ.get("DO_NOT_TRACK"), allowed


def written(path: str) -> int:
    return Path(path).write_bytes(b"x" * 9000)
