"""What is done to whole collections, as durable jobs: an export, a push, an import, another model.

A killed worker begins such a job again: an export writes its file aside, a push sends what the Hub
lacks, an import upserts into the collection that its row names, vectors of another model are kept as they are
made. Progress is numbered events, as everywhere. Knows nothing of HTTP.
"""

import logging
import random
import shutil
import time
from collections.abc import Sequence

from dbos import DBOS, SetEnqueueOptions, SetWorkflowID

from errors import QuireError
from pipeline.jobs.queue import BACKOFF, QUEUE_AGAIN, TRANSFER_WORKFLOW, place, run_id, telling
from pipeline.models.gpu import GPU_WAIT, Ask, Spent
from pipeline.transfers.incoming import remove_import, run_import
from pipeline.transfers.job import Job, Json, Tools
from pipeline.transfers.outgoing import run_export, run_push
from pipeline.transfers.reembed import reembed
from storage.catalog.catalog import FINISHED
from storage.live.workspace import Space
from storage.scarce import known

log = logging.getLogger(__name__)


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
        return _end_cancelled(job)
    status = job.row.status
    if status in FINISHED:  # by a run that was killed before its answer was kept
        return _end(job, status)
    works = {"export": run_export, "push": run_push, "import": run_import, "reembed": _change_model}
    if job.spec.get("turn"):
        job.note("Trying again.", status="running", summary={"retry_at": None})
    else:
        job.note("Started.", status="running", started_at=time.time())
    try:
        message, result = works[job.kind](job)
    except Exception as problem:
        if job.cancelled():
            return _end_cancelled(job)
        if not isinstance(problem, QuireError):
            log.exception("a transfer failed", extra={"job": job.id})
            advice = "Start it again; if it stays, report the time and the version."
            problem = known(problem, job.tools.paths.root, advice)
        error = problem.as_dict()
        if not problem.permanent and int(job.spec.get("tries", 0)) < len(BACKOFF):
            return {"status": "waiting", "error": error}
        if problem.permanent:
            _remove_all(job)
        job.note(str(problem), status="failed", error=error, finished_at=time.time())
        return _end(job, "failed")
    if job.cancelled():
        return _end_cancelled(job)
    job.note(message, status="succeeded", summary={"result": result}, finished_at=time.time())
    return _end(job, "succeeded")


def _end_cancelled(job: Job) -> Json:
    """What is left of it goes, as often as it takes: the last batch may come after the first time. An
    import that is kept can go on from its archive."""
    row = job.row
    if row.status == "cancelled" and (job.kind != "import" or not row.summary.get("kept", True)):
        _remove_all(job)
    return _end(job, "cancelled")


def _remove_all(job: Job) -> None:
    """What an import has made goes, unless it was to be kept, and what was written for the job."""
    made = job.row.summary.get("made")
    if made and not job.row.summary.get("kept"):
        remove_import(job, made)
    shutil.rmtree(job.work, ignore_errors=True)


def _end(job: Job, status: str) -> Json:
    if job.row.status in FINISHED:  # else it runs again by now
        job.tools.lent.forget(job.id)
    if status == "succeeded":
        shutil.rmtree(job.work, ignore_errors=True)
    return {"status": status}


def _change_model(job: Job) -> tuple[str, Json]:
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
        job.raise_if_cancelled()
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
