"""What a generation consists of: names, sizes and hashes, and nothing that is not named here.

A manifest comes from outside (a dataset, a bucket), so `load` trusts nothing: checksum, format,
every field of its own kind (see `names`), limits on count and bytes, no case collisions.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from errors import Corrupt, InputError, Refused
from storage.names import (
    CollectionId,
    JournalName,
    Sha256,
    StoredPath,
    TombstoneKey,
    Version,
    line,
    moment,
    number,
    text,
)

FORMAT = 2
_READABLE = {1, 2}  # 1 had no published directory and kept no older generations
_MAX_FILES = 200_000
_MAX_BYTES = 1 << 41
_MAX_FILE = 1 << 36
_MAX_READ = 1 << 32  # of what is read into memory: all but these folders
_ON_DISK = ("sources/", "elements/", "chroma/")
_WHOLE = (1 << 53) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """`path` is relative to the user's folder; `rows` is 0 for what is not a segment, `generation`
    the last one whose changes the file holds."""

    path: str
    sha256: str
    bytes: int
    rows: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The Chroma directory as of `generation`, under `chroma/<generation>/`."""

    generation: int
    records: int
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """A file that no newer generation than this one needs."""

    path: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionEntry:
    id: str
    title: str
    model: str | None
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEntry:
    collection: str
    sha256: str
    filename: str
    bytes: int
    pages: int
    version: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One generation of one user; `parent` is the sha256 of the manifest before it, `writer` the
    instance that made it, `kept` the older manifests that can still be read, `forgetting` deleted
    names whose older versions are still to be removed, `erased_at` when everything was erased,
    `shipped` the name of the last journal file that each instance has shipped, `gone` when what has
    these keys was deleted (`catalog.tombstone`; None: its writer did not tell), so that an older copy of
    the rows brings nothing back, and what is missing without having been deleted comes back.
    A name in `forgetting` that is still needed, kept or retired marks what is not even erased yet."""

    user: str
    generation: int
    parent: str | None
    created_at: float
    writer: str = ""
    collections: tuple[CollectionEntry, ...] = ()
    sources: tuple[SourceEntry, ...] = ()
    segments: tuple[File, ...] = ()
    files: tuple[File, ...] = ()
    published: Published | None = None
    kept: tuple[File, ...] = ()
    retired: tuple[Retired, ...] = ()
    forgetting: tuple[str, ...] = ()
    erased_at: float | None = None
    shipped: tuple[tuple[str, str], ...] = ()
    gone: tuple[tuple[str, float], ...] | None = None

    def shipped_by(self, instance: str) -> str:
        return dict(self.shipped).get(instance, "")

    def needs(self) -> tuple[File, ...]:
        """What this generation consists of, the published directory included."""
        return (*self.segments, *self.files, *(self.published.files if self.published else ()))

    def unerased(self) -> set[str]:
        """Marks of what was deleted, and is still in what is needed or kept."""
        held = [f.path for f in (*self.needs(), *self.kept)] + [r.path for r in self.retired]
        return set(self.forgetting).intersection(held)


def dump(manifest: Manifest) -> bytes:
    """Canonical JSON, wrapped with its own sha256."""
    body = json.dumps(
        {"format": FORMAT, **asdict(manifest)},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return _wrapped(body)


def _wrapped(body: str) -> bytes:
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"sha256":"{digest}","body":{body}}}\n'.encode()


def load(content: bytes, *, user: str) -> Manifest:
    """The manifest of that user, or Corrupt with the reason; Refused when a newer Quire wrote it."""
    try:
        body = json.loads(content)["body"]
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if content != _wrapped(canonical):
            raise _corrupt("its checksum does not fit")
        written = body.pop("format")
        if type(written) is int and written > FORMAT:
            raise Refused(
                "manifest_newer",
                f"A newer version of Quire has saved this (format {written}, here {FORMAT}).",
                "Update Quire. Nothing was changed.",
            )
        if written not in _READABLE:
            raise _corrupt("its format is unknown")
        manifest = _build(body)
    except InputError as problem:
        raise _corrupt("one of its fields is not what it should be") from problem
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as problem:
        raise _corrupt("it is not a manifest") from problem
    _check(manifest, user)
    return manifest


def _build(body: dict[str, Any]) -> Manifest:
    published, erased_at = body.get("published"), body.get("erased_at")
    return Manifest(
        user=text(body["user"], 64),
        generation=number(body["generation"], _WHOLE, 1),
        parent=None if body["parent"] is None else Sha256(body["parent"]),
        created_at=moment(body["created_at"]),
        writer=text(body.get("writer", ""), 64),
        collections=tuple(map(_collection, body["collections"])),
        sources=tuple(map(_source, body["sources"])),
        segments=_files(body["segments"]),
        files=_files(body["files"]),
        published=_published(published) if published else None,
        kept=_files(body.get("kept", ())),
        retired=tuple(
            Retired(path=StoredPath(r["path"]), generation=number(r["generation"], _WHOLE))
            for r in body.get("retired", ())
        ),
        forgetting=tuple(map(StoredPath, body.get("forgetting", ()))),
        erased_at=None if erased_at is None else moment(erased_at),
        shipped=tuple((text(i, 64), JournalName(n)) for i, n in body.get("shipped", ())),
        gone=_gone(body.get("gone")),
    )


def _gone(told: Any) -> tuple[tuple[str, float], ...] | None:
    return None if told is None else tuple((TombstoneKey(key), moment(at)) for key, at in told)


def _collection(told: dict[str, Any]) -> CollectionEntry:
    return CollectionEntry(
        id=CollectionId(told["id"]),
        title=line(told["title"], 4096),
        model=None if told["model"] is None else text(told["model"], 4096),
        created_at=moment(told["created_at"]),
    )


def _source(told: dict[str, Any]) -> SourceEntry:
    return SourceEntry(
        collection=CollectionId(told["collection"]),
        sha256=Sha256(told["sha256"]),
        filename=line(told["filename"], 4096),
        bytes=number(told["bytes"], _WHOLE),
        pages=number(told["pages"], _WHOLE),
        version=Version(told["version"]),
        created_at=moment(told["created_at"]),
    )


def _published(told: dict[str, Any]) -> Published:
    generation, files = number(told["generation"], _WHOLE), _files(told["files"])
    if not all(f.path.startswith(f"chroma/{generation:08d}/") for f in files):
        raise _corrupt("its published directory is elsewhere")
    return Published(generation=generation, records=number(told["records"], _WHOLE), files=files)


def _files(listed: Any) -> tuple[File, ...]:
    if len(listed) > _MAX_FILES:
        raise _corrupt("it names too many files")
    return tuple(map(_file, listed))


def _file(told: dict[str, Any]) -> File:
    return File(
        path=StoredPath(told["path"]),
        sha256=Sha256(told["sha256"]),
        bytes=number(told["bytes"], _WHOLE),
        rows=number(told.get("rows", 0), _WHOLE),
        generation=number(told.get("generation", 0), _WHOLE),
    )


def _check(manifest: Manifest, user: str) -> None:
    if manifest.user != user:
        raise _corrupt("it belongs to somebody else")
    files = (*manifest.needs(), *manifest.kept)
    listed = (files, manifest.retired, manifest.forgetting, manifest.gone or ())
    if sum(map(len, listed)) > _MAX_FILES:
        raise _corrupt("it names too many files")
    if len({f.path.lower() for f in files}) < len(files):
        raise _corrupt("two of its paths differ by case only")
    if any(f.bytes > (_MAX_FILE if f.path.startswith(_ON_DISK) else _MAX_READ) for f in files):
        raise _corrupt("it names a larger file than any store holds")
    if sum(f.bytes for f in files) > _MAX_BYTES:
        raise _corrupt("it names more bytes than any store holds")


def _corrupt(why: str) -> Corrupt:
    return Corrupt(
        "manifest_corrupt",
        f"The manifest cannot be trusted: {why}.",
        "Restore from the other remote.",
    )
