"""Save, mirror, restore: a user's journal and files become a generation on the remotes.

The order is files, manifest, "saved"; then the mirror catches up by itself. What a generation holds
is what its manifest names, each file with its sha256, and nothing is trusted before it is hashed.
Knows nothing of PDFs, chunks or jobs.
"""

import hashlib
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from errors import Corrupt, NotFound, QuireError
from storage import manifest as manifests
from storage import segments
from storage.catalog import Catalog, Collection, SourceRow
from storage.manifest import CollectionEntry, File, Manifest, SourceEntry
from storage.paths import Paths
from storage.remote import Change, Remote
from storage.segments import Row
from storage.workspace import pending

COMPACT_ABOVE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteStatus:
    """`lag` counts the generations that the mirror is behind; None without a mirror."""

    saved_generation: int
    unsaved: int
    primary: str
    mirror: str | None
    lag: int | None
    error: dict[str, str] | None


@dataclass(slots=True)
class Replication:
    """One primary and perhaps a mirror, for every user of this data directory."""

    paths: Paths
    catalog: Catalog
    primary: Remote
    mirror: Remote | None = None
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _errors: dict[str, dict[str, str]] = field(default_factory=dict)

    def save(self, user: str) -> int:
        """Everything pending of that user as one new generation, confirmed by the primary.

        Returns its number, or the newest one's when nothing had changed. A mirror that fails is
        recorded in `status` and caught up at the next save; it never fails this one.
        """
        with self._locked(user):
            generation = self._save(user)
            if self.mirror is not None:
                try:
                    self._copy(user, self.primary, self.mirror)
                    self._errors.pop(user, None)
                except QuireError as problem:
                    self._errors[user] = problem.as_dict()
            return generation

    def status(self, user: str) -> RemoteStatus:
        """Asks the remotes; a remote that does not answer is told as `error`."""
        error = self._errors.get(user)
        generation, lag = 0, None
        try:
            newest = self._newest(self.primary, user)
            generation = newest.generation if newest else 0
            if self.mirror is not None:
                mirrored = self._newest(self.mirror, user)
                lag = generation - (mirrored.generation if mirrored else 0)
        except QuireError as problem:
            error = problem.as_dict()
        return RemoteStatus(
            saved_generation=generation,
            unsaved=len(pending(self.paths, user)),
            primary=self.primary.name,
            mirror=self.mirror.name if self.mirror else None,
            lag=lag,
            error=error,
        )

    def saved_rows(self, user: str) -> Iterator[Row]:
        """The rows of the newest valid generation in order, every byte verified first."""
        found = self._current(user)
        if found is None:
            self._mark(user)
            return
        remote, newest = found
        self._adopt(user, newest)
        if remote is not self.primary:  # a wiped primary goes on from where the mirror is
            self._copy(user, remote, self.primary)
        for file in newest.segments:
            yield from segments.decode(self._verified(remote, user, file))

    def adopt(self, user: str) -> None:
        """After a wipe, what the newest manifest names is in the catalogue again; at once when
        it is. Raises what the remotes answer when they cannot be asked."""
        if not self.paths.adopted(user).exists():
            found = self._current(user)
            if found:
                self._adopt(user, found[1])
            else:
                self._mark(user)

    def fetch(self, user: str, path: str, to: Path) -> None:
        """A file of the newest generation (a source, an elements archive) to a local path."""
        found = self._current(user)
        file = next((f for f in found[1].files if f.path == path), None) if found else None
        if found is None or file is None:
            raise NotFound("not_in_store", "That file was never saved.", "Upload it again.")
        content = self._verified(found[0], user, file)
        to.parent.mkdir(parents=True, exist_ok=True)
        aside = to.with_name(f".{to.name}.fetched")
        aside.write_bytes(content)
        aside.replace(to)

    def verify(self, user: str, remote: Remote | None = None) -> list[str]:
        """Names whose bytes are missing or wrong; empty when all is well."""
        remote = remote or self.primary
        newest = self._newest(remote, user)
        bad = []
        for file in (*newest.segments, *newest.files) if newest else ():
            try:
                self._verified(remote, user, file)
            except (Corrupt, NotFound):
                bad.append(file.path)
        return bad

    # Inside

    def _save(self, user: str) -> int:
        self.paths.user(user).mkdir(parents=True, exist_ok=True)
        raw = self._raw(self.primary, user)
        old = manifests.load(raw, user=user) if raw else None
        if old:
            self._adopt(user, old)
        journal = pending(self.paths, user)
        files: dict[str, Path | bytes] = {}
        kept = list(old.segments) if old else []
        deletes: set[str] = set()
        if journal:
            kept, gone = self._add_segment(user, kept, journal, files)
            deletes |= gone
        sources = self.catalog.sources(user)
        held, gone = self._files(user, sources, old.files if old else (), files)
        deletes |= gone
        new = Manifest(
            user=user,
            generation=(old.generation if old else 0) + 1,
            parent=hashlib.sha256(raw).hexdigest() if raw else None,
            created_at=time.time(),
            collections=tuple(
                CollectionEntry(id=c.id, title=c.title, model=c.model, created_at=c.created_at)
                for c in self.catalog.collections(user)
            ),
            sources=tuple(
                SourceEntry(**{k: getattr(s, k) for k in SourceRow.__slots__}) for s in sources
            ),
            segments=tuple(kept),
            files=tuple(held),
        )
        if (
            old
            and replace(
                new, generation=old.generation, parent=old.parent, created_at=old.created_at
            )
            == old
        ):
            return old.generation
        self.primary.commit(
            Change(
                files={_name(user, path): content for path, content in files.items()},
                manifests={_name(user, "manifest.json"): manifests.dump(new)},
                expected={_name(user, "manifest.json"): new.parent},
                deletes=frozenset(_name(user, path) for path in deletes),
            )
        )
        self.paths.adopted(user).touch()
        for path in journal:
            path.unlink()
        return new.generation

    def _add_segment(
        self, user: str, kept: list[File], journal: list[Path], files: dict[str, Path | bytes]
    ) -> tuple[list[File], set[str]]:
        rows = [row for path in journal for row in segments.decode(path)]
        gone: set[str] = set()
        if len(kept) >= COMPACT_ABOVE:
            older = [
                row
                for file in kept
                for row in segments.decode(self._verified(self.primary, user, file))
            ]
            state = segments.fold([*older, *rows])
            rows = [row for collection in state.values() for row in collection.values()]
            gone = {file.path for file in kept}
            kept = []
        content = segments.encode(rows)
        digest = hashlib.sha256(content).hexdigest()
        path = f"segments/{time.time_ns():020d}-{digest[:16]}.parquet"
        files[path] = content
        added = File(path=path, sha256=digest, bytes=len(content), rows=len(rows))
        return [*kept, added], gone

    def _files(
        self,
        user: str,
        sources: list[SourceRow],
        known: tuple[File, ...],
        files: dict[str, Path | bytes],
    ) -> tuple[list[File], set[str]]:
        """Originals and elements of the catalogue's sources; new ones go into `files`."""
        have = {f.path: f for f in known}
        held: dict[str, File] = {}
        for source in sources:
            for path, build in (
                (f"sources/{source.sha256}.pdf", self._original),
                (f"elements/{source.sha256}-{source.version}.zip", self._archive),
            ):
                if path in have:
                    held[path] = have[path]
                    continue
                content = build(user, source)
                if content is not None and path not in held:
                    digest, size = _measure(content)
                    held[path] = File(path=path, sha256=digest, bytes=size)
                    files[path] = content
        return [held[p] for p in sorted(held)], set(have) - set(held)

    def _original(self, user: str, source: SourceRow) -> Path | None:
        path = self.paths.source(user, source.sha256)
        return path if path.exists() else None

    def _archive(self, user: str, source: SourceRow) -> Path | None:
        """Elements and crops of one source in one stored zip: the same bytes each time."""
        folder = self.paths.elements(user, source.sha256, source.version)
        if not folder.is_dir():
            return None
        target = folder.with_suffix(".zip")
        members = {f"elements/{p.name}": p for p in sorted(folder.glob("*.jsonl"))}
        crops = self.paths.crops(user)
        for listed in sorted(folder.glob("*.crops")):
            for name in listed.read_text(encoding="ascii").split():
                members[f"crops/{name}"] = crops / name
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name, path in members.items():
                archive.writestr(zipfile.ZipInfo(name), path.read_bytes())
        return target

    def _copy(self, user: str, source: Remote, target: Remote) -> None:
        """Bring `target` to the newest generation of `source`; never back to an older one."""
        raw = self._raw(source, user)
        if raw is None:
            return
        new = manifests.load(raw, user=user)
        behind = self._raw(target, user)
        old = manifests.load(behind, user=user) if behind else None
        if old and old.generation >= new.generation:
            return
        there = {f.path for f in (*old.segments, *old.files)} if old else set()
        wanted = {f.path: f for f in (*new.segments, *new.files)}
        target.commit(
            Change(
                files={
                    _name(user, path): self._verified(source, user, file)
                    for path, file in wanted.items()
                    if path not in there
                },
                manifests={_name(user, "manifest.json"): raw},
                expected={
                    _name(user, "manifest.json"): (
                        hashlib.sha256(behind).hexdigest() if behind else None
                    )
                },
                deletes=frozenset(_name(user, p) for p in there - set(wanted)),
            )
        )

    def _current(self, user: str) -> tuple[Remote, Manifest] | None:
        """The newest valid manifest of all remotes; a remote that fails is passed over only when
        another one answers."""
        found: list[tuple[Remote, Manifest]] = []
        problems: list[QuireError] = []
        for remote in (self.primary, *([self.mirror] if self.mirror else [])):
            try:
                newest = self._newest(remote, user)
            except QuireError as problem:
                problems.append(problem)
                continue
            if newest is not None:
                found.append((remote, newest))
        if not found and problems:
            raise problems[0]
        return max(found, key=lambda pair: pair[1].generation, default=None)

    def _newest(self, remote: Remote, user: str) -> Manifest | None:
        raw = self._raw(remote, user)
        return manifests.load(raw, user=user) if raw else None

    def _raw(self, remote: Remote, user: str) -> bytes | None:
        try:
            return remote.read(_name(user, "manifest.json"))
        except NotFound:
            return None

    def _verified(self, remote: Remote, user: str, file: File) -> bytes:
        content = remote.read(_name(user, file.path))
        if len(content) != file.bytes or hashlib.sha256(content).hexdigest() != file.sha256:
            raise Corrupt(
                "stored_file_corrupt",
                "A stored file does not match its hash.",
                "It is not used; restore from the other remote.",
            )
        return content

    def _adopt(self, user: str, newest: Manifest) -> None:
        """After a wipe the catalogue lacks what the manifest names: put it back, once. A mark
        beside the user's data says that the catalogue is the newer one from then on."""
        if self.paths.adopted(user).exists():
            return
        for entry in newest.collections:
            self.catalog.restore_collection(user, Collection(**asdict(entry)))
        for source in newest.sources:
            self.catalog.put_source(user, SourceRow(**asdict(source)))
        self._mark(user)

    def _mark(self, user: str) -> None:
        self.paths.user(user).mkdir(parents=True, exist_ok=True)
        self.paths.adopted(user).touch()

    def _locked(self, user: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(user, threading.Lock())


def titles(catalog: Catalog, user: str) -> Mapping[str, str]:
    return {c.id: c.title for c in catalog.collections(user)}


def _name(user: str, path: str) -> str:
    return f"users/{user}/{path}"


def _measure(content: Path | bytes) -> tuple[str, int]:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), content.stat().st_size
