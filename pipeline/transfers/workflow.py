"""What is done to whole collections, as durable jobs: an export, a push, an import, another model.

A killed worker begins such a job again: an export writes its file aside, a push sends what the Hub
lacks, an import upserts into the collection it has noted, vectors of another model are kept as they are
made. Progress is numbered events, as everywhere. Knows nothing of HTTP.
"""

import contextlib
import hashlib
import json
import logging
import random
import secrets
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dbos import DBOS, SetEnqueueOptions, SetWorkflowID

from errors import NotFound, PageProcessDied, QuireError, Refused, was_cancelled
from pipeline.ingest.assemble import document_elements
from pipeline.ingest.embed import Encoder
from pipeline.jobs.queue import BACKOFF, QUEUE_AGAIN, TRANSFER_WORKFLOW, place, run_id, telling
from pipeline.jobs.uploads import Admission, Promise
from pipeline.models.gpu import GPU_WAIT, Ask, Borrower, Spent
from pipeline.processes.pool import Pools
from pipeline.transfers.export import Shelf, export
from pipeline.transfers.import_archive import Taken, is_as_named, take_in
from pipeline.transfers.push_tokens import Lent, dataset_name
from pipeline.transfers.reembed import reembed
from settings import Settings
from storage.catalog.catalog import (
    ACTIVE,
    FINISHED,
    IMPORTED,
    Catalog,
    Collection,
    JobRow,
    SourceRow,
)  # fmt: skip
from storage.live import parquet_shards
from storage.live.chroma import BATCH, Record
from storage.live.workspace import Space, bytes_of
from storage.names import line
from storage.paths import Paths
from storage.removal import crops_in, put_aside, remove_files
from storage.scarce import known
from storage.stores import Stores

log = logging.getLogger(__name__)
Json = dict[str, Any]
_NOTE_EVERY = 2000  # records
_INTAKE_SECONDS = 900.0
_UNPACKED = 10  # an archive of ours unpacks to less than that many times its bytes
_UNPACKED_LEAST = 16 << 20
_LENDING = 10.0  # seconds in which the owner's token follows the job


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What all work with; the worker makes it once. `reader` reads archives of unknown origin."""

    paths: Paths
    catalog: Catalog
    stores: Stores
    settings: Settings
    encoder: Callable[[str | None], Encoder]
    borrower: Borrower
    reader: Pools
    lent: Lent
    admission: Admission


@dataclass(frozen=True, slots=True)
class Job:
    """One transfer: its row's events and status."""

    tools: Tools
    spec: Json

    @property
    def user(self) -> str:
        return str(self.spec["user"])

    @property
    def id(self) -> str:
        return str(self.spec["job"])

    @property
    def kind(self) -> str:
        return str(self.spec["kind"])

    @property
    def row(self) -> JobRow:
        return self.tools.catalog.job(self.user, self.id)

    @property
    def work(self) -> Path:
        return self.tools.paths.work(self.user, self.id)

    def promised(self) -> AbstractContextManager[Promise]:
        """Room for what the job writes beside what its owner has."""
        return self.tools.admission.promised(self.user, self.work)

    def note(self, message: str, done: int = 0, total: int = 0, **changes: Any) -> None:
        """A numbered event, and the same in the job's row."""
        catalog, job, stage = self.tools.catalog, self.id, self.kind
        stages = {stage: {"done": done, "total": total}} if total else {}
        body = {"stage": stage, "done": done, "total": total, "message": message}
        body |= {k: v for k, v in changes.items() if k in {"status", "error"}}
        summary = {"message": message, **({"stages": stages} if stages else {})}
        summary |= changes.pop("summary", {})
        summary |= {"error": changes.pop("error")} if "error" in changes else {}
        catalog.append_event(job, {**body, "time": time.time()}, summary=summary, **changes)

    def cancelled(self) -> bool:
        """It was cancelled, or runs again by now."""
        row = self.row
        return row.status == "cancelled" or row.attempt != self.spec["attempt"]

    def go_on(self) -> None:
        if self.cancelled():
            raise was_cancelled()

    def report(self, what: str) -> Callable[[int, int], None]:
        """Counts what was moved: an event now and then, an end when it was cancelled."""
        told = 0

        def count(done: int, total: int) -> None:
            nonlocal told
            if done - told >= _NOTE_EVERY or done == total:
                self.go_on()
                told = done
                self.note(f"{done:,} of {total:,} {what}.", done, total)

        return count


def register(here: set[str], tools: Tools) -> None:
    """Define the workflow over these tools; call once, before DBOS is launched. `here` holds the
    ids of those that run in this process."""

    @DBOS.step(name="transfer_step_v2")
    def move(spec: Json) -> Json:
        return run(Job(tools, spec))

    @DBOS.step(name="transfer_pause_v2")
    def pause(spec: Json, error: Json) -> float:
        """Drawn and told once, however often this is replayed."""
        seconds = BACKOFF[int(spec.get("tries", 0))] * random.uniform(0.9, 1.1)
        Job(tools, spec).note(
            f"{error['message']} Trying again in {seconds:.0f} s.",
            status="waiting",
            summary={"retry_at": time.time() + seconds, "waits_for": error["message"]},
        )
        return seconds

    @DBOS.workflow(name=TRANSFER_WORKFLOW, max_recovery_attempts=1000)
    def transfer(spec: Json) -> str:
        """What has to wait ends this run: its continuation is in the queue with a delay."""
        with telling(here):
            found = move(spec)
            if found["status"] != "waiting":
                return str(found["status"])
            turn = int(spec.get("turn", 0)) + 1
            after = pause(spec, found["error"])
            queue, part = place(QUEUE_AGAIN, spec)
            with (
                SetWorkflowID(run_id(spec["job"], spec["attempt"], turn)),
                SetEnqueueOptions(queue_partition_key=part, delay_seconds=after),
            ):
                DBOS.enqueue_workflow(queue, transfer, {**spec, "turn": turn, "tries": turn})
            return "waiting"


def run(job: Job) -> Json:
    """The final `status`, or `waiting` and the error that may pass by itself."""
    if job.cancelled():
        return _stopped(job)
    if (
        status := job.row.status
    ) in FINISHED:  # by a run that was killed before its answer was kept
        return _over(job, status)
    works = {"export": _out, "push": _push, "import": _in, "reembed": _anew}
    if job.spec.get("turn"):
        job.note("Trying again.", status="running", summary={"retry_at": None})
    else:
        job.note("It has begun.", status="running", started_at=time.time())
    try:
        message, result = works[job.kind](job)
    except Exception as problem:
        if job.cancelled():
            return _stopped(job)
        if not isinstance(problem, QuireError):
            log.exception("a transfer failed", extra={"job": job.id})
            problem = _unexpected(problem, job.tools.paths.root)
        error = problem.as_dict()
        if not problem.permanent and int(job.spec.get("tries", 0)) < len(BACKOFF):
            return {"status": "waiting", "error": error}
        if problem.permanent:
            _leave_nothing(job)
        job.note(str(problem), status="failed", error=error, finished_at=time.time())
        return _over(job, "failed")
    if job.cancelled():
        return _stopped(job)
    job.note(message, status="succeeded", summary={"result": result}, finished_at=time.time())
    return _over(job, "succeeded")


def _stopped(job: Job) -> Json:
    """What is left of it goes, as often as it takes: the last batch may come after the first time. An
    import that is kept can go on from its archive."""
    row = job.row
    if row.status == "cancelled" and (job.kind != "import" or not row.summary.get("kept", True)):
        _leave_nothing(job)
    return _over(job, "cancelled")


def _leave_nothing(job: Job) -> None:
    """What an import has made goes, unless it was to be kept, and what was written for the job."""
    made = job.row.summary.get("made")
    if made and not job.row.summary.get("kept"):
        _take_back(job, made)
    shutil.rmtree(job.work, ignore_errors=True)


def _take_back(job: Job, collection: str) -> None:
    """The collection of an import, but for the documents that its owner has added since."""
    tools, user = job.tools, job.user
    sources = tools.catalog.sources(user, collection)
    added = {s.sha256 for s in sources if s.version != IMPORTED}
    most = tools.settings.max_jobs
    coming = tools.catalog.jobs(user, ACTIVE, most, collection=collection)
    added |= {j.sha256 for j in coming if j.sha256}
    with tools.stores.workspaces.open(user) as workspace:
        put_aside(tools.paths, user, crops_in(workspace, collection))
        if added:
            workspace.delete_where(collection, {"source_id": {"$nin": sorted(added)}})
        else:
            workspace.drop(collection)
    gone = [s.sha256 for s in sources if s.sha256 not in added]
    if added:
        for sha256 in gone:
            tools.catalog.drop_source(user, collection, sha256)
    else:
        tools.catalog.drop_collection(user, collection)
    for sha256 in gone:
        remove_files(tools.paths, tools.catalog, user, sha256)
    tools.stores.committer.touch(user)


def _over(job: Job, status: str) -> Json:
    if job.row.status in FINISHED:  # else it runs again by now
        job.tools.lent.forget(job.id)
    if status == "succeeded":
        shutil.rmtree(job.work, ignore_errors=True)
    return {"status": status}


def _unexpected(problem: Exception, root: Path) -> QuireError:
    return known(problem, root, "Start it again; if it stays, report the time and the version.")


# Out


def _out(job: Job) -> tuple[str, Json]:
    kind, collection = job.spec["format"], job.spec["collection"]
    name = f"{collection}-{kind}.zip"
    made, target = job.work / name, job.tools.paths.export(job.user, name)
    what = "records are written" if kind in {"parquet", "chroma"} else "documents"
    target.unlink(missing_ok=True)  # an older one is no reason to refuse this one
    with job.promised() as promise:
        _written(job, kind, made, promise, what)
        promise.settle()
        target.parent.mkdir(parents=True, exist_ok=True)
        made.replace(target)
    size = target.stat().st_size
    result = {"name": name, "url": f"/exports/{name}", "bytes": size}
    told = f"{size / 1048576:.1f} MB" if size > 100_000 else f"{size / 1024:.0f} kB"
    return f"It is ready: {told}.", result


def _written(job: Job, kind: str, target: Path, promise: Promise, what: str) -> None:
    """The export, which takes no more room than there is."""
    count = job.report(what)

    def report(done: int, total: int) -> None:
        promise.settle()
        count(done, total)

    export(_shelf(job), kind, target, report, promise.more)


def _push(job: Job) -> tuple[str, Json]:
    """The Parquet export, unpacked, as a dataset of the owner's; written once for what the collection
    holds: nothing goes out that was deleted while the job waited."""
    folder, name = job.work / _contents(job), dataset_name("", "", str(job.spec["dataset"]))
    if not folder.exists():
        shutil.rmtree(job.work, ignore_errors=True)
        archive, aside = job.work / "push.zip", job.work / "unpacked"
        with job.promised() as promise:
            _written(job, "parquet", archive, promise, "records are written")
            with zipfile.ZipFile(archive) as written:
                promise.settle()
                promise.more(sum(entry.file_size for entry in written.infolist()))
                written.extractall(aside)
            promise.settle()
        archive.unlink()
        aside.replace(folder)
    from storage.remotes.push import push  # the Hub's client: a quarter of a second

    token = job.tools.lent.take(job.id, _LENDING)
    made = push(folder, name, token, job.report("files are sent"))
    result = {"dataset": name, "url": made.url, "commit": made.commit}
    return f"It is in the private dataset {name}.", result


def _contents(job: Job) -> str:
    """A name for what the collection holds now."""
    tools, user = job.tools, job.user
    found = tools.catalog.find_collection(user, job.spec["collection"])
    with tools.stores.workspaces.open(user) as workspace:
        ids = sorted(workspace.ids(found.id))
    sources = [s.sha256 for s in tools.catalog.sources(user, found.id)]
    told = json.dumps([found.title, found.model, sources, ids])
    return f"push-{hashlib.sha256(told.encode()).hexdigest()[:32]}"


def _shelf(job: Job) -> Shelf:
    tools, user = job.tools, job.user
    found = tools.catalog.find_collection(user, job.spec["collection"])
    with tools.stores.workspaces.open(user) as workspace:
        ids = sorted(workspace.ids(found.id))

    def records() -> Iterator[Sequence[Record]]:
        for start in range(0, len(ids), BATCH):
            with tools.stores.workspaces.open(user) as workspace:
                yield workspace.get(found.id, ids=ids[start : start + BATCH], vectors=True)

    def elements(source: SourceRow) -> list[Json]:
        with contextlib.suppress(NotFound):  # imported: it came without
            tools.stores.restore.elements(user, source.sha256, source.version)
        folder = tools.paths.elements(user, source.sha256, source.version)
        return document_elements(sorted(folder.glob("batch-*.jsonl")))

    def original(source: SourceRow) -> Path | None:
        try:
            return tools.stores.restore.original(user, source.sha256)
        except NotFound:  # imported: it came without
            return None

    return Shelf(
        collection=found,
        count=len(ids),
        records=records,
        sources=tools.catalog.sources(user, found.id),
        elements=elements,
        original=original,
        crops=tools.paths.crops(user),
    )


# In


def _in(job: Job) -> tuple[str, Json]:
    tools, user, spec = job.tools, job.user, job.spec
    archive, inside = job.work / "archive.zip", job.work / "taken"
    shutil.rmtree(inside, ignore_errors=True)  # of a run that was killed
    try:
        with job.promised() as promise:
            size = archive.stat().st_size
            promise.need(size, ahead=_UNPACKED * size + _UNPACKED_LEAST)
            reader = tools.reader.of(visitor="address" in spec).within((job.work,), (inside,))
            answer = reader.run(
                take_in,
                archive,
                inside,
                promise.bytes - size,
                seconds=_INTAKE_SECONDS,
                cancelled=job.cancelled,
            )
            promise.settle()
    except PageProcessDied as problem:
        raise Refused(
            "import_too_much",
            "Reading the archive needed too much memory or time.",
            "Export the collection in parts, and import those.",
        ) from problem
    taken = Taken.of(answer, inside)
    encoder = tools.encoder(_named(job, taken.model))
    if (taken.model, taken.dimension) != (encoder.name, encoder.dimension):
        raise Refused(
            "import_model",
            f"The vectors were made with {taken.model} ({taken.dimension} numbers); "
            f"here questions are embedded with {encoder.name} ({encoder.dimension}).",
            "Name that model in QUIRE_EMBEDDING_MODELS, or submit the PDFs again.",
        )
    collection = _collection(job, line(spec["title"], 200) or taken.title or "Imported")
    space = Space(
        collection=collection, title=tools.catalog.find_collection(user, collection).title,
        model=encoder.name, dimension=encoder.dimension,
    )  # fmt: skip
    report, done = job.report("records are in"), 0
    for shard in sorted((inside / "rows").glob("*.parquet")):
        for batch in parquet_shards.read(shard):
            tools.catalog.find_collection(user, collection)  # NotFound: it was deleted meanwhile
            tools.admission.grow(user, bytes_of(batch))
            with tools.stores.workspaces.open(user) as workspace:
                workspace.upsert(space, batch)
            done += len(batch)
            report(done, taken.records)
    tools.catalog.find_collection(user, collection)
    tools.catalog.set_model(user, collection, encoder.name)
    for source in taken.sources:
        tools.catalog.put_source(
            user,
            SourceRow(
                collection=collection,
                version=IMPORTED,
                created_at=time.time(),
                **asdict(source),
            ),
        )
    _files(job, taken, inside / "in")
    generation = tools.stores.committer.save(user)
    result = {"collection": collection, "records": done, "saved_generation": generation}
    return f"{done:,} records are in {space.title}.", result


def _named(job: Job, model: str) -> str | None:
    """What to load, to compare it with what an archive says: only a model that settings name, or that
    a collection of this owner has. An archive's revision is never fetched."""
    offered = job.tools.settings.models
    held = {c.model for c in job.tools.catalog.collections(job.user)}
    if model in offered or model in held:
        return model
    base = model.partition("@")[0]
    return next((m for m in offered if m.partition("@")[0] == base), None)


def _collection(job: Job, title: str) -> str:
    """A new collection, the same one when the job begins again: its id is known before it is made. Its
    title gets a number if need be."""
    catalog = job.tools.catalog
    made = str(job.row.summary.get("made") or f"c-{secrets.token_hex(8)}")
    catalog.update_job(job.id, summary={"made": made})
    catalog.restore_collection(
        job.user, Collection(id=made, title=title, model=None, created_at=time.time())
    )
    return made


def _files(job: Job, taken: Taken, inside: Path) -> None:
    """Pictures and PDFs, whose names are their hashes, to where the user's others are; their reader is
    not believed that they have these."""
    paths, user = job.tools.paths, job.user
    places = {inside / "figures" / name: paths.crop(user, name) for name in taken.figures}
    places |= {inside / "sources" / f"{s}.pdf": paths.source(user, s) for s in taken.files}
    for path, target in places.items():
        if not target.exists() and is_as_named(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


# Another model


def _anew(job: Job) -> tuple[str, Json]:
    tools, user, spec = job.tools, job.user, job.spec
    found = tools.catalog.find_collection(user, spec["collection"])
    encoder = tools.encoder(spec["model"])
    space = Space(
        collection=found.id, title=found.title, model=encoder.name, dimension=encoder.dimension
    )

    def tell(message: str) -> None:
        if not job.cancelled():
            tools.catalog.update_job(spec["job"], summary={"message": message})

    until = job.row.created_at + GPU_WAIT
    ask = Ask(user=user, job=spec["job"], policy=spec["gpu"], until=until, tell=tell)
    spent = Spent(seconds=float(spec.get("gpu_seconds") or 0))

    def encode(texts: Sequence[str]) -> list[list[float]]:
        tools.admission.grow(user, 8 * encoder.dimension * len(texts))
        answers = tools.borrower.encode(ask, texts, encoder)
        spent.add(answers)
        for note in answers.notes:
            job.note(note, summary={"gpu_seconds": round(spent.seconds, 1)})
        return answers.made

    def report(done: int, total: int) -> None:
        job.go_on()
        job.note(f"{done:,} of {total:,} records have vectors of {space.model}.", done, total)

    with tools.stores.workspaces.open(user) as workspace:
        done = workspace.fits(space)  # by a run that was killed before it could say so
        records = workspace.count(found.id)
    if not done:
        records = reembed(tools.stores.workspaces, user, space, encode, job.work, report)
    tools.catalog.set_model(user, found.id, space.model)
    generation = tools.stores.committer.save(user)
    result = {"collection": found.id, "records": records, "saved_generation": generation}
    return f"{records:,} records of {found.title} are searched by {space.model} now.", result
