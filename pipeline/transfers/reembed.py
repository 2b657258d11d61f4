"""A collection made anew for another embedding model from the documents that it holds: nothing is
partitioned again.

The old index answers until the new one is whole; then they change places in one step. Vectors are
files as soon as they are made, so that a killed worker computes none of them twice. Knows nothing of
jobs or models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.ingest.embed import Encode
from storage.atomic_write import atomic_write
from storage.live import segments
from storage.live.chroma import BATCH
from storage.live.open_stores import Workspaces
from storage.live.segments import Row
from storage.live.workspace import Space

PART = 2048  # records whose vectors are made, kept and lost together
_INSERTED = 250  # at once, while searches wait: less than half a second

Report = Callable[[int, int], None]  # done, total; raises to end it


def reembed(
    workspaces: Workspaces, user: str, space: Space, encode: Encode, kept: Path, report: Report
) -> int:
    """How many records the collection has once it is `space`'s. `kept` is a folder for vectors that
    an interrupted call finds again; whatever ends it early leaves the old index as it was."""
    collection = space.collection
    files = _kept(kept, space.model)
    try:
        while True:
            with workspaces.open(user) as workspace:
                workspace.prepare(space, {})
                missing = workspace.unprepared(collection)
                total = workspace.count(collection)
                report(total - len(missing), total)
                if not missing and workspace.switch(collection):
                    return total
            done = total - len(missing)
            for vectors in _vectors(workspaces, user, space, encode, kept, files, missing):
                for some in _parts(list(vectors), _INSERTED):
                    with workspaces.open(user) as workspace:
                        workspace.prepare(space, {i: vectors[i] for i in some})
                done += len(vectors)
                report(done, total)
    finally:
        with workspaces.open(user) as workspace:
            workspace.abandon(collection)  # nothing is left of it once it is switched


def _vectors(
    workspaces: Workspaces,
    user: str,
    space: Space,
    encode: Encode,
    kept: Path,
    files: dict[str, Path],
    ids: Sequence[str],
) -> Iterator[Mapping[str, Sequence[float]]]:
    """A vector per id: first those that were kept, then those that are made now and kept."""
    there = {files[i] for i in ids if i in files}
    wanted = set(ids)
    for path in sorted(there):
        yield {r.id: r.embedding for r in segments.decode(path) if r.id in wanted}
    for part in _parts([i for i in ids if i not in files], PART):
        texts: dict[str, str] = {}
        for some in _parts(part, BATCH):
            with workspaces.open(user) as workspace:
                held = workspace.get(space.collection, ids=some)
            texts |= {r.id: r.searched for r in held}
        made = dict(zip(texts, encode(list(texts.values())), strict=True))
        path = _write(kept, space.model, made)
        files |= dict.fromkeys(made, path)
        yield made


def _write(folder: Path, model: str, vectors: Mapping[str, Sequence[float]]) -> Path:
    last = max((int(p.stem.split("-")[1]) for p in folder.glob("vectors-*.parquet")), default=0)
    path = folder / f"vectors-{last + 1:05d}.parquet"
    rows = (Row(op="put", collection=model, id=i, embedding=v) for i, v in vectors.items())
    atomic_write(path, segments.encode(rows))
    return path


def _kept(folder: Path, model: str) -> dict[str, Path]:
    """Which file holds an id's vector of that model, at the commit it has now."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("vectors-*.parquet")):
        ids = [r.id for r in segments.decode(path) if r.collection == model]
        if not ids:
            path.unlink()
        found |= dict.fromkeys(ids, path)
    return found


def _parts(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
