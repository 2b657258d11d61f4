"""Going on from a generation that another instance saved: a three-way merge of catalogue rows.

`base` is what this instance last saw, `mine` its catalogue, `theirs` the newest generation. Records
need no merge: segments are applied in order, and this instance's own come after. Knows no remote.
"""

from collections.abc import Hashable, Mapping
from dataclasses import asdict
from typing import TypeVar

from storage.catalog.catalog import Catalog, Collection, SourceRow
from storage.generations.manifest import CollectionEntry, Manifest, SourceEntry

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def merged(
    base: Mapping[Key, Value], mine: Mapping[Key, Value], theirs: Mapping[Key, Value]
) -> dict[Key, Value]:
    """What one side alone changed is taken; where both did, mine, but nobody's row is deleted that
    the other one changed."""
    found: dict[Key, Value] = {}
    for key in dict.fromkeys((*theirs, *mine)):
        was, ours, other = base.get(key), mine.get(key), theirs.get(key)
        value = other if ours == was else ours if other == was else ours or other
        if value is not None:
            found[key] = value
    return found


def rebase(catalog: Catalog, user: str, base: Manifest | None, theirs: Manifest) -> None:
    """Bring the catalogue to where `theirs` is, with what it alone has on top."""
    since = theirs.erased_at or 0.0
    if base and base.erased_at == theirs.erased_at:
        since = 0.0
    here = {c.id: c for c in catalog.collections(user)}
    mine = {i: entry_of(c) for i, c in here.items() if c.created_at >= since}
    wanted = merged(_collections(base), mine, _collections(theirs))
    for identity, old in here.items():
        entry = wanted.get(identity)
        if entry is None:
            catalog.drop_collection(user, identity)
        elif entry.title != old.title and entry.title not in {c.title for c in here.values()}:
            catalog.rename_collection(user, identity, entry.title)
    for identity, entry in wanted.items():
        if identity not in here:
            catalog.restore_collection(user, Collection(**asdict(entry)))
        elif entry.model and entry.model != here[identity].model:
            catalog.set_model(user, identity, entry.model)
    rows = {(s.collection, s.sha256): s for s in catalog.sources(user)}
    kept = {k: source_of(s) for k, s in rows.items() if s.created_at >= since}
    sources = merged(_sources(base), kept, _sources(theirs))
    for key, source in sources.items():
        if key[0] in wanted and kept.get(key) != source:
            catalog.put_source(user, SourceRow(**asdict(source)))
    for collection, sha256 in rows.keys() - sources.keys():
        catalog.drop_source(user, collection, sha256)


def entry_of(c: Collection) -> CollectionEntry:
    return CollectionEntry(id=c.id, title=c.title, model=c.model, created_at=c.created_at)


def source_of(row: SourceRow) -> SourceEntry:
    return SourceEntry(**asdict(row))


def _collections(manifest: Manifest | None) -> dict[str, CollectionEntry]:
    return {c.id: c for c in manifest.collections} if manifest else {}


def _sources(manifest: Manifest | None) -> dict[tuple[str, str], SourceEntry]:
    return {(s.collection, s.sha256): s for s in manifest.sources} if manifest else {}
