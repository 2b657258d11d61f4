"""A directory as a Remote: what everybody has, and what the others are compared with."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from errors import InputError, Unavailable
from storage.remotes.remote import SMALL, Change, changed_elsewhere, not_there, too_large


@dataclass(frozen=True, slots=True)
class LocalRemote:
    """Files under `root`; a lock file makes `commit` one at a time over processes."""

    root: Path
    name: str = "local"

    def check(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)

    def read(self, name: str, at_most: int = SMALL) -> bytes:
        with _translated(name):
            return self._sized(name, at_most).read_bytes()

    def fetch(self, name: str, to: Path, at_most: int = SMALL) -> None:
        with _translated(name):
            shutil.copyfile(self._sized(name, at_most), to)

    def names(self, prefix: str) -> Iterator[str]:
        top = self._path(prefix) if prefix else self.root
        if top.is_dir():
            for path in sorted(top.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    yield path.relative_to(self.root).as_posix()

    def commit(self, change: Change) -> None:
        with _translated("the commit"), self._locked():
            moved = [n for n, seen in change.expected.items() if self._digest(n) != seen]
            if moved:
                raise changed_elsewhere(moved)
            for name, content in change.files.items():
                self._write(name, content)
            for name, content in change.manifests.items():
                self._write(name, content)
            for name in change.deletes:
                self._path(name).unlink(missing_ok=True)

    def history(self) -> int:
        return 0

    def forget(self, names: frozenset[str]) -> float:
        return 0.0  # a directory has no versions

    def _sized(self, name: str, at_most: int) -> Path:
        path = self._path(name)
        if path.stat().st_size > at_most:
            raise too_large(name)
        return path

    def _path(self, name: str) -> Path:
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise InputError("bad_name", "That name leads out of the store.", "Use a plain name.")
        return path

    def _digest(self, name: str) -> str | None:
        try:
            return hashlib.sha256(self._path(name).read_bytes()).hexdigest()
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: Path | bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            if isinstance(content, bytes):
                aside.write_bytes(content)
            else:
                shutil.copyfile(content, aside)
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)  # half of it would fill a full disk

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as problem:
        raise not_there(name) from problem
    except OSError as problem:
        raise Unavailable(
            "local_remote_failed",
            f"The local store cannot be used ({problem.strerror}).",
            "Free some disk space; the save is repeated by itself.",
        ) from problem
