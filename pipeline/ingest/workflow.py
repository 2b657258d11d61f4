"""The ingest workflow: stages composed in order, over DBOS, with everything durable in between.

The parent does no work: it enqueues a child per batch, awaits them in order, and writes numbered
events. What waits for something outside holds no slot and no memory: the run ends and enqueues its
own continuation with a delay. Knows nothing of what a stage does.
"""

import random
import time
from dataclasses import asdict
from typing import Any

from dbos import DBOS, SetEnqueueOptions, SetWorkflowID

from pipeline.ingest.partition import plan
from pipeline.ingest.place import Json, Place, Tools
from pipeline.ingest.stages import answer
from pipeline.jobs.queue import (
    BACKOFF,
    NO_BATCH,
    NOTIFY_WORKFLOW,
    QUEUE_AGAIN,
    QUEUE_INDEX,
    QUEUE_JOBS,
    QUEUE_OUT,
    QUEUE_PAGES,
    QUEUE_SMALL,
    SMALL,
    STAGE_WORKFLOW,
    WORKFLOW,
    place,
    run_id,
    telling,
    turn,
)
from pipeline.pdf.probe import Probe

WINDOW = 4
_LOOK = 0.1


class _Failed(Exception):
    """Ends the workflow with a recorded reason; never leaves this module."""

    def __init__(self, error: Json) -> None:
        super().__init__(error["code"])
        self.error = error


class _Looked(Exception):
    """A new job was looked at, and takes its place among the others; never leaves this module."""

    def __init__(self, found: Json) -> None:
        super().__init__()
        self.found = found


class _Later(Exception):
    """Something outside is away: go on from `key` after a pause; never leaves this module."""

    def __init__(self, key: str, tries: int, error: Json) -> None:
        super().__init__(key)
        self.key = key
        self.tries = tries
        self.error = error


def register(here: set[str], tools: Tools) -> None:
    """Define the workflows over these tools; call once, before DBOS is launched. `here` holds the
    ids of those that run in this process."""

    @DBOS.step(name="stage_v1")
    def stage(name: str, spec: Json, batch: Json, value: Json) -> Json:
        return answer(name, Place(tools, spec), batch, value)

    @DBOS.workflow(name=STAGE_WORKFLOW, max_recovery_attempts=1000)
    def child(name: str, spec: Json, batch: Json, value: Json) -> Json:
        with telling(here):
            return dict(stage(name, spec, batch, value))

    @DBOS.step(name="event_v1")
    def note(spec: Json, seq: int, event: Json, changes: Json) -> None:
        body = {**event, "epoch": spec.get("epoch", 0), "time": time.time()}
        tools.catalog.record(spec["job"], spec["attempt"], seq, body, **changes)

    @DBOS.step(name="clock_v1")
    def clock() -> float:
        return time.time()

    @DBOS.step(name="jitter_v1")
    def jitter(seconds: float) -> float:
        return seconds * random.uniform(0.9, 1.1)

    @DBOS.workflow(name=NOTIFY_WORKFLOW, max_recovery_attempts=1000)
    async def notify(spec: Json, result: Json, tries: int) -> None:
        """Runs after the job's end, so that no mail server delays or fails one."""
        with telling(here):
            await tell(spec, result, tries)

    async def tell(spec: Json, result: Json, tries: int) -> None:
        run = _Run(spec, child, note, clock, jitter)
        last = tries == len(BACKOFF)
        value = {**result, "last": last}
        told = await run.ask(QUEUE_OUT, f"tell.{tries}", "notify", value=value)
        if told.get("state") == "waiting":
            pause = run.jitter(BACKOFF[tries])
            await run.enqueue(
                f"notify.{tries + 1}", notify, spec, result, tries + 1, delay_seconds=pause
            )
        else:
            await run.ask(QUEUE_OUT, "clean", "clean", value=result)

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=1000)
    async def ingest(spec: Json) -> str:
        with telling(here):
            return await attempt(spec)

    async def attempt(spec: Json) -> str:
        run = _Run(spec, child, note, clock, jitter)
        try:
            await _compose(run)
            status, error = ("partial" if run.failed else "succeeded"), None
        except _Failed as problem:
            status, error = "failed", problem.error
        except _Looked as looked:
            await _line_up(run, ingest, looked.found)
            return "queued"
        except _Later as later:
            await _put_off(run, ingest, later)
            return "waiting"
        await _end(run, notify, status, error)
        return status


class _Run:
    """A workflow's own memory: deterministic, so that a replay rebuilds it. `spec["resume"]` is
    what an earlier run of the same attempt had reached before it waited."""

    def __init__(self, spec: Json, child: Any, note: Any, clock: Any, jitter: Any) -> None:
        self.spec = spec
        self.child = child
        self.note = note
        self.clock = clock
        self.jitter = jitter
        self.id = run_id(spec["job"], spec["attempt"], spec.get("turn", 0))
        self.seq = int(spec["first_seq"])
        resume = spec.get("resume") or {}
        self.stages: dict[str, Json] = dict(resume.get("stages", {}))
        self.failed: list[int] = list(resume.get("failed", ()))
        self.done = int(resume.get("done", 0))  # batches that are indexed
        self.told = int(resume.get("told", 0))  # batches whose pages were told
        self.records = int(resume.get("records", 0))
        self.gpu_seconds = float(resume.get("gpu_seconds") or spec.get("gpu_seconds") or 0)
        self.waited_for = str(resume.get("waited_for", ""))
        self.tries = int(resume.get("tries", 0))
        self.found: Json = resume.get("found", {})
        self.came = float(spec.get("came", 0))
        self.priority = 1

    def event(self, stage: str, message: str, *, extra: Json | None = None, **changes: Any) -> None:
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
        self.note(self.spec, self.seq, body, {"summary": summary, **changes})

    def borrowed(self, stage: str, result: Json) -> None:
        """What a child was told about a GPU, and what it took of the quota."""
        self.gpu_seconds += float(result.get("gpu_seconds", 0.0))
        for note in result.get("notes", ()):
            self.event(stage, note, summary={"gpu_seconds": round(self.gpu_seconds, 1)})

    def count(self, stage: str, done: int, total: int) -> None:
        self.stages[stage] = {"done": done, "total": total}

    async def enqueue(self, name: str, workflow: Any, *arguments: Any, **options: Any) -> Any:
        """Under an id that a replay finds again."""
        queue, part = place(options.pop("queue", QUEUE_AGAIN), self.spec)
        with (
            SetWorkflowID(f"{self.id}/{name}"),
            SetEnqueueOptions(queue_partition_key=part, **options),
        ):
            return await DBOS.enqueue_workflow_async(queue, workflow, *arguments)

    async def start(
        self,
        queue: str,
        key: str,
        name: str,
        *,
        batch: Json | None = None,
        value: Json | None = None,
    ) -> Any:
        arguments = (name, self.spec, batch or NO_BATCH, value or {})
        priority = self.priority if batch else None  # none is before all others
        return await self.enqueue(key, self.child, *arguments, queue=queue, priority=priority)

    async def ask(self, queue: str, key: str, name: str, *, value: Json | None = None) -> Json:
        """A child's answer, as it is."""
        started = await self.start(queue, key, name, value=value)
        return await _answer(started)

    async def settle(self, queue: str, name: str, *, value: Json | None = None) -> Json:
        return await self.settled(name, await self.start(queue, name, name, value=value))

    async def settled(self, key: str, started: Any) -> Json:
        """The child's answer; what may pass is waited for, what does not ends the job."""
        return self.good(key, await _answer(started))

    def good(self, key: str, found: Json) -> Json:
        """That answer of the child with that key, or what becomes of its error."""
        error = found.get("error")
        if error is None:
            return found
        tries = self.tries if self.waited_for == key else 0
        if error["permanent"] or tries == len(BACKOFF):
            raise _Failed({k: error[k] for k in ("code", "message", "advice")})
        raise _Later(key, tries, error)


async def _answer(started: Any) -> Json:
    return dict(await started.get_result(polling_interval_sec=_LOOK))


def _key(name: str, batch: Json) -> str:
    return f"{name}/{batch['index']:05d}"


async def _put_off(run: _Run, ingest: Any, later: _Later) -> None:
    """It goes on after a pause, whatever else is in the queue by then."""
    pause = run.jitter(BACKOFF[later.tries])
    run.event(
        later.key.split("/")[0],
        f"{later.error['message']} Trying again in {pause:.0f} s.",
        extra={"code": later.error["code"]},
        status="waiting",
        summary={"retry_at": run.clock() + pause, "waits_for": later.error["message"]},
    )
    resume = {
        "stages": run.stages,
        "failed": run.failed,
        "done": run.done,
        "told": run.told,
        "records": run.records,
        "gpu_seconds": run.gpu_seconds,
        "waited_for": later.key,
        "tries": later.tries + 1,
    }
    await _continue(run, ingest, QUEUE_AGAIN, resume, delay_seconds=pause)


async def _line_up(run: _Run, ingest: Any, found: Json) -> None:
    """Its place is known by how much work it is."""
    seconds = float(found["seconds"])
    queue = QUEUE_SMALL if seconds <= SMALL else QUEUE_JOBS
    await _continue(run, ingest, queue, {"found": found}, priority=turn(run.came, seconds))


async def _continue(run: _Run, ingest: Any, queue: str, resume: Json, **options: Any) -> None:
    """This run ends; its continuation is in a queue, with what was reached."""
    number = int(run.spec.get("turn", 0)) + 1
    spec = {**run.spec, "turn": number, "first_seq": run.seq, "resume": resume}
    queue, part = place(queue, spec)
    with (
        SetWorkflowID(run_id(spec["job"], spec["attempt"], number)),
        SetEnqueueOptions(queue_partition_key=part, **options),
    ):
        await DBOS.enqueue_workflow_async(queue, ingest, spec)


async def _compose(run: _Run) -> None:
    if run.spec.get("new") and "resume" not in run.spec:
        raise _Looked(await run.settle(QUEUE_PAGES, "probe"))
    if run.waited_for:
        run.event(
            run.waited_for.split("/")[0],
            "Trying again.",
            status="running",
            summary={"retry_at": None},
        )
    else:
        run.event("probe", "Looking at the file.", status="running", started_at=run.clock())
    found = run.found or await run.settle(QUEUE_PAGES, "probe")
    pages, scans = int(found["pages"]), int(found["scanned_pages"])
    run.priority = turn(run.came, float(found["seconds"]))
    if "index" not in run.stages:
        run.count("probe", 1, 1)
        for name in ("partition", "chunk", "embed", "index"):
            run.count(name, 0, pages)
        run.event(
            "probe",
            f"{pages} pages, about {scans} of them scanned." if scans else f"{pages} pages.",
        )
    batches = [asdict(b) for b in plan(Probe(**found))]
    await _read_and_index(run, batches, pages)
    await run.settle(QUEUE_INDEX, "finish", value={"pages": pages, "batches": len(batches)})
    status = "partial" if run.failed else "succeeded"
    outcome = {"status": status, "message": _summary(run, status, None), "pages_failed": run.failed}
    saved = await run.settle(QUEUE_OUT, "save", value=outcome)
    run.count("save", 1, 1)
    run.event(
        "save",
        f"Saved as generation {saved['generation']}.",
        summary={"saved_generation": saved["generation"]},
    )


async def _read_and_index(run: _Run, batches: list[Json], pages: int) -> None:
    """Batches are read ahead in a window, and indexed in order: the next one is in the queue before
    the last one is done, so that the model never waits for a word from here."""
    name = "reread" if run.spec["again"].get("pages") else "partition"
    open_ = batches[run.done :]
    reading = [await run.start(QUEUE_PAGES, _key(name, b), name, batch=b) for b in open_[:WINDOW]]
    ahead: tuple[Json, Any] | None = None
    for i, batch in enumerate(open_):
        result = await _answer(reading[i])
        here: tuple[Json, Any] | None = None
        if "error" not in result:
            if i + WINDOW < len(open_):
                later = open_[i + WINDOW]
                reading.append(await run.start(QUEUE_PAGES, _key(name, later), name, batch=later))
            if batch["index"] >= run.told:  # else these pages were told before a wait
                _report_pages(run, batch, result, pages)
            last = {"last": batch is open_[-1]}
            key = _key("index", batch)
            here = batch, await run.start(QUEUE_INDEX, key, "index", batch=batch, value=last)
        if ahead:
            await _indexed(run, *ahead, pages)
        run.good(_key(name, batch), result)
        ahead = here
    if ahead:
        await _indexed(run, *ahead, pages)


async def _indexed(run: _Run, batch: Json, started: Any, pages: int) -> None:
    made = await run.settled(_key("index", batch), started)
    run.done += 1
    run.records += int(made["records"])
    run.borrowed("embed", made)
    for stage in ("chunk", "embed", "index"):
        run.count(stage, batch["last"], pages)
    run.event("index", f"{run.records} records, searchable up to page {batch['last']}.")


async def _end(run: _Run, notify: Any, status: str, error: Json | None) -> None:
    message = _summary(run, status, error)
    result = {"status": status, "message": message, "pages_failed": run.failed}
    run.event(
        "end",
        message,
        extra={"status": status, "error": error},
        status=status,
        finished_at=run.clock(),
        summary={"error": error, "pages_failed": run.failed},
    )
    await run.enqueue("notify.0", notify, run.spec, result, 0)


def _report_pages(run: _Run, batch: Json, result: Json, pages: int) -> None:
    run.told, records = batch["index"] + 1, result["pages"]
    run.borrowed("partition", result)
    run.count("partition", batch["last"], pages)
    for record in records:
        if record["error"]:
            run.failed.append(record["page"])
            run.event(
                "partition",
                f"Page {record['page']} was not read: {record['reason']}",
                extra={"page": record["page"], "reason": record["reason"]},
            )
    readers: dict[str, int] = {}
    for record in records:
        readers[record["reader"]] = readers.get(record["reader"], 0) + 1
    how = ", ".join(f"{n} by {reader}" for reader, n in sorted(readers.items()))
    run.event("partition", f"Pages {batch['first']} to {batch['last']}: {how}.")


def _summary(run: _Run, status: str, error: Json | None) -> str:
    if error:
        return f"{error['message']} {error['advice']}"
    if status == "partial":
        listed = ", ".join(map(str, run.failed[:20]))
        how_many = f"{n} pages were" if (n := len(run.failed)) > 1 else "1 page was"
        return f"Done, but {how_many} not read: {listed}."
    return "Done."
