"""The job engine as both processes see it: its names, on which they agree, and its client.

A workflow that one side does not know, or a queue without a partition, would wait for ever without a
word; so only this module enqueues from outside. Knows nothing of what a workflow does.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer

from errors import Unavailable
from pipeline.options import VERSION
from settings import Settings
from storage.catalog.schema import PATIENCE, patient
from storage.catalog.sqlite_file import checkpoint
from storage.paths import Paths

APPLICATION = "quire"
# Another one when a recorded workflow could not be replayed, and when its checkpoints are not looked for.
APPLICATION_VERSION = f"ingest-3-v{VERSION}"
WORKFLOW, STAGE_WORKFLOW, NOTIFY_WORKFLOW = "ingest_v1", "child_v1", "notify_v1"
TRANSFER_WORKFLOW = "transfer_v2"
QUEUE_JOBS, QUEUE_PAGES, QUEUE_INDEX, QUEUE_OUT = "jobs", "pages", "index", "outward"
# Where a job is looked at, where a small one runs, and where one goes on after a wait.
QUEUE_NEW, QUEUE_SMALL, QUEUE_AGAIN = "new", "small", "again"
VISITORS = "-visitors"  # ends the names of queues for visitors' jobs
UNFINISHED = ("PENDING", "ENQUEUED", "DELAYED")
NO_BATCH = {"index": 0, "first": 1, "last": 1}  # of a stage that is about the whole document
BACKOFF = (20.0, 60.0, 180.0, 600.0, *([1200.0] * 6))  # seconds until what is away is asked again
SMALL = 15.0  # seconds of work, by the probe: such a job finds a slot beside large ones
_STARTING = "Quire is starting."
_ORIGIN = 1_767_225_600.0  # when priorities begin: they have 31 bits


def catalog_url(settings: Settings, paths: Paths) -> str:
    """The catalogue is beside the job database: a file of its own, or the same Postgres."""
    url = settings.database_url
    if url.startswith("postgres"):
        return f"postgresql+psycopg://{url.split('://', 1)[1]}"
    return f"sqlite:///{paths.catalog}"


def starting(paths: Paths) -> str:
    """Why no worker takes jobs or calls yet."""
    with suppress(FileNotFoundError):  # it is taken away when the worker goes on
        return (paths.run / "waiting").read_text(encoding="utf-8") or _STARTING
    return _STARTING


def run_id(job_id: str, attempt: int, turn: int = 0) -> str:
    """The workflow of that attempt; a later turn is its continuation after a wait."""
    return f"{job_id}~{attempt}.{turn}" if turn else f"{job_id}~{attempt}"


def turn(came: float, work: float = 0.0) -> int:
    """The priority of what came then (epoch) and has so many seconds of work: as if each were to be done
    by eight times its work. So the small go first, and nobody is overtaken for longer than that."""
    return min(max(1, int(4 * (came - _ORIGIN + 8 * work))), (1 << 31) - 1)


def place(queue: str, spec: Mapping[str, Any]) -> tuple[str, str]:
    """The queue and the part of it for that job: users share the slots of a queue, and visitors share
    those of another, by address."""
    address = spec.get("address")
    return (queue + VISITORS, address) if address else (queue, spec["user"])


@contextmanager
def telling(here: set[str]) -> Iterator[None]:
    """The workflow that runs in this thread is among those that run here."""
    name = str(DBOS.workflow_id)
    here.add(name)
    try:
        yield
    finally:
        here.discard(name)


@dataclass(slots=True)
class Engine:
    """The client, made at its first use; Unavailable before a worker has opened its database."""

    settings: Settings
    paths: Paths
    patience: float = PATIENCE
    _client: DBOSClient | None = None
    _of: int | None = None  # the database file that the client has open
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def ready(self) -> bool:
        """The worker has opened its database and takes jobs."""
        return (self.paths.run / "ready").exists()

    def connected(self) -> DBOSClient:
        """Anew where the worker has set a damaged database aside."""
        with self._lock:
            if self._client is not None and self._inode() != self._of:
                self._client.destroy()
                self._client = None
            if self._client is None:
                if not self.ready():  # a client made earlier would leave an empty database behind
                    raise Unavailable(
                        "worker_starting", starting(self.paths), "Try again in a few seconds."
                    )
                self._of = self._inode()
                self._client = DBOSClient(
                    system_database_engine=self._database(),
                    serializer=DBOSPortableJSONSerializer(),
                    retry_connection_errors=False,
                )
            return self._client

    def _database(self) -> Any:
        """As DBOS makes one, but it does not wait for ever for somebody's lock."""
        url = self.settings.database_url
        if url.startswith("postgres"):
            url = catalog_url(self.settings, self.paths)
        return patient(url, self.patience, immediate=True)

    def _inode(self) -> int | None:
        with suppress(FileNotFoundError):  # not yet made, or just set aside
            return path.stat().st_ino if (path := self.settings.jobs_file) else None
        return None

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.destroy()
                self._client = None
        if (path := self.settings.jobs_file) and path.exists():
            checkpoint(path)

    def start(
        self,
        spec: Mapping[str, Any],
        workflow: str,
        queue: str,
        name: str,
        *arguments: Any,
        **options: Any,
    ) -> None:
        """Enqueue a workflow of that job under that name, once."""
        queue, part = place(queue, spec)
        asked: Any = {
            "workflow_name": workflow,
            "queue_name": queue,
            "workflow_id": name,
            "app_version": APPLICATION_VERSION,
            "queue_partition_key": part,
            "authenticated_user": spec["user"],
            **options,
        }
        self.connected().enqueue(asked, *arguments)

    def stop(self, job_id: str) -> None:
        """All that runs or waits for that job, its batches too."""
        client = self.connected()
        active = client.list_workflows(
            workflow_id_prefix=f"{job_id}~",
            status=list(UNFINISHED),
            load_input=False,
            load_output=False,
        )
        for one in active:
            client.cancel_workflow(one.workflow_id)
