"""A draft: one user's next generation, composed from the head, the journal and the catalogue.

Nothing is sent from here. Knows the layout of a user's folder in a remote, and what of older
generations is kept how long.
"""

import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from storage import elements_folder
from storage.catalog.catalog import Catalog, JobRow, SourceRow
from storage.files import crops_of, is_named_by_content, opened
from storage.generations import base, reader, saved_jobs
from storage.generations import manifest as manifests
from storage.generations.manifest import File, Manifest, Published, Retired
from storage.generations.merge_catalog import entry_of, source_of
from storage.generations.reader import Found
from storage.live import journal, segments
from storage.live.closed_copy import Copy, members
from storage.live.segments import Row
from storage.names import ElementsFile, is_one
from storage.paths import Paths

KEEP = 10
COMPACT_ABOVE = 32
_TOMBSTONES = 4000  # the newest ones are told
_INSTANCES = 8
Contents = Callable[[str, File], bytes]
Files = dict[str, Path | bytes]
Known = dict[str, File]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a save is to do besides saving: publish a `copy`; `erase`, which
    also keeps no older generation; `erase_user`, which leaves an empty one; note that older
    versions are `forgotten`; or write the `whole` state of the live store again, the journal included,
    above everything that was there. What is `damaged` of the newest generation (by path, the code of the
    error) is made anew, or left out."""

    copy: Copy | None = None
    erase: bool = False
    erase_user: bool = False
    forgotten: bool = False
    whole: tuple[Row, ...] | None = None
    above: int = 0
    damaged: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Ready to be committed; `journal` are the files that it ships. It holds the first `changes` of the
    catalogue's rows; None when originals are left for the next one."""

    user: str
    manifest: Manifest
    raw: bytes
    files: Files
    deletes: frozenset[str]
    journal: tuple[Path, ...]
    changes: int | None = None
    erased: bool = False
    overwrite: bool = False


def compose(
    paths: Paths,
    catalog: Catalog,
    head: Found | None,
    user: str,
    wish: Wish,
    keep: int,
    contents: Contents,
) -> Draft | None:
    """None when nothing has changed since `head`. `contents` reads a verified segment. The catalogue's
    rows go on from `head`: what it holds and they lack was deleted (`rebase`)."""
    old = head.manifest if head else None
    changes = catalog.mark(user).changes
    if wish.erase_user and not (old and (old.collections or old.needs() or old.kept)):
        return None  # a visitor who left nothing behind
    generation = max(old.generation if old else 0, wish.above) + 1
    writer = journal.instance(paths)
    shipped = old.shipped_by(writer) if old else ""
    for late in paths.pending(user).glob("*.parquet"):
        if late.name <= shipped:
            late.unlink()  # a generation holds it; the process died before it could be removed
    ships = _ships(paths, user, wish, shipped)
    files: Files = {}
    published = old.published if old else None
    rows = list(journal.rows(ships)) if wish.whole is None else []
    kept = list(old.segments) if old else []
    if wish.erase_user:
        kept, published = [], None
    elif wish.whole is not None:
        published, kept = None, [_segment(wish.whole, generation, files)] if wish.whole else []
    elif wish.erase or (rows and len(kept) >= COMPACT_ABOVE):
        kept = _compacted(user, kept, published, wish, generation, contents, files, rows)
        published = None if wish.erase else published
    elif rows:
        kept.append(_segment(rows, generation, files))
    sources = [] if wish.erase_user else catalog.sources(user)
    jobs = [] if wish.erase_user else saved_jobs.saved_jobs(catalog, user)
    known = {f.path: f for f in old.files} if old else {}
    unharmed = {p: f for p, f in known.items() if p not in wish.damaged}
    if published and any(f.path in wish.damaged for f in published.files):
        published = None
    held = _held(paths, user, sources, known, files)
    working, left = _jobs(paths, user, jobs, unharmed, files)
    held |= working
    if wish.copy:
        published = _published(wish.copy, generation, files)
    new = Manifest(
        user=user,
        generation=generation,
        parent=reader.digest(head.raw) if head else None,
        created_at=time.time(),
        writer=writer,
        collections=()
        if wish.erase_user
        else tuple(entry_of(c) for c in catalog.collections(user)),
        sources=tuple(source_of(s) for s in sources),
        segments=tuple(kept),
        files=tuple(held[p] for p in sorted(held)),
        published=published,
        erased_at=time.time() if wish.erase_user else _erased_at(paths, old, user),
        shipped=_shipped(old, writer, _holds(paths, user, ships, wish)),
        gone=() if wish.erase_user else tuple(catalog.tombstones(user).items())[-_TOMBSTONES:],
    )
    anew = wish.erase or wish.whole is not None or bool(wish.damaged)
    if old and _same(old, new) and not anew:
        return None
    if (
        old is None
        and not anew
        and _same(Manifest(user=user, generation=0, parent=None, created_at=0), new)
    ):
        return None
    erases = wish.erase or wish.erase_user
    if not erases:
        new = replace(new, forgetting=_marks(head, new, rows))
    new, deletes = _retire(head, new, 1 if erases else keep, wish)
    raw = manifests.dump(new)
    files[reader.kept_path(new.generation, reader.digest(raw))] = raw
    return Draft(
        user=user,
        manifest=new,
        raw=raw,
        files=files,
        deletes=deletes,
        journal=ships,
        changes=None if left else changes,
        erased=wish.erase_user,
        overwrite=bool(wish.damaged) or any(r.path in files for r in (old.retired if old else ())),
    )


def _marks(head: Found | None, new: Manifest, rows: Sequence[Row]) -> tuple[str, ...]:
    """Names that hold what was deleted until it is erased: a segment for records, and the manifest before
    for a source or a collection, which may have had none."""
    old = head.manifest if head else None
    before = old.segments if old else ()
    folded = {f.path for f in before} - {f.path for f in new.segments}
    again = old is not None and not folded.isdisjoint(old.forgetting)
    marks = []
    if again or any(row.op != "put" for row in rows):
        marks.append((*before, *new.segments)[-1].path)
    if head and dict(new.gone or ()) != dict(head.manifest.gone or ()):
        marks.append(reader.kept_copy(head).path)
    return tuple(marks)


def _same(old: Manifest, new: Manifest) -> bool:
    return all(
        getattr(old, part) == getattr(new, part)
        for part in ("collections", "sources", "segments", "files", "published", "erased_at")
    )


def _ships(paths: Paths, user: str, wish: Wish, shipped: str) -> tuple[Path, ...]:
    """The files of the journal that this generation holds."""
    if wish.whole is not None:  # a store that went back says less than was shipped
        return tuple(journal.pending(paths, user))
    ships = tuple(journal.proved(paths, user, shipped))
    if wish.copy is None:
        return ships
    copied = tuple(p for p in wish.copy.journal if p.name > shipped)
    if lost := [p.name for p in copied if p not in ships]:
        raise journal.damaged(lost)
    return copied


def _erased_at(paths: Paths, old: Manifest | None, user: str) -> float | None:
    """Also when the store has gone back behind it."""
    known = base.manifest(paths, user)
    told = [m.erased_at for m in (old, known) if m and m.erased_at]
    return max(told, default=None)


def _holds(paths: Paths, user: str, ships: Sequence[Path], wish: Wish) -> set[str]:
    """The names of these files, and of all that a whole live store holds."""
    names = {p.name for p in ships}
    return names if wish.whole is None else names | journal.known(paths, user)


def _shipped(
    old: Manifest | None, writer: str, holds: Iterable[str]
) -> tuple[tuple[str, str], ...]:
    known = dict(old.shipped) if old else {}
    last = max([known.pop(writer, ""), *holds])
    return (*list(known.items())[1 - _INSTANCES :], *([(writer, last)] if last else ()))


def _segment(rows: Sequence[Row], generation: int, files: Files) -> File:
    content = segments.encode(rows)
    sha = reader.digest(content)
    path = f"segments/{generation:08d}-{sha[:16]}.parquet"
    files[path] = content
    return File(path=path, sha256=sha, bytes=len(content), rows=len(rows), generation=generation)


def _compacted(
    user: str,
    kept: Sequence[File],
    published: Published | None,
    wish: Wish,
    generation: int,
    contents: Contents,
    files: Files,
    rows: Sequence[Row],
) -> list[File]:
    """What the published directory holds becomes one segment of its generation, what came later
    another, so that the later ones can still be applied to it."""
    at = published.generation if published and not wish.erase else 0
    early = [r for f in kept if f.generation <= at for r in segments.decode(contents(user, f))]
    late = [r for f in kept if f.generation > at for r in segments.decode(contents(user, f))]
    late += rows
    later = segments.condense(late) if early else _folded(late)
    return [
        _segment(part, label, files)
        for part, label in ((_folded(early), at), (later, generation))
        if part
    ]


def _folded(rows: Sequence[Row]) -> list[Row]:
    return [r for collection in segments.fold(rows).values() for r in collection.values()]


def _published(copy: Copy, generation: int, files: Files) -> Published:
    held = []
    for name, path in members(copy.directory).items():
        target = f"chroma/{generation:08d}/{name}"
        files[target] = path
        sha, size = reader.measure(path)
        held.append(File(path=target, sha256=sha, bytes=size, generation=generation))
    return Published(generation=generation, records=copy.records, files=tuple(held))


def _held(
    paths: Paths, user: str, sources: Sequence[SourceRow], known: Known, files: Files
) -> Known:
    """Originals and elements of the sources, each once per content; new ones go into `files`."""
    held: Known = {}
    archives = archived(known)
    for source in sources:
        folder = paths.elements(user, source.sha256, source.version)
        for path, build in (
            (source_path(source.sha256), _original),
            (_newest(archives, source.sha256, source.version, folder), _elements),
        ):
            if path in held:
                continue
            if path in known:
                held[path] = known[path]
                continue
            content = build(paths, user, source)
            if content is not None:
                held[path] = _file(path, content, files)
    return held


def _newest(archives: Mapping[str, str], sha256: str, version: str, folder: Path) -> str:
    """The archive that is saved, or the next one when pages were read again since, and are whole."""
    edition = elements_folder.edition(folder)
    saved = archives.get(elements_path(sha256, version))
    if saved and (edition_of(saved) >= edition or not elements_folder.is_whole(folder)):
        return saved
    return elements_path(sha256, version, edition)


def _jobs(
    paths: Paths, user: str, rows: Sequence[JobRow], known: Known, files: Files
) -> tuple[Known, bool]:
    """The jobs, and what unfinished ones need to go on elsewhere: their original, and the batches
    that are done, those since the last save in an archive of their own. True when there are more
    originals than one save takes."""
    if not rows:
        return {}, False
    told = saved_jobs.dump(rows)
    name = f"jobs/{reader.digest(told)[:32]}.json"
    held = {name: known.get(name) or _file(name, told, files)}
    fresh, left, archives = 0, False, archived(known)
    for work in saved_jobs.works(rows):
        path, original = source_path(work.sha256), paths.source(user, work.sha256)
        if path in known:
            held[path] = known[path]
        elif path not in files and is_named_by_content(original):
            if fresh == saved_jobs.ORIGINALS_AT_ONCE:
                left = True
                continue
            held[path] = _file(path, original, files)
            fresh += 1
        if work.version is None or elements_path(work.sha256, work.version) in archives:
            continue
        top = saved_jobs.part_folder(work.sha256, work.version)
        held.update({p: f for p, f in known.items() if p.startswith(top)})
        folder = paths.elements(user, work.sha256, work.version)
        part = saved_jobs.next_part(folder, top, held)
        if part is not None:
            made = _zipped(paths, user, paths.saving(user) / f"{folder.name}-part.zip", part[1])
            held[part[0]] = _file(part[0], made, files)
    return held, left


def _file(path: str, content: Path | bytes, files: Files) -> File:
    sha, size = reader.measure(content)
    files[path] = content
    return File(path=path, sha256=sha, bytes=size)


def source_path(sha256: str) -> str:
    return f"sources/{sha256}.pdf"


def elements_path(sha256: str, version: str, edition: int = 0) -> str:
    """A name is written once: pages that were read again make another edition."""
    return f"elements/{sha256}-{version}{f'.{edition}' if edition else ''}.zip"


def archived(saved: Iterable[str]) -> dict[str, str]:
    """The archives of elements among these files, by the name of their first edition."""
    found = (p for p in saved if p.startswith("elements/") and p.count("/") == 1)
    return {f"{p.split('.')[0]}.zip": p for p in sorted(found, key=edition_of)}


def edition_of(path: str) -> int:
    number = path.removesuffix(".zip").partition(".")[2]
    return int(number) if number.isdigit() else 0


def _original(paths: Paths, user: str, source: SourceRow) -> Path | None:
    path = paths.source(user, source.sha256)
    return path if is_named_by_content(path) else None


def _elements(paths: Paths, user: str, source: SourceRow) -> Path | None:
    return archive(paths, user, paths.elements(user, source.sha256, source.version))


def archive(paths: Paths, user: str, folder: Path) -> Path | None:
    """Elements and crops of one source in one stored zip: the same bytes each time. None when they are
    not there, or damaged."""
    members = [p for p in sorted(folder.glob("*")) if is_one(ElementsFile, p.name)]
    if not members or not elements_folder.is_whole(folder):
        return None
    return _zipped(paths, user, paths.saving(user) / f"{folder.name}.zip", members)


def _zipped(paths: Paths, user: str, target: Path, members: Sequence[Path]) -> Path:
    """These files, and the crops that they list, stored: the same bytes each time."""
    found = {f"elements/{p.name}": p for p in members}
    for listed in (p for p in members if p.suffix == ".crops"):
        crops = {f"crops/{name}": paths.crop(user, name) for name in crops_of(listed)}
        found |= {name: crop for name, crop in crops.items() if is_named_by_content(crop)}
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as written:
        for name, path in found.items():
            with opened(path) as file:
                if file is not None:
                    written.writestr(zipfile.ZipInfo(name), file.read())
    return target


def _retire(
    head: Found | None, new: Manifest, keep: int, wish: Wish
) -> tuple[Manifest, frozenset[str]]:
    """What the older generations that are kept still need stays; the rest is deleted."""
    if head is None:
        return new, frozenset()
    old = head.manifest
    needed = {f.path for f in new.needs()}
    dropped = {f.path for f in (*old.segments, *old.files)} - needed
    retired = [
        *(r for r in old.retired if r.path not in needed),
        *(Retired(path=p, generation=old.generation) for p in sorted(dropped)),
    ]
    readable = [f for f in (*old.kept, reader.kept_copy(head)) if f.path not in wish.damaged]
    kept = readable[-(keep - 1) :] if keep > 1 else []
    oldest = new.generation - keep
    published = {f.path for f in old.published.files} - needed if old.published else set()
    deletes = (
        published
        | {r.path for r in retired if r.generation <= oldest}
        | {f.path for f in readable[: len(readable) - len(kept)]}
    )
    left = sorted(old.unerased()) if wish.forgotten else old.forgetting
    forgetting = [*new.forgetting, *left]
    if wish.erase or wish.erase_user:
        forgetting = sorted({*forgetting, *deletes} - needed)
    deletes |= {f.path for f in old.kept if f.path in wish.damaged}
    deletes -= {path for path, code in wish.damaged.items() if code == "not_in_store"}
    made = replace(
        new,
        kept=tuple(kept),
        retired=tuple(r for r in retired if r.generation > oldest),
        forgetting=tuple(forgetting),
    )
    return made, frozenset(deletes)
