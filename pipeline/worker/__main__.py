"""The worker process, `python -m pipeline.worker`: the DBOS executor, the stores, the models and the
page processes. May be killed at any moment; `supervisor.py` starts it again.
"""

import argparse
import contextlib
import fcntl
import functools
import importlib
import itertools
import json
import logging
import os
import resource
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, Any, cast

from dbos import DBOS, DBOSPortableJSONSerializer

from errors import QuireError
from pipeline.ingest import workflow
from pipeline.ingest.embed import Encoder
from pipeline.ingest.place import Tools
from pipeline.jobs import queues
from pipeline.jobs.notify import Notifier
from pipeline.jobs.queue import (
    APPLICATION,
    APPLICATION_VERSION,
    catalog_url,
)
from pipeline.jobs.recovery import Upkeep
from pipeline.jobs.service import Jobs
from pipeline.jobs.uploads import Admission
from pipeline.models.cache import Encoders, Once
from pipeline.models.gpu import Borrower
from pipeline.pdf.hi_res import Detector
from pipeline.processes import channel, environment, logs, pulse
from pipeline.processes.channel import Channel
from pipeline.processes.pool import NICE, Pool, Pools
from pipeline.processes.rpc import PING, address, key
from pipeline.processes.supervisor import die_with_parent
from pipeline.transfers import job
from pipeline.transfers import workflow as transfer
from pipeline.transfers.push_tokens import Lent
from pipeline.worker import cleanup
from pipeline.worker.handlers import Library, dispatch
from settings import Settings, data_dir_of, other_secret, processors
from storage import disk_reserve
from storage.catalog import schema, sqlite_file
from storage.catalog.catalog import ACTIVE, Catalog
from storage.catalog.tokens import Accounts
from storage.generations.lease import Lease, Term
from storage.generations.replication import Replication
from storage.live import chroma, journal
from storage.paths import Paths
from storage.remotes.local import LocalRemote
from storage.remotes.remote import Remote
from storage.remotes.retrying import Proved, Retrying
from storage.scarce import descriptors_left, known
from storage.stores import open_stores
from storage.usage import end_promises

log = logging.getLogger(__name__)
_FILES = 4096  # open at once, where the machine allows it
_FEW = 200
_TERM = 2.0  # intervals between saves that a lease lasts


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.worker", description=__doc__)
    parser.add_argument(
        "--reader", action="store_true", help="only read pages, beside a worker that does the rest"
    )
    parser.add_argument("--pulse", type=int, help="a descriptor to which it says that it lives")
    parser.add_argument("--stdin", action="store_true", help="settings as JSON on standard input")
    logs.configure()
    asked = parser.parse_args(arguments)
    given = environment.take(stdin=asked.stdin)
    os.environ["DO_NOT_TRACK"] = "1"  # unstructured reports that it was imported
    try:
        settings = Settings.from_env(given, processors())
        environment.own(settings.data_dir)
        return work(settings, reader=asked.reader, beating=asked.pulse)
    except QuireError as problem:  # told on the page; the supervisor tries again, ever more seldom
        log.error("%s", problem, extra={"code": problem.code})
        told = Paths(data_dir_of(given)).run / "waiting"
        told.parent.mkdir(parents=True, exist_ok=True)
        told.write_text(str(problem), encoding="utf-8")
        return 2


def work(settings: Settings, *, reader: bool = False, beating: int | None = None) -> int:
    """Until SIGTERM: take jobs and calls, or only pages to read."""
    die_with_parent()
    pulse.beat(beating)
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    paths = Paths(settings.data_dir)
    paths.run.mkdir(parents=True, exist_ok=True)
    disk_reserve.tend(paths)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _FILES), most))
    if reader:
        executor, lock = _reader_seat(paths)
        with lock:
            _run(settings, paths, stopping, executor, reader=True)
        return 0
    # A second worker of this kind waits here: the stores and their journal have one writer.
    with (paths.run / "jobs.lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another worker uses this data directory: this one waits until it ends")
            fcntl.flock(lock, fcntl.LOCK_EX)
        (paths.run / "ready").unlink(missing_ok=True)
        _run(settings, paths, stopping, _executor(settings), reader=False)
    return 0


def _executor(settings: Settings) -> str:
    """Unique among live workers, the same after a restart."""
    return "local" if settings.database_url.startswith("sqlite") else socket.gethostname()


def _reader_seat(paths: Paths) -> tuple[str, IO[str]]:
    """The first free name of a reader on this machine, held by its lock."""
    for number in itertools.count(1):
        name = f"{socket.gethostname()}-reader-{number}"
        lock = (paths.run / f"{name}.lock").open("w", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return name, lock
    raise AssertionError("unreachable")


def _run(
    settings: Settings, paths: Paths, stopping: threading.Event, executor: str, *, reader: bool
) -> None:
    catalog = Catalog(catalog_url(settings, paths), alone=not reader)
    stores = open_stores(paths, catalog, *remotes(settings, paths))
    stores.replication.lease = Lease(
        instance=journal.instance(paths),
        seconds=_TERM * stores.committer.pace.interval,
        unfinished=catalog.unfinished_users,
        kept=paths.lease,
        key=settings.key_id,
    )

    # One model at a time: transformers sets the type of new tensors for the whole process meanwhile.
    loading = threading.Lock()

    def load_encoder(name: str) -> Encoder:
        with loading:
            return cast("Encoder", _models("embedding").load_encoder(name))

    def load_detector() -> Detector:
        with loading:
            return cast(
                "Detector",
                _models("detection").load_detector(settings.layout_model, settings.table_model),
            )

    encoder = Encoders(load_encoder, settings.models)
    borrower = Borrower(paths)
    detector: Once[Detector] = Once(load_detector)
    # A process is started when it is first needed: where there are no visitors, none is for them.
    pages = settings.page_processes
    pool = Pools(Pool(pages), Pool(queues.visitor_pages(pages), nice=2 * NICE, memory_mb=1000))
    lent = Lent()
    admission = Admission(settings, paths, catalog)
    here: set[str] = set()
    workflow.register(
        here,
        Tools(
            settings=settings,
            paths=paths,
            catalog=catalog,
            pool=pool,
            stores=stores,
            notifier=Notifier(settings=settings, catalog=catalog),
            encoder=encoder,
            borrower=borrower,
            detector=detector,
            admission=admission,
        ),
    )
    intake = Pools(*(Pool(1, memory_mb=4000, recycle_after=1) for _ in range(2)))
    transfer.register(
        here,
        job.Tools(
            paths=paths,
            catalog=catalog,
            stores=stores,
            settings=settings,
            encoder=encoder,
            borrower=borrower,
            reader=intake,
            lent=lent,
            admission=admission,
        ),
    )
    role = "reader" if reader else "main"
    if not reader:
        end_promises(paths)
        _hold(stores.replication, paths, stopping)
        if stopping.is_set():
            return
        paths.key_id.write_text(settings.key_id, encoding="ascii")
    catalog.workers.beat(executor, role)  # before it takes anything: else nobody would miss it
    busy = bool(catalog.jobs(None, ACTIVE, 1))
    _launch(settings, executor, reader=reader, busy=busy)
    upkeep = Upkeep(Jobs(settings, paths, catalog), executor, here, role, stores)
    looking_after = functools.partial(upkeep.run, stopping)
    threading.Thread(target=_lasting, args=(looking_after, stopping), daemon=True).start()
    if reader:
        stopping.wait()
    else:
        saving = functools.partial(_lasting, stores.committer.run, stopping)
        threading.Thread(target=saving, daemon=True).start()
        accounts = Accounts(catalog_url(settings, paths))
        house = cleanup.House(
            paths=paths,
            accounts=accounts,
            erase=stores.committer.erase,
            visitor_hours=settings.visitor_hours,
        )
        threading.Thread(target=cleanup.keep, args=(house, stopping), daemon=True).start()
        viewer = Pools(Pool(1, nice=0), Pool(1))
        library = Library(
            settings=settings,
            paths=paths,
            catalog=catalog,
            stores=stores,
            viewer=viewer,
            confined=Once(viewer.people.within((), ()).confined),
            encoder=encoder,
            loaded=encoder.state,
            lent=lent,
            admission=admission,
        )
        _answer_calls(paths, library, upkeep, encoder, stopping)
        viewer.close()
        accounts.close()
    pool.close()
    intake.close()
    DBOS.destroy(workflow_completion_timeout_sec=0)
    if not reader:
        stores.committer.close()
        stores.replication.release()
    stores.workspaces.close()
    catalog.close()
    if not reader and (jobs := settings.jobs_file):
        sqlite_file.checkpoint(jobs)


def _hold(replication: Replication, paths: Paths, stopping: threading.Event) -> None:
    """Wait while another container runs the jobs of the same store. While the stores cannot be asked
    there is nothing to wait for: the first save asks, and upkeep asks again."""
    told = paths.run / "waiting"
    lease = replication.lease
    while lease and not stopping.is_set() and (other := _other(replication)) is not None:
        if not lease.fits(other):
            raise other_secret()
        until = time.strftime("%H:%M:%S", time.gmtime(other.until))
        told.write_text(
            f"Another container of this Space is still running; waiting for it until {until} UTC.",
            encoding="utf-8",
        )
        stopping.wait(1.0)
    told.unlink(missing_ok=True)


def _other(replication: Replication) -> Term | None:
    with contextlib.suppress(QuireError):
        return replication.take()
    return None


def _answer_calls(
    paths: Paths,
    library: Library,
    upkeep: Upkeep,
    encoder: Callable[[str | None], Encoder],
    stopping: threading.Event,
) -> None:
    def answer(body: bytes) -> Any:
        return {"silent_seconds": upkeep.silent()} if body == PING else dispatch(library, body)

    serving = (
        channel.listen(address(paths)),
        key(paths),
        functools.partial(_serve, answer, paths.root),
    )
    threading.Thread(target=channel.accept, args=serving, daemon=True).start()
    (paths.run / "ready").write_text(str(os.getpid()), encoding="ascii")
    if not library.catalog.jobs(None, ACTIVE, 1):  # torch would slow down the start of what waits
        threading.Thread(target=_warm, args=(encoder,), daemon=True).start()
    stopping.wait()
    (paths.run / "ready").unlink(missing_ok=True)


def _warm(encoder: Callable[[str | None], Encoder]) -> None:
    """What a first call needs before what a first question needs."""
    chroma.load()
    try:
        encoder(None)
    except QuireError as problem:
        log.warning("the model cannot be loaded: %s", problem, extra={"code": problem.code})


def _lasting(run: Callable[[], None], stopping: threading.Event) -> None:
    """A worker that cannot save or look after its jobs is ended, and started again by its
    supervisor."""
    try:
        run()
    finally:
        stopping.set()


def _models(kind: str) -> Any:
    return importlib.import_module(f"pipeline.models.{kind}")  # torch: seconds, off the start's way


def remotes(settings: Settings, paths: Paths) -> tuple[Remote, Remote | None]:
    """Primary and mirror: the dataset, else the local directory; and the bucket when one is set."""
    if settings.hub_dataset:
        from storage.remotes import hub  # a quarter of a second, where one is set

        primary = Retrying(Proved(hub.connect(settings.hub_dataset, settings.hub_token)))
    else:
        primary = Retrying(LocalRemote(paths.remote))
        primary.check()
    if not settings.s3_bucket:
        return primary, None
    from storage.remotes import s3

    bucket = s3.connect(settings.s3_bucket, settings.s3_prefix, settings.s3_endpoint_url)
    return primary, Retrying(Proved(bucket))


def _launch(settings: Settings, executor: str, *, reader: bool, busy: bool) -> None:
    url = settings.database_url
    if path := settings.jobs_file:
        path.parent.mkdir(parents=True, exist_ok=True)
        sqlite_file.set_aside(path)  # upkeep takes up the jobs of the catalogue then
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode=WAL")
    DBOS(
        config={
            "name": APPLICATION,
            "application_version": APPLICATION_VERSION,
            "system_database_url": url,
            "executor_id": executor,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "notification_listener_polling_interval_sec": 0.5,
            "sys_db_idle_transaction_timeout_sec": schema.FROZEN_FOR,
            "sys_db_pool_size": 20 if descriptors_left() > _FEW else 4,
        }
    )
    DBOS.listen_queues(queues.names(visitors=settings.visitors, reader=reader))
    DBOS.launch()
    queues.register(settings.page_processes, busy=busy, visitors=settings.visitors)


def _serve(answered: Callable[[bytes], Any], root: Path, connection: Channel) -> None:
    while True:
        try:
            body = connection.receive()
        except (EOFError, OSError):
            return
        try:
            answer = {"ok": answered(body)}
        except QuireError as problem:
            answer = {"error": problem.packed()}
        except Exception as problem:
            log.exception("a call failed")
            advice = "Try again; if it stays, report the time and the version."
            answer = {"error": known(problem, root, advice).packed()}
        try:
            connection.send(json.dumps(answer).encode())
        except OSError:
            return


if __name__ == "__main__":
    code = 1
    try:
        code = main(sys.argv[1:])
    except Exception:
        log.critical("The worker ends.", exc_info=True)
    finally:
        logging.shutdown()
        os._exit(code)  # threads that are left would keep half of it alive
