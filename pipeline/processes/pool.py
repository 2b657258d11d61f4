"""Page processes: small, capped, killable children in which PDFs are opened.

`Pool.run` calls a module-level function in a child and returns its answer; `Pool.held` holds a child for
several calls, and yields what a function yields. A child has a memory limit, each answer limits of wall and
CPU time; when it dies, hangs or is cancelled it is killed and replaced. What a child says is not trusted: it
is JSON, read as the type that the function declares. Knows nothing of PDFs. The child is a program of its
own, confined (`sandbox.py`), so that it has nothing of its parent.
"""

import copy
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from errors import PageProcessDied, QuireError, Unavailable, was_cancelled
from pipeline.processes import environment, sandbox, wire
from pipeline.processes.sandbox import Confined
from storage.scarce import scarce

NICE = 5  # whoever is waited for by a person goes first
_TICK = 0.05
_MOST = 256 << 20  # bytes of an answer
_ENTRY = "import sys; from pipeline.processes.pool import main; main(sys.argv[1])"
_ROOT = Path(__file__).resolve().parents[2]


class _Said(NamedTuple):
    """What a child says, a line each: an answer, whether more are to come, or an error."""

    answer: Any
    more: bool = False
    error: dict[str, str] | None = None


class Folders(NamedTuple):
    """Where a child may read, and where it may read and write; besides what belongs to the system."""

    read: tuple[Path, ...]
    write: tuple[Path, ...]


class Size(NamedTuple):
    """What a child is started for: MB of addresses, and its folders; None: any file."""

    memory_mb: int
    folders: Folders | None


class _Child:
    def __init__(self, size: Size, nice: int) -> None:
        ours, theirs = socket.socketpair()
        self.calls = 0
        self.size = size
        self.confined: Confined | None = None
        told = json.dumps([theirs.fileno(), size.memory_mb, nice, size.folders], default=str)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _ENTRY, told],
                pass_fds=[theirs.fileno()],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                env=environment.for_pages(os.environ),
            )
        self.socket = ours
        self._come = bytearray()

    def ask(self, request: Any) -> None:
        self.socket.sendall(wire.packed(request))

    def line(self) -> bytes | None:
        """The next line that it says; None when it says nothing for a tick. EOFError at its end."""
        if b"\n" not in self._come:
            if not select.select([self.socket], [], [], _TICK)[0]:
                return None
            come = self.socket.recv(1 << 20)
            self._come += come
            if not come or len(self._come) > _MOST:
                raise EOFError
            if b"\n" not in come:
                return None
        line, _, self._come = self._come.partition(b"\n")
        return bytes(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close()


class Pool:
    """At most `processes` children; any number of threads may call `run`."""

    def __init__(
        self, processes: int, *, memory_mb: int = 1500, recycle_after: int = 50, nice: int = NICE
    ) -> None:
        self.processes = processes
        self._nice = nice
        self.memory_mb = memory_mb
        self._recycle_after = recycle_after
        self._idle: list[_Child | None] = [None] * processes  # None: a place for one
        self._news = threading.Condition()
        self._closed = threading.Event()
        self._folders: Folders | None = None
        # A child dies with the thread that started it (prctl), so one thread starts them all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="page-process-starter")

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def within(self, read: Sequence[Path], write: Sequence[Path]) -> "Pool":
        """The same pool for calls that may open only what lies in those folders. A child keeps to its
        folders for good, so that another one takes its place when a call has others."""
        for folder in write:
            folder.mkdir(parents=True, exist_ok=True)
        narrow = copy.copy(self)
        narrow._folders = Folders((*read, environment.models(os.environ)), tuple(write))
        return narrow

    def confined(self) -> Confined:
        """How the kernel keeps these processes to themselves."""
        limits = Limits(60, 60, self.memory_mb)
        with self.held(limits) as lane:
            tuple(lane.answers(os.getpid, ()))
            return lane.confined

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
        self._closed.set()
        with self._news:
            left, self._idle[:] = list(self._idle), []
        for child in left:
            if child is not None:
                child.kill()
        self._starter.shutdown(wait=False)

    def take(self, memory_mb: int, cancelled: Callable[[], bool]) -> _Child:
        size = Size(memory_mb, self._folders)
        while not self._closed.is_set():
            if cancelled():
                raise was_cancelled()
            with self._news:
                if not self._idle:
                    self._news.wait(_TICK)
                    continue
                best = max(self._idle, key=lambda c: (c is not None and c.size == size, c is None))
                self._idle.remove(best)
            if best and best.size == size:
                return best
            child = None
            try:
                if best:
                    best.kill()
                child = self._starter.submit(_Child, size, self._nice).result()
            finally:
                if child is None:
                    self.give(None)  # its place is free again
            return child
        raise Unavailable("worker_stopping", "The worker is stopping.", "The job goes on later.")

    def give(self, child: _Child | None) -> None:
        """A child that is free, or the place of one that is no more."""
        with self._news:
            self._idle.append(child)
            self._news.notify()


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
            asked = [wire.name_of(function), arguments, self._limits.cpu_seconds]
            with suppress(ConnectionError):  # it is dead: the wait for its answer says how
                child.ask(asked)
            if child.confined is None:
                child.confined, _ = self._answer(child, sandbox.enter)
            while more:
                answer, more = self._answer(child, function)
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

    @property
    def confined(self) -> Confined:
        assert self._child and self._child.confined
        return self._child.confined

    def _answer(self, child: _Child, function: Callable[..., Any]) -> tuple[Any, bool]:
        """An answer of the function's type or an error, and whether more are to come."""
        said = self._wait(child)
        try:
            answer, more, problem = wire.typed(_Said, said)
            kind, yields = wire.answers_of(function)
            if problem is not None:
                return wire.error(problem), False
            return wire.typed(kind if more or not yields else type(None), answer), more
        except (ValueError, RecursionError) as problem:
            raise _died() from problem

    def _wait(self, child: _Child) -> Any:
        limit = time.monotonic() + self._limits.seconds
        try:
            while (line := child.line()) is None:
                if self._cancelled():
                    raise was_cancelled()
                if time.monotonic() > limit:
                    raise _late(self._limits.seconds)
            return json.loads(line)
        except (EOFError, ConnectionResetError) as problem:
            child.process.kill()
            if child.process.wait() == -signal.SIGXCPU:
                raise _late(self._limits.cpu_seconds) from problem
            raise _died() from problem
        except (ValueError, RecursionError) as problem:
            raise _died() from problem


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


def serve(parent: socket.socket, confined: Confined) -> None:
    """The child's loop: one call at a time until the parent is gone."""
    parent.sendall(wire.packed(_Said(confined)))
    for line in parent.makefile("rb"):
        name, given, cpu_seconds = json.loads(line)
        for said in _answered(name, given, cpu_seconds):
            parent.sendall(wire.packed(said))


def _answered(name: str, given: list[Any], cpu_seconds: float) -> Iterator[_Said]:
    _allow(cpu_seconds)
    try:
        function = wire.named(name)
        answer = function(*wire.arguments(function, given))
        if isinstance(answer, Iterator):
            for part in answer:
                yield _Said(part, more=True)
                _allow(cpu_seconds)
            answer = None
        yield _Said(answer)
    except QuireError as problem:
        yield _Said(None, error=wire.packed_error(problem))
    except MemoryError:
        yield _Said(None, error=wire.packed_error(_died()))
    except OSError as problem:
        found = scarce(problem, Path())
        if found is None:
            raise
        yield _Said(None, error=wire.packed_error(found))


def _allow(cpu_seconds: float) -> None:
    """From now on; the kernel ends a process that takes more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + int(cpu_seconds) + 1, resource.RLIM_INFINITY))


def main(told: str) -> None:
    """Limits first, then the loop; dies with its parent."""
    descriptor, memory_mb, nice, folders = json.loads(told)
    parent = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    os.nice(nice)
    limit = memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    importlib.import_module("storage")  # its place is not looked for once files are out of reach
    confined = sandbox.enter(folders)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    serve(parent, confined)
