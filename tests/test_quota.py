"""What an owner has is what `du` says, and never more than the quota, whatever happens in which order."""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from starlette.requests import Request as HttpRequest

from errors import NotFound, Refused
from pipeline.ingest import endings, stages
from pipeline.ingest.checkpoints import write_batch
from pipeline.ingest.partition import Batch, BatchResult
from pipeline.ingest.place import Place, Tools
from pipeline.jobs.service import Jobs, Request
from pipeline.jobs.uploads import Admission
from pipeline.models.gpu import Answers
from pipeline.pdf.elements import element
from pipeline.pdf.page import Box, PageRecord
from pipeline.transfers import job as moving
from pipeline.transfers import workflow as transfers
from pipeline.worker.cleanup import UPLOADS_FOR, House, tidy
from pipeline.worker.handlers import Library
from settings import Settings
from storage.catalog.catalog import Catalog
from storage.catalog.tokens import Accounts
from storage.paths import Paths
from storage.remotes.local import LocalRemote
from storage.stores import open_stores
from storage.usage import Usage, drop_unfinished, end_promises
from tests.people import form
from tests.sequences import limit, sequences
from web.identity import Caller
from web.uploads import upload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(limit(300))]
OWNERS = ("a" * 32, "b" * 32)
QUOTA_MB = 40


def du(paths: Paths, user: str) -> int:
    """As an operator would look."""
    tops = (paths.user(user), paths.exports / user, paths.uploads / user)
    there = [str(t) for t in tops if t.exists()]
    if not there:
        return 0
    told = subprocess.run(
        ["du", "--summarize", "--total", "--block-size=1", *there], check=True, capture_output=True
    )
    return int(told.stdout.split()[-2])


@dataclass
class Numbers:
    """A model of eight numbers."""

    name: str = "numbers"
    dimension: int = 8
    device: str = "cpu"

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        return [list(map(float, np.random.default_rng(len(t)).random(8))) for t in texts]

    def encode_query(self, text: str) -> list[float]:
        return self.encode([text])[0]


@dataclass
class Engine:
    """Remembers what was asked of it."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def connected(self) -> "Engine":
        return self

    def start(self, *what: Any, **_: Any) -> None:
        self.asked.append(what)

    def stop(self, job: str) -> None:
        self.asked = [w for w in self.asked if job not in str(w[3])]


class Borrowing:
    def encode(self, _: Any, texts: Sequence[str], encoder: Numbers) -> Any:
        return Answers(encoder.encode(texts), [])


class Direct:
    """A page process without a process."""

    def of(self, *, visitor: bool) -> "Direct":
        return self

    def within(self, *_: Any) -> "Direct":
        return self

    def run(self, function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        return function(*arguments)


def read(_pool: Any, path: Path, batch: Batch, *_: Any, out: Path, crops: Path, **__: Any) -> Any:
    """Two paragraphs and a picture a page, from the bytes of the file."""
    target = out / f"batch-{batch.index:05d}.jsonl"
    if not target.exists():
        made, seed = [], path.read_bytes()[-64:]
        for page in range(batch.first, batch.last + 1):
            picture = random.Random(seed + bytes([page])).randbytes(30_000)
            name = f"{hashlib.sha256(picture).hexdigest()}.jpg"
            crops.mkdir(parents=True, exist_ok=True)
            (crops / name).write_bytes(picture)
            for n, kind in enumerate(("NarrativeText", "Image", "NarrativeText")):
                image = name if kind == "Image" else None
                made.append(
                    element(
                        kind, f"{kind} {n} on {page} of {seed.hex()} " * 8, Box(0, 0, 9, 9 + n),
                        page=page, size=(99, 99), sequence=n, image_path=image,
                    )
                )  # fmt: skip
        records = [
            PageRecord(page=p, reader="text", reason="", seconds=0, elements=3)
            for p in range(batch.first, batch.last + 1)
        ]
        write_batch(target, records, made)
    return BatchResult(batch=batch, pages=(), path=target)


class Home:
    """A data directory with all that takes and gives back room, between two starts."""

    def __init__(self, root: Path, remote: Path) -> None:
        root.mkdir(exist_ok=True)
        self.settings = Settings.from_env({
            "QUIRE_DATA_DIR": str(root),
            "QUIRE_SECRET": "s",
            "QUIRE_USER_QUOTA_MB": str(QUOTA_MB),
        })
        self.paths = Paths(root)
        self.catalog = Catalog(f"sqlite:///{root}/catalog.sqlite")
        self.accounts = Accounts(f"sqlite:///{root}/catalog.sqlite")
        self.stores = open_stores(self.paths, self.catalog, LocalRemote(remote), patience=60)
        drop_unfinished(self.paths)
        end_promises(self.paths)
        self.jobs = Jobs(self.settings, self.paths, self.catalog)
        self.jobs.engine = Engine()  # type: ignore[assignment]
        self.saving = threading.Thread(target=self.stores.committer.run, daemon=True)
        self.saving.start()
        common: dict[str, Any] = {
            "settings": self.settings, "paths": self.paths, "catalog": self.catalog,
            "stores": self.stores, "encoder": lambda _: Numbers(),
            "admission": Admission(self.settings, self.paths, self.catalog),
        }  # fmt: skip
        self.tools = Tools(
            **common, pool=Direct(), notifier=None, borrower=Borrowing(), detector=None
        )  # type: ignore[arg-type]
        self.moves = moving.Tools(**common, borrower=None, reader=Direct(), lent=Forgetful())  # type: ignore[arg-type]
        self.library = Library(
            **common, viewer=Direct(), loaded=lambda: None, lent=None, confined=None
        )  # type: ignore[arg-type]

    def close(self) -> None:
        self.stores.committer.close()
        self.saving.join()
        self.stores.workspaces.close()
        self.catalog.close()
        self.accounts.close()


class Forgetful:
    def forget(self, _: str) -> None:
        pass


def arriving(user: str, body: bytes, kind: str, *, told: bool = True, half: bool = False) -> Any:
    """A request whose body comes in blocks; `half` of it, and the connection is gone."""
    blocks = [body[i : i + 65536] for i in range(0, len(body), 65536)]
    left = iter(blocks[: len(blocks) // 2] if half else blocks)

    async def receive() -> dict[str, Any]:
        block = next(left, None)
        if block is None:
            return {"type": "http.disconnect" if half else "http.request", "body": b""}
        return {"type": "http.request", "body": block, "more_body": True}

    headers = [(b"content-type", kind.encode())]
    if told:
        headers.append((b"content-length", str(len(body)).encode()))
    scope = {"type": "http", "headers": headers, "query_string": b"", "method": "POST"}
    return HttpRequest(scope, receive)


class Known:
    def __init__(self, user: str) -> None:
        self.user = user

    def of(self, _: Any) -> Caller:
        return Caller(key=self.user, name="somebody", kind="local")  # type: ignore[arg-type]


who = st.sampled_from(OWNERS)
which = st.integers(0, 1000)
sizes = st.sampled_from([20_000, 300_000, 3_000_000, 12_000_000, 39_000_000])


class Owners(RuleBasedStateMachine):
    """Every way in which an owner's bytes come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(prefix="quire-quota-"))
        self.before = os.environ.get("GRADIO_TEMP_DIR")
        self.read, stages.partition_batch = stages.partition_batch, read
        self.serial = 0
        self.lying: dict[str, list[Path]] = {u: [] for u in OWNERS}
        self.open()

    def open(self) -> None:
        self.home = Home(self.top / "data", self.top / "remote")
        os.environ["GRADIO_TEMP_DIR"] = str(self.home.paths.uploads)
        for user in OWNERS:
            self.home.stores.replication.adopt(user)

    def teardown(self) -> None:
        self.home.close()
        stages.partition_batch = self.read
        os.environ.pop("GRADIO_TEMP_DIR")
        if self.before is not None:
            os.environ["GRADIO_TEMP_DIR"] = self.before
        shutil.rmtree(self.top)

    # Uploads

    def sent(self, user: str, size: int, **how: Any) -> int:
        self.serial += 1
        content = b"%PDF-1.7 " + random.Random(self.serial).randbytes(size)
        return self.sent_as(user, content, "x.pdf", **how)

    def sent_as(self, user: str, content: bytes, name: str, **how: Any) -> int:
        body, kind = form(content, name)
        request = arriving(user, body, kind, **how)
        answer = asyncio.run(upload(request, Known(user), self.home.jobs))  # type: ignore[arg-type]
        if answer.status_code == 200:
            self.lying[user] += map(Path, json.loads(bytes(answer.body)))
        else:
            assert answer.status_code in {403, 413, 499, 507}
        return answer.status_code

    @rule(user=who, size=sizes, told=st.booleans())
    def upload(self, user: str, size: int, told: bool) -> None:
        self.sent(user, size, told=told)

    @rule(user=who, size=sizes, told=st.booleans())
    def upload_half(self, user: str, size: int, told: bool) -> None:
        assert self.sent(user, max(size, 200_000), told=told, half=True) != 200

    # Jobs

    def submitted(self, user: str, path: Path, title: str) -> str:
        made = self.home.jobs.submit(user, Request(path=path, filename="x.pdf", collection=title))
        return str(made["id"]) if made["status"] == "queued" else ""

    @rule(user=who, title=st.sampled_from(["one", "two"]), n=which)
    def submit(self, user: str, title: str, n: int) -> None:
        lying = [p for p in self.lying[user] if p.exists()]
        if lying:
            self.submitted(user, lying[n % len(lying)], title)

    @rule(user=who, title=st.sampled_from(["one", "two"]), size=sizes, pages=st.integers(1, 12))
    def whole_document(self, user: str, title: str, size: int, pages: int) -> None:
        if self.sent(user, size) == 200:
            job = self.submitted(user, self.lying[user][-1], title)
            if job:
                self.worked(user, job, pages)

    @rule(user=who, n=which, pages=st.integers(1, 12))
    def work(self, user: str, n: int, pages: int) -> None:
        waiting = [r for r in self.home.catalog.jobs(user, ["queued"]) if r.sha256]
        if waiting:
            self.worked(user, waiting[n % len(waiting)].id, pages)

    def worked(self, user: str, job: str, pages: int) -> None:
        row = self.home.catalog.job(user, job)
        spec = {**self.home.jobs._body(row, 1, {})}
        place = Place(self.home.tools, spec)
        status = "succeeded"
        try:
            for first in range(1, pages + 1, 4):
                last = min(first + 3, pages)
                batch = Batch(index=(first - 1) // 4, first=first, last=last)
                stages.read_pages(place, batch)
                stages.index_batch(place, batch)
            stages.finish_index(place, pages, -(-pages // 4))
            endings.save(place, {"status": status, "pages_failed": [], "message": "Done."})
            endings.clean(place, {"status": status})
        except Refused as problem:
            assert problem.code == "quota_exceeded"
            status = "failed"
        self.home.catalog.update_job(job, status=status, finished_at=time.time())

    @rule(user=who, n=which, keep=st.booleans())
    def cancel(self, user: str, n: int, keep: bool) -> None:
        waiting = self.home.catalog.jobs(user, ["queued"])
        if waiting:
            row = waiting[n % len(waiting)]
            self.home.jobs.cancel(user, row.id, keep=keep)
            if not keep and row.sha256:
                endings.undo(Place(self.home.tools, self.home.jobs._body(row, 1, {})))
                listed = {s.sha256 for s in self.home.catalog.sources(user)}
                reading = self.home.catalog.jobs(user, ["queued"], 9, sha256=row.sha256)
                there = self.home.paths.source(user, row.sha256).exists()
                assert there == (row.sha256 in listed or bool(reading))

    @rule(user=who, n=which)
    def take_off_the_list(self, user: str, n: int) -> None:
        over = [r for r in self.home.catalog.jobs(user, ["failed", "cancelled"]) if r.sha256]
        if over:
            row = over[n % len(over)]
            self.home.jobs.dismiss(user, row.id)
            endings.discard(Place(self.home.tools, self.home.jobs._body(row, 1, {})))

    # Collections

    @rule(user=who, n=which)
    def delete_source(self, user: str, n: int) -> None:
        held = self.home.catalog.sources(user)
        if held:
            source = held[n % len(held)]
            self.home.library.delete_source(user, source.collection, source.sha256)
            if not any(s.sha256 == source.sha256 for s in self.home.catalog.sources(user)):
                assert not self.home.paths.source(user, source.sha256).exists()

    @rule(user=who, n=which)
    def delete_collection(self, user: str, n: int) -> None:
        held = self.home.catalog.collections(user)
        if held:
            self.home.library.delete_collection(user, held[n % len(held)].id)
        if not self.home.catalog.collections(user) and not self.home.catalog.jobs(user, None, 1):
            assert not list(self.home.paths.crops(user).glob("*"))

    @rule(user=who, n=which, kind=st.sampled_from(["parquet", "chroma", "json", "markdown"]))
    def export(self, user: str, n: int, kind: str) -> None:
        self.exported(user, n, kind)

    def exported(self, user: str, n: int, kind: str) -> None:
        held = [c for c in self.home.catalog.collections(user) if c.model]
        if held:
            found = held[n % len(held)]
            spec = {"collection": found.id, "title": found.title, "format": kind}
            self.moved(user, self.home.jobs.transfer(user, "export", spec)["id"])

    @rule(user=who, n=which)
    def import_again(self, user: str, n: int) -> None:
        self.exported(user, n, "parquet")
        there = sorted((self.home.paths.exports / user).glob("*parquet.zip"))
        if there and self.sent_as(user, there[n % len(there)].read_bytes(), "in.zip") == 200:
            spec = {"title": "in", "filename": "in.zip"}
            archive = self.lying[user].pop()
            self.moved(user, self.home.jobs.transfer(user, "import", spec, archive=archive)["id"])
            for source in self.home.catalog.sources(user):
                kept = self.home.paths.source(user, source.sha256)
                assert not kept.exists() or source.bytes == kept.stat().st_size

    def moved(self, user: str, job: str) -> None:
        row = self.home.catalog.job(user, job)
        spec = self.home.jobs._body(row, 1, {})
        found = transfers.run(moving.Job(self.home.moves, spec))
        error = self.home.jobs.job(user, job)["error"]
        assert found["status"] == "succeeded" or error["code"] in {
            "quota_exceeded", "archive_refused", "import_unreadable",
        }, error  # fmt: skip
        assert not self.home.paths.work(user, job).exists()

    # Time, and what happens to machines

    @rule(hours=st.sampled_from([1, 3, 30]))
    def time_goes_by(self, hours: int) -> None:
        house = House(
            paths=self.home.paths, accounts=self.home.accounts,
            erase=self.home.stores.committer.erase, visitor_hours=24,
        )  # fmt: skip
        tidy(house, time.time() + hours * 3600)
        if hours * 3600 > UPLOADS_FOR:
            assert not list(self.home.paths.uploads.glob("*/*"))

    @rule(user=who, size=sizes)
    def kill(self, user: str, size: int) -> None:
        """In the middle of an upload and of an export."""
        self.home.close()
        self.home.paths.clean(user).unlink(missing_ok=True)
        usage = Usage(self.home.paths)
        for folder in (self.home.paths.uploads / user / "half", self.home.paths.work(user, "t1")):
            usage.promise(folder, size)
            (folder / "part").write_bytes(b"x" * 5000)
        self.open()
        assert not (self.home.paths.uploads / user / "half").exists()
        assert self.home.jobs._admission.measured.of(user).promised == 0

    @rule()
    def wipe(self) -> None:
        self.home.close()
        shutil.rmtree(self.top / "data")
        self.open()
        for user in OWNERS:
            self.home.library.collections(user)

    @rule(user=who)
    def come_back(self, user: str) -> None:
        """After a wipe: what the store has is asked for again."""
        for source in self.home.catalog.sources(user):
            with contextlib.suppress(NotFound):  # imported without it
                self.home.stores.restore.original(user, source.sha256)

    @rule(user=who)
    def erase(self, user: str) -> None:
        told = self.home.stores.committer.erase([user])[user]
        if told is None:
            assert du(self.home.paths, user) <= du_of_uploads(self.home.paths, user) + 100_000
        else:
            assert told.code == "jobs_running"

    @invariant()
    def the_account_is_what_du_says_and_within_the_quota(self) -> None:
        for user in OWNERS:
            told = self.home.jobs.usage(user)
            really = du(self.home.paths, user)
            assert abs(told["bytes"] - really) <= 0.02 * really + 16_384, user
            assert really <= told["limit_bytes"], user
            assert self.home.jobs._admission.measured.of(user).promised == 0


def du_of_uploads(paths: Paths, user: str) -> int:
    return Usage(paths).within(paths.uploads / user).stored


TestOwners = Owners.TestCase
TestOwners.settings = given_settings(
    max_examples=sequences(5, share=100),
    stateful_step_count=12,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


def test_what_comes_back_after_a_wipe_has_its_room_kept() -> None:
    model, user = Owners(), OWNERS[0]
    try:
        for _ in range(2):
            model.whole_document(user=user, title="one", size=12_000_000, pages=1)
        model.wipe()
        for _ in range(3):
            model.whole_document(user=user, title="two", size=12_000_000, pages=1)
        model.come_back(user=user)
        model.the_account_is_what_du_says_and_within_the_quota()
    finally:
        model.teardown()
