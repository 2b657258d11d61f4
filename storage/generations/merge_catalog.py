"""Going on from a generation: catalogue rows and a manifest become one, and nothing is lost to either.

`base` is what the rows are proved to go on from, `mine` the rows, `theirs` the newest generation. What
one of them lacks without a tombstone was lost there, or is new in the other: it was not deleted. Records
need no merge: segments are applied in order, and this instance's own come after. Knows no remote.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, replace
from typing import TypeVar

from storage.catalog.catalog import Catalog, Collection, SourceRow, tombstone
from storage.generations.manifest import CollectionEntry, Manifest, SourceEntry

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def merged(
    base: Mapping[Key, Value],
    mine: Mapping[Key, Value],
    theirs: Mapping[Key, Value],
    choose: Callable[[Value, Value], Value],
) -> dict[Key, Value]:
    """What one side alone has or changed is taken, and `choose(mine, theirs)` where both changed it."""
    found: dict[Key, Value] = {}
    for key in dict.fromkeys((*theirs, *mine)):
        was, ours, other = base.get(key), mine.get(key), theirs.get(key)
        if ours is not None and other is not None:
            found[key] = other if ours == was else ours if other == was else choose(ours, other)
        elif (value := other if ours is None else ours) is not None:
            found[key] = value
    return found


def rebase(catalog: Catalog, user: str, base: Manifest | None, theirs: Manifest) -> bool:
    """Bring the catalogue to where `theirs` is, with what it alone has on top; whether a row came or
    went. Without a `base` the rows may be older than `theirs`, which then counts."""
    since = theirs.erased_at or 0.0
    if base and base.erased_at == theirs.erased_at:
        since = 0.0
    # Rows, then tombstones: what is deleted in between has one.
    here = {c.id: c for c in catalog.collections(user)}
    rows = {(s.collection, s.sha256): s for s in catalog.sources(user)}
    catalog.bury(user, dict(theirs.gone or ()))
    gone = catalog.tombstones(user)
    before = base if theirs.gone is None else None  # its writer knew of no tombstones

    def lives(created_at: float, collection: str, sha256: str = "") -> bool:
        return created_at > gone.get(tombstone(collection, sha256), -1.0)

    others = {i: c for i, c in _collections(theirs).items() if lives(c.created_at, i)}
    dropped = _collections(before).keys() - others.keys()
    mine = {
        i: entry_of(c)
        for i, c in here.items()
        if c.created_at >= since and lives(c.created_at, i) and i not in dropped
    }
    wanted = merged(_collections(base), mine, others, _mine if base else _saved)
    changed = False
    for identity, old in here.items():
        entry = wanted.get(identity)
        if entry is None:
            catalog.drop_collection(user, identity, deleted=False)
            changed = True
        elif entry.title != old.title and entry.title not in {c.title for c in here.values()}:
            catalog.rename_collection(user, identity, entry.title)
    for identity, entry in wanted.items():
        if identity not in here:
            catalog.restore_collection(user, Collection(**asdict(entry)))
            changed = True
        elif entry.model and entry.model != here[identity].model:
            catalog.set_model(user, identity, entry.model)
    saved = {k: s for k, s in _sources(theirs).items() if lives(s.created_at, *k)}
    out = _sources(before).keys() - saved.keys()
    kept = {
        k: source_of(s)
        for k, s in rows.items()
        if s.created_at >= since and lives(s.created_at, *k) and k not in out
    }
    found = merged(_sources(base), kept, saved, _mine if base else _newer)
    sources = {k: s for k, s in found.items() if k[0] in wanted}
    for key, source in sources.items():
        if kept.get(key) != source:
            catalog.put_source(user, SourceRow(**asdict(source)))
            changed = True
    for collection, sha256 in rows.keys() - sources.keys():
        catalog.drop_source(user, collection, sha256, deleted=False)
        changed = True
    return changed


def _mine(mine: Value, _: Value) -> Value:
    return mine


def _saved(mine: CollectionEntry, theirs: CollectionEntry) -> CollectionEntry:
    return replace(theirs, model=theirs.model or mine.model)


def _newer(mine: SourceEntry, theirs: SourceEntry) -> SourceEntry:
    return mine if mine.created_at > theirs.created_at else theirs


def entry_of(c: Collection) -> CollectionEntry:
    return CollectionEntry(id=c.id, title=c.title, model=c.model, created_at=c.created_at)


def source_of(row: SourceRow) -> SourceEntry:
    return SourceEntry(**asdict(row))


def _collections(manifest: Manifest | None) -> dict[str, CollectionEntry]:
    return {c.id: c for c in manifest.collections} if manifest else {}


def _sources(manifest: Manifest | None) -> dict[tuple[str, str], SourceEntry]:
    return {(s.collection, s.sha256): s for s in manifest.sources} if manifest else {}
