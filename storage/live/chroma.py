"""One user's Chroma directory, open in this process. The only importer of chromadb.

Vectors are always given, never computed here: Chroma's own default model is kept out by
`embedding_function=None`, and what a directory names for it is never revived. Knows nothing of where
records come from or whether they are saved.
"""

import contextlib
import ctypes
import gc
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from errors import Conflict, Corrupt, NotFound

_PAGE = 5000
_NO_FUNCTION = {"legacy", "unknown"}  # what Chroma writes where there is none
_NEXT = ".quire-next"  # the end of the name of an index that is being made
BATCH = 500  # small batches hold Chroma's lock for less than a second
_BULK = 5000  # a fifth faster where nobody waits for the lock; Chroma's own limit is 5,461

# Of hnswlib's header as Chroma writes it: version, an offset, places, places taken, bytes of a place.
_HEADER = struct.Struct("<i4Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A row of a collection: `metadata` values are scalars or non-empty lists of one type."""

    id: str
    document: str
    embedding: Sequence[float]
    metadata: Mapping[str, Any]

    @property
    def searched(self) -> str:
        """What is embedded and looked through for words: its text, below what it stands below."""
        context = self.metadata.get("context")
        return f"{context}\n{self.document}" if context else self.document


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A record and its cosine distance to the query (0 = same direction)."""

    id: str
    distance: float
    document: str
    metadata: Mapping[str, Any]


def next_of(collection: str) -> str:
    """The name of an index that is made to take that collection's place."""
    return f"{collection}{_NEXT}"


def chroma_version() -> str:
    """A directory that another version has closed is rebuilt, not opened."""
    return metadata.version("chromadb")


def load() -> None:
    """Import Chroma, which takes a second or more: while nobody waits, rather than at a first touch."""
    import chromadb  # noqa: F401


class VectorStore:
    """An open Chroma directory; at most one process may hold it."""

    def __init__(self, directory: Path) -> None:
        import chromadb  # a second: here, off the way of a worker that starts
        from chromadb.config import Settings as ChromaSettings

        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._client: Any = chromadb.PersistentClient(
            path=str(directory.resolve()),
            settings=ChromaSettings(anonymized_telemetry=False, allow_reset=False),
        )

    def close(self) -> None:
        with Sound():
            self._client.close()
        _blank_unused(self._directory)
        gc.collect()
        _give_back()

    def ensure(self, collection: str, *, model: str, dimension: int, title: str) -> None:
        """Make the collection, or check that it was made for this model: Conflict otherwise."""
        made = self._client.get_or_create_collection(
            collection,
            embedding_function=None,
            configuration={"hnsw": {"space": "cosine"}},
            metadata={"model": model, "dimension": dimension, "title": title},
        )
        _fits(made, model, dimension)

    def is_inert(self) -> bool:
        """Whether nobody who opens this directory is made to load a model by it."""
        held = (c._model for c in self._client.list_collections())
        return not any(_names_function([m.configuration_json, m.serialized_schema]) for m in held)

    def add(self, collection: str, records: Sequence[Record]) -> None:
        """Records whose ids are not there yet, in a store that nobody else uses meanwhile."""
        target = self._collection(collection)
        for batch in _batches(records, _BULK):
            target.add(**_columns(batch), metadatas=[dict(r.metadata) for r in batch])

    def upsert(self, collection: str, records: Sequence[Record]) -> None:
        target = self._collection(collection)
        for batch in _batches(records):
            # Chroma merges metadata on upsert: a key that is gone now has to be set to None.
            stale = target.get(ids=[r.id for r in batch], include=["metadatas"])
            old = dict(zip(stale["ids"], stale["metadatas"] or [], strict=True))
            target.upsert(
                **_columns(batch),
                metadatas=[
                    {**dict.fromkeys(old.get(r.id) or {}), **dict(r.metadata)} for r in batch
                ],
            )

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        target = self._collection(collection)
        for batch in _batches(ids):
            target.delete(ids=list(batch))

    def ids(self, collection: str, where: Mapping[str, Any] | None = None) -> list[str]:
        found = self._collection(collection).get(where=dict(where) if where else None, include=[])
        return list(found["ids"])

    def get(
        self,
        collection: str,
        *,
        ids: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        vectors: bool = False,
    ) -> list[Record]:
        include = ["documents", "metadatas", *(["embeddings"] if vectors else [])]
        found = self._collection(collection).get(
            ids=list(ids) if ids is not None else None,
            where=dict(where) if where else None,
            include=include,
        )
        embeddings = found["embeddings"] if vectors else [b""] * len(found["ids"])
        return [
            Record(id=i, document=d or "", metadata=m or {}, embedding=memoryview(e))
            for i, d, m, e in zip(
                found["ids"], found["documents"], found["metadatas"], embeddings, strict=True
            )
        ]

    def every(self, collection: str) -> Iterator[Record]:
        """All records without their vectors, a few thousand at a time."""
        target, start = self._collection(collection), 0
        while True:
            found = target.get(include=["documents", "metadatas"], limit=_PAGE, offset=start)
            for i, d, m in zip(found["ids"], found["documents"], found["metadatas"], strict=True):
                yield Record(id=i, document=d or "", metadata=m or {}, embedding=())
            start += _PAGE
            if len(found["ids"]) < _PAGE:
                return

    def query(
        self,
        collection: str,
        vector: Sequence[float],
        *,
        limit: int,
        where: Mapping[str, Any] | None = None,
        model: str | None = None,
    ) -> list[Near]:
        """Conflict when `model`, which made the vector, is not the collection's."""
        asked = self._collection(collection)
        if model is not None:
            _fits(asked, model, len(vector))
        found = asked.query(
            query_embeddings=[list(vector)],
            n_results=limit,
            where=dict(where) if where else None,
            include=["documents", "metadatas", "distances"],
        )
        return [
            Near(id=i, distance=float(x), document=d or "", metadata=m or {})
            for i, x, d, m in zip(
                found["ids"][0],
                found["distances"][0],
                found["documents"][0],
                found["metadatas"][0],
                strict=True,
            )
        ]

    def count(self, collection: str) -> int:
        return int(self._collection(collection).count())

    def collections(self) -> list[str]:
        """Those that can be asked; not one that is being made to take another's place."""
        return [n for n in self._names() if not n.endswith(_NEXT)]

    def model(self, collection: str) -> str | None:
        """The model that the collection says it was made with."""
        found = self.made_with(collection)[0]
        return str(found) if found else None

    def made_with(self, collection: str) -> tuple[Any, Any]:
        """Model and dimension, as the collection says."""
        found = self._collection(collection).metadata or {}
        return found.get("model"), found.get("dimension")

    def has(self, collection: str) -> bool:
        return collection in self._names()

    def drop(self, collection: str) -> None:
        if self.has(collection):
            self._client.delete_collection(collection)

    def replace(self, collection: str) -> None:
        """The one that was made to take its place does, under its name."""
        self.drop(collection)
        if self.has(next_of(collection)):
            self._collection(next_of(collection)).modify(name=collection)

    def _names(self) -> list[str]:
        return [c.name for c in self._client.list_collections()]

    def _collection(self, name: str) -> Any:
        from chromadb.errors import NotFoundError

        try:
            found = self._client.get_collection(name, embedding_function=None)
        except NotFoundError as problem:
            raise NotFound(
                "collection_empty", "Nothing is indexed in this collection yet.", "Add a PDF."
            ) from problem
        # At a write Chroma would import and run what the directory says makes its vectors.
        found._model.serialized_schema = None
        found._model.configuration_json = {}
        return found


def _fits(collection: Any, model: str, dimension: int) -> None:
    found = collection.metadata or {}
    if found.get("model") != model or found.get("dimension") != dimension:
        raise Conflict(
            "model_mismatch",
            f"The collection was made with {found.get('model')} "
            f"({found.get('dimension')} numbers), not {model} ({dimension}).",
            "Use a new collection, or index this one again with the new model.",
        )


def _names_function(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_names_function, value))
    if not isinstance(value, dict):
        return False
    function = value.get("embedding_function") or {}
    named = not isinstance(function, dict) or function.get("type", "legacy") not in _NO_FUNCTION
    return named or any(map(_names_function, value.values()))


def _blank_unused(directory: Path) -> None:
    """What an index file keeps room for holds whatever lay in this process's memory: pieces of texts, of
    other users, too. Chroma clears a place before it uses it."""
    for header in directory.glob("*/header.bin"):
        if header.is_symlink() or header.stat().st_size < _HEADER.size:
            continue
        with header.open("rb") as file:
            version, _, most, count, size = _HEADER.unpack(file.read(_HEADER.size))
        for name, each in (("data_level0.bin", size), ("length.bin", 4)):
            path = header.with_name(name)
            known = version == 1 and count <= most and path.is_file() and not path.is_symlink()
            if known and path.stat().st_size == most * each:
                with path.open("r+b") as file:
                    file.truncate(count * each)
                    file.truncate(most * each)


def _give_back() -> None:
    """glibc keeps what a closed index had: hundreds of megabytes for some dozens of them."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _columns(batch: Sequence[Record]) -> dict[str, Any]:
    return {
        "ids": [r.id for r in batch],
        "documents": [r.document for r in batch],
        "embeddings": np.asarray([r.embedding for r in batch], dtype=np.float32),
    }


def _batches(items: Sequence[Any], size: int = BATCH) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Sound:
    """`with Sound(): …`: what a damaged directory makes Chroma raise, its panics too, is Corrupt."""

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if problem is not None and _tells_damage(problem):
            raise index_damaged() from problem


def _tells_damage(problem: BaseException) -> bool:
    from chromadb.errors import InternalError

    told = (InternalError, json.JSONDecodeError, UnicodeDecodeError)
    return isinstance(problem, told) or type(problem).__name__ == "PanicException"


def index_damaged() -> Corrupt:
    return Corrupt(
        "index_damaged",
        "The index on this disk is damaged.",
        "It is built again from what is saved; if this stays, see `python -m pipeline verify`.",
    )


def unreadable() -> tuple[type[Exception], ...]:
    """What a directory that is damaged, or of another version, makes Chroma raise."""
    from chromadb.errors import ChromaError

    return (ChromaError, OSError, ValueError, RuntimeError, KeyError, TypeError)
