"""The small process that keeps a worker running, `python -m pipeline.processes.supervisor`, so that the app process
starts nothing after launch. One that is frozen is ended, too. Imports nothing heavy.
"""

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType

from pipeline.processes import environment, logs, pulse
from pipeline.processes.pulse import Patience

log = logging.getLogger(__name__)
_HEALTHY = 5.0
_SAVING = 20.0  # what is unsaved at the end has this long
_PAUSE = 0.2
# By itself it tries for minutes, in which nobody is saved; a save is repeated anyway.
_XET = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2", "HF_XET_CLIENT_RETRY_MAX_DURATION": "20s"}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.processes.supervisor", description=__doc__
    )
    parser.add_argument("--reader", action="store_true", help="of a worker that only reads pages")
    parser.add_argument("--stdin", action="store_true", help="settings as JSON on standard input")
    logs.configure()
    asked = parser.parse_args(arguments)
    told = environment.for_worker(environment.take(stdin=asked.stdin))
    command = [sys.executable, "-m", "pipeline.worker", *(["--reader"] if asked.reader else [])]
    return supervise(command, told)


def supervise(command: list[str], told: bytes, patience: Patience | None = None) -> int:
    """Restart the worker when it ends, or is silent for longer than `patience`: soon after a run of some
    seconds, else with back-off to 30 s. `told` are its settings."""
    die_with_parent()
    stopping = threading.Event()
    children: list[pulse.Watched] = []

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()
        for child in children:
            child.process.terminate()
            late = threading.Timer(_SAVING, child.process.kill)
            late.daemon = True
            late.start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    pause = _PAUSE
    while not stopping.is_set():
        began = time.monotonic()
        child = pulse.start(command, told, **_XET)
        children[:] = [child]
        log.info("worker started", extra={"worker": child.process.pid})
        if stopping.is_set():  # it was told while the child came to be
            child.process.terminate()
        if not child.wait(patience or Patience()):
            log.error("the worker gave no sign of life and was killed")
        pause = _PAUSE if time.monotonic() - began > _HEALTHY else min(30.0, pause * 2)
        if not stopping.is_set():
            log.warning(
                "the worker ended with %s; starting it again in %.1f s",
                child.process.returncode,
                pause,
            )
            stopping.wait(pause)
    return 0


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() == 1:
        sys.exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
