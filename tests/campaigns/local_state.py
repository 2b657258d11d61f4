"""A person's work over the real stores, catalogue and live index, while the local files of it are lost,
put back from earlier copies, cut and flipped in any subset between any two operations.

What was confirmed is there after every restart, or a coded refusal; no save drops what nobody deleted. The
stores are read by code of our own (`independent`).
"""

import contextlib
import hashlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from errors import NotFound, QuireError
from storage.catalog.catalog import JobRow, SourceRow
from storage.generations import verify
from storage.generations.compose import Wish
from storage.live.chroma import Record, VectorStore
from storage.live.workspace import Space
from storage.remotes.remote import Remote
from tests.campaigns import independent
from tests.house import USER, House

KINDS = (
    "CLEAN", "OPEN", "STALE", "REMAINS", "chroma", "chroma.sqlite3", "data_level0.bin",
    "fulltext.sqlite", "pending", "BASE.json", "catalog.sqlite", "catalog.sqlite-wal",
    "catalog.sqlite-shm", "sources", "elements", "instance",
)  # fmt: skip
DATABASE = {k for k in KINDS if k.startswith("catalog")}
INDEX = {"CLEAN", "OPEN", "STALE", "chroma", "chroma.sqlite3", "data_level0.bin", "BASE.json"}
HOWS = ("lost", "back", "cut", "flip")
HARMS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from(HOWS), st.integers(0, 2**16)),
    min_size=1, max_size=4, unique_by=lambda h: h[0],
)  # fmt: skip
# What a damaged machine may answer; anything else, and anything on a machine that is whole, is a fault.
REFUSALS = {"index_damaged", "journal_damaged", "restoring", "not_in_store", "catalog_damaged"}


class Broken(AssertionError):
    """A promise is broken."""


@dataclass
class Model:
    """What somebody was told: `confirmed` after a save, `told` since; what is `gone` since then, and what
    was `erased` in a save and never comes back. Keys are
    `("collection", id)`, `("source", id, sha256)`, `("record", id, record)`, `("original", sha256)`,
    `("job", id)`; values are titles and texts."""

    confirmed: dict[tuple[str, ...], str] = field(default_factory=dict)
    told: dict[tuple[str, ...], str] = field(default_factory=dict)
    gone: set[tuple[str, ...]] = field(default_factory=set)
    unsure: set[tuple[str, ...]] = field(default_factory=set)  # of which a refused call did a part
    erased: set[tuple[str, ...]] = field(default_factory=set)

    def save(self, held: dict[tuple[str, ...], str]) -> None:
        """What is unsure is now what `held` has of it; what is not there any more stays away."""
        self.told |= {k: held[k] for k in self.unsure if k in held}
        self.erased |= (self.gone | self.unsure) - held.keys()
        self.confirmed = dict(self.told)
        self.gone.clear()
        self.unsure.clear()

    def add(self, key: tuple[str, ...], value: str = "") -> None:
        self.told[key] = value
        self.gone.discard(key)

    def remove(self, matches: Callable[[tuple[str, ...]], bool], *, done: bool) -> None:
        keys = {k for k in {**self.told, **self.confirmed} if matches(k)}
        for key in keys:
            self.told.pop(key, None)
        if done:
            self.gone |= keys
        else:
            self.unsure |= keys

    def doubt(self, keys: set[tuple[str, ...]]) -> None:
        self.unsure |= {k for k in keys if self.told.pop(k, None) is not None}

    def wanted(self) -> dict[tuple[str, ...], str]:
        """What no save may drop."""
        kept = self.gone | self.unsure
        return {k: v for k, v in self.confirmed.items() if k not in kept}


@dataclass
class Machine:
    """One data directory over its remotes; the process is this one, and is left as a kill leaves it."""

    root: Path
    primary: Remote
    mirror: Remote | None
    read: independent.Read
    model: Model = field(default_factory=Model)
    copies: list[Path] = field(default_factory=list)
    harmed: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    seen: independent.Held = field(default_factory=independent.Held)
    named: set[str] = field(default_factory=set)  # every file of any generation
    before_it: set[str] = field(default_factory=set)  # those before the last deletion
    telling: set[str] = field(default_factory=set)  # those that tell of a deletion that is saved
    bruised: bool = False  # something was harmed since it was last looked at after a restart
    index_whole: bool = True  # the index has what the journal has
    undone: set[tuple[str, ...]] = field(default_factory=set)  # whose deletion was lost
    remains: set[str] = field(default_factory=set)  # deleted words that a live store may hold
    job_of: dict[str, tuple[str, str]] = field(default_factory=dict)
    number: int = 0
    now: float = 0.0  # of the committer
    house: House | None = None

    @property
    def data(self) -> Path:
        return self.root / "data"

    def start(self) -> None:
        self.house = House(self.data, primary=self.primary, mirror=self.mirror)
        self.house.workspaces.patience = 30
        self.house.committer.clock = lambda: self.now
        self.house.committer.schedule.now = self.now
        self.house.committer.take_up()

    @property
    def here(self) -> House:
        assert self.house
        return self.house

    # Calls of a person

    def call(self, work: Callable[[], Any], also: Collection[str] = ()) -> bool:
        """False when it was refused with a code that a damaged machine may answer, or one of these."""
        for _ in range(3):
            try:
                self.here.replication.adopt(USER)
                work()
                return True
            except QuireError as problem:
                self.counts[problem.code] += 1
                code = problem.code
                if code != "restoring":
                    break
        if not self.bruised:
            raise Broken(f"refused with {code}, though nothing was harmed")
        if code not in REFUSALS and code not in also:
            raise Broken(f"refused with {code}")
        return False

    def fresh(self) -> str:
        self.number += 1
        return f"{self.number}"

    def collections(self) -> list[str]:
        return [k[1] for k in self.model.told if k[0] == "collection"]

    def create(self) -> None:
        made: list[Any] = []
        title = f"title {self.fresh()}"
        if self.call(lambda: made.append(self.here.catalog.create_collection(USER, title))):
            self.model.add(("collection", made[-1].id), made[-1].title)

    def rename(self, collection: str) -> None:
        title = f"title {self.fresh()}"
        key = ("collection", collection)
        if self.call(lambda: self.here.catalog.rename_collection(USER, collection, title)):
            self.model.unsure.discard(key)
            self.model.add(key, title)
        else:
            self.model.unsure.add(key)

    def document(self, collection: str, records: int) -> None:
        name = self.fresh()
        content = f"%PDF {name}".encode()
        sha = hashlib.sha256(content).hexdigest()
        space = Space(collection=collection, title="t", model="m", dimension=2)
        made = [
            Record(
                id=f"r{name}.{i}", document=f"text {_word(name)} {i}", embedding=[1.0, i + 1.0],
                metadata={"source_id": sha, "page": 1, "element_type": "Text", "model": "m"},
            )
            for i in range(records)
        ]  # fmt: skip
        row = SourceRow(
            collection=collection, sha256=sha, filename=f"{name}.pdf", bytes=len(content), pages=1,
            version="v1", created_at=time.time(),
        )  # fmt: skip

        def work() -> None:
            original = self.here.paths.source(USER, sha)
            elements = self.here.paths.elements(USER, sha, "v1")
            for path, text in ((original, content), (elements / "batch-00000.jsonl", b"{}")):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text)
            with self.here.workspaces.open(USER) as workspace:
                workspace.upsert(space, made)
            self.here.catalog.put_source(USER, row)

        keys = [("source", collection, sha), ("original", sha)]
        if self.call(work):
            for key in keys:
                self.model.add(key)
            for one in made:
                self.model.add(("record", collection, one.id), one.document)

    def delete_document(self, collection: str, sha: str) -> None:
        def work() -> None:
            self.here.library.delete_source(USER, collection, sha)

        records = self._records_of(sha)

        def matches(key: tuple[str, ...]) -> bool:
            of_it = {("source", collection, sha), ("original", sha)}
            return key in of_it or (
                key[:2] == ("record", collection) and key[2].startswith(records)
            )

        self._deleted(work, matches, ("source", collection, sha))

    def _records_of(self, sha: str) -> str:
        number = next(
            n for n in range(self.number + 1)
            if hashlib.sha256(f"%PDF {n}".encode()).hexdigest() == sha
        )  # fmt: skip
        return f"r{number}."

    def delete_collection(self, collection: str) -> None:
        def work() -> None:
            self.here.library.delete_collection(USER, collection)

        told = self.model.told
        shas = {k[2] for k in told if k[:2] == ("source", collection)}
        jobs = {
            k
            for k in {**self.model.confirmed, **told}
            if k[0] == "job" and self.job_of[k[1]][0] == collection
        }
        shas |= {self.job_of[k[1]][1] for k in jobs}
        self._deleted(
            work,
            lambda k: k[1] == collection or k[1] in shas or k in jobs,
            ("collection", collection),
        )

    def _deleted(
        self,
        work: Callable[[], None],
        matches: Callable[[tuple[str, ...]], bool],
        what: tuple[str, ...],
    ) -> None:
        """It is not saved by that: nobody waits for a save."""
        lost = (
            {f"{what[0]}_not_found", "collection_not_found"} if self._may_be_lost(what) else set()
        )
        self.before_it = self.named | {f"manifests/{self.seen.generation:08d}"}
        told = {**self.model.confirmed, **self.model.told}
        done = self.call(work, lost)
        self.model.remove(matches, done=done)
        if done:
            self.remains |= {_words(t) for k, t in told.items() if k[0] == "record" and matches(k)}

    def job(self, collection: str) -> None:
        name = self.fresh()
        content = f"%PDF {name}".encode()
        sha = hashlib.sha256(content).hexdigest()
        row = JobRow(
            id=f"j{name}", user=USER, collection=collection, sha256=sha, filename=name,
            status="queued", spec={"user": USER}, summary={"kind": "ingest"},
            created_at=time.time(), started_at=None, finished_at=None,
        )  # fmt: skip

        def work() -> None:
            path = self.here.paths.source(USER, sha)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.here.catalog.put_job(row)

        self.job_of[row.id] = collection, sha
        if self.call(work):
            self.model.add(("job", row.id), collection)
            self.model.add(("original", sha))

    def save(self, wish: Wish | None = None) -> bool:
        """As the committer does, which first puts the journal right."""

        def work() -> None:
            asked = self.here.committer.ask(USER, wish or Wish())
            self.here.committer.step()
            asked.result(timeout=0)

        done = self.call(work)
        self.look_at_store()
        if done:
            self._confirmed()
            if wish and wish.erase:
                self._look_for_erased(self.named)
        return done

    def rest(self) -> None:
        """Time goes by, and nobody asks for anything: what is unsaved is saved, what was deleted erased."""
        for _ in range(8):
            self.now += 1000
            self.here.committer.turn()
        self.look_at_store()
        error = self.here.replication.status(USER).error
        if error and (not self.bruised or error["code"] not in REFUSALS):
            raise Broken(f"refused with {error['code']}")
        if not error:
            self._confirmed()
            if not self.here.committer.erases(USER):
                self._look_for_erased(self.telling)
                self._look_for_remains()

    def publish(self) -> None:
        def work() -> None:
            self.here.workspaces.mend(USER)
            self.here.publish()

        if self.call(work):
            self.look_at_store()
            self._confirmed()

    def _confirmed(self) -> None:
        """Of what was told and could be lost with the files that were harmed, only what is saved."""
        held = _keys(self.seen)
        for key, title in held.items():
            if key[0] == "collection" and key in self.model.told and title != self.model.told[key]:
                if not (self.harmed & {"BASE.json", *DATABASE} or key in self.model.unsure):
                    raise Broken(f"{key} was renamed, and is not in the save")
                self.model.told[key] = title
        for key in [k for k in self.model.told if k not in held]:
            if self._may_be_lost(key):
                self._lost(key)
            elif key not in self.model.unsure:
                raise Broken(f"{key} was told, and is not in the save")
        for key in self.model.gone & held.keys():
            self._undone(key, held[key])
        for key in self.model.gone:
            self.telling |= {n for n in self.before_it if not _of_another(n, key)}
        self.model.save(held)
        self.harmed.clear()

    def _lost(self, key: tuple[str, ...]) -> None:
        """It is told no more; records of a collection that nobody lists are seen by nobody."""
        self.counts["told and lost with its file"] += 1
        shown = ("record", key[1]) if key[0] == "collection" else None
        for one in [k for k in self.model.told if k == key or k[:2] == shown]:
            del self.model.told[one]

    def _undone(self, key: tuple[str, ...], value: str) -> None:
        """A deletion that is not saved yet may be lost with the file that told of it."""
        tells = {"record": {"journal"}, "original": {"sources", *DATABASE}}.get(key[0], DATABASE)
        if not self.harmed & tells:
            raise Broken(f"{key} was deleted, and is there again")
        self.counts["deleted and back with its file"] += 1
        self.undone.add(key)
        self.model.add(key, value)

    def _may_be_lost(self, key: tuple[str, ...]) -> bool:
        if key in self.model.confirmed:
            return key in self.model.unsure
        if key[0] == "record":
            return "journal" in self.harmed
        if key[0] == "original":
            return bool(self.harmed & {"sources", *DATABASE})
        return bool(self.harmed & DATABASE)

    # The process and the disk

    def kill(self) -> None:
        """As SIGKILL leaves it: what was written is there, and nothing is closed."""
        house, aside = self.here, self.root / "as-left"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(self.data, aside)
        house.close()
        shutil.rmtree(self.data)
        aside.rename(self.data)
        self.house, self.index_whole = None, False

    def close(self) -> None:
        self.here.close()
        self.house = None

    def keep_copy(self) -> None:
        copy = self.root / f"copy-{len(self.copies)}"
        if self.data.exists() and len(self.copies) < 4:
            shutil.copytree(self.data, copy)
            self.copies.append(copy)

    def harm(self, harms: list[tuple[str, str, int]]) -> None:
        for kind, how, place in harms:
            if self._harm(kind, how, place):
                self.counts[f"{kind} {how}"] += 1
                self.harmed.add(kind)
                self.bruised = True
                if how == "back" and kind in {"pending", *DATABASE}:
                    self.model.doubt(self.undone)  # the deletion may come back with it
                if kind == "REMAINS":  # nothing else tells it
                    self.remains.clear()
        if self.harmed & (INDEX if self.house is None else INDEX - {"CLEAN", "OPEN"}):
            self.index_whole = False
        if "pending" in self.harmed and not self.index_whole:
            self.harmed.add("journal")

    def _harm(self, kind: str, how: str, place: int) -> bool:
        paths = sorted(self.data.rglob(kind))
        if how == "back":
            return self._back(kind, place)
        if not paths:
            return False
        path = paths[0]
        if path.is_dir() and how == "lost" and place % 2:
            shutil.rmtree(path)
            return True
        if path.is_dir():
            files = [p for p in sorted(path.rglob("*")) if p.is_file()]
            if not files:
                return False
            path = files[place % len(files)]
        content = bytearray(path.read_bytes())
        if how == "lost":
            path.unlink()
        elif not content:
            return False
        elif how == "cut":
            path.write_bytes(content[: place % len(content)])
        else:
            content[place % len(content)] ^= 1 << place % 8
            path.write_bytes(content)
        return True

    def _back(self, kind: str, place: int) -> bool:
        if not self.copies:
            return False
        copy = self.copies[place % len(self.copies)]
        there = sorted(copy.rglob(kind))
        for path in self.data.rglob(kind):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            break
        for path in there[:1]:
            to = self.data / path.relative_to(copy)
            to.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, to)
            else:
                shutil.copyfile(path, to)
        return True

    # What must hold

    def look(self) -> None:
        """What a person sees right after a restart."""
        wanted = {**self.model.wanted()}
        if not self.harmed:
            wanted = {k: v for k, v in self.model.told.items() if k not in self.model.unsure}
        told: dict[tuple[str, ...], str] = {}

        def work() -> None:
            told.clear()
            told.update(self.visible())

        if not self.call(work):
            return
        there = {k: v for k, v in told.items() if k[0] != "job"}  # of a collection that is gone
        if back := self.model.erased & there.keys():
            raise Broken(f"{back} was deleted and saved, and is there again")
        for key in self.model.gone & there.keys():
            self._undone(key, there[key])
        for key, value in wanted.items():
            if key[0] != "original" and told.get(key) != value and key not in self.model.unsure:
                if key[0] == "collection" and key in told and value != self.model.told.get(key):
                    continue  # renamed, and not yet saved
                raise Broken(f"{key} is {told.get(key)!r} and not {value!r}")

        for key in [k for k in self.model.told if k[0] != "original" and k not in told]:
            if key not in wanted and self._may_be_lost(key):
                self._lost(key)
        self.bruised, self.index_whole = False, True

    def visible(self) -> dict[tuple[str, ...], str]:
        catalog = self.here.catalog
        told: dict[tuple[str, ...], str] = {}
        with self.here.workspaces.open(USER) as workspace:
            for collection in catalog.collections(USER):
                told["collection", collection.id] = collection.title
                for record in workspace.get(collection.id):
                    told["record", collection.id, record.id] = record.document
                    words = record.document.split()
                    found = workspace.keyword(collection.id, words[1], limit=50)
                    if record.id not in {i for i, _ in found}:
                        raise Broken(f"{record.id} is not found by its words")
        told |= {("source", s.collection, s.sha256): "" for s in catalog.sources(USER)}
        told |= {("job", j.id): j.collection for j in catalog.jobs(USER)}
        return told

    def look_at_store(self) -> None:
        """The newest generation, after whatever has happened: nothing was dropped."""
        now = independent.held(self.read, USER)
        if now.damaged:
            raise Broken(f"damaged in the store: {now.damaged}")
        if now.generation < self.seen.generation:
            raise Broken("the store went back")
        keys = _keys(now)
        excused = self.model.gone | self.model.unsure
        for key in {**self.model.wanted(), **_keys(self.seen)}:
            if key not in keys and key not in excused:
                raise Broken(f"{key} was dropped by generation {now.generation}")
        if back := self.model.erased & keys.keys():
            raise Broken(f"{back} was deleted and saved, and is in generation {now.generation}")
        for key, value in self.model.wanted().items():
            if key[0] in {"record"} and keys[key] != value:
                raise Broken(f"{key} is {keys[key]!r} in the store and not {value!r}")
        shas = {sha for _, sha in now.sources}
        missing = {f"sources/{sha}.pdf" for sha in shas - now.originals}
        missing |= {f"elements/{s}-v1.zip" for s in shas if f"{s}-v1" not in now.elements}
        told = {damage.path for damage in verify.verify(self.primary, USER)}
        if told != missing:
            raise Broken(f"verify tells of {told}, and {missing} is missing")
        self.seen = now
        self.named |= now.files | now.older

    def _look_for_erased(self, names: set[str]) -> None:
        """No segment holds what was deleted, and none of these files is there, but those of today."""
        if left := self.seen.rows - self.seen.records.keys():
            raise Broken(f"{left} was erased, and is in a segment")
        kept = {n for n in self.named if n[:18] in names}  # manifests by their number
        for name in (names | kept) - self.seen.files:
            if self.read(f"users/{USER}/{name}") is not None:
                raise Broken(f"{name} was erased, and can be read")
        self.named, self.telling = self.seen.files | self.seen.older, set()

    def _look_for_remains(self) -> None:
        """No file of the live store holds a word that was in deleted records alone."""
        if not self.remains:
            return
        self.here.workspaces.close()  # an open index file may hold what lay in the process's memory
        live = [*self.here.paths.chroma(USER).rglob("*"), *self.data.rglob("fulltext.sqlite*")]
        for word in self.remains - set(map(_words, self.seen.records.values())):
            if held := [p.name for p in live if p.is_file() and word.encode() in p.read_bytes()]:
                raise Broken(f"{word} was erased, and is in {held}")
        self.remains.clear()

    def end(self) -> None:
        """A wiped disk has it all; the published directory holds what it says."""
        if self.house is None:
            self.start()
        self.look()
        saved = self.save()
        if not saved:
            saved = self.save()
        if not saved:
            raise Broken("it can never be saved again")
        self.here.close()
        self.house = None
        if self.seen.published:
            self._look_at_published()
        shutil.rmtree(self.data)
        self.start()
        self.harmed.clear()
        self.look()
        for key in self.model.confirmed:
            if key[0] == "original" and key not in self.model.unsure:
                try:
                    content = self.here.stores.restore.original(USER, key[1]).read_bytes()
                except NotFound as problem:
                    raise Broken(f"{key} is gone") from problem
                if hashlib.sha256(content).hexdigest() != key[1]:
                    raise Broken(f"{key} has other bytes")
        self.here.close()

    def _look_at_published(self) -> None:
        folder = self.root / "published"
        for path, name in self.seen.published.items():
            to = folder / path
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(self.read(name) or b"")
        store = VectorStore(folder)
        found = {(c, r.id): r.document for c in store.collections() for r in store.every(c)}
        store.close()
        if found != independent.published_at(self.seen):
            raise Broken("the published directory is not what was saved")


def _word(name: str) -> str:
    """That no other document has a piece of."""
    return f"w{int(name):05d}w"


def _words(document: str) -> str:
    return document.split()[1]


def _of_another(name: str, key: tuple[str, ...]) -> bool:
    return name.startswith(("sources/", "elements/")) and key[-1] not in name


def _keys(found: independent.Held) -> dict[tuple[str, ...], str]:
    return {
        **{("collection", c): title for c, title in found.collections.items()},
        **{("source", *s): "" for s in found.sources},
        **{("record", *k): text for k, text in found.records.items()},
        **{("original", sha): "" for sha in found.originals},
        **{("job", j): "" for j in found.jobs},
    }


class LocalState(RuleBasedStateMachine):
    """`make` gives the remotes, and how to read the primary, for a new folder; `total` counts over all
    sequences what was harmed and refused."""

    make: Callable[[Path], tuple[Remote, Remote | None, independent.Read]]
    total: Counter[str] = Counter()

    @initialize(collections=st.integers(1, 2), records=st.integers(1, 3))
    def begin(self, collections: int, records: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="quire-local-"))
        primary, mirror, read = type(self).make(self.root)
        self.machine = Machine(self.root, primary, mirror, read)
        self.machine.start()
        for _ in range(collections):
            self.machine.create()
        self.machine.document(self.machine.collections()[0], records)
        self.machine.save()
        self.machine.keep_copy()

    def pick(self, data: st.DataObject, kind: str) -> tuple[str, ...]:
        keys = [k for k in self.machine.model.told if k[0] == kind]  # in the order of their making
        return data.draw(st.sampled_from(keys), label=kind)

    def some(self, kind: str) -> bool:
        return any(k[0] == kind for k in self.machine.model.told)

    has_collection = precondition(lambda self: self.some("collection"))
    has_source = precondition(lambda self: self.some("source"))

    @rule()
    def create(self) -> None:
        self.machine.create()

    @has_collection
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        self.machine.rename(self.pick(data, "collection")[1])

    @has_collection
    @rule(data=st.data(), records=st.integers(1, 3))
    def document(self, data: st.DataObject, records: int) -> None:
        self.machine.document(self.pick(data, "collection")[1], records)

    @has_collection
    @rule(data=st.data())
    def job(self, data: st.DataObject) -> None:
        self.machine.job(self.pick(data, "collection")[1])

    @has_source
    @rule(data=st.data())
    def delete_document(self, data: st.DataObject) -> None:
        _, collection, sha = self.pick(data, "source")
        self.machine.delete_document(collection, sha)

    @has_collection
    @rule(data=st.data())
    def delete_collection(self, data: st.DataObject) -> None:
        self.machine.delete_collection(self.pick(data, "collection")[1])

    @rule()
    def save(self) -> None:
        self.machine.save()

    @rule()
    def erase(self) -> None:
        self.machine.save(Wish(erase=True))

    @rule()
    def rest(self) -> None:
        self.machine.rest()

    @rule()
    def publish(self) -> None:
        self.machine.publish()

    @rule(harms=HARMS, killed=st.booleans())
    def restart(self, harms: list[tuple[str, str, int]], killed: bool) -> None:
        """The process ends, files are harmed, and it comes back."""
        machine = self.machine
        machine.keep_copy()
        machine.kill() if killed else machine.close()
        machine.harm(harms)
        machine.start()
        machine.look()

    @rule(harms=HARMS, data=st.data(), killed=st.booleans())
    def work_and_restart(
        self, harms: list[tuple[str, str, int]], data: st.DataObject, killed: bool
    ) -> None:
        """The same with something that is not saved yet."""
        if self.some("collection"):
            self.machine.document(self.pick(data, "collection")[1], 1)
        self.restart(harms=harms, killed=killed)

    @rule(killed=st.booleans())
    def whole_restart(self, killed: bool) -> None:
        self.machine.kill() if killed else self.machine.close()
        self.machine.start()
        self.machine.look()

    @rule(harms=st.lists(st.tuples(
        st.sampled_from(["CLEAN", "OPEN", "STALE", "REMAINS", "BASE.json", "chroma", "fulltext.sqlite",
                         "pending", "sources", "elements"]),
        st.sampled_from(["lost", "back"]), st.integers(0, 2**16)), min_size=1, max_size=2))  # fmt: skip
    def harm_under_it(self, harms: list[tuple[str, str, int]]) -> None:
        """Files go, or are put back, under an open store."""
        self.machine.harm(harms)

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        try:
            self.machine.end()
        finally:
            type(self).total.update(self.machine.counts)
            type(self).total["sequences"] += 1
            if self.machine.house is not None:
                with contextlib.suppress(QuireError):
                    self.machine.house.close()
            shutil.rmtree(self.root, ignore_errors=True)
