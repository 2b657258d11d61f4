"""A collection's records as Parquet shards of a dataset, written and read in bounded memory.

Columns: `id, document, embedding list<float32>, filename, page, element_type, metadata (JSON)`; the
three in the middle repeat what the metadata says, for whoever looks at the table. What is read comes
from anybody: schema, counts, sizes and values are checked before a row is believed.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.live.chroma import BATCH, Record
from storage.live.record_metadata import exported, unreadable

MAX_RECORDS = 500_000
MAX_DECODED = 2 << 30  # bytes of a shard
SHARD = 50_000  # records per file
_COLUMNS = [
    ("id", pa.string()),
    ("document", pa.string()),
    ("embedding", pa.list_(pa.float32())),
    ("filename", pa.string()),
    ("page", pa.int32()),
    ("element_type", pa.string()),
    ("metadata", pa.string()),
]
_SCHEMA = pa.schema(_COLUMNS)
_NEEDED = {"id", "document", "embedding", "metadata"}


def write(folder: Path, batches: Iterable[Sequence[Record]]) -> list[Path]:
    """`train-00000.parquet` and so on; a batch becomes a row group."""
    shards: list[Path] = []
    writer: Any = None
    held = 0
    for batch in batches:
        if writer is None or held + len(batch) > SHARD:
            if writer is not None:
                writer.close()
            shards.append(folder / f"train-{len(shards):05d}.parquet")
            writer, held = _writer(shards[-1]), 0
        writer.write_table(_table(batch))
        held += len(batch)
    if writer is None:
        shards.append(folder / "train-00000.parquet")
        writer = _writer(shards[-1])
        writer.write_table(_table(()))
    writer.close()
    return shards


def read(shard: Path, most_bytes: int = MAX_DECODED) -> Iterator[list[Record]]:
    """Records in batches, as they were written; InputError when anything in them is not right, or when
    they are more than `most_bytes` in memory: a value that repeats is hardly anything in the file."""
    left = most_bytes
    try:
        with pq.ParquetFile(shard) as file:
            _check(file)
            wanted = [n for n in file.schema_arrow.names if n in _NEEDED]
            for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
                left -= batch.nbytes
                if left < 0:
                    raise unreadable("it is too large when unpacked")
                yield [_record(row) for row in batch.to_pylist()]
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError) as problem:
        raise unreadable("it cannot be read") from problem


def _writer(path: Path) -> Any:
    return pq.ParquetWriter(
        path,
        _SCHEMA,
        compression="zstd",
        use_dictionary=False,
        use_byte_stream_split=["embedding.list.element"],
    )


def _table(batch: Sequence[Record]) -> Any:
    data = [r.metadata for r in batch]
    columns = {
        "id": [r.id for r in batch],
        "document": [r.document for r in batch],
        "embedding": [list(r.embedding) for r in batch],
        "filename": [m.get("filename") for m in data],
        "page": [m.get("page") for m in data],
        "element_type": [m.get("element_type") for m in data],
        "metadata": [json.dumps(dict(m), ensure_ascii=False, sort_keys=True) for m in data],
    }
    return pa.table(columns, schema=_SCHEMA)


def _check(file: Any) -> None:
    if file.metadata.num_rows > MAX_RECORDS:
        raise unreadable(f"it has more than {MAX_RECORDS:,} records")
    found = {f.name: f.type for f in file.schema_arrow}
    for name, kind in _COLUMNS:
        if name in _NEEDED and found.get(name) != kind:
            raise unreadable(f"its column {name} is missing or of another type")


def _record(row: dict[str, Any]) -> Record:
    metadata = json.loads(row["metadata"] or "{}")
    if not isinstance(metadata, dict):
        raise unreadable("a record has no proper metadata")
    return exported(
        Record(
            id=row["id"] or "",
            document=row["document"] or "",
            embedding=row["embedding"] or [],
            metadata=metadata,
        )
    )
