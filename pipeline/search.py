"""Search: dense and keyword ranks of one collection, fused; hits with page and place.

Fusion is reciprocal rank, 1 / (60 + rank) summed over the lists a record is in (Cormack, Clarke,
Buettcher, SIGIR 2009). Knows nothing of users or HTTP.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from errors import InputError
from storage.live.chroma import Record
from storage.live.keyword_index import Filter
from storage.live.workspace import Workspace
from storage.names import CropName, is_one
from storage.names import text as plain

MODES = ("hybrid", "dense", "keyword")
KINDS = ("Text", "Table", "Image")
_K = 60
_MAX_QUERY = 2000
_MAX_HITS = 100
_MAX_FILTERED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A checked question to one collection."""

    text: str
    collection: str
    top_k: int = 10
    mode: str = "hybrid"
    where: Filter = Filter()


def checked(given: object, *, collection: str, top_k: object, mode: object, where: object) -> Query:
    """Arguments from outside, or an InputError that says which one is wrong."""
    words = " ".join(plain(given or "").split())
    if not words:
        raise InputError("query_empty", "There is nothing to search for.", "Type a question.")
    if len(words) > _MAX_QUERY:
        raise InputError(
            "query_too_long",
            f"The question has {len(words)} characters.",
            f"Use {_MAX_QUERY} at most.",
        )
    if mode not in MODES:
        raise InputError("mode_unknown", "There is no such mode.", f"Use {', '.join(MODES)}.")
    if type(top_k) is not int or not 1 <= top_k <= _MAX_HITS:
        raise InputError("top_k_range", "top_k is out of range.", f"Use 1 to {_MAX_HITS}.")
    return Query(
        text=words, collection=collection, top_k=top_k, mode=str(mode), where=filters(where)
    )


def filters(where: object) -> Filter:
    """`{"source_id": id or [ids], "pages": [first, last], "element_type": kind or [kinds]}`."""
    if where in (None, {}, ""):
        return Filter()
    if not isinstance(where, Mapping) or set(where) - {"source_id", "pages", "element_type"}:
        raise _bad_where()
    pages = where.get("pages") or [None, None]
    if not isinstance(pages, list | tuple) or len(pages) != 2:
        raise _bad_where()
    if not all(p is None or (type(p) is int and 1 <= p < 1 << 31) for p in pages):
        raise _bad_where()
    if None not in pages and pages[0] > pages[1]:
        raise _bad_where()
    kinds = _texts(where.get("element_type"))
    if set(kinds) - set(KINDS):
        raise _bad_where()
    return Filter(
        sources=_texts(where.get("source_id")),
        kinds=kinds,
        first_page=pages[0],
        last_page=pages[1],
    )


def _texts(value: object) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not 0 < len(listed) <= _MAX_FILTERED:
        raise _bad_where()
    return tuple(plain(v, 200) for v in listed)


def _bad_where() -> InputError:
    return InputError(
        "bad_where",
        "The filter is not understood.",
        'Use {"source_id": …, "pages": [first, last], "element_type": "Text"|"Table"|"Image"}.',
    )


def search(
    workspace: Workspace,
    query: Query,
    encode_query: Callable[[str], list[float]],
    model: str | None = None,
) -> list[dict[str, Any]]:
    """Hits, best first. Conflict when the collection is not that model's any more."""
    deep = max(50, query.top_k * 3)
    found: dict[str, Record] = {}
    dense: list[str] = []
    if query.mode in {"hybrid", "dense"}:
        for near in workspace.query(
            query.collection,
            encode_query(query.text),
            limit=deep,
            where=_chroma(query.where),
            model=model,
        ):
            dense.append(near.id)
            found[near.id] = Record(
                id=near.id, document=near.document, embedding=(), metadata=near.metadata
            )
    words = (
        [
            i
            for i, _ in workspace.keyword(
                query.collection, query.text, limit=deep, where=query.where
            )
        ]
        if query.mode in {"hybrid", "keyword"}
        else []
    )
    ranks = {
        "dense": {i: n for n, i in enumerate(dense, 1)},
        "keyword": {i: n for n, i in enumerate(words, 1)},
    }
    scores = fuse(list(ranks.values()))
    literal = ranks["keyword"]  # of two that are equally good the one that says the words
    best = sorted(scores, key=lambda i: (-scores[i], literal.get(i, deep + 1), i))[: query.top_k]
    missing = [i for i in best if i not in found]
    if missing:
        found |= {r.id: r for r in workspace.get(query.collection, ids=missing)}
    return [
        hit(found[i], scores[i], {name: of.get(i) for name, of in ranks.items()})
        for i in best
        if i in found
    ]


def fuse(lists: list[dict[str, int]]) -> dict[str, float]:
    """Reciprocal rank fusion of id → rank from 1."""
    scores: dict[str, float] = {}
    for ranks in lists:
        for identity, rank in ranks.items():
            scores[identity] = scores.get(identity, 0.0) + 1 / (_K + rank)
    return scores


def hit(record: Record, score: float, rank: Mapping[str, int | None]) -> dict[str, Any]:
    """A record as the public interface shows it."""
    data = record.metadata
    boxes, image = json.loads(data.get("boxes", "[]")), data.get("image")
    return {
        "id": record.id,
        "text": record.document,
        "score": round(score, 6),
        "rank": dict(rank),
        "source_id": data.get("source_id"),
        "filename": data.get("filename"),
        "page": data.get("page"),
        "pages": list(data.get("page_numbers", [])),
        "box": boxes[0] if boxes else None,
        "boxes": boxes,
        "element_type": data.get("element_type"),
        "section_titles": list(data.get("section_titles", [])),
        "caption": data.get("caption"),
        "table_html": data.get("table_html"),
        "image_url": f"/figures/{image}" if is_one(CropName, image) else None,
    }


def _chroma(where: Filter) -> dict[str, Any] | None:
    parts: list[dict[str, Any]] = []
    if where.sources:
        parts.append({"source_id": {"$in": list(where.sources)}})
    if where.kinds:
        parts.append({"element_type": {"$in": list(where.kinds)}})
    if where.first_page is not None:
        parts.append({"page": {"$gte": where.first_page}})
    if where.last_page is not None:
        parts.append({"page": {"$lte": where.last_page}})
    if len(parts) > 1:
        return {"$and": parts}
    return parts[0] if parts else None
