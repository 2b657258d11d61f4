"""A container that ends in the middle of jobs, its disk gone: the next one goes on from the stores."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from errors import Unavailable
from tests.engine import OTHER, USER, Engine, engine
from tests.hub.server import Hub
from tests.mailbox import mailbox

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SECRET = {"QUIRE_SECRET": "the same after a restart"}
PAGES = 150  # read for longer than a small job takes beside them


def wipe(data: Path, *, but: str = "") -> None:
    for path in data.iterdir():
        if path.name != but:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def records(running: Engine, user: str = USER) -> dict[str, Any]:
    found = next(c for c in running.link.call("collections", user) if c["title"] == "default")
    shown = running.link.call("gallery", user, collection=found["id"])
    return {"records": found["records"], "pages": found["pages"], "gallery": shown}


def elements(running: Engine, job: str, user: str = USER) -> list[dict[str, Any]]:
    source = running.jobs.job(user, job)["source"]["id"]
    return list(running.link.call("elements", user, source_id=source))


def history(running: Engine, job: str) -> list[dict[str, Any]]:
    found = running.jobs.read_events(USER, job, 0)[0]
    assert [e["seq"] for e in found] == list(range(1, len(found) + 1))
    return found


def test_killed_and_wiped_a_job_goes_on_from_its_last_saved_batch(tmp_path: Path) -> None:
    """SIGKILL: the local remote is what is left."""
    data = tmp_path / "data"
    with engine(data, **SECRET) as running:
        pdf = running.pdf(PAGES, "whole")
        kept = shutil.copyfile(pdf, tmp_path / "whole.pdf")
        job = running.submit(pdf, strategy="ocr_only")
        running.until(job, lambda j: j["stages"].get("index", {}).get("done", 0) > 9)
        pdf = running.pdf(2, "ended")
        second = shutil.copyfile(pdf, tmp_path / "ended.pdf")
        ended = running.submit(pdf)
        running.finished(ended)  # its save holds what was done of the other one
        saved = data / "remote" / "users" / USER / "manifest.json"
        parts = f"elements/{running.jobs.catalog.job(USER, job).sha256}-"
        running.eventually(lambda: parts in saved.read_text(encoding="utf-8"))
        assert running.jobs.job(USER, job)["status"] == "running"
        running.kill_all()
        before = running.jobs.catalog.last_event(job)
    wipe(data, but="remote")
    with engine(data, **SECRET) as running:
        back = running.jobs.job(USER, job)
        assert back["epoch"] == 1
        done = running.finished(job, seconds=200)
        assert (done["status"], done["source"]["pages"]) == ("succeeded", PAGES)
        assert done["stages"]["index"] == {"done": PAGES, "total": PAGES}
        assert running.jobs.job(USER, ended)["status"] == "succeeded"
        told = history(running, job)
        assert told[0]["message"] == "Restored after a restart; it goes on."
        assert {e.get("epoch") for e in told[2:]} == {1}
        assert running.jobs.catalog.last_event(job) != before
        read = {e["page"] for e in running.link.call("pages", USER, source_id=done["source"]["id"])}
        assert read == set(range(1, PAGES + 1))
        whole = running.submit(kept, OTHER, strategy="ocr_only")  # by somebody without a past
        running.finished(whole, OTHER, 200)
        running.finished(running.submit(second, OTHER), OTHER)
        assert elements(running, whole, OTHER) == elements(running, job)
        assert records(running, OTHER) == records(running)


def pages(running: Engine) -> int | None:
    """Of the owner's first collection; None while it is being restored."""
    try:
        return int(running.link.call("collections", USER)[0]["pages"])
    except Unavailable as restoring:
        assert restoring.code in {"opening", "restoring"}
        return None


def test_a_container_that_ends_hands_its_jobs_to_the_next_one(tmp_path: Path) -> None:
    """SIGTERM, with the Hub: what was going on is saved, and the next one need not wait."""
    with Hub() as hub, mailbox() as (inbox, mail_url):
        asked = {
            **SECRET, "QUIRE_HUB_DATASET": "ada/quire", "HF_TOKEN": "hf_write",
            "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0",
            "QUIRE_MAIL_URL": mail_url,
        }  # fmt: skip
        data = tmp_path / "data"
        with engine(data, **asked) as running:
            job = running.submit(running.pdf(150, "long"), notify="ada@example.org")
            queued = [running.submit(running.pdf(3 + n, f"q{n}"), OTHER) for n in range(8)]
            stopped = running.submit(running.pdf(5, "stopped"))
            running.jobs.cancel(USER, stopped)
            running.until(job, lambda j: j["stages"].get("index", {}).get("done", 0) > 20)
        wipe(data)
        with engine(data, **asked) as running:
            done = running.finished(job)
            assert (done["status"], done["stages"]["index"]["done"]) == ("succeeded", 150)
            assert running.until(job, lambda j: j["notified"])["notified"]["state"] == "sent"
            for one in queued:
                assert running.finished(one, OTHER)["status"] == "succeeded"
            assert running.jobs.job(USER, stopped)["status"] == "cancelled"
            history(running, job)
        wipe(data)
        with engine(data, **asked) as running:  # nothing is left to do, and nothing is done twice
            running.eventually(lambda: pages(running) == 150)
            assert running.jobs.job(USER, job)["status"] == "succeeded"
            running.finished(running.submit(running.pdf(1, "last")))
            assert not running.started(job=job)  # by its log, which the disk took as well
        assert len(inbox.mails) == 1


def test_a_second_container_waits_until_the_first_one_ends(tmp_path: Path) -> None:
    """Two data directories over one store: never two that run jobs."""
    with Hub() as hub:
        asked = {
            **SECRET, "QUIRE_HUB_DATASET": "ada/quire", "HF_TOKEN": "hf_write",
            "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0",
        }  # fmt: skip
        with engine(tmp_path / "first", **asked) as first:
            job = first.submit(first.pdf(400, "mine"))
            small = first.submit(first.pdf(2, "small"))
            first.finished(small)
            assert first.jobs.job(USER, job)["status"] == "running"
            with engine(tmp_path / "second", patience=0, **asked) as second:
                told = second.data / "run" / "waiting"
                second.eventually(told.exists)
                assert "still running" in told.read_text()
                assert not second.jobs.ready()
                first.process.terminate()
                first.process.wait(60)
                second.eventually(second.jobs.ready)
                assert second.finished(job)["status"] == "succeeded"
                assert second.jobs.job(USER, small)["status"] == "succeeded"
