"""Search: meaning and words of one collection, fused; hits with page and place.

A record's score is the mean of its two similarities, each as a share of the best one found: the cosine to
the question, and the bm25 weight of its words. What stands on one page is one hit, at the score of the
best of each. Knows nothing of users or HTTP.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from errors import InputError
from storage.live.chroma import Record
from storage.live.keyword_index import Filter
from storage.live.workspace import Workspace
from storage.names import CropName, is_one
from storage.names import text as plain

MODES = ("hybrid", "dense", "keyword")
KINDS = ("Text", "Table", "Image")
GROUPS = ("page", "document", "passage")
_DEEP = 150  # of each list, however many hits are asked for: the first ten do not depend on that
_MORE = 2  # records that a hit folds in
_MAX_QUERY = 2000
_MAX_HITS = 100
_PHRASE = re.compile(r'"([^"]+)"')
_WITHOUT = re.compile(r"(?<!\S)-([^\W\d]\w*)")
# Words of no language: what is no nearer than these is not found.
_NONSENSE = (
    "zorvalt quimbex", "pluvrin", "ghastrobe mentil dwarquos", "xeplun", "brofteng ulm vikdra", "qzx", "◆◆", "—",
)  # fmt: skip
_MAX_FILTERED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A checked question to one collection."""

    text: str
    collection: str
    top_k: int = 10
    offset: int = 0
    group: str = "page"
    mode: str = "hybrid"
    where: Filter = Filter()
    filenames: tuple[str, ...] = ()


def checked(
    given: object,
    *,
    collection: str,
    top_k: object,
    mode: object,
    where: object,
    group: object = "page",
    offset: object = 0,
) -> Query:
    """Arguments from outside, or an InputError that says which one is wrong. Words in quotation marks
    have to stand in a hit one after another; a word after a hyphen must not be in it."""
    words = " ".join(plain(given or "").split())
    if len(words) > _MAX_QUERY:
        raise InputError(
            "query_too_long",
            f"The question has {len(words)} characters.",
            f"Use {_MAX_QUERY} at most.",
        )
    phrases, without = tuple(_PHRASE.findall(words)), ()
    if phrases or " " in words:  # a word alone is what is looked for, whatever it begins with
        without = tuple(_WITHOUT.findall(words))
        words = " ".join(_WITHOUT.sub(" ", words).replace('"', " ").split())
    if not words:
        raise InputError("query_empty", "There is nothing to search for.", "Type a question.")
    if mode not in MODES:
        raise InputError("mode_unknown", "There is no such mode.", f"Use {', '.join(MODES)}.")
    if type(top_k) is not int or not 1 <= top_k <= _MAX_HITS:
        raise InputError("top_k_range", "top_k is out of range.", f"Use 1 to {_MAX_HITS}.")
    if type(offset) is not int or not 0 <= offset <= _MAX_HITS:
        raise InputError("offset_range", "offset is out of range.", f"Use 0 to {_MAX_HITS}.")
    if group not in GROUPS:
        raise InputError(
            "group_unknown", "Hits are not grouped by that.", f"Use {', '.join(GROUPS)}."
        )
    held = where if isinstance(where, Mapping) else {}
    return Query(
        text=words,
        collection=collection,
        top_k=top_k,
        offset=offset,
        group=str(group),
        mode=str(mode),
        where=replace(filters(where), phrases=phrases, without=without),
        filenames=_texts(held.get("filename")),
    )


def filters(where: object) -> Filter:
    """`{"source_id": id or [ids], "filename": name or [names], "pages": [first, last], "element_type": kind
    or [kinds]}`; what file names stand for the catalogue knows."""
    if where in (None, {}, ""):
        return Filter()
    known = {"source_id", "filename", "pages", "element_type"}
    if not isinstance(where, Mapping) or set(where) - known:
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
        'Use {"source_id": …, "filename": …, "pages": [first, last], '
        '"element_type": "Text"|"Table"|"Image"}.',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A record with its two similarities, each as a share of the best one, and its ranks from 1."""

    record: Record
    dense: float = 0.0
    keyword: float = 0.0
    ranks: Mapping[str, int | None]

    @property
    def score(self) -> float:
        return self.dense + self.keyword


def search(
    workspace: Workspace,
    query: Query,
    encode_query: Callable[[str], list[float]],
    model: str | None = None,
) -> list[dict[str, Any]]:
    """Hits, best first; none when nothing says a word of the question and nothing is nearer to it than
    to nonsense. Conflict when the collection is not that model's any more."""
    words: dict[str, float] = {}
    if query.mode != "dense":
        words = dict(
            workspace.keyword(query.collection, query.text, limit=_DEEP, where=query.where)
        )
    near: dict[str, float] = {}
    held: dict[str, Record] = {}
    vector: list[float] = []
    if query.mode != "keyword":
        vector = encode_query(query.text)
        near, held = _near(workspace, query, vector, model)
    ranks = Ranks(dense=_ranks(near), keyword=_ranks(words))
    doubtful = query.mode == "hybrid" and near and not words
    if doubtful and max(near.values()) < _noise(workspace, query, encode_query, model):
        return []
    if missing := [i for i in words if i not in held]:
        known = workspace.get(query.collection, ids=missing, vectors=bool(vector))
        held |= {r.id: r for r in known}
        near |= {r.id: _cosine(vector, r.embedding) for r in known if vector}
    groups = _grouped(_fused(held, near, words, ranks), query.group)
    return [_folded(g) for g in groups[query.offset : query.offset + query.top_k]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Of ids in each list, from 1."""

    dense: Mapping[str, int]
    keyword: Mapping[str, int]

    def of(self, identity: str) -> dict[str, int | None]:
        return {"dense": self.dense.get(identity), "keyword": self.keyword.get(identity)}


def _ranks(ids: Iterable[str]) -> dict[str, int]:
    return {i: n for n, i in enumerate(ids, 1)}


def _near(
    workspace: Workspace, query: Query, vector: Sequence[float], model: str | None
) -> tuple[dict[str, float], dict[str, Record]]:
    """The cosines of the nearest records, best first, and these."""
    found = workspace.query(
        query.collection, vector, limit=_DEEP, where=_chroma(query.where), model=model
    )
    if query.where.phrases or query.where.without:
        ids = workspace.allowed(query.collection, [n.id for n in found], query.where)
        found = [n for n in found if n.id in ids]
    return {n.id: 1 - n.distance for n in found}, {
        n.id: Record(id=n.id, document=n.document, embedding=(), metadata=n.metadata) for n in found
    }


def _noise(
    workspace: Workspace,
    query: Query,
    encode_query: Callable[[str], list[float]],
    model: str | None,
) -> float:
    """How near the collection comes to what means nothing."""
    asked = (
        workspace.query(query.collection, encode_query(text), limit=1, model=model)
        for text in _NONSENSE
    )
    return max((1 - near.distance for found in asked for near in found), default=0.0)


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _fused(
    held: Mapping[str, Record], near: Mapping[str, float], words: Mapping[str, float], ranks: Ranks
) -> list[Found]:
    """Best first; of two that are equally good the one that says the words."""
    lists = bool(near) + bool(words)
    dense, keyword = _shares(near, lists), _shares(words, lists)
    found = [
        Found(
            record=record,
            dense=dense.get(i, 0.0),
            keyword=keyword.get(i, 0.0),
            ranks=ranks.of(i),
        )
        for i, record in held.items()
    ]
    last = len(found) + 1

    def order(one: Found) -> tuple[float, int, int, str]:
        dense, keyword = (one.ranks[name] or last for name in ("dense", "keyword"))
        return -round(one.score, 9), keyword, dense, one.record.id

    return sorted(found, key=order)


def _shares(weights: Mapping[str, float], lists: int) -> dict[str, float]:
    """Each as a share of the best one; those of all lists together are at most 1."""
    best = max(weights.values(), default=0.0)
    return {i: max(0.0, w) / best / lists for i, w in weights.items()} if best > 0 else {}


def _grouped(found: Sequence[Found], group: str) -> list[list[Found]]:
    """By page, by document or each alone; a group is as good as the nearest and the most literal of its
    records together."""
    by: dict[object, list[Found]] = {}
    for one in found:
        data = one.record.metadata
        source = data.get("source_id", one.record.id)
        keys = {"page": (source, data.get("page")), "document": source, "passage": one.record.id}
        by.setdefault(keys[group], []).append(one)
    return sorted(by.values(), key=lambda g: -round(_score(g), 9))


def _score(group: Sequence[Found]) -> float:
    return max(f.dense for f in group) + max(f.keyword for f in group)


def _folded(group: Sequence[Found]) -> dict[str, Any]:
    """The best of a group as its hit, with the places of those after it."""
    first, *others = (hit(f.record, f.score, f.ranks) for f in group[: 1 + _MORE])
    boxes = [b for h in (first, *others) for b in h["boxes"]]
    unique = list({json.dumps(b, sort_keys=True): b for b in boxes}.values())
    return {**first, "score": round(_score(group), 6), "boxes": unique, "more": others}


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
