"""Commands over the stores, for the operator: verify, repair, restore, prune, erase, import.

All but `verify` and `prune` change this machine's data and want the worker stopped. Each prints a
line per user. Knows nothing of jobs.
"""

import argparse
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from errors import InputError, NotFound, QuireError, Refused
from pipeline.jobs.queue import catalog_url
from pipeline.worker.__main__ import remotes
from settings import Settings, at_start
from storage import backup
from storage.catalog.catalog import Catalog
from storage.catalog.tokens import Accounts
from storage.generations import erase, repair, verify
from storage.generations.compose import Wish
from storage.generations.lease import Lease
from storage.live import foreign_chroma, journal, seal
from storage.live.build_chroma import record_of
from storage.live.workspace import Space
from storage.paths import Paths
from storage.remotes.remote import Remote
from storage.stores import Stores, open_stores

_BATCH = 500


def add_to(commands: Any) -> None:
    """The subcommands of `python -m pipeline`."""
    for name, run, text in (
        ("verify", _verify, "hash every saved byte; exit 1 when one is wrong"),
        ("repair", _repair, "put right what is damaged, from the other remote or this machine"),
        ("restore", _restore, "build this machine's live stores anew"),
        ("prune", _prune, "drop older generations and histories"),
        ("erase", _erase, "remove a user from everywhere"),
        ("import", _import, "records of a Chroma directory into a collection"),
        ("backup", _backup, "copy this data directory, also while Quire runs"),
        ("accept-secret", _accept_secret, "go on with the secret that is set now"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        command.add_argument("--user", required=name in {"erase", "import"}, help="a user key")
        if name in {"verify", "restore"}:
            command.add_argument("--from", dest="remote", help="hub, s3 or local; else all")
        if name == "backup":
            command.add_argument("directory", type=Path)
        if name == "restore":
            command.add_argument("--backup", type=Path, help="a directory that `backup` wrote")
        if name == "import":
            command.add_argument("directory", type=Path)
            command.add_argument("--collection", required=True)
            command.add_argument("--model", help="when the directory does not name it")


def _verify(arguments: argparse.Namespace) -> int:
    bad = 0
    with _opened(arguments) as (stores, _):
        for remote in _chosen(stores, arguments):
            for user in [arguments.user] if arguments.user else verify.users_of([remote]):
                found = list(verify.verify(remote, user))
                bad += _print_damage(user, found, whole=f"{remote.name} {user} whole")
        for user in [] if arguments.remote else _users(arguments, stores):
            bad += _print_damage(user, list(verify.local(stores.replication, user)), whole="")
    return 1 if bad else 0


def _repair(arguments: argparse.Namespace) -> int:
    left = 0
    with _alone(arguments) as (stores, _):
        for user in _users(arguments, stores):
            found = repair.repair(stores.restore, stores.workspaces, user)
            left += _print_damage(user, found, whole=f"{user} whole")
    return 1 if left else 0


def _restore(arguments: argparse.Namespace) -> int:
    """`--from` reads that remote alone: also the drill that proves a mirror is enough."""
    failed = 0
    if arguments.backup:
        settings, paths = _settings(any_secret=True)
        with _worker_stopped(paths):
            count = backup.restore(paths, settings.jobs_file, arguments.backup)
        print(f"{count} files")
        return 0
    with _alone(arguments) as (stores, catalog):
        chosen = _chosen(stores, arguments)
        if arguments.remote:
            stores = open_stores(stores.replication.paths, catalog, chosen[0], patience=3600)
        for user in _users(arguments, stores):
            began = time.monotonic()
            clean = stores.replication.paths.clean(user)
            held = seal.read(clean)
            clean.unlink(missing_ok=True)
            try:
                with stores.workspaces.open(user) as workspace:
                    records = workspace.records_now()
            except QuireError as problem:
                failed = 1
                print(f"{user} {problem.code}: {problem}")
                if held is not None:
                    seal.write(clean, held)  # the store is as it was, and `repair` may need it
                continue
            generation = stores.replication.status(user).saved_generation
            seconds = time.monotonic() - began
            print(f"{user} generation {generation}, {records} records, {seconds:.1f} s")
        stores.workspaces.close()
    return failed


def _prune(arguments: argparse.Namespace) -> int:
    with _alone(arguments) as (stores, _):
        there = verify.users_of(stores.replication.remotes)
        for user in [arguments.user] if arguments.user else there:
            stores.replication.save(user, Wish(erase=True))
            stores.workspaces.renew(user)
            _print_gone(user, erase.forget(stores.replication, [user]))
    return 0


def _erase(arguments: argparse.Namespace) -> int:
    with _alone(arguments) as (stores, catalog):
        gone = erase.erase_user(stores.replication, stores.workspaces, arguments.user)
        with closing(Accounts(catalog_url(*_settings()))) as accounts:
            accounts.forget(arguments.user)
        _print_gone(arguments.user, gone)
    return 1 if any(g.by is None for g in gone) else 0


def _import(arguments: argparse.Namespace) -> int:
    with _alone(arguments) as (stores, catalog):
        count = import_chroma(
            stores,
            catalog,
            arguments.user,
            arguments.collection,
            arguments.directory,
            arguments.model,
        )
        print(f"{count} records")
    return 0


def import_chroma(
    stores: Stores,
    catalog: Catalog,
    user: str,
    title: str,
    directory: Path,
    model: str | None = None,
) -> int:
    """Every record of a Chroma directory into one collection, saved; how many.

    The model is the one that its collections name, else `model`; vectors of two models, or of two
    lengths, are refused, and nothing is written then.
    """
    rows = list(foreign_chroma.read(directory))
    models = {str((r.metadata or {}).get("model") or model or "") for r in rows}
    if not rows or models == {""} or len(models) > 1 or len({len(r.embedding) for r in rows}) > 1:
        raise InputError(
            "import_mixed",
            "The records do not all come from one model that is known.",
            "Name it, and import one model's collections at a time.",
        )
    made = catalog.create_collection(user, title)
    space = Space(
        collection=made.id, title=made.title, model=models.pop(), dimension=len(rows[0].embedding)
    )
    with stores.workspaces.open(user) as workspace:
        for start in range(0, len(rows), _BATCH):
            workspace.upsert(space, list(map(record_of, rows[start : start + _BATCH])))
    catalog.set_model(user, made.id, space.model)
    stores.replication.save(user)
    return len(rows)


def _backup(arguments: argparse.Namespace) -> int:
    settings, paths = _settings()
    count = backup.backup(paths, settings.jobs_file, arguments.directory)
    print(f"{count} files")
    if settings.jobs_file is None:
        print("the rows are in PostgreSQL: back them up with pg_dump, before this")
    return 0


def _accept_secret(arguments: argparse.Namespace) -> int:
    """What other secrets' keys were made for stays where it is, and nobody finds it."""
    settings, paths = _settings(any_secret=True)
    with _worker_stopped(paths):
        instance = journal.instance(paths)
        for remote in [r for r in remotes(settings, paths) if r]:
            lease = Lease(instance, 0.0, tuple, paths.lease, key=settings.key_id)
            lease.term = lease.look([remote])
            lease.write(remote, lease.next(over=True))
        paths.key_id.write_text(settings.key_id, encoding="ascii")
    print("accepted")
    return 0


def _settings(*, any_secret: bool = False) -> tuple[Settings, Paths]:
    settings = at_start(os.environ, any_secret=any_secret)
    paths = Paths(settings.data_dir)
    paths.run.mkdir(parents=True, exist_ok=True)
    return settings, paths


@contextmanager
def _opened(
    arguments: argparse.Namespace, *, alone: bool = False
) -> Iterator[tuple[Stores, Catalog]]:
    settings, paths = _settings()
    if arguments.user:
        paths.user(arguments.user)
    catalog = Catalog(catalog_url(settings, paths), alone=alone)
    stores = open_stores(paths, catalog, *remotes(settings, paths), patience=3600)
    try:
        yield stores, catalog
    finally:
        stores.workspaces.close()
        catalog.close()


@contextmanager
def _alone(arguments: argparse.Namespace) -> Iterator[tuple[Stores, Catalog]]:
    _, paths = _settings()
    with _worker_stopped(paths), _opened(arguments, alone=True) as (stores, catalog):
        yield stores, catalog


@contextmanager
def _worker_stopped(paths: Paths) -> Iterator[None]:
    with (paths.run / "jobs.lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            raise Refused(
                "worker_running",
                "The worker uses this data directory.",
                "Stop Quire first, or use another QUIRE_DATA_DIR.",
            ) from problem
        yield


def _chosen(stores: Stores, arguments: argparse.Namespace) -> list[Remote]:
    there = list(stores.replication.remotes)
    if not arguments.remote:
        return there
    found = [r for r in there if r.name == arguments.remote]
    if not found:
        raise NotFound(
            "remote_not_found",
            f"There is no remote {arguments.remote} here.",
            f"Use {' or '.join(r.name for r in there)}.",
        )
    return found


def _users(arguments: argparse.Namespace, stores: Stores) -> list[str]:
    return [arguments.user] if arguments.user else verify.users_known(stores.replication)


def _print_damage(user: str, found: Sequence[verify.Damage], *, whole: str) -> int:
    for one in found:
        told = "nothing saved for it" if one.code == "nothing_saved" else f"{one.path}: {one.code}"
        print(f"{one.remote} {user} {told}")
    if whole and not found:
        print(whole)
    return len(found)


def _print_gone(user: str, gone: list[erase.Gone]) -> None:
    for place in gone:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(place.by)) if place.by else "not yet"
        print(f"{user} {place.where}: gone by {when} {place.reason or ''}".rstrip())
