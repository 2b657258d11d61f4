"""Page processes: small, capped, killable children in which PDFs are opened.

`Pool.run` calls a module-level function in a child and returns its answer; `Pool.held` holds a child for
several calls, and yields what a function yields. A child has a memory limit, each answer limits of wall and
CPU time; when it dies, hangs or is cancelled it is killed and replaced. Knows nothing of PDFs. The child is
a program of its own, so that it imports nothing of its parent.
"""

import ctypes
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from errors import Cancelled, PageProcessDied, QuireError, Unavailable

NICE = 5  # whoever is waited for by a person goes first
_TICK = 0.05
# Not `-m`: classes of a module run as __main__ cannot be unpickled by the parent.
_ENTRY = "import sys; from pipeline.processes.pool import main; main(sys.argv[1:])"
_ROOT = Path(__file__).resolve().parents[2]


class _Child:
    def __init__(self, memory_mb: int, nice: int) -> None:
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        self.calls = 0
        self.memory_mb = memory_mb
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY, *map(str, (theirs.fileno(), memory_mb, nice))],
            pass_fds=[theirs.fileno()],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self.pipe = Connection(ours.detach())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


class Pool:
    """At most `processes` children; any number of threads may call `run`."""

    def __init__(
        self, processes: int, *, memory_mb: int = 1500, recycle_after: int = 50, nice: int = NICE
    ) -> None:
        self.processes = processes
        self._nice = nice
        self.memory_mb = memory_mb
        self._recycle_after = recycle_after
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        self._closed = False
        # A child dies with the thread that started it (prctl), so one thread starts them all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="page-process-starter")
        for _ in range(processes):
            self._idle.put(None)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        seconds: float,
        cpu_seconds: float | None = None,
        memory_mb: int | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Any:
        """The function's answer, or its QuireError. `seconds` count from when a child is free; a call
        that asks for another memory limit than the pool's gets a child of its own size."""
        limits = Limits(seconds, cpu_seconds or seconds + 5, memory_mb or self.memory_mb)
        with self.held(limits, cancelled) as lane:
            (answer,) = (a for a, _ in lane.answers(function, arguments))
        if isinstance(answer, QuireError):
            raise answer
        return answer

    @contextmanager
    def held(
        self, limits: "Limits", cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator["Lane"]:
        """Calls one after the other in the same child while it lives. It is killed when what is done
        with it fails."""
        lane, well = Lane(self, limits, cancelled), False
        try:
            yield lane
            well = True
        finally:
            lane.end(kill=not well or lane.calls >= self._recycle_after)

    def close(self) -> None:
        self._closed = True
        while True:
            try:
                child = self._idle.get_nowait()
            except queue.Empty:
                self._starter.shutdown(wait=False)
                return
            if child is not None:
                child.kill()

    def take(self, memory_mb: int, cancelled: Callable[[], bool]) -> _Child:
        while not self._closed:
            if cancelled():
                raise _cancelled()
            try:
                free = self._idle.get(timeout=_TICK)
            except queue.Empty:
                continue
            if free and free.memory_mb != memory_mb:
                free.kill()
                free = None
            return free or self._starter.submit(_Child, memory_mb, self._nice).result()
        raise Unavailable("worker_stopping", "The worker is stopping.", "The job goes on later.")

    def give(self, child: _Child | None) -> None:
        """A child that is free, or the place of one that is no more."""
        self._idle.put(child)


class Pools(NamedTuple):
    """Processes of visitors beside everybody else's: each waits for his own kind only."""

    people: Pool
    visitors: Pool

    def of(self, *, visitor: bool) -> Pool:
        return self.visitors if visitor else self.people

    def close(self) -> None:
        self.people.close()
        self.visitors.close()


class Limits(NamedTuple):
    """For each answer: wall time as the parent sees it, CPU time as the child's kernel does. For the
    child: its address space."""

    seconds: float
    cpu_seconds: float
    memory_mb: int


class Lane:
    """A child of a pool for as long as somebody holds it; another one when it dies."""

    def __init__(self, pool: Pool, limits: Limits, cancelled: Callable[[], bool]) -> None:
        self._pool = pool
        self._limits = limits
        self._cancelled = cancelled
        self._child: _Child | None = None

    def each(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        """What the function yields, as it comes; the limits hold for each value anew. When the
        child dies, what came before is there."""
        for answer, more in self.answers(function, arguments):
            if isinstance(answer, QuireError):
                raise answer
            if more:
                yield answer

    def answers(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Iterator[tuple[Any, bool]]:
        """Each answer, and whether more are to come."""
        self._child = child = self._child or self._pool.take(
            self._limits.memory_mb, self._cancelled
        )
        more = True
        try:
            child.pipe.send((function, arguments, self._limits.cpu_seconds))
            while more:
                answer, more = self._wait(child)
                yield answer, more
            child.calls += 1
        finally:
            if more:
                self.end(kill=True)

    def end(self, *, kill: bool) -> None:
        """Killed, whatever it does, or free for whoever waits for one."""
        child, self._child = self._child, None
        if child and kill:
            child.kill()
        if child:
            self._pool.give(None if kill else child)

    @property
    def calls(self) -> int:
        return self._child.calls if self._child else 0

    def _wait(self, child: _Child) -> tuple[Any, bool]:
        limit = time.monotonic() + self._limits.seconds
        while not child.pipe.poll(_TICK):
            if self._cancelled():
                raise _cancelled()
            if time.monotonic() > limit:
                raise _late(self._limits.seconds)
        try:
            answer, more = child.pipe.recv()
        except (EOFError, ConnectionResetError) as problem:
            if child.process.wait() == -signal.SIGXCPU:
                raise _late(self._limits.cpu_seconds) from problem
            raise _died() from problem
        return answer, more


def _late(seconds: float) -> PageProcessDied:
    return PageProcessDied(
        "page_timeout",
        f"Reading took longer than {seconds:.0f} s.",
        "Try these pages again with another strategy.",
    )


def _died() -> PageProcessDied:
    return PageProcessDied(
        "page_process_died",
        "Reading needed too much memory or broke the reader.",
        "Try these pages again with another strategy.",
    )


def _cancelled() -> Cancelled:
    return Cancelled("cancelled", "The job was cancelled.", "Retry it when you want it.")


def serve(pipe: Connection) -> None:
    """The child's loop: one call at a time until the parent is gone."""
    while True:
        try:
            function, arguments, cpu_seconds = pipe.recv()
        except EOFError:
            return
        for answer in _answered(function, arguments, cpu_seconds):
            pipe.send(answer)


def _answered(
    function: Callable[..., Any], arguments: tuple[Any, ...], cpu_seconds: float
) -> Iterator[tuple[Any, bool]]:
    _allow(cpu_seconds)
    try:
        answer = function(*arguments)
        if isinstance(answer, Iterator):
            for part in answer:
                yield part, True
                _allow(cpu_seconds)
            answer = None
    except QuireError as problem:
        answer = problem
    except MemoryError:
        answer = _died()
    yield answer, False


def _allow(cpu_seconds: float) -> None:
    """From now on; the kernel ends a process that takes more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + int(cpu_seconds) + 1, resource.RLIM_INFINITY))


def main(arguments: list[str]) -> None:
    """Limits first, then the loop; dies with its parent."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(int(arguments[2]))
    os.environ["OMP_THREAD_LIMIT"] = "1"  # tesseract reads it when it is loaded, later
    os.environ["DO_NOT_TRACK"] = "1"  # the stock library reports each import and each call
    limit = int(arguments[1]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(Connection(int(arguments[0])))
