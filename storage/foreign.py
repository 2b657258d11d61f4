"""Somebody else's Chroma directory, read into rows.

Opening one writes to it, and a torn one can take the process down or fill the disk: so a copy is
opened, checked first, in a process of its own (`python -m storage.foreign FROM TO`).
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from errors import Corrupt, InputError
from storage import published, segments
from storage.chroma import VectorStore
from storage.segments import Row

_SECONDS = 600


def read(directory: Path) -> Iterator[Row]:
    """Every record of every collection. InputError when it is no Chroma directory, Corrupt when it
    cannot be read whole; nothing of it is changed."""
    database = directory / "chroma.sqlite3"
    if not database.is_file() or database.is_symlink():
        raise InputError(
            "not_chroma",
            "This is not a Chroma directory: there is no chroma.sqlite3.",
            "Name the folder that PersistentClient was given.",
        )
    with tempfile.TemporaryDirectory() as work:
        copy, out = Path(work) / "chroma", Path(work) / "rows.parquet"
        try:
            published.copy(directory, copy)
            subprocess.run(
                [sys.executable, "-m", "storage.foreign", str(copy), str(out)],
                cwd=Path(__file__).resolve().parent.parent,
                capture_output=True,
                timeout=_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as problem:
            raise _damaged() from problem
        yield from segments.decode(out)


def _damaged() -> Corrupt:
    return Corrupt(
        "chroma_damaged",
        "The Chroma directory is damaged, or of another version.",
        "Open it with the Chroma that made it, and export it again.",
    )


def dump(directory: Path, out: Path) -> None:
    """In the process of its own: every record with its vector, counted."""
    store = VectorStore(directory)
    rows: list[Row] = []
    for collection in store.collections():
        model, found = store.model(collection), store.get(collection, vectors=True)
        if len(found) != store.count(collection):
            raise _damaged()
        rows.extend(
            Row(
                op="put",
                collection=collection,
                id=r.id,
                document=r.document,
                metadata={**r.metadata, **({"model": model} if model else {})},
                embedding=r.embedding,
            )
            for r in found
        )
    store.close()
    out.write_bytes(segments.encode(rows))


if __name__ == "__main__":
    dump(Path(sys.argv[1]), Path(sys.argv[2]))
