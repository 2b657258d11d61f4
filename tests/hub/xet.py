"""Content-addressed storage in the Xet protocol, in memory: what hf_xet uploads to and reads from.

A file is terms, a term is a run of chunks in a xorb, a xorb is a pack of compressed chunks; a shard
tells which file is which terms. Checked before anything counts as uploaded: each frame of a xorb,
each term of a shard, and the sha256 of each file as its chunks give it. Not checked: the BLAKE3
names of chunks and xorbs, and the CRC of a grant.
Formats: https://huggingface.co/docs/xet (xorb, shard, CAS API).
"""

import hashlib
import json
import re
import secrets
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.faults import error

ENTRY = 48  # bytes of every record in a shard
END = b"\xff" * 32 + bytes(16)
VERIFIED, DESCRIBED = 1 << 31, 1 << 30  # flags of a file: records of checks and of sha256 follow


@dataclass(frozen=True)
class Chunk:
    """Where it stands in its xorb, with its head of 8 bytes, and its size when unpacked."""

    start: int
    end: int
    scheme: int
    size: int


@dataclass(frozen=True)
class Term:
    xorb: str
    size: int
    first: int
    last: int  # exclusive


@dataclass
class Xorb:
    content: bytes
    chunks: tuple[Chunk, ...]


@dataclass
class Cas:
    """Answers under `url`; data travels by signed-looking addresses under `store`."""

    url: str
    store: str
    xorbs: dict[str, Xorb] = field(default_factory=dict)
    files: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)  # sha256 → the file's Xet hash
    tokens: dict[str, str] = field(default_factory=dict)  # short-lived token → read or write
    _known: dict[str, bytes] = field(default_factory=dict)  # chunk → its xorb's record in a shard
    _grants: dict[str, str] = field(default_factory=dict)
    _waiting: dict[str, bytes] = field(default_factory=dict)
    _tag: bytes = b""

    def paths(self) -> dict[str, Callable[[Request], Any]]:
        return {
            "/xet/v1/xorb-grants/default/{hash}": self._grant,
            "/xet-store/{grant}": self._put,
            "/xet/v1/xorb-commits/default/{hash}/grant/{grant}": self._accept,
            "/xet/v2/shards": self._shard,
            "/xet/v1/chunks/{prefix}/{hash}": self._dedup,
            "/xet/v2/reconstructions/{hash}": self._reconstruction,
            "/xet-xorbs/{hash}": self._xorb,
        }

    def token(self, role: str) -> dict[str, Any]:
        made = f"xet-{role}-{secrets.token_hex(8)}"
        self.tokens[made] = role
        return {"accessToken": made, "exp": int(time.time()) + 3600, "casUrl": self.url}

    def content(self, sha256: str) -> bytes:
        """A file's bytes from its chunks; ValueError when they cannot be unpacked."""
        return b"".join(self._unpacked(self.files[self.hashes[sha256]]))

    def forget(self, kept: set[str]) -> None:
        """Drop every file whose sha256 is not in `kept`, and the xorbs that none needs."""
        self.hashes = {sha: name for sha, name in self.hashes.items() if sha in kept}
        self.files = {n: t for n, t in self.files.items() if n in self.hashes.values()}
        used = {term.xorb for terms in self.files.values() for term in terms}
        self.xorbs = {name: xorb for name, xorb in self.xorbs.items() if name in used}
        self._known = {c: r for c, r in self._known.items() if named(r[:32]) in used}

    # Uploads

    async def _grant(self, request: Request) -> Response:
        if refused := self._refused(request, "write"):
            return refused
        if request.path_params["hash"] in self.xorbs:
            return JSONResponse({})
        grant = secrets.token_hex(8)
        self._grants[grant] = request.path_params["hash"]
        told = {
            "id": grant,
            "method": "PUT",
            "url": f"{self.store}/xet-store/{grant}",
            "headers": {},
        }
        return JSONResponse(told, status_code=201)

    async def _put(self, request: Request) -> Response:
        grant = request.path_params["grant"]
        if grant not in self._grants:
            return error(403, "The address is not signed")
        self._waiting[grant] = await request.body()
        return Response()

    async def _accept(self, request: Request) -> Response:
        if refused := self._refused(request, "write"):
            return refused
        content = self._waiting.pop(request.path_params["grant"], None)
        if content is None:
            return error(404, "Nothing was uploaded for this grant")
        try:
            chunks = tuple(framed(content))
            list(map(lambda chunk: unpacked(content, chunk), chunks))
        except ValueError as problem:
            return error(400, str(problem))
        self.xorbs[request.path_params["hash"]] = Xorb(content, chunks)
        return JSONResponse({"was_inserted": True})

    async def _shard(self, request: Request) -> Response:
        if refused := self._refused(request, "write"):
            return refused
        content = await request.body()
        try:
            at, described = files_of(content)
            for name, terms, sha256 in described:
                missing = [t.xorb for t in terms if t.xorb not in self.xorbs]
                if missing:
                    return error(400, f"The shard names xorbs that are not there: {missing}")
                whole = hashlib.sha256(b"".join(self._unpacked(terms))).hexdigest()
                if whole != sha256:
                    return error(400, f"The chunks of {name} do not give its sha256")
            for xorb, chunk_names, record in xorbs_of(content, at):
                if xorb in self.xorbs:
                    self._known |= dict.fromkeys(chunk_names, record)
        except (ValueError, struct.error) as problem:
            return error(400, f"The shard cannot be read: {problem}")
        self._tag = content[:40]
        for name, terms, sha256 in described:
            self.files[name] = terms
            self.hashes[sha256] = name
        events = ({"type": "committing", "stage": "uploading"}, {"type": "result"})
        return Response("".join(json.dumps(event) + "\n" for event in events))

    async def _dedup(self, request: Request) -> Response:
        """A shard with the xorb that holds the asked chunk, so that it is not sent again."""
        if refused := self._refused(request, "read"):
            return refused
        record = self._known.get(request.path_params["hash"])
        if record is None:
            return error(404, "The chunk is not known")
        now = int(time.time())
        end = ENTRY + len(END) + len(record) + len(END)
        parts = (
            1,
            ENTRY,
            ENTRY + len(END),
            end,
            0,
            end,
            0,
            end,
            0,
        )  # empty tables stand at the end
        foot = struct.pack("<9Q32x2Q72xQ", *parts, now, now + 86400, end)
        head = self._tag + struct.pack("<Q", len(foot))
        return Response(head + END + record + END + foot)

    # Downloads

    async def _reconstruction(self, request: Request) -> Response:
        if refused := self._refused(request, "read"):
            return refused
        terms = self.files.get(request.path_params["hash"])
        if terms is None:
            return error(404, "The file is not known")
        size = sum(term.size for term in terms)
        first, last = asked(request, size)
        if first >= size:
            return error(416, "Behind the end of the file")
        offset, wanted = self._cut(terms, first, last)
        fetches = {}
        for name in {term.xorb for term in wanted}:
            chunks, url = self.xorbs[name].chunks, f"{self.store}/xet-xorbs/{name}?signed"
            ranges = [
                {
                    "chunks": {"start": first, "end": last},
                    "bytes": {"start": chunks[first].start, "end": chunks[last - 1].end - 1},
                }
                for first, last in runs((t.first, t.last) for t in wanted if t.xorb == name)
            ]
            fetches[name] = [{"url": url, "ranges": [one]} for one in ranges]
        told = [
            {"hash": t.xorb, "unpacked_length": t.size, "range": {"start": t.first, "end": t.last}}
            for t in wanted
        ]
        return JSONResponse({"offset_into_first_range": offset, "terms": told, "xorbs": fetches})

    async def _xorb(self, request: Request) -> Response:
        xorb = self.xorbs.get(request.path_params["hash"])
        if xorb is None or "range" not in request.headers or request.url.query != "signed":
            return error(403, "The address is not signed for that")
        first, last = asked(request, len(xorb.content))
        told = {"Content-Range": f"bytes {first}-{last}/{len(xorb.content)}"}
        return Response(xorb.content[first : last + 1], 206, told)

    def _cut(self, terms: tuple[Term, ...], first: int, last: int) -> tuple[int, list[Term]]:
        """The terms that hold bytes `first` to `last`, and how far into the first those begin."""
        at, offset, wanted = 0, 0, []
        for term in terms:
            inside = []
            for number in range(term.first, term.last):
                size = self.xorbs[term.xorb].chunks[number].size
                if at + size > first and at <= last:
                    if not wanted and not inside:
                        offset = first - at
                    inside.append((number, size))
                at += size
            if inside:
                length = sum(size for _, size in inside)
                wanted.append(Term(term.xorb, length, inside[0][0], inside[-1][0] + 1))
        return offset, wanted

    def _unpacked(self, terms: tuple[Term, ...]) -> Iterator[bytes]:
        for term in terms:
            xorb = self.xorbs[term.xorb]
            parts = [unpacked(xorb.content, c) for c in xorb.chunks[term.first : term.last]]
            if sum(map(len, parts)) != term.size:
                raise ValueError("a term has another length than its chunks")
            yield from parts

    def _refused(self, request: Request, role: str) -> Response | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            return error(401, "The token is not valid")
        if role == "write" and self.tokens[token] != "write":
            return error(403, "The token may only read")
        return None


def asked(request: Request, size: int) -> tuple[int, int]:
    """First and last byte of the Range header, all when there is none."""
    found = re.match(r"bytes=(\d+)-(\d*)$", request.headers.get("range", "bytes=0-"))
    first, last = (found[1], found[2]) if found else ("0", "")
    return int(first), min(int(last) if last else size - 1, size - 1)


def runs(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers in runs that neither touch nor overlap, ascending."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def named(raw: bytes) -> str:
    """A hash as text: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def framed(xorb: bytes) -> Iterator[Chunk]:
    """The chunks of a xorb, up to its footer."""
    at = 0
    while at < len(xorb) and xorb[at] == 0:
        packed, size = (int.from_bytes(xorb[at + i : at + i + 3], "little") for i in (1, 5))
        end = at + 8 + packed
        if end > len(xorb):
            raise ValueError("a chunk ends behind its xorb")
        yield Chunk(at, end, xorb[at + 4], size)
        at = end


def unpacked(xorb: bytes, chunk: Chunk) -> bytes:
    body = xorb[chunk.start + 8 : chunk.end]
    if chunk.scheme:
        try:
            body = pa.decompress(body, chunk.size, codec="lz4", asbytes=True)
        except OSError as problem:
            raise ValueError("a chunk cannot be unpacked") from problem
    if chunk.scheme == 2:  # every fourth byte stands together
        whole, grouped, at = np.empty(chunk.size, np.uint8), np.frombuffer(body, np.uint8), 0
        for group in range(4):
            part = whole[group::4]
            part[:] = grouped[at : at + len(part)]
            at += len(part)
        body = whole.tobytes()
    if len(body) != chunk.size:
        raise ValueError("a chunk has another length than its head says")
    return body


def files_of(shard: bytes) -> tuple[int, list[tuple[str, tuple[Term, ...], str]]]:
    """Each file with its terms and sha256, and where the part about xorbs begins."""
    at, found = ENTRY, []
    while shard[at : at + 32] != END[:32]:
        name = named(shard[at : at + 32])
        flags, count = struct.unpack_from("<2I", shard, at + 32)
        if not flags & DESCRIBED:
            raise ValueError("a file without its sha256")
        terms = []
        for entry in range(at + ENTRY, at + ENTRY * (1 + count), ENTRY):
            _, size, first, last = struct.unpack_from("<4I", shard, entry + 32)
            terms.append(Term(named(shard[entry : entry + 32]), size, first, last))
        at += ENTRY * (1 + count * (2 if flags & VERIFIED else 1))
        found.append((name, tuple(terms), named(shard[at : at + 32])))
        at += ENTRY
    return at + ENTRY, found


def xorbs_of(shard: bytes, at: int) -> Iterator[tuple[str, list[str], bytes]]:
    """Each xorb with its chunks' names, and the record that says so."""
    while shard[at : at + 32] != END[:32]:
        (count,) = struct.unpack_from("<I", shard, at + 36)
        end = at + ENTRY * (1 + count)
        if end > len(shard):
            raise ValueError("a xorb's record ends behind the shard")
        chunks = [named(shard[i : i + 32]) for i in range(at + ENTRY, end, ENTRY)]
        yield named(shard[at : at + 32]), chunks, shard[at:end]
        at = end
