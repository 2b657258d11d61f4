"""Reading generations: the newest of several remotes, and its files, each byte hashed before use.

A file is named by its sha256, so any remote that has the right bytes will do. Knows nothing of what
is in the files.
"""

import hashlib
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from errors import Corrupt, NotFound, QuireError, Refused, Unavailable
from storage.generations import manifest as manifests
from storage.generations.manifest import File, Manifest
from storage.remotes.remote import Remote

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A generation and the remote that has it; `raw` are the manifest's bytes."""

    remote: Remote
    raw: bytes
    manifest: Manifest


def named(user: str, path: str) -> str:
    """The name in a remote of a path in a user's folder."""
    return f"users/{user}/{path}"


def kept_copy(found: Found) -> File:
    """A generation's manifest under a name of its own, which stays when a next one is saved."""
    manifest, sha256 = found.manifest, digest(found.raw)
    path = kept_path(manifest.generation, sha256)
    size = len(found.raw)
    return File(path=path, sha256=sha256, bytes=size, generation=manifest.generation)


def kept_path(generation: int, sha256: str) -> str:
    return f"manifests/{generation:08d}-{sha256[:16]}.json"


def named_files(found: Found) -> tuple[File, ...]:
    """All that is to be there with that generation, its manifest apart."""
    return (*found.manifest.needs(), *found.manifest.kept, kept_copy(found))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def measure(content: Path | bytes) -> tuple[str, int]:
    """sha256 and size."""
    if isinstance(content, bytes):
        return digest(content), len(content)
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), content.stat().st_size


def read(remote: Remote, user: str) -> Found | None:
    """The newest generation of one remote; None when nothing was saved there."""
    raw = read_raw(remote, user)
    if raw is None:
        return None
    return Found(remote=remote, raw=raw, manifest=manifests.load(raw, user=user))


def read_raw(remote: Remote, user: str) -> bytes | None:
    try:
        return remote.read(named(user, "manifest.json"))
    except NotFound:
        return None


def newest(remotes: Sequence[Remote], user: str, at_least: int = 0) -> Found | None:
    """The newest valid generation of all remotes, of two equal ones the earlier remote's. A remote
    that fails is passed over only when another one has `at_least` that generation; a mirror that
    is not fit to be used at all is no reason to wait."""
    found: list[Found] = []
    problems: list[QuireError] = []
    for remote in remotes:
        try:
            one = read(remote, user)
        except QuireError as problem:
            if remote is remotes[0] or not isinstance(problem, Refused):
                problems.append(problem)
            continue
        if one is not None:
            found.append(one)
    best = max(found, key=lambda f: f.manifest.generation, default=None)
    if problems and (best is None or best.manifest.generation < at_least):
        raise _told_first(problems)
    return best


def content(remotes: Sequence[Remote], user: str, file: File) -> bytes:
    """A file's bytes from the first remote that has the right ones."""

    def get(remote: Remote) -> bytes:
        there = remote.read(named(user, file.path), file.bytes)
        if len(there) != file.bytes or digest(there) != file.sha256:
            raise _damaged(file)
        return there

    return _first(remotes, get)


def fetch(remotes: Sequence[Remote], user: str, file: File, to: Path) -> None:
    """A file to a path, whole and right or not at all; for what may be large. Nothing is begun that
    the disk has no room for."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if file.bytes > shutil.disk_usage(to.parent).free:
        raise Unavailable(
            "disk_full", "The disk has no room for what is to be restored.", "Free some disk space."
        )
    aside = to.with_name(f".{to.name}.{secrets.token_hex(4)}")

    def get(remote: Remote) -> None:
        remote.fetch(named(user, file.path), aside, file.bytes)
        if measure(aside) != (file.sha256, file.bytes):
            raise _damaged(file)

    try:
        _first(remotes, get)
        aside.replace(to)
    finally:
        aside.unlink(missing_ok=True)


def _first(remotes: Sequence[Remote], get: Callable[[Remote], Answer]) -> Answer:
    problems: list[QuireError] = []
    for remote in remotes:
        try:
            return get(remote)
        except QuireError as problem:
            problems.append(problem)
    raise _told_first(problems)


def _told_first(problems: Sequence[QuireError]) -> QuireError:
    """What may pass by itself, before what would stay: the bytes may only be away."""
    return next((p for p in problems if isinstance(p, Unavailable)), problems[0])


def _damaged(file: File) -> Corrupt:
    return Corrupt(
        "stored_file_corrupt",
        f"A stored file does not match its hash ({file.path.split('/')[0]}).",
        "It is not used; repair it from the other remote.",
    )
