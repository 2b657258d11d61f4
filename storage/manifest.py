"""What a generation consists of: names, sizes and hashes, and nothing that is not named here.

A manifest comes from outside (a dataset, a bucket), so `load` trusts nothing: checksum, format,
relative paths under known folders, limits on count and bytes, no case collisions.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from errors import Corrupt

FORMAT = 1
_MAX_FILES = 200_000
_MAX_BYTES = 1 << 41
_PATH = re.compile(r"(segments|sources|elements|chroma)/[A-Za-z0-9][A-Za-z0-9._/-]{0,250}")
_SHA = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """`path` is relative to the user's folder; `rows` is 0 for what is not a segment."""

    path: str
    sha256: str
    bytes: int
    rows: int = 0


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
    """One generation of one user; `parent` is the sha256 of the manifest before it."""

    user: str
    generation: int
    parent: str | None
    created_at: float
    collections: tuple[CollectionEntry, ...] = ()
    sources: tuple[SourceEntry, ...] = ()
    segments: tuple[File, ...] = ()
    files: tuple[File, ...] = ()


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
    """The manifest of that user, or Corrupt with the reason."""
    try:
        outer = json.loads(content)
        body = outer["body"]
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if hashlib.sha256(canonical.encode()).hexdigest() != outer["sha256"]:
            raise _corrupt("its checksum does not fit")
        if body.pop("format") != FORMAT:
            raise _corrupt("its format is unknown to this version")
        manifest = _build(body)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as problem:
        raise _corrupt("it is not a manifest") from problem
    _check(manifest, user)
    return manifest


def _build(body: dict[str, Any]) -> Manifest:
    return Manifest(
        user=str(body["user"]),
        generation=int(body["generation"]),
        parent=body["parent"],
        created_at=float(body["created_at"]),
        collections=tuple(CollectionEntry(**c) for c in body["collections"]),
        sources=tuple(SourceEntry(**s) for s in body["sources"]),
        segments=tuple(File(**f) for f in body["segments"]),
        files=tuple(File(**f) for f in body["files"]),
    )


def _check(manifest: Manifest, user: str) -> None:
    if manifest.user != user:
        raise _corrupt("it belongs to somebody else")
    if manifest.generation < 1:
        raise _corrupt("its generation is not a number above zero")
    files = (*manifest.segments, *manifest.files)
    if len(files) > _MAX_FILES:
        raise _corrupt("it names too many files")
    seen: set[str] = set()
    total = 0
    for file in files:
        if not isinstance(file.path, str) or not _PATH.fullmatch(file.path):
            raise _corrupt("it names a path outside its folders")
        if any(part in {"", ".", ".."} for part in file.path.split("/")):
            raise _corrupt("it names a path outside its folders")
        if not isinstance(file.sha256, str) or not _SHA.fullmatch(file.sha256):
            raise _corrupt("it names a file without a proper hash")
        if not isinstance(file.bytes, int) or file.bytes < 0:
            raise _corrupt("it names a file without a proper size")
        if file.path.lower() in seen:
            raise _corrupt("two of its paths differ by case only")
        seen.add(file.path.lower())
        total += file.bytes
    if total > _MAX_BYTES:
        raise _corrupt("it names more bytes than any store holds")


def _corrupt(why: str) -> Corrupt:
    return Corrupt(
        "manifest_corrupt",
        f"The manifest cannot be trusted: {why}.",
        "Restore from the other remote.",
    )
