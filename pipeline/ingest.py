"""The ingest workflow: stages composed in order, over DBOS, with everything durable in between.

The parent does no work: it enqueues a child per batch, awaits them in order, and writes numbered
events. A child's result is an artifact written once, so a repeated child costs nothing and changes
nothing. Children answer with an `error` value instead of raising: the parent decides on its `code`
and `permanent`, never on text.
"""

import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dbos import DBOS, SetEnqueueOptions, SetWorkflowID

from errors import InputError, QuireError
from pipeline.borrow import Borrower
from pipeline.chunk import Carry, Chunk, ChunkOptions, chunk_batch
from pipeline.embed import Encoder, records
from pipeline.jobs import QUEUE_INDEX, QUEUE_PAGES, WORKFLOW
from pipeline.notify import Notifier
from pipeline.partition import (
    Batch,
    PartitionOptions,
    partition_batch,
    plan,
    read_batch,
    write_once,
)
from pipeline.pool import Pool
from pipeline.readers.layout import Detector
from pipeline.source import Probe, look
from settings import Settings
from storage.catalog import Catalog, SourceRow
from storage.paths import Paths
from storage.replication import Replication
from storage.workspace import Space, Workspaces

log = logging.getLogger(__name__)
Json = dict[str, Any]
WINDOW = 4
BACKOFF = (20.0, 60.0, 180.0, 600.0, *([1200.0] * 6))
_CANCEL_LOOKS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the stages work with; the worker makes it once."""

    settings: Settings
    paths: Paths
    catalog: Catalog
    pool: Pool
    workspaces: Workspaces
    replication: Replication
    notifier: Notifier
    encoder: Callable[[], Encoder]
    borrower: Borrower
    detector: Callable[[], Detector]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job's artifacts are."""

    tools: Tools
    spec: Json

    @property
    def options(self) -> PartitionOptions:
        return PartitionOptions(
            strategy=self.spec["strategy"], languages=tuple(self.spec["languages"])
        ).with_models(self.tools.settings.layout_model, self.tools.settings.table_model)

    @property
    def elements(self) -> Path:
        spec = self.spec
        return self.tools.paths.elements(spec["user"], spec["sha256"], self.options.version())

    @property
    def work(self) -> Path:
        return self.tools.paths.work(self.spec["user"], self.spec["job"])

    @property
    def readable(self) -> Path:
        """The decrypted or repaired copy when there is one, else the original."""
        copy = self.elements / "readable.pdf"
        original = self.tools.paths.source(self.spec["user"], self.spec["sha256"])
        return copy if copy.exists() else original

    def cancelled(self) -> Callable[[], bool]:
        """Looks at the job's row, at most twice a second."""
        looked, answer = 0.0, False

        def look() -> bool:
            nonlocal looked, answer
            now = time.monotonic()
            if now - looked > _CANCEL_LOOKS:
                looked = now
                row = self.tools.catalog.job(self.spec["user"], self.spec["job"])
                answer = row.status == "cancelled"
            return answer

        return look


# Stages: plain functions over artifacts, each idempotent


def probe_source(place: Place) -> Json:
    """What is in the file; written once beside its elements."""
    target = place.elements / "probe.json"
    if not target.exists():
        secret = place.work / "password"
        if place.spec["locked"] and not secret.exists():
            raise InputError(
                "password_lost", "The password is no longer there.", "Submit the file again."
            )
        password = secret.read_text(encoding="utf-8") if secret.exists() else None
        tools = place.tools
        original = tools.paths.source(place.spec["user"], place.spec["sha256"])
        if not original.exists():
            tools.replication.fetch(
                place.spec["user"], f"sources/{place.spec['sha256']}.pdf", original
            )
        found = look(
            tools.pool,
            original,
            place.elements / "readable.pdf",
            password=password,
            max_pages=tools.settings.max_pages,
            cancelled=place.cancelled(),
        )
        secret.unlink(missing_ok=True)
        write_once(target, json.dumps(asdict(found)))
    return dict(json.loads(target.read_text(encoding="utf-8")))


def read_pages(place: Place, batch: Batch) -> Json:
    """Partition one batch; its page records."""
    tools = place.tools
    result = partition_batch(
        tools.pool,
        place.readable,
        batch,
        place.options,
        out=place.elements,
        crops=tools.paths.crops(place.spec["user"]),
        detector=tools.detector,
        cancelled=place.cancelled(),
    )
    return {"pages": [asdict(record) for record in result.pages]}


def reread_pages(place: Place, batch: Batch) -> Json:
    """Pages asked for again, with their own strategy, put in the place of what the batch had."""
    again = place.spec["again"]
    wanted = {p for p in again["pages"] if batch.first <= p <= batch.last}
    target = place.elements / f"batch-{batch.index:05d}.jsonl"
    records_there, elements = read_batch(target)
    if not wanted:
        return {"pages": [asdict(r) for r in records_there]}
    options = replace(place.options, strategy=again["strategy"])
    aside = place.work / f"again-{place.spec['attempt']}"
    fresh: dict[int, tuple[list[Any], list[Json]]] = {}
    for page in sorted(wanted):
        result = partition_batch(
            place.tools.pool,
            place.readable,
            Batch(index=page, first=page, last=page),
            options,
            out=aside,
            crops=place.tools.paths.crops(place.spec["user"]),
            detector=place.tools.detector,
            cancelled=place.cancelled(),
        )
        fresh[page] = read_batch(result.path)
    pages = [fresh[r.page][0][0] if r.page in fresh else r for r in records_there]
    kept: list[Json] = []
    for record in pages:
        page = record.page
        kept += (
            fresh[page][1]
            if page in fresh
            else [e for e in elements if e["metadata"].get("page_number") == page]
        )
    crops = sorted({n for e in kept if (n := e["metadata"].get("image_path"))})
    write_once(place.elements / f"batch-{batch.index:05d}.crops", "\n".join(crops))
    head = json.dumps({"pages": [asdict(r) for r in pages]}, ensure_ascii=False)
    lines = [head, *(json.dumps(e, ensure_ascii=False) for e in kept)]
    write_once(target, "\n".join(lines) + "\n")
    return {"pages": [asdict(r) for r in pages]}


def index_batch(place: Place, batch: Batch, *, last: bool) -> Json:
    """Chunk, embed and index one batch; records that are there already keep their vectors."""
    spec, tools = place.spec, place.tools
    folder = place.work / f"chunks-{spec['attempt']}"
    done = folder / f"ids-{batch.index:05d}.json"
    if done.exists():
        return {"records": len(json.loads(done.read_text(encoding="ascii")))}
    before = folder / f"carry-{batch.index - 1:05d}.json"
    carry = Carry()
    if batch.index:
        kept = json.loads(before.read_text(encoding="utf-8"))
        carry = Carry(elements=tuple(kept["elements"]), title=kept["title"])
    _, elements = read_batch(place.elements / f"batch-{batch.index:05d}.jsonl")
    made, carry = chunk_batch(carry, elements, ChunkOptions(**spec["chunk"]), last=last)
    ids, note = _index(tools, spec, made)
    write_once(folder / f"carry-{batch.index:05d}.json", json.dumps(asdict(carry)))
    write_once(done, json.dumps(ids))
    return {"records": len(ids), "note": note}


def _index(tools: Tools, spec: Json, made: list[Chunk]) -> tuple[list[str], str | None]:
    encoder = tools.encoder()
    user, collection = spec["user"], spec["collection"]
    title = tools.catalog.find_collection(user, collection).title
    space = Space(
        collection=collection, title=title, model=encoder.name, dimension=encoder.dimension
    )
    ids = list(dict.fromkeys(c.record_id(spec["sha256"]) for c in made))
    with tools.workspaces.open(user) as workspace:
        there = {r.id for r in workspace.get(collection, ids=ids)} if ids else set()
    note: str | None = None

    def encode(texts: Sequence[str]) -> list[list[float]]:
        nonlocal note
        vectors, note = tools.borrower.encode(user, texts)
        return vectors

    fresh = records(
        [c for c in made if c.record_id(spec["sha256"]) not in there],
        encode,
        source_id=spec["sha256"],
        filename=spec["filename"],
        model=encoder.name,
    )
    with tools.workspaces.open(user) as workspace:
        workspace.upsert(space, fresh)
    tools.catalog.set_model(user, collection, encoder.name)
    return ids, note


def finish_index(place: Place, pages: int) -> Json:
    """Records of this source that its chunks no longer make are removed; the source is listed."""
    spec, tools = place.spec, place.tools
    folder = place.work / f"chunks-{spec['attempt']}"
    current = {i for path in folder.glob("ids-*.json") for i in json.loads(path.read_text("ascii"))}
    with tools.workspaces.open(spec["user"]) as workspace:
        held = workspace.get(spec["collection"], where={"source_id": spec["sha256"]})
        workspace.delete(spec["collection"], [r.id for r in held if r.id not in current])
    tools.catalog.put_source(
        spec["user"],
        SourceRow(
            collection=spec["collection"],
            sha256=spec["sha256"],
            filename=spec["filename"],
            bytes=spec["bytes"],
            pages=pages,
            version=place.options.version(),
            created_at=time.time(),
        ),
    )
    return {"records": len(current)}


def save(place: Place) -> Json:
    """One confirmed generation of this user."""
    return {"generation": place.tools.replication.save(place.spec["user"])}


def notify(place: Place, result: Json) -> Json:
    """Tell whoever asked; what went wrong is a note, never a failure."""
    target = place.work / "notify"
    address = target.read_text(encoding="utf-8") if target.exists() else None
    return dict(place.tools.notifier.send(address, place.spec, result))


def clean(place: Place, result: Json) -> Json:
    """The job's own artifacts go once nothing can need them again."""
    if result["status"] in {"succeeded", "partial"}:
        shutil.rmtree(place.work, ignore_errors=True)
    return {}


STAGES: dict[str, Callable[[Place, Batch, Json], Json]] = {
    "probe": lambda place, _, __: probe_source(place),
    "partition": lambda place, batch, _: read_pages(place, batch),
    "reread": lambda place, batch, _: reread_pages(place, batch),
    "index": lambda place, batch, value: index_batch(place, batch, last=value["last"]),
    "finish": lambda place, _, value: finish_index(place, int(value["pages"])),
    "save": lambda place, _, __: save(place),
    "notify": lambda place, _, value: notify(place, value),
    "clean": lambda place, _, value: clean(place, value),
}
_NO_BATCH = {"index": 0, "first": 1, "last": 1}


def answer(name: str, place: Place, batch: Json, value: Json) -> Json:
    """A stage's result, or its error as a value."""
    spec = place.spec
    what = {"job": spec["job"], "attempt": spec["attempt"], "stage": name, "batch": batch["index"]}
    log.info("stage started", extra=what)
    began = time.monotonic()
    code = None
    try:
        return STAGES[name](place, Batch(**batch), value)
    except QuireError as problem:
        code = problem.code
        return {"error": {**problem.as_dict(), "permanent": problem.permanent}}
    finally:
        seconds = round(time.monotonic() - began, 3)
        log.info("stage ended", extra={**what, "seconds": seconds, "code": code})


class _Failed(Exception):
    """Ends the workflow with a recorded reason; never leaves this module."""

    def __init__(self, error: Json) -> None:
        super().__init__(error["code"])
        self.error = error


def register(tools: Tools) -> None:
    """Define the workflows over these tools; call once, before DBOS is launched."""

    @DBOS.step(name="stage_v1")
    def stage(name: str, spec: Json, batch: Json, value: Json) -> Json:
        return answer(name, Place(tools, spec), batch, value)

    @DBOS.workflow(name="child_v1", max_recovery_attempts=1000)
    def child(name: str, spec: Json, batch: Json, value: Json) -> Json:
        return dict(stage(name, spec, batch, value))

    @DBOS.step(name="event_v1")
    def note(job: str, seq: int, event: Json, changes: Json) -> None:
        tools.catalog.append_event(job, seq, {**event, "time": time.time()})
        tools.catalog.update_job(job, **changes)

    @DBOS.step(name="clock_v1")
    def clock() -> float:
        return time.time()

    @DBOS.step(name="jitter_v1")
    def jitter(seconds: float) -> float:
        return seconds * random.uniform(0.9, 1.1)

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=1000)
    async def ingest(spec: Json) -> str:
        run = _Run(spec, child, note, clock, jitter)
        try:
            await _compose(run)
            status, error = ("partial" if run.failed else "succeeded"), None
        except _Failed as problem:
            status, error = "failed", problem.error
        await _end(run, status, error)
        return status


class _Run:
    """A parent workflow's own memory: deterministic, so that a replay rebuilds it."""

    def __init__(self, spec: Json, child: Any, note: Any, clock: Any, jitter: Any) -> None:
        self.spec = spec
        self.child = child
        self.note = note
        self.clock = clock
        self.jitter = jitter
        self.seq = int(spec["first_seq"])
        self.stages: dict[str, Json] = {}
        self.failed: list[int] = []

    async def event(
        self, stage: str, message: str, *, extra: Json | None = None, **changes: Any
    ) -> None:
        """Number, write, and fold into the job's row."""
        self.seq += 1
        known = self.stages.get(stage, {})
        body = {
            "stage": stage,
            "done": known.get("done"),
            "total": known.get("total"),
            "message": message,
            **(extra or {}),
        }
        summary = {"stages": self.stages, "message": message, **changes.pop("summary", {})}
        self.note(self.spec["job"], self.seq, body, {"summary": summary, **changes})

    def count(self, stage: str, done: int, total: int) -> None:
        self.stages[stage] = {"done": done, "total": total}

    async def start(
        self,
        queue: str,
        name: str,
        *,
        batch: Json | None = None,
        value: Json | None = None,
        again: int = 0,
    ) -> Any:
        """Enqueue a child; its id names stage, batch and attempt, so that a replay finds it."""
        spec, batch = self.spec, batch or _NO_BATCH
        identity = f"{spec['job']}~{spec['attempt']}/{name}/{batch['index']:05d}/a{again}"
        with SetWorkflowID(identity), SetEnqueueOptions(queue_partition_key=spec["user"]):
            return await DBOS.enqueue_workflow_async(
                queue, self.child, name, spec, batch, value or {}
            )

    async def settle(
        self,
        queue: str,
        name: str,
        *,
        batch: Json | None = None,
        value: Json | None = None,
        handle: Any = None,
    ) -> Json:
        """The child's answer; what may pass is waited for, durably and without a slot."""
        for again in range(len(BACKOFF) + 1):
            started = handle or await self.start(queue, name, batch=batch, value=value, again=again)
            handle = None
            found: Json = await started.get_result(polling_interval_sec=0.1)
            error = found.get("error")
            if error is None:
                return found
            if error["permanent"] or again == len(BACKOFF):
                raise _Failed({k: error[k] for k in ("code", "message", "advice")})
            await self.wait(name, error, BACKOFF[again])
        raise AssertionError("unreachable")

    async def wait(self, stage: str, error: Json, seconds: float) -> None:
        pause = self.jitter(seconds)
        await self.event(
            stage,
            f"{error['message']} Trying again in {pause:.0f} s.",
            status="waiting",
        )
        await DBOS.sleep_async(pause)
        await self.event(stage, "Trying again.", status="running")


async def _compose(run: _Run) -> None:
    await run.event("probe", "Looking at the file.", status="running", started_at=run.clock())
    found = await run.settle(QUEUE_PAGES, "probe")
    pages, scans = int(found["pages"]), int(found["scanned_pages"])
    run.count("probe", 1, 1)
    for name in ("partition", "chunk", "embed", "index"):
        run.count(name, 0, pages)
    await run.event(
        "probe",
        f"{pages} pages, about {scans} of them scanned." if scans else f"{pages} pages.",
        summary={"pages": pages, "estimate": float(found["seconds"]) + pages * 0.05},
    )
    probed = Probe(**found)
    await _read_and_index(run, [asdict(b) for b in plan(probed)], pages)
    await run.settle(QUEUE_INDEX, "finish", value={"pages": pages})
    saved = await run.settle(QUEUE_INDEX, "save")
    run.count("save", 1, 1)
    await run.event(
        "save",
        f"Saved as generation {saved['generation']}.",
        summary={"saved_generation": saved["generation"]},
    )


async def _read_and_index(run: _Run, batches: list[Json], pages: int) -> None:
    """Batches are read ahead in a window; each is indexed, in order, as soon as it is there."""
    name = "reread" if run.spec["again"].get("pages") else "partition"
    handles = [await run.start(QUEUE_PAGES, name, batch=b) for b in batches[:WINDOW]]
    total = 0
    for i, batch in enumerate(batches):
        result = await run.settle(QUEUE_PAGES, name, batch=batch, handle=handles[i])
        if i + WINDOW < len(batches):
            handles.append(await run.start(QUEUE_PAGES, name, batch=batches[i + WINDOW]))
        await _report_pages(run, batch, result["pages"], pages)
        made = await run.settle(
            QUEUE_INDEX, "index", batch=batch, value={"last": i == len(batches) - 1}
        )
        total += int(made["records"])
        if made.get("note"):
            await run.event("embed", made["note"])
        for stage in ("chunk", "embed", "index"):
            run.count(stage, batch["last"], pages)
        await run.event("index", f"{total} records, searchable up to page {batch['last']}.")


async def _end(run: _Run, status: str, error: Json | None) -> None:
    message = _summary(run, status, error)
    result = {"status": status, "message": message, "pages_failed": run.failed}
    sent = await run.settle(QUEUE_INDEX, "notify", value=result)
    if sent.get("note"):
        run.count("notify", 1, 1)
        await run.event("notify", sent["note"])
    await run.settle(QUEUE_INDEX, "clean", value=result)
    await run.event(
        "end",
        message,
        extra={"status": status, "error": error},
        status=status,
        finished_at=run.clock(),
        summary={"error": error, "pages_failed": run.failed},
    )


async def _report_pages(run: _Run, batch: Json, records: list[Json], pages: int) -> None:
    run.count("partition", batch["last"], pages)
    for record in records:
        if record["error"]:
            run.failed.append(record["page"])
            await run.event(
                "partition",
                f"Page {record['page']} was not read: {record['reason']}",
                extra={"page": record["page"], "reason": record["reason"]},
            )
    readers: dict[str, int] = {}
    for record in records:
        readers[record["reader"]] = readers.get(record["reader"], 0) + 1
    how = ", ".join(f"{n} by {reader}" for reader, n in sorted(readers.items()))
    await run.event("partition", f"Pages {batch['first']} to {batch['last']}: {how}.")


def _summary(run: _Run, status: str, error: Json | None) -> str:
    if error:
        return f"{error['message']} {error['advice']}"
    if status == "partial":
        listed = ", ".join(map(str, run.failed[:20]))
        return f"Done, but {len(run.failed)} pages were not read: {listed}."
    return "Done."
