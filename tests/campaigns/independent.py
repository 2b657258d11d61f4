"""What a store holds, read by other code than the product's: JSON, hashes and Parquet, nothing else."""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

Read = Callable[[str], bytes | None]  # a name in the store to its bytes; None: not there


@dataclass
class Held:
    """The newest generation of a user: titles by collection, (collection, sha256) of sources, texts by
    collection and id, sha256 of originals, ids of jobs; `damaged` are names that are not what the
    manifest says."""

    generation: int = 0
    collections: dict[str, str] = field(default_factory=dict)
    sources: set[tuple[str, str]] = field(default_factory=set)
    records: dict[tuple[str, str], str] = field(default_factory=dict)
    originals: set[str] = field(default_factory=set)
    elements: set[str] = field(default_factory=set)  # <sha256>-<version> of what has them
    jobs: set[str] = field(default_factory=set)
    published: dict[str, str] = field(
        default_factory=dict
    )  # name in the store by name in the folder
    published_at: int = 0
    rows: set[tuple[str, str]] = field(
        default_factory=set
    )  # of any segment, also when deleted since
    files: set[str] = field(default_factory=set)  # all that it is made of
    older: set[str] = field(default_factory=set)  # of generations that can still be read
    rows_at: dict[int, dict[tuple[str, str], str]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def held(read: Read, user: str) -> Held:
    raw = read(f"users/{user}/manifest.json")
    if raw is None:
        return Held()
    body = json.loads(raw)["body"]
    found = Held(
        generation=body["generation"],
        collections={c["id"]: c["title"] for c in body["collections"]},
        sources={(s["collection"], s["sha256"]) for s in body["sources"]},
    )
    for file in body["segments"]:
        for row in pq.read_table(io.BytesIO(_content(read, user, file, found))).to_pylist():
            _apply(found.records, row)
            found.rows |= {(row["collection"], row["id"])} if row["op"] == "put" else set()
        found.rows_at[file["generation"]] = dict(found.records)
    for file in body["files"]:
        content = _content(read, user, file, found)
        if file["path"].startswith("sources/"):
            found.originals.add(hashlib.sha256(content).hexdigest())
        elif file["path"].startswith("elements/"):
            found.elements.add(file["path"].removeprefix("elements/").split(".")[0])
        elif file["path"].startswith("jobs/"):
            found.jobs |= {job["id"] for job in json.loads(content)["jobs"]}
    for file in (*body.get("kept", ()), *body.get("retired", ())):
        found.older.add(file["path"])
    if published := body.get("published"):
        found.published_at = published["generation"]
        top = f"chroma/{found.published_at:08d}/"
        for file in published["files"]:
            _content(read, user, file, found)
            found.published[file["path"].removeprefix(top)] = f"users/{user}/{file['path']}"
    return found


def _apply(records: dict[tuple[str, str], str], row: dict[str, Any]) -> None:
    key = row["collection"], row["id"]
    if row["op"] == "put":
        records[key] = row["document"]
    elif row["op"] == "delete":
        records.pop(key, None)
    else:
        for one in [k for k in records if k[0] == key[0]]:
            del records[one]


def _content(read: Read, user: str, file: dict[str, Any], found: Held) -> bytes:
    found.files.add(file["path"])
    content = read(f"users/{user}/{file['path']}") or b""
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        found.damaged.append(file["path"])
    return content


def published_at(found: Held) -> dict[tuple[str, str], str]:
    """The records that the published directory should hold."""
    upto = [g for g in found.rows_at if g <= found.published_at]
    return found.rows_at[max(upto)] if upto else {}
