"""Records made up for measurements: unit vectors, words without sense; and whether a store holds
exactly them."""

import os
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from storage.live.chroma import Record
from storage.live.workspace import Workspace

WORDS = np.array([f"word{n}" for n in range(4000)])
NEAREST = 10


def made(
    ids: Sequence[str], rng: np.random.Generator, *, dimension: int = 384, letters: int = 900
) -> list[Record]:
    """Vectors are float32 of length one, so that nothing on the way can round them."""
    vectors = rng.normal(size=(len(ids), dimension))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    texts = rng.choice(WORDS, size=(len(ids), max(1, letters // 8)))
    pages = rng.integers(1, 200, len(ids))
    return [
        Record(
            id=identity,
            document=" ".join(words),
            embedding=vector.tolist(),
            metadata={
                "model": "m",
                "page": int(page),
                "source_id": "5" * 64,
                "element_type": "Text",
            },
        )
        for identity, vector, words, page in zip(ids, vectors, texts, pages, strict=True)
    ]


def difference(
    workspace: Workspace, collection: str, wanted: Mapping[str, Record], tolerance: float = 1e-6
) -> str | None:
    """What of ids, documents, metadata and vectors is not as `wanted`; None: nothing."""
    held = {r.id: r for r in workspace.get(collection, vectors=True)}
    if held.keys() != wanted.keys():
        return f"{len(held)} ids, not these {len(wanted)}"
    for identity, record in wanted.items():
        there = held[identity]
        if (there.document, dict(there.metadata)) != (record.document, dict(record.metadata)):
            return f"{identity} has another text or other metadata"
        if np.abs(np.subtract(there.embedding, record.embedding)).max() > tolerance:
            return f"{identity} has another vector"
    return None


def recall(
    workspace: Workspace, collection: str, wanted: Mapping[str, Record], rng: np.random.Generator
) -> float:
    """Of the ten nearest by exact search, the share that the store finds; over 20 queries."""
    ids = list(wanted)
    if len(ids) < NEAREST:
        return 1.0
    matrix = np.array([wanted[i].embedding for i in ids], dtype=np.float32)
    found = 0
    queries = rng.normal(size=(20, matrix.shape[1])).astype(np.float32)
    for query in queries:
        exact = {ids[n] for n in np.argsort(-(matrix @ query))[:NEAREST]}
        near = workspace.query(collection, query.tolist(), limit=NEAREST)
        found += len(exact & {n.id for n in near})
    return found / (NEAREST * len(queries))


def scratch(name: str) -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where the machine has one: what is killed here is a process, not a
    machine, so nothing has to reach a disk."""
    shared = "/dev/shm"
    writable = os.access(shared, os.W_OK)
    return tempfile.TemporaryDirectory(prefix=f"quire-{name}-", dir=shared if writable else None)
