"""A live store from its newest generation and the journal: built aside, then renamed into place.

The published directory and the segments after it, or all segments when it is missing or damaged.
Every byte is hashed before it is used, and nothing is opened while the stores cannot be asked.
"""

import secrets
import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from errors import Corrupt, InputError, NotFound, QuireError, Unavailable
from storage import elements_folder, sealed_text
from storage.atomic_write import atomic_write
from storage.catalog.catalog import ACTIVE, tombstone
from storage.files import is_named_by_content
from storage.generations import reader
from storage.generations.compose import archived, edition_of, elements_path, source_path
from storage.generations.manifest import File, Manifest
from storage.generations.replication import Replication, titles
from storage.generations.saved_jobs import part_folder
from storage.live import build_chroma, journal, seal, segments
from storage.live.build_chroma import State, record_of
from storage.live.chroma import Sound, VectorStore, index_damaged
from storage.live.keyword_index import Entry, built
from storage.live.seal import Seal
from storage.live.workspace import Workspace, entry_of
from storage.names import ChromaFile, ElementsFile, is_one
from storage.paths import Paths


@dataclass(frozen=True, slots=True)
class Restore:
    """For every user of one data directory."""

    paths: Paths
    replication: Replication

    def live(self, user: str) -> Seal:
        """The Chroma directory and the keyword index hold the newest generation and the journal:
        what is whole of it. What is damaged is set aside, and the user is told.

        Raises what the remotes answer while they cannot be asked, and Corrupt when no remote has
        the right bytes of a segment.
        """
        self.paths.user(user).mkdir(parents=True, exist_ok=True)
        with self.replication.locked(user):  # a save would take from the journal meanwhile
            found = self.replication.restored(user)
            newest = found.manifest if found else None
            shipped = newest.shipped_by(journal.instance(self.paths)) if newest else ""
            lost = journal.wanting(self.paths, user, journal.known(self.paths, user), shipped)
            journal.set_aside(self.paths, user)
            files = journal.pending(self.paths, user, shipped)
            own = list(journal.rows(files))
        target = self.paths.chroma(user)
        aside = target.with_name("chroma.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        if newest is None or not self._from_published(user, newest, own, aside):
            self._from_segments(user, newest.segments if newest else (), own, aside)
        shutil.rmtree(target, ignore_errors=True)
        aside.replace(target)
        if lost:
            journal.note_lost(self.paths, user, lost)
            self.tell(user, _lost(lost))
        return Seal(
            base=reader.digest(found.raw) if found else "",
            journal=tuple(p.name for p in files),
            words=seal.words(self.paths, user),
        )

    def bury(self, user: str, workspace: Workspace) -> None:
        """The catalogue tells of a deletion by a tombstone; one that it lists again was made again. While
        it is behind what is known of the stores it tells nothing."""
        catalog = self.replication.catalog
        gone = catalog.tombstones(user)
        if not gone or not self.replication.proved(user):
            return
        working = {(j.collection, j.sha256) for j in catalog.jobs(user, ACTIVE, limit=10_000)}
        kept = working | {(s.collection, s.sha256) for s in catalog.sources(user)}
        listed = {c.id for c in catalog.collections(user)}
        for collection in workspace.collections():
            if collection not in listed and tombstone(collection) in gone:
                workspace.drop(collection)
                continue
            for source in workspace.sources(collection):
                if (collection, source) not in kept and tombstone(collection, source) in gone:
                    ids = workspace.ids(collection, {"source_id": source})
                    workspace.delete(collection, sorted(ids))

    def saved(self, user: str, files: Sequence[Path] | None = None) -> tuple[str, State]:
        """The sha256 of the newest manifest, and its records with these files of the journal on top
        (None: all that are whole)."""
        found = self.replication.current(user)
        if files is None:
            pending = journal.pending(self.paths, user, self.shipped(user))
            files = [p for p in pending if journal.whole(p)]
        rows = self._rows(user, found.manifest.segments if found else (), list(journal.rows(files)))
        return reader.digest(found.raw) if found else "", segments.fold(rows)

    def shipped(self, user: str) -> str:
        return self.replication.shipped(user)

    def tell(self, user: str, problem: QuireError) -> None:
        self.replication.note(user, problem)

    def original(self, user: str, sha256: str) -> Path:
        """The PDF as it was submitted; NotFound when it is neither here nor saved, Corrupt when it is
        damaged here and not saved."""
        path = self.paths.source(user, sha256)
        if not is_named_by_content(path):
            there = path.exists()
            try:
                self.replication.fetch(user, source_path(sha256), path)
            except NotFound as problem:
                if there:
                    raise _corrupt_original() from problem
                raise
        return path

    def crop(self, user: str, name: str) -> Path | None:
        """The picture of a table or figure of a document that is listed; None when it is neither here
        nor saved."""
        path, away = self.paths.crop(user, name), None
        if is_named_by_content(path):
            return path
        sources = self.replication.catalog.sources(user)
        for sha256, version in dict.fromkeys((s.sha256, s.version) for s in sources):
            folder = self.paths.elements(user, sha256, version)
            if not elements_folder.may_show(folder, name):
                continue
            try:
                self.elements(user, sha256, version)
                shown = elements_folder.may_show(folder, name)
                archive = self._archive(user, sha256, version)
                if shown and archive and not is_named_by_content(path):
                    self._unpack(user, archive, folder)
            except (Corrupt, NotFound):
                continue  # another document's trouble
            except Unavailable as problem:
                away = problem
            if is_named_by_content(path):
                return path
        if away:
            raise away
        return None

    def edition(self, user: str, sha256: str, version: str) -> int:
        """Of the elements of that source which are saved; -1 when none are."""
        saved = self._archive(user, sha256, version)
        return edition_of(saved) if saved else -1

    def elements(self, user: str, sha256: str, version: str) -> None:
        """The elements and pictures of a source, as they were partitioned, or the batches of it
        that were; NotFound when there are none, Corrupt when no one has them whole. What is there
        already, and whole, stays."""
        folder = self.paths.elements(user, sha256, version)
        if elements_folder.is_listed(folder) and elements_folder.is_whole(folder):
            return
        whole = folder.exists() and elements_folder.is_whole(folder)
        newest = self._archive(user, sha256, version)
        old = whole and elements_folder.is_old(folder)
        if newest and old and elements_folder.edition(folder) >= edition_of(newest):
            elements_folder.list_files(folder)
            return
        try:
            if newest:
                self._unpack(user, newest, folder)
                if not elements_folder.is_listed(folder):  # saved before there was such a list
                    elements_folder.list_files(folder)
            elif not whole:
                first, parts = elements_path(sha256, version), part_folder(sha256, version)
                found = sorted(p for p in self.replication.named(user) if p.startswith(parts))
                for path in found if found or folder.exists() else [first]:
                    self._unpack(user, path, folder)
        except (Corrupt, NotFound, Unavailable) as problem:
            if whole:
                return
            if isinstance(problem, NotFound) and folder.exists():
                raise _corrupt_elements() from problem
            raise
        if not elements_folder.is_whole(folder):
            raise _corrupt_elements()

    def _archive(self, user: str, sha256: str, version: str) -> str | None:
        return archived(self.replication.named(user)).get(elements_path(sha256, version))

    def _unpack(self, user: str, path: str, folder: Path) -> None:
        """A saved archive: elements into the folder, crops to the user's others; what is there, and
        whole, stays."""
        archive = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.zip")
        self.replication.fetch(user, path, archive)
        old = elements_folder.is_old(folder)
        stays = elements_folder.file_is_whole if old else sealed_text.is_proved
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(archive) as members:
                for entry in members.infolist():
                    kind, _, name = entry.filename.partition("/")
                    if entry.compress_type != zipfile.ZIP_STORED:  # no larger than what was hashed
                        raise _corrupt_elements()
                    if kind == "crops":
                        if not is_named_by_content(to := self.paths.crop(user, name)):
                            atomic_write(to, members.read(entry))
                    elif not stays(to := folder / ElementsFile(name)):
                        atomic_write(to, sealed_text.with_seal(members.read(entry)))
        except (zipfile.BadZipFile, InputError, RuntimeError, EOFError) as problem:
            raise _corrupt_elements() from problem
        finally:
            archive.unlink(missing_ok=True)

    def _from_segments(
        self, user: str, saved: Sequence[File], own: list[segments.Row], aside: Path
    ) -> None:
        """Both indexes at once: Chroma builds its own in one thread, outside Python's lock."""
        state = segments.fold(self._rows(user, saved, own))
        entries = {c: map(entry_of, map(record_of, rows.values())) for c, rows in state.items()}
        with ThreadPoolExecutor(1) as beside:
            words = beside.submit(self._words, user, entries)
            build_chroma.build(aside, state, titles(self.replication.catalog, user))
            words.result()

    def _from_published(
        self, user: str, newest: Manifest, own: list[segments.Row], aside: Path
    ) -> bool:
        """False when there is none, no remote has it whole, or it is none that Quire has made."""
        published = newest.published
        if published is None:
            return False
        top = f"chroma/{published.generation:08d}/"
        if not all(is_one(ChromaFile, f.path.removeprefix(top)) for f in published.files):
            return False
        try:
            for file in published.files:
                to = aside / file.path.removeprefix(top)
                reader.fetch(self.replication.remotes, user, file, to)
        except (Corrupt, NotFound):
            shutil.rmtree(aside, ignore_errors=True)
            return False
        early = [f for f in newest.segments if f.generation <= published.generation]
        later = [f for f in newest.segments if f.generation > published.generation]
        rows = self._rows(user, later, own)
        try:
            with Sound():
                store = VectorStore(aside)
                try:
                    self._prove(user, store, early, published.records)
                    build_chroma.apply(
                        store, segments.condense(rows), titles(self.replication.catalog, user)
                    )
                    self._words(
                        user, {c: map(entry_of, store.every(c)) for c in store.collections()}
                    )
                finally:
                    store.close()
        except Corrupt:
            shutil.rmtree(aside, ignore_errors=True)
            return False
        return True

    def _prove(self, user: str, store: VectorStore, early: Sequence[File], records: int) -> None:
        """Corrupt unless it holds what was saved up to then, and nothing that runs; where that is damaged
        in every remote, as many records."""
        try:
            state = segments.fold(self._rows(user, early, []))
        except (Corrupt, NotFound):
            whole = sum(map(store.count, store.collections())) == records
        else:
            whole = next(build_chroma.differences(store, state), None) is None
        if not whole or not store.is_inert():
            raise index_damaged()

    def _rows(
        self, user: str, saved: Sequence[File], own: list[segments.Row]
    ) -> list[segments.Row]:
        return [*self.replication.rows(user, saved), *own]

    def _words(self, user: str, entries: Mapping[str, Iterable[Entry]]) -> None:
        """The keyword index anew, of these entries by collection."""
        built(self.paths.fulltext(user), entries).close()


def _lost(names: Sequence[str]) -> Corrupt:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(journal.number(names[0]) / 1e9))
    return Corrupt(
        "journal_lost",
        f"{len(names)} changes since {when} UTC were not yet saved, and are lost or damaged on this "
        "disk.",
        "What jobs had read is indexed again by itself. Delete again what was deleted since then, and "
        "repeat imports.",
    )


def _corrupt_original() -> Corrupt:
    return Corrupt(
        "original_corrupt",
        "The PDF is damaged on this disk, and was not saved before.",
        "Upload it again.",
    )


def _corrupt_elements() -> Corrupt:
    return Corrupt("elements_corrupt", "The saved elements cannot be read.", "Retry the job.")
