"""What a generation holds of its user's jobs: rows, and the finished batches of unfinished ones.

A job that was saved so goes on after the disk is gone: its row comes back with a new epoch, its batches
are there, and whoever looks after jobs takes it up. Rows say the same for as long as a job gets no
further than its pages: a save that has nothing else to tell makes no generation. Knows nothing of
what is in a batch.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from errors import Corrupt, InputError, NotFound, Refused
from storage.catalog.catalog import ACTIVE, FINISHED, Catalog, JobRow, tombstone
from storage.elements_folder import file_is_whole
from storage.names import (
    CollectionId,
    JobId,
    Sha256,
    UserKey,
    Version,
    Word,
    line,
    moment,
    number,
)

Json = dict[str, Any]
ENDED_KEPT = 200
ORIGINALS_AT_ONCE = 40  # of unfinished jobs in one save; the others come with the next one
_KEPT = ("kind", "attempt", "again", "epoch", "pages", "estimate", "probe", "version", "dismissed",
         "pages_failed", "error", "message")  # fmt: skip
_OF_AN_END = {"pages_failed", "error", "message"}
_OF_A_BATCH = (".jsonl", ".crops")
_PART = re.compile(r"(\d{5})-(\d{5})\.zip")
_LOST = Refused("import_lost", "The archive was on a disk that is gone.", "Import it again.")


@dataclass(frozen=True, slots=True)
class Work:
    """A source that unfinished jobs need, and the version their elements are made with, once it is
    known."""

    sha256: str
    version: str | None


def saved_jobs(catalog: Catalog, user: str) -> list[JobRow]:
    """Every unfinished job and the newest others, as a generation holds them. What was erased with
    its collection or its source is not told."""
    collections = {c.id for c in catalog.collections(user)}
    sources = {(s.collection, s.sha256) for s in catalog.sources(user)}
    unfinished = catalog.jobs(user, ACTIVE, 10_000)
    ended = catalog.jobs(user, FINISHED, ENDED_KEPT)
    rows = [_settled(row) for row in (*unfinished, *ended)]
    return [
        row
        for row in rows
        if (row.collection in collections or not row.collection)
        and (row.status not in {"succeeded", "partial"} or (row.collection, row.sha256) in sources)
    ]


def _settled(row: JobRow) -> JobRow:
    """What a save says of a job. One whose last save this may be has ended when the save stands."""
    outcome = row.summary.get("outcome")
    if outcome:
        end = {k: outcome[k] for k in ("pages_failed", "message")}
        row = replace(
            row,
            status=outcome["status"],
            finished_at=outcome["at"],
            summary={**row.summary, "error": None, **end},
        )
    over = row.status in FINISHED
    summary = {
        k: row.summary[k] for k in _KEPT if k in row.summary and (over or k not in _OF_AN_END)
    }
    return replace(
        row,
        status=row.status if over else "queued",
        summary=summary,
        started_at=None,
        finished_at=row.finished_at if over else None,
    )


def dump(rows: Iterable[JobRow]) -> bytes:
    told = sorted((asdict(row) for row in rows), key=lambda row: str(row["id"]))
    return json.dumps({"format": 1, "jobs": told}, sort_keys=True, ensure_ascii=False).encode()


def load(content: bytes, *, user: str) -> list[JobRow]:
    """The jobs of that user, or Corrupt."""
    try:
        told = json.loads(content)
        return [_row(row, user) for row in told["jobs"]] if told["format"] == 1 else []
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, InputError) as problem:
        raise Corrupt(
            "jobs_corrupt", "The saved jobs cannot be read.", "Submit the files again."
        ) from problem


def _row(told: Json, user: str) -> JobRow:
    """What names a place is parsed here; what only a reader or a model is asked for, where it is used."""
    spec, summary = dict(told["spec"]), dict(told["summary"])
    for kept, parse in ((spec, _IN_SPEC), (summary, _IN_SUMMARY)):
        kept.update({k: f(kept[k]) for k, f in parse.items() if kept.get(k) is not None})
    if told["user"] != user or spec.get("user", user) != user:
        raise ValueError
    if told["status"] not in {"queued", *FINISHED}:
        raise ValueError
    ended = told["finished_at"]
    return JobRow(
        id=JobId(told["id"]),
        user=UserKey(user),
        collection=_or_none(CollectionId)(told["collection"]),
        sha256=_or_none(Sha256)(told["sha256"]),
        filename=line(told["filename"], 300),
        status=str(told["status"]),
        spec=spec,
        summary=summary,
        created_at=moment(told["created_at"]),
        started_at=None,
        finished_at=None if ended is None else moment(ended),
    )


def _or_none(parse: Callable[[object], str]) -> Callable[[object], str]:
    return lambda given: "" if given == "" else parse(given)


def _whole(given: object) -> int:
    return number(given, 1 << 31)


def _mapping(given: object) -> Json:
    if not isinstance(given, dict):
        raise TypeError
    return given


_IN_SPEC: Mapping[str, Callable[[object], Any]] = {
    "user": UserKey, "job": JobId, "kind": Word, "collection": CollectionId, "sha256": Sha256,
}  # fmt: skip
_IN_SUMMARY: Mapping[str, Callable[[object], Any]] = {
    "kind": Word, "version": Version, "attempt": _whole, "epoch": _whole, "pages": _whole,
    "again": _mapping, "probe": _mapping, "error": _mapping,
}  # fmt: skip


def put_back(catalog: Catalog, user: str, saved: Sequence[JobRow]) -> None:
    """Rows that are not here come back in a new epoch, those that ended elsewhere meanwhile end
    here, in the attempt that ended them; what this catalogue alone knows stays."""
    for row in saved:
        try:
            here = catalog.job(user, row.id)
        except NotFound:
            _insert(catalog, row)
            continue
        if here.status in ACTIVE and row.status in FINISHED and row.attempt >= here.attempt:
            _tell(
                catalog, row, "Another instance of Quire did this job.", finished_at=row.finished_at
            )


def end_deleted(catalog: Catalog, user: str) -> None:
    """A job whose document or collection was deleted after it came, and that these rows still say is
    at work, was over by then: it does not bring the document back."""
    gone = catalog.tombstones(user)
    for row in catalog.jobs(user, ACTIVE, 10_000) if gone else ():
        keys = (tombstone(row.collection), tombstone(row.collection, row.sha256))
        if any(gone.get(key, -1.0) >= row.created_at for key in keys):
            end = {"finished_at": time.time()}
            _tell(catalog, replace(row, status="cancelled"), "What it made was deleted.", **end)


def _insert(catalog: Catalog, row: JobRow) -> None:
    epoch = int(row.summary.get("epoch", 0)) + 1
    row = replace(row, summary={**row.summary, "epoch": epoch})
    lost = row.status in ACTIVE and row.kind == "import"
    if lost:
        row = replace(row, status="failed", finished_at=time.time())
        row.summary["error"] = _LOST.as_dict()
    if catalog.put_job(row):
        message = row.summary.get("message") if row.status in FINISHED else None
        _tell(catalog, row, message or ("" if lost else "Restored after a restart; it goes on."))


def _tell(catalog: Catalog, row: JobRow, message: str, **changes: Any) -> None:
    error = row.summary.get("error")
    message = message or (f"{error['message']} {error['advice']}" if error else "")
    body = {
        "stage": "end" if row.status in FINISHED else "queue",
        "status": row.status,
        "message": message,
        "error": error,
        "epoch": row.summary.get("epoch", 0),
        "time": time.time(),
    }
    summary = {"message": message, "error": error, "attempt": row.attempt}
    if "pages_failed" in row.summary:
        summary["pages_failed"] = row.summary["pages_failed"]
    catalog.append_event(row.id, body, status=row.status, summary=summary, **changes)


# Batches of unfinished jobs


def works(rows: Iterable[JobRow]) -> list[Work]:
    """What unfinished jobs work on, each once, the oldest job's first."""
    unfinished = sorted((r for r in rows if r.status in ACTIVE), key=lambda r: r.created_at)
    found = [Work(r.sha256, r.summary.get("version")) for r in unfinished if r.sha256]
    return list(dict.fromkeys(found))


def part_folder(sha256: str, version: str) -> str:
    return f"elements/{sha256}-{version}/"


def next_part(folder: Path, top: str, saved: Iterable[str]) -> tuple[str, list[Path]] | None:
    """The name below `top` of the batches that follow the `saved` parts without a gap, and their
    files; None when there is none."""
    ends = [int(m[2]) for name in saved if (m := _PART.fullmatch(name.removeprefix(top)))]
    first = last = max(ends, default=-1) + 1
    while all(file_is_whole(folder / f"batch-{last:05d}{kind}") for kind in _OF_A_BATCH):
        last += 1
    if last == first:
        return None
    files = [folder / f"batch-{i:05d}{kind}" for i in range(first, last) for kind in _OF_A_BATCH]
    return f"{top}{first:05d}-{last - 1:05d}.zip", [*files, folder / "style.json"]
