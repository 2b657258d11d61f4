"""What is frozen, gone or busy is said within a time, and started again: the link, the worker, the database."""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse

from errors import QuireError
from pipeline.jobs.health import Health
from pipeline.processes import channel
from pipeline.processes.channel import Channel
from pipeline.processes.rpc import Link, address, key
from storage.catalog.catalog import Catalog
from storage.catalog.tokens import Accounts
from storage.paths import Paths
from tests.conftest import ROOT, start_app
from tests.engine import USER, engine, lines
from tests.postgres import postgres
from web.serve import Server

pytestmark = pytest.mark.timeout(60)  # what hangs fails


def code(call: Callable[[], object]) -> str:
    with pytest.raises(QuireError) as caught:
        call()
    return caught.value.code


# The link


def silent(_: socket.socket) -> None:
    time.sleep(600)


def half_a_greeting(end: socket.socket) -> None:
    end.recv(100)
    end.sendall(b"\0\0")
    time.sleep(600)


def noise(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            end.sendall(secrets.token_bytes(1000))


def no_more(end: socket.socket) -> None:
    end.recv(100)
    end.close()


@contextmanager
def peer(paths: Paths, act: Callable[[socket.socket], None]) -> Iterator[None]:
    """Listens where the worker does, and does that with each connection."""

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = listener.accept()
                threading.Thread(target=act, args=(end,), daemon=True).start()

    with channel.listen(address(paths)) as listener:
        taking = threading.Thread(target=run, daemon=True)
        taking.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        taking.join()


@contextmanager
def worker(paths: Paths, serve: Callable[[Channel], None]) -> Iterator[None]:
    """The worker's side of the link; its connections end with it."""
    open_: list[Channel] = []

    def kept(connection: Channel) -> None:
        open_.append(connection)
        with contextlib.suppress(OSError, EOFError):
            serve(connection)

    with channel.listen(address(paths)) as listener:
        serving = (listener, key(paths), kept)
        taking = threading.Thread(target=channel.accept, args=serving, daemon=True)
        taking.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        taking.join()
    for connection in open_:
        with contextlib.suppress(OSError):
            connection._end.shutdown(socket.SHUT_RDWR)


def echo(connection: Channel) -> None:
    while True:
        asked = json.loads(connection.receive())
        connection.send(json.dumps({"ok": asked["call"]}).encode())


@pytest.mark.parametrize("act", [silent, half_a_greeting, noise, no_more])
def test_whoever_is_no_worker_is_unavailable_within_a_time(
    tmp_path: Path, act: Callable[[socket.socket], None]
) -> None:
    with peer(Paths(tmp_path), act):
        link = Link(Paths(tmp_path), greeting=0.3)
        assert code(lambda: link.call("search", USER)) == "worker_unavailable"


def test_a_worker_that_takes_no_connection_is_unavailable_within_a_time(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    link = Link(paths, greeting=0.3)
    assert code(lambda: link.call("search", USER)) == "worker_unavailable"
    with channel.listen(address(paths), backlog=1):  # and never looks: as it is when it is frozen
        for _ in range(4):
            assert code(lambda: link.call("search", USER)) == "worker_unavailable"


def half_an_answer(connection: Channel) -> None:
    connection.receive()
    connection._end.sendall(b"\0\0\0\x09abc")
    time.sleep(600)


@pytest.mark.parametrize("serve", [lambda c: time.sleep(600), half_an_answer])
def test_a_worker_that_does_not_answer_is_unavailable_within_a_time(
    tmp_path: Path, serve: Callable[[Channel], None]
) -> None:
    with worker(Paths(tmp_path), serve):
        link = Link(Paths(tmp_path))
        assert code(lambda: link.call("search", USER, within=0.3)) == "worker_unavailable"


def test_nobody_without_the_key_is_answered_or_believed(tmp_path: Path) -> None:
    ours, theirs = Paths(tmp_path / "ours"), Paths(tmp_path / "theirs")
    with worker(ours, echo):
        assert Link(ours).call("search", USER) == "search"
        with pytest.raises((OSError, EOFError)):
            channel.dial(address(ours), key(theirs))
        assert Link(ours).call("search", USER) == "search"


@given(st.binary(max_size=200))
def test_a_message_of_noise_ends_that_connection_only(body: bytes) -> None:
    one, other = socket.socketpair()
    one.sendall(body)
    one.close()
    with Channel(other) as connection, pytest.raises((OSError, EOFError)):
        while True:
            connection.receive(0.5, 50)


def test_a_call_that_broke_in_the_middle_is_not_made_again(tmp_path: Path) -> None:
    """It may have been done: a deletion is not done twice unasked."""
    asked: list[bytes] = []

    def dies(connection: Channel) -> None:
        asked.append(connection.receive())

    with worker(Paths(tmp_path), dies):
        link = Link(Paths(tmp_path))
        assert code(lambda: link.call("delete_source", USER)) == "worker_unavailable"
    assert len(asked) == 1


def test_connections_that_a_restart_broke_are_made_anew(tmp_path: Path) -> None:
    link = Link(Paths(tmp_path))
    for _ in range(3):
        with worker(Paths(tmp_path), echo):
            assert link.call("search", USER) == "search"


def test_calls_beyond_those_in_flight_are_refused_and_health_still_tells(tmp_path: Path) -> None:
    def stuck_but_for_a_ping(connection: Channel) -> None:
        while connection.receive() == b"ping":
            connection.send(b'{"ok": {"silent_seconds": 1.0}}')
        time.sleep(600)

    with worker(Paths(tmp_path), stuck_but_for_a_ping):
        link = Link(Paths(tmp_path), at_once=2, turn=0.1)
        health = Health(link)
        assert not health.now()["ready"]
        callers = [
            threading.Thread(target=lambda: code(lambda: link.call("search", USER, within=2.0)))
            for _ in range(2)
        ]
        for caller in callers:
            caller.start()
        while link._places._value:
            time.sleep(0.01)
        assert code(lambda: link.call("search", USER)) == "worker_busy"
        health.look()
        assert health.now()["ready"]
        for caller in callers:
            caller.join()


def test_health_is_what_was_heard_and_is_not_believed_for_long(tmp_path: Path) -> None:
    now, silence = [100.0], [0.0]

    def tells(connection: Channel) -> None:
        while True:
            connection.receive()
            connection.send(json.dumps({"ok": {"silent_seconds": silence[0]}}).encode())

    health = Health(Link(Paths(tmp_path), greeting=0.2), clock=lambda: now[0])
    health.look()
    assert health.now() == {"ready": False, "silent_seconds": None}
    with worker(Paths(tmp_path), tells):
        health.look()
        assert health.now() == {"ready": True, "silent_seconds": 0.0}
        silence[0] = 61.0
        health.look()
        assert health.now() == {"ready": False, "silent_seconds": 61.0}
        silence[0] = 1.0
        health.look()
        assert health.now()["ready"]
    now[0] += 11.0
    health.look()
    assert health.now() == {"ready": False, "silent_seconds": 12.0}


# The supervisor


CHILD = """
import argparse, os, signal, sys, threading, time
sys.path.insert(0, {root!r})
from pipeline.processes import pulse
asked = argparse.ArgumentParser()
asked.add_argument("how")
asked.add_argument("--pulse", type=int)
asked.add_argument("--stdin", action="store_true")
asked = asked.parse_args()
pulse.beat(asked.pulse, 0.05)
time.sleep(0.2)  # it has said that it lives
if asked.how == "freezes":
    os.kill(os.getpid(), signal.SIGSTOP)
while asked.how == "works":
    sum(range(1000))
time.sleep(600)
"""
SUPERVISOR = """
import sys
sys.path.insert(0, {root!r})
from pipeline.processes import logs, supervisor
from pipeline.processes.pulse import Patience
logs.configure()
patience = Patience(every=0.05, first=1200, then=20)
supervisor.supervise([sys.executable, "-c", {child!r}, {how!r}], b"{{}}", patience)
"""


@contextmanager
def supervised(folder: Path, how: str) -> Iterator[tuple[psutil.Process, Callable[[], list[int]]]]:
    """A supervisor over a child that does so, and the pids of its children so far."""
    child = CHILD.format(root=str(ROOT))
    program = SUPERVISOR.format(root=str(ROOT), child=child, how=how)
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdout=out, stderr=out
        )

    def started() -> list[int]:
        return [x["worker"] for x in lines(log) if x["message"] == "worker started"]

    try:
        yield psutil.Process(process.pid), started
    finally:
        children = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        for child in children:
            child.kill()


def until(fits: Callable[[], object]) -> None:
    while not fits():  # the mark above ends what never fits
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_frozen_worker_is_ended_and_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, "freezes") as (_, started):
        until(lambda: len(started()) > 1)
        assert not psutil.pid_exists(started()[0])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_busy_worker_and_a_machine_that_slept_are_not_taken_for_frozen(tmp_path: Path) -> None:
    with supervised(tmp_path, "works") as (supervisor, started):
        until(started)
        (child,) = supervisor.children()
        until(lambda: child.cpu_times().user > 1.2)  # longer than it may be silent
        for process in (supervisor, child):
            process.suspend()
        time.sleep(1.2)  # nothing could be polled for
        for process in (child, supervisor):
            process.resume()
        used = child.cpu_times().user
        until(lambda: child.cpu_times().user > used + 0.5)
        assert started() == [child.pid]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_is_started_with_few_repeats_of_a_transfer(tmp_path: Path) -> None:
    with supervised(tmp_path, "works") as (supervisor, started):
        until(started)
        (child,) = supervisor.children()
        assert child.environ()["HF_XET_CLIENT_RETRY_MAX_ATTEMPTS"] == "2"


# The database


@contextmanager
def locked(database: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_a_locked_catalogue_is_said_within_a_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    catalog, accounts = Catalog(url, 0.2), Accounts(url, 0.2)
    with locked(tmp_path / "catalog.sqlite"):
        assert code(lambda: catalog.create_collection(USER, "one")) == "database_busy"
        assert code(lambda: accounts.saw_visitor(USER)) == "database_busy"
        assert catalog.collections(USER) == []
        with contextlib.ExitStack() as threads:
            held = [threads.enter_context(catalog._engine.connect()) for _ in range(15)]
            assert code(lambda: catalog.collections(USER)) == "database_busy"
            assert len(held) == 15
    assert catalog.create_collection(USER, "one").title == "one"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_locked_postgres_is_said_within_a_time() -> None:
    with postgres() as url:
        made = url.replace("postgresql://", "postgresql+psycopg://")
        catalog, other = Catalog(made, 3), Catalog(made)
        with other._engine.begin() as change:
            change.exec_driver_sql("LOCK TABLE titles IN ACCESS EXCLUSIVE MODE")
            assert code(lambda: catalog.create_collection(USER, "one")) == "database_busy"
        assert catalog.create_collection(USER, "one").title == "one"
    assert code(lambda: catalog.collections(USER)) == "database_busy"
    assert code(lambda: Catalog(made, 0.5)) == "database_busy"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_submit_with_a_locked_database_answers(tmp_path: Path) -> None:
    """With the catalogue locked nothing is taken; with the engine's database locked the job is, and it is
    started once that can be."""
    with engine(tmp_path / "data", calls=0.3) as running:
        one, two = running.pdf(1, "one"), running.pdf(1, "two")
        with locked(running.data / "catalog.sqlite"):
            assert code(lambda: running.submit(one)) == "database_busy"
        running.finished(running.submit(one))
        with locked(running.data / "jobs.sqlite"):
            job = running.submit(two)
            assert running.jobs.job(USER, job)["status"] == "queued"
        assert running.finished(job)["status"] == "succeeded"


# The app process


def start(data: Path, port: int) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ, "QUIRE_DATA_DIR": str(data), "QUIRE_PORT": str(port), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    data.mkdir(parents=True, exist_ok=True)
    with (data / "app.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_start_on_a_port_that_is_taken_ends_with_the_reason(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert start(tmp_path, port).wait(60) == 1
    (said,) = lines(tmp_path / "app.log")
    assert said["code"] == "port_taken"
    assert str(port) in said["message"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_starts_slowly_is_waited_for(tmp_path: Path) -> None:
    """Longer than the five seconds that Gradio gives it; and one that breaks ends the start."""
    done = subprocess.run(
        [sys.executable, "-c", SLOW.format(root=str(ROOT))], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}, timeout=50, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["up", "start_failed"], done.stderr


@pytest.mark.parametrize(("proxy", "seen"), [(False, "127.0.0.1"), (True, "203.0.113.7")])
def test_only_where_a_local_proxy_may_be_is_its_word_taken(proxy: bool, seen: str) -> None:
    """On a Space the app's own tool calls come from this machine, with their caller's headers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse(scope["client"][0])(scope, receive, send)

    server = Server(socket.create_server(("127.0.0.1", 0)), local_proxy=proxy)
    _, _, url, _ = server.start(app)
    asked = urllib.request.Request(url, headers={"X-Forwarded-For": "203.0.113.7"})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        assert answer.read().decode() == seen
    server.close()


def test_a_hundred_calls_have_a_thread_each() -> None:
    together = threading.Barrier(100)

    async def wait() -> None:
        with socket.create_server(("127.0.0.1", 0)) as port:
            async with Server(port).lifespan(None):
                waiting = (run_in_threadpool(together.wait, 20) for _ in range(100))
                assert len(set(await asyncio.gather(*waiting))) == 100

    asyncio.run(wait())


SLOW = """
import asyncio, contextlib, os, socket, sys, urllib.request
sys.path.insert(0, {root!r})
import gradio as gr
from errors import QuireError
from web.serve import Server

def start(seconds):
    @contextlib.asynccontextmanager
    async def lifespan(_):
        await asyncio.sleep(seconds)
        assert seconds
        yield

    with gr.Blocks() as demo:
        gr.HTML("here")
    server = Server(socket.create_server(("127.0.0.1", 0)))
    try:
        with server.instead():
            _, url, _ = demo.launch(
                prevent_thread_lock=True, quiet=True, ssr_mode=False, _frontend=False,
                app_kwargs={{"lifespan": lifespan}},
            )
        with urllib.request.urlopen(url) as answer:
            return "up" if b"gradio" in answer.read() else "empty"
    except QuireError as problem:
        return problem.code

print(start(5.5), start(0), flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_app_that_is_held_up_while_it_starts_is_up_and_one_without_a_supervisor_ends(
    tmp_path: Path,
) -> None:
    holding = threading.Thread(target=_hold_up, args=(tmp_path,))
    holding.start()
    running = start_app(tmp_path)
    holding.join()
    (supervisor,) = (
        p
        for p in psutil.Process(running.process.pid).children()
        if "pipeline.processes.supervisor" in p.cmdline()
    )
    supervisor.kill()
    assert running.process.wait(60) == 1
    assert any("supervisor is gone" in x["message"] for x in lines(tmp_path / "app.log"))
    assert not psutil.pid_exists(supervisor.pid)


def _hold_up(data: Path) -> None:
    """Freeze the app five times while it starts."""
    until(lambda: (data / "app.log").exists() and lines(data / "app.log"))
    (app,) = (p for p in psutil.Process().children() if p.cmdline()[-1:] == ["app.py"])
    for _ in range(5):
        app.suspend()
        time.sleep(0.5)
        app.resume()
        time.sleep(0.5)
