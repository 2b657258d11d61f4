"""Whether a child process still moves: it says so every second, and its parent counts its own looks.

Looks are counted, and no clock is read: a machine or container that sleeps as a whole wakes up with the
same count. The signs go through a pipe, so that a full disk is no silence. Knows nothing of what the
child does.
"""

import contextlib
import os
import select
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.processes import environment

EVERY = 1.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How many looks, `every` so many seconds, a child may be silent: until its first sign, which
    comes after its imports, and after it."""

    every: float = EVERY
    first: int = 180
    then: int = 30


def beat(descriptor: int | None, every: float = EVERY) -> None:
    """Say that this process moves until it ends, in a thread of its own: so also one that works hard."""
    if descriptor is None:
        return
    os.set_inheritable(descriptor, False)
    os.set_blocking(descriptor, False)

    def say() -> None:
        with contextlib.suppress(
            BrokenPipeError
        ):  # the parent is gone, and so is this process soon
            while True:
                with contextlib.suppress(BlockingIOError):  # nobody has looked for a day
                    os.write(descriptor, b".")
                time.sleep(every)

    threading.Thread(target=say, daemon=True, name="pulse").start()


@dataclass(slots=True)
class Watched:
    """A child, and the pipe through which it says that it moves."""

    process: "subprocess.Popen[bytes]"
    signs: int

    def wait(self, patience: Patience) -> bool:
        """Until the child has ended: True when by itself, False when it was killed for its silence."""
        silent, most, moved = 0, patience.first, True
        poll = select.poll()
        poll.register(self.signs, select.POLLIN)
        while self.process.poll() is None:
            if not poll.poll(1000 * patience.every):
                silent += 1
            elif os.read(self.signs, 4096):
                silent, most = 0, patience.then
            else:
                time.sleep(patience.every)  # it has closed its end: it is about to end
                silent += 1
            if moved and silent > most:
                self.process.kill()
                moved = False
        os.close(self.signs)
        return moved


def start(command: Sequence[str], told: bytes, **usual: str) -> Watched:
    """The command with `--pulse` and the descriptor for `beat`; the rest as in `environment.start`."""
    signs, said = os.pipe()
    try:
        process = environment.start([*command, "--pulse", str(said)], told, said, **usual)
    except OSError:
        os.close(signs)
        raise
    finally:
        os.close(said)
    return Watched(process, signs)
