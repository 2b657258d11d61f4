"""A copy of a data directory that is right while Quire runs, and a data directory made from one.

Rows first, then what they name, then what was saved: whatever is in the copy, everything that it goes on
from is there as well, and what it lacks of the newest is what came later. The live indexes are not in it:
they are built anew. The last file written is the list of all with their hashes; without it a copy is
not whole. Knows nothing of a remote other than the directory beside the data.
"""

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from errors import Corrupt, InputError, Refused
from storage.atomic_write import atomic_write
from storage.generations import base
from storage.generations import manifest as manifests
from storage.generations.base import users_here
from storage.generations.lease import NAME
from storage.generations.reader import digest, kept_path, measure, named
from storage.paths import Paths

LIST = "backup.json"
_OF_A_USER = ("pending", "BASE.json", "work", "elements", "crops", "sources")
_AT_LAST = ("instance", "lease.json", "secret.id", "secret")
_TRIES = 20


def backup(paths: Paths, jobs: Path | None, to: Path) -> int:
    """Into a directory that is not there yet; how many files."""
    if to.exists() and any(to.iterdir()):
        raise InputError("backup_there", f"{to} is not empty.", "Name a directory that is new.")
    to.mkdir(parents=True, exist_ok=True, mode=0o700)
    to.chmod(0o700)
    for database, name in ((paths.catalog, paths.catalog.name), (jobs, "jobs.sqlite")):
        if database and database.exists():
            _copy_database(database, to / name)
    for user in users_here(paths):
        for part in _OF_A_USER:
            _copy(paths.user(user) / part, to / "users" / user / part)
    if paths.catalog.exists():
        _unmark(Paths(to))
    _copy_remote(paths.remote, to / paths.remote.name)
    for name in _AT_LAST:
        _copy(paths.root / name, to / name)
    files = {name: measure(to / name) for name in _files(to)}
    told = {"format": 1, "created_at": time.time(), "files": files}
    (to / LIST).write_text(json.dumps(told, indent=1, sort_keys=True), encoding="utf-8")
    return len(files)


def restore(paths: Paths, jobs: Path | None, source: Path) -> int:
    """A data directory from such a copy, every byte hashed first; how many files. Nothing that lies
    there is written over."""
    files = _listed(source)
    for name, told in files.items():
        path = source / name
        if not path.is_file() or measure(path) != told:
            raise Corrupt(
                "backup_corrupt",
                f"The backup is not whole: {name} is missing or has other bytes.",
                "Nothing was changed. Use another backup.",
            )
    if any(p and p.exists() for p in (paths.catalog, jobs, paths.root / "users", paths.remote)):
        raise Refused(
            "data_there",
            f"{paths.root} holds data already.",
            "Move it away first, or set QUIRE_DATA_DIR to a new directory.",
        )
    for name in files:
        target = jobs if name == "jobs.sqlite" and jobs else paths.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target)
    return len(files)


def _listed(source: Path) -> Mapping[str, tuple[str, int]]:
    try:
        told = json.loads((source / LIST).read_bytes())["files"]
        files = {str(name): (str(sha), int(size)) for name, (sha, size) in told.items()}
        fine = not any(Path(name).is_absolute() or ".." in Path(name).parts for name in files)
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        fine, files = False, {}
    if not fine:
        raise InputError(
            "no_backup",
            f"{source} is no backup, or one that was not finished.",
            f"It has no {LIST}.",
        )
    return files


def _files(top: Path) -> Iterator[str]:
    for path in sorted(top.rglob("*")):
        if path.is_file():
            yield path.relative_to(top).as_posix()


def _copy_database(path: Path, to: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(path, timeout=30)) as source,
        contextlib.closing(sqlite3.connect(to)) as target,
    ):
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # all of it is in the one file


def _unmark(copy: Paths) -> None:
    """Who was saved between the copies of their rows and of BASE.json is not proved to go on from there:
    for them a restored Quire asks the stores."""
    with contextlib.closing(sqlite3.connect(copy.catalog)) as database, database:
        for user, marked in database.execute("SELECT user, sha256 FROM marks").fetchall():
            content = base.raw(copy, user)
            if content is None or digest(content) != marked:
                database.execute("UPDATE marks SET sha256 = NULL WHERE user = ?", [user])


def _copy(path: Path, to: Path) -> None:
    """A file, or all files below; those that go meanwhile are in what is copied later."""
    if path.is_dir():
        for name in _files(path):
            _copy(path / name, to / name)
        return
    with contextlib.suppress(FileNotFoundError):
        if path.suffix != ".tmp":
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to)


def _copy_remote(top: Path, to: Path) -> None:
    """Each user's newest generation with all that it names, and its manifest at last."""
    _copy(top / NAME, to / NAME)
    for folder in sorted((top / "users").glob("*")):
        newest = folder / "manifest.json"
        for _ in range(_TRIES):  # another one may be saved meanwhile, and files of this one deleted
            if not newest.exists():
                break
            raw = newest.read_bytes()
            found = manifests.load(raw, user=folder.name)
            needed = [*(r.path for r in found.retired), *(f.path for f in found.needs())]
            for path in (*needed, *(f.path for f in found.kept)):  # the first are the first to go
                name = named(folder.name, path)
                if not (to / name).exists():
                    _copy(top / name, to / name)
            if all((to / named(folder.name, path)).exists() for path in needed):
                for path in ("manifest.json", kept_path(found.generation, digest(raw))):
                    atomic_write(to / named(folder.name, path), raw)
                break
        else:
            raise Corrupt(
                "backup_incomplete",
                f"Files that the newest generation of {folder.name} names are not in the store.",
                "See `python -m pipeline verify`, and `repair`.",
            )
