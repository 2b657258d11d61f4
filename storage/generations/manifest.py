"""What a generation consists of: names, sizes and hashes, and nothing that is not named here.

A manifest comes from outside (a dataset, a bucket), so `load` trusts nothing: checksum, format,
relative paths under known folders, limits on count and bytes, no case collisions.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from errors import Corrupt, Refused

FORMAT = 2
_READABLE = {1, 2}  # 1 had no published directory and kept no older generations
_MAX_FILES = 200_000
_MAX_BYTES = 1 << 41
_MAX_FILE = 1 << 36
_MAX_READ = 1 << 32  # of what is read into memory: all but these folders
_ON_DISK = ("sources/", "elements/", "chroma/")
_PATH = re.compile(
    r"(segments|sources|elements|jobs|chroma|manifests)/[A-Za-z0-9][A-Za-z0-9._/-]{0,250}"
)
_SHA = re.compile(r"[0-9a-f]{64}")


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
    `shipped` the name of the last journal file that each instance has shipped."""

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

    def shipped_by(self, instance: str) -> str:
        return dict(self.shipped).get(instance, "")

    def needs(self) -> tuple[File, ...]:
        """What this generation consists of, the published directory included."""
        return (*self.segments, *self.files, *(self.published.files if self.published else ()))


def dump(manifest: Manifest) -> bytes:
    """Canonical JSON, wrapped with its own sha256."""
    body = json.dumps(
        {"format": FORMAT, **asdict(manifest)},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"sha256":"{digest}","body":{body}}}\n'.encode()


def load(content: bytes, *, user: str) -> Manifest:
    """The manifest of that user, or Corrupt with the reason; Refused when a newer Quire wrote it."""
    try:
        outer = json.loads(content)
        body = outer["body"]
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if hashlib.sha256(canonical.encode()).hexdigest() != outer["sha256"]:
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
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as problem:
        raise _corrupt("it is not a manifest") from problem
    _check(manifest, user)
    return manifest


def _build(body: dict[str, Any]) -> Manifest:
    plain = {k: body[k] for k in ("writer", "erased_at") if k in body}
    published = body.get("published")
    return Manifest(
        user=str(body["user"]),
        generation=_whole(body["generation"]),
        parent=body["parent"],
        created_at=float(body["created_at"]),
        collections=tuple(CollectionEntry(**c) for c in body["collections"]),
        sources=tuple(SourceEntry(**s) for s in body["sources"]),
        segments=_files(body["segments"]),
        files=_files(body["files"]),
        published=Published(
            generation=_whole(published["generation"]),
            records=_whole(published["records"]),
            files=_files(published["files"]),
        )
        if published
        else None,
        kept=_files(body.get("kept", ())),
        retired=tuple(
            Retired(path=str(r["path"]), generation=_whole(r["generation"]))
            for r in body.get("retired", ())
        ),
        forgetting=tuple(map(str, body.get("forgetting", ()))),
        shipped=tuple((str(i), str(n)) for i, n in body.get("shipped", ())),
        **plain,
    )


def _files(listed: Any) -> tuple[File, ...]:
    if len(listed) > _MAX_FILES:
        raise _corrupt("it names too many files")
    return tuple(File(**f) for f in listed)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise _corrupt("one of its numbers is none")
    return int(value)


def _check(manifest: Manifest, user: str) -> None:
    if manifest.user != user:
        raise _corrupt("it belongs to somebody else")
    if manifest.generation < 1:
        raise _corrupt("its generation is not a number above zero")
    files = (*manifest.needs(), *manifest.kept)
    if len(files) + len(manifest.retired) + len(manifest.forgetting) > _MAX_FILES:
        raise _corrupt("it names too many files")
    for path in (*(r.path for r in manifest.retired), *manifest.forgetting):
        _check_path(path)
    _check_rows(manifest)
    seen: set[str] = set()
    total = 0
    for file in files:
        _check_path(file.path)
        if not isinstance(file.sha256, str) or not _SHA.fullmatch(file.sha256):
            raise _corrupt("it names a file without a proper hash")
        for number in (file.bytes, file.rows, file.generation):
            _whole(number)
        if file.path.lower() in seen:
            raise _corrupt("two of its paths differ by case only")
        seen.add(file.path.lower())
        if file.bytes > (_MAX_FILE if file.path.startswith(_ON_DISK) else _MAX_READ):
            raise _corrupt("it names a larger file than any store holds")
        total += file.bytes
    if total > _MAX_BYTES:
        raise _corrupt("it names more bytes than any store holds")


def _check_rows(manifest: Manifest) -> None:
    for source in manifest.sources:
        if not (isinstance(source.sha256, str) and _SHA.fullmatch(source.sha256)):
            raise _corrupt("it names a source without a proper hash")
        for number in (source.bytes, source.pages):
            _whole(number)
    for text in (
        *(x for c in manifest.collections for x in (c.id, c.title)),
        *(x for s in manifest.sources for x in (s.collection, s.filename, s.version)),
    ):
        if not isinstance(text, str) or len(text) > 4096:
            raise _corrupt("one of its texts is none")


def _check_path(path: Any) -> None:
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise _corrupt("it names a path outside its folders")
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise _corrupt("it names a path outside its folders")


def _corrupt(why: str) -> Corrupt:
    return Corrupt(
        "manifest_corrupt",
        f"The manifest cannot be trusted: {why}.",
        "Restore from the other remote.",
    )
