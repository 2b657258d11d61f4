"""Jobs as their owner drives them: cancelled, tried again, refused, waiting in line."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from errors import NotFound, QuireError
from pipeline.jobs.queue import BACKOFF, QUEUE_JOBS, WORKFLOW, catalog_url
from pipeline.jobs.service import Jobs, Request
from storage.catalog.tokens import Accounts
from tests.conftest import SAMPLES
from tests.engine import OTHER, USER, Engine, engine
from tests.hub.server import Fault, Hub
from tests.mailbox import mailbox

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
VISITOR = "2" * 32


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("jobs") / "data", QUIRE_MAX_JOBS="6") as made:
        yield made


def records(running: Engine, title: str, user: str = USER) -> int:
    found = running.link.call("collections", user)
    return next((int(c["records"]) for c in found if c["title"] == title), 0)


def test_a_cancelled_job_starts_nothing_more_and_keeps_what_it_has(running: Engine) -> None:
    job = running.submit(running.pdf(200, "kept"), collection="kept")
    running.until(job, lambda j: j["stages"].get("index", {}).get("done", 0) > 50)
    running.jobs.cancel(USER, job)
    running.finished(running.submit(running.pdf(2, "next"), collection="other"))
    batches = len(running.started(job=job, stage="partition"))
    assert batches < 25
    assert records(running, "kept") > 0
    history = running.jobs.read_events(USER, job, 0)[0]
    assert [e["seq"] for e in history] == list(range(1, len(history) + 1))
    assert history[-1]["status"] == "cancelled"
    held = records(running, "kept")
    running.jobs.retry(USER, job)
    done = running.finished(job)
    assert done["status"] == "succeeded"
    assert records(running, "kept") > held
    history = running.jobs.read_events(USER, job, 0)[0]
    assert [e["seq"] for e in history] == list(range(1, len(history) + 1))
    read_again = {line["batch"] for line in running.started(job=job, stage="partition", attempt=2)}
    assert read_again  # asked for, and answered by what was there


def test_a_page_that_another_reader_cannot_read_keeps_what_it_had(running: Engine) -> None:
    copied = shutil.copyfile(SAMPLES / "greek.pdf", running.data / "greek.pdf")
    job = running.submit(copied, collection="greek")
    source = running.finished(job)["source"]["id"]
    before = running.link.call("elements", USER, source_id=source)
    running.jobs.retry(USER, job, [1], "ocr_only")  # its letters need a pack that is not there
    done = running.finished(job)
    assert (done["status"], done["message"]) == ("partial", "Done, but 1 page was not read: 1.")
    told = [e["message"] for e in running.jobs.read_events(USER, job, 0)[0]]
    assert any(m.startswith("Page 1 was not") and m.endswith("What it had stays.") for m in told)
    assert before and running.link.call("elements", USER, source_id=source) == before
    assert running.link.call("pages", USER, source_id=source)[0]["reader"] == "text"
    assert records(running, "greek") > 0
    running.jobs.retry(USER, job)
    assert running.finished(job)["status"] == "succeeded"


def test_what_a_cancelled_job_indexed_is_removed_when_asked(running: Engine) -> None:
    job = running.submit(running.pdf(120, "gone"), collection="gone")
    running.until(job, lambda j: j["stages"].get("index", {}).get("done", 0) > 50)
    running.jobs.cancel(USER, job, keep=False)
    running.finished(running.submit(running.pdf(3, "after"), collection="other"))
    assert running.started(job=job, stage="undo")
    assert records(running, "gone") == 0


def test_page_processes_end_with_the_job_that_needed_them(running: Engine) -> None:
    job = running.submit(running.pdf(24, "scanned"), strategy="ocr_only", collection="ocr")
    both = {1, 2}  # each of eight pages, just begun
    running.eventually(
        lambda: both <= {x["batch"] for x in running.started(job=job, stage="partition")}
    )
    busy = running.at_work()
    assert busy
    running.jobs.cancel(USER, job)
    psutil.wait_procs(busy, timeout=20)
    assert not [p for p in busy if p.is_running()]
    running.jobs.retry(USER, job, strategy="fast")  # most pages were never read as asked before
    done = running.finished(job)
    assert (done["status"], done["stages"]["index"]["done"]) == ("succeeded", 24)
    read = running.link.call("pages", USER, source_id=done["source"]["id"])
    assert {page["reader"] for page in read} == {"text"}
    assert list(running.data.glob("remote/users/*/elements/*.1.zip"))


def test_a_job_that_waits_in_line_says_why_and_can_be_cancelled(running: Engine) -> None:
    """Its pages and its time are told while the others, which take long, are at work."""
    files = [running.pdf(100 + n, f"line{n}") for n in range(6)]
    made = [running.submit(file, OTHER, strategy="ocr_only") for file in files]
    last = running.jobs.job(OTHER, made[5])
    assert (last["status"], last["waits_for"]) == ("queued", "5 of your jobs are before this one.")
    assert running.until(made[5], lambda j: j["eta_seconds"], OTHER)["source"]["pages"] == 105
    refused = running.jobs.submit(
        OTHER, Request(path=running.pdf(3, "too many"), filename="too many.pdf")
    )
    assert refused["error"]["code"] == "too_many_jobs"
    for job in reversed(made):  # or the last one's turn comes before its end
        running.jobs.cancel(OTHER, job)
    running.finished(again := running.submit(running.pdf(2, "free again"), OTHER), OTHER)
    assert running.done(job=again, stage="partition")
    assert not running.done(job=made[5], stage="partition")  # one that began was told to stop


def test_a_small_job_is_not_behind_a_big_one_of_another_user(running: Engine) -> None:
    big = running.submit(running.pdf(400, "big"), OTHER)
    running.until(big, lambda j: j["stages"].get("index", {}).get("done", 0), OTHER)
    running.finished(running.submit(running.pdf(18, "between")))
    assert running.jobs.job(OTHER, big)["status"] == "running"
    running.jobs.cancel(OTHER, big)


def test_a_visitor_s_quota_counts_for_what_is_submitted_too(running: Engine) -> None:
    small = replace(running.jobs.settings, user_quota_mb=1, visitor_quota_mb=0)
    jobs = Jobs(small, running.jobs.paths, running.jobs.catalog)
    Accounts(catalog_url(small, running.jobs.paths)).saw_visitor(VISITOR)
    request = Request(path=running.pdf(1, "guest"), filename="guest.pdf", collection="guests")
    refused = jobs.submit(VISITOR, request)
    assert refused["error"]["code"] == "quota_exceeded"
    assert "0 MB" in refused["error"]["message"]
    Accounts(catalog_url(small, running.jobs.paths)).forget(VISITOR)  # as one who has signed in
    assert jobs.submit(VISITOR, request)["status"] == "queued"


def test_what_cannot_be_is_refused_with_a_code(running: Engine) -> None:
    job = running.submit(running.pdf(2, "mine"))
    running.finished(job)
    for call in (running.jobs.cancel, running.jobs.retry, running.jobs.job):
        for user, name in ((OTHER, job), (USER, "nothing"), (USER, "x' or 1=1 --")):
            with pytest.raises(NotFound) as caught:
                call(user, name)
            assert caught.value.code == "job_not_found"
    assert running.jobs.cancel(USER, job)["status"] == "succeeded"
    for pages, code in ((p, "pages_range") for p in ([0], [3], ["1"], [])):
        with pytest.raises(QuireError) as refused:
            running.jobs.retry(USER, job, pages=pages)
        assert refused.value.code == code
    for status, limit, code in (
        ("foo", 5, "status_unknown"),
        ("", 5, "status_unknown"),
        (None, 0, "bad_number"),
    ):
        with pytest.raises(QuireError) as refused:
            running.jobs.list_jobs(USER, status, limit)
        assert refused.value.code == code
    assert running.jobs.read_events(USER, job, 10_000)[0] == []


def test_a_store_that_is_away_is_waited_for_without_a_slot(tmp_path: Path) -> None:
    with (
        Hub() as hub,
        mailbox() as (inbox, mail_url),
        engine(
            tmp_path / "data",
            QUIRE_HUB_DATASET="ada/quire",
            HF_TOKEN="hf_write",
            HF_ENDPOINT=hub.url,
            HF_HUB_OFFLINE="0",
            QUIRE_SECRET="s",
            QUIRE_MAIL_URL=mail_url,
        ) as running,
    ):
        first = running.submit(running.pdf(2, "there"))
        before = running.finished(first)["saved_generation"]
        written = running.jobs.transfer(
            USER, "export", {"collection": "default", "format": "parquet"}
        )
        name = running.finished(written["id"])["result"]["name"]
        made = [
            running.submit(running.pdf(3, f"away{n}"), notify="ada@example.org") for n in range(2)
        ]
        hub.faults = [Fault("POST", "/commit/", status=503, times=1000)]
        spec = {"title": "in", "filename": "in.zip"}
        exported = running.jobs.paths.export(USER, name)
        copy = shutil.copyfile(exported, tmp_path / "copy.zip")
        taken = running.jobs.transfer(USER, "import", spec, exported)["id"]
        left = running.jobs.transfer(USER, "import", {**spec, "title": "left"}, copy)["id"]
        waiting = running.until(made[0], lambda j: j["status"] == "waiting")
        assert 10 < waiting["retry_at"] - time.time() < 25
        assert "Trying again at" in waiting["waits_for"]
        waiting_for = running.jobs.read_events(USER, made[0], 0)[0][-1]
        running.until(made[1], lambda j: j["status"] == "waiting")
        assert running.until(taken, lambda j: j["status"] == "waiting")["retry_at"]
        running.jobs.cancel(USER, made[1])
        assert running.jobs.job(USER, made[1])["retry_at"] is None
        row = running.jobs.catalog.job(USER, made[0])
        quiet = {**row.spec, "notify": None}
        first_try = {"kind": "ingest", "attempt": 1}
        running.jobs.catalog.put_job(replace(row, id="run-out", spec=quiet, summary=first_try))
        last = {"waited_for": "save", "tries": len(BACKOFF), "done": 2, "stages": {"index": {}}}
        body = {**quiet, "job": "run-out", "attempt": 1, "first_seq": 0, "again": {}}
        running.jobs.engine.start(
            body, WORKFLOW, QUEUE_JOBS, "run-out~1.10", {**body, "turn": 10, "resume": last}
        )
        assert running.finished("run-out")["error"]["code"] == waiting_for["code"]
        running.until(left, lambda j: j["status"] == "waiting")
        assert "left" in {c["title"] for c in running.link.call("collections", USER)}
        told = running.jobs.cancel(USER, left, keep=False)
        assert told["message"] == "The job was cancelled; what was indexed is removed."
        running.eventually(
            lambda: "left" not in {c["title"] for c in running.link.call("collections", USER)}
        )
        running.kill_worker()
        hub.faults = []
        running.eventually(running.jobs.ready)
        with sqlite3.connect(running.data / "jobs.sqlite", timeout=30) as database:  # time goes by
            database.execute(
                "UPDATE workflow_status SET delay_until_epoch_ms = 0 WHERE status = 'DELAYED'"
            )
        running.jobs.retry(USER, "run-out")
        done = running.finished(made[0])
        assert done["status"] == "succeeded"
        assert done["saved_generation"] > before
        assert running.finished(taken)["result"]["records"] > 0
        assert running.finished("run-out")["status"] == "succeeded"
        told = running.until(made[0], lambda j: j["notified"])
        assert told["notified"]["state"] == "sent"
        assert [m["Subject"] for m in inbox.mails] == ["Quire: away0.pdf succeeded"]
        history = running.jobs.read_events(USER, made[0], 0)[0]
        assert [e["seq"] for e in history] == list(range(1, len(history) + 1))
        assert len(running.started(job=made[1], stage="save")) <= 1
