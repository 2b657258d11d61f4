"""A request's body: read within limits of size and time, parsed once, strictly, before anybody sees it.

What stands for a file in it is an upload of the caller: Gradio fetches addresses and copies paths that it
finds there before an endpoint runs. Knows nothing of routes.
"""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from errors import InputError

MAX_FILES = 500
MAX_BODY = 1 << 20  # of a call; uploads have limits of their own
SECONDS = 20.0  # from the first byte of a call's body to its last
SILENT = 15.0  # seconds in which nothing of an upload comes
SLOWEST = 8 << 10  # bytes of an upload a second
READ_ON = 32 << 20  # of a body that is too large, so that its sender hears why
_MOST_VALUES, _DEEPEST = 50_000, 60
_LARGEST = 1 << 63
_JSON = {"", "application/json"}
_FILES = {"file", "files"}  # arguments of endpoints


def folder(user: str) -> Path:
    """Where that caller's uploads lie."""
    return Path(get_upload_folder()) / user


def announced(headers: Headers) -> bool:
    """Whether a body comes."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def read(headers: Headers, receive: Receive, *, json_only: bool = False) -> bytes:
    """The JSON text that comes; of a form, or of more, nothing is kept. `json_only`: nor of what says
    that it is something else."""
    try:
        async with asyncio.timeout(SECONDS):
            body, size = await _read(receive)
    except TimeoutError as problem:
        raise _slow() from problem
    kind = headers.get("content-type", "").partition(";")[0].strip(" \t").lower()
    if kind.startswith("multipart/") or (json_only and kind not in _JSON):
        raise InputError("media_type", "Only JSON is taken here.", "Send JSON; upload files first.")
    if size > MAX_BODY:
        raise InputError("body_too_large", "The request is too large.", "Upload files as files.")
    return body


async def paced(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """An upload's bytes while they come, and not too slowly: a half one holds a place and disk."""
    waited, size = 0.0, 0  # what is done with the bytes takes none of the sender's time
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(min(SILENT, SILENT + size / SLOWEST - waited)):
                chunk = await anext(stream, None)
        except TimeoutError as problem:
            raise _slow() from problem
        waited += time.monotonic() - began
        if chunk is None:
            return
        size += len(chunk)
        yield chunk


async def read_on(arriving: AsyncIterator[bytes], most: int) -> None:
    """A refused body, of which nothing is kept: a sender that is cut off never hears why."""
    with contextlib.suppress(InputError, ClientDisconnect):  # it is slow, or gone
        async for chunk in arriving:
            most -= len(chunk)
            if most < 0:
                return


async def _read(receive: Receive) -> tuple[bytes, int]:
    parts, size, more = [], 0, True
    while more and size < READ_ON:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _bad()
        size += len(message.get("body", b""))
        if size <= MAX_BODY:
            parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts), size


def again(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever comes (a disconnect)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def parsed(body: bytes) -> Any:
    """Its JSON, as any reader understands it: UTF-8, no name twice, numbers that are numbers, text that
    can be written down again, not too deep."""
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise _bad()
    try:
        found = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_whole,
        )
        _check(found)
    except (ValueError, RecursionError) as problem:
        raise _bad() from problem
    return found


def files(value: Any) -> Iterator[str]:
    """The path of all that stands for a file, anywhere in there."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo += one
        elif isinstance(one, dict):
            todo += one.values()
            if isinstance(one.get("path"), str):
                yield one["path"]
            for name in _FILES & one.keys():
                listed = one[name] if isinstance(one[name], list) else [one[name]]
                yield from (text for text in listed if isinstance(text, str))


def check_files(value: Any, user: str | None) -> None:
    """Each is an upload, and that user's where one is known; there are not too many to look for."""
    named, home = list(islice(files(value), MAX_FILES + 1)), folder(user or "").resolve()
    if len(named) > MAX_FILES:
        raise too_many_files()
    for text in named:
        try:
            theirs = Path(text).resolve().is_relative_to(home)
        except (ValueError, OSError, RuntimeError):  # NUL, too long, links in a ring
            theirs = False
        if not theirs:
            raise not_an_upload()


def too_many_files() -> InputError:
    return InputError("too_many_files", "There are too many files.", f"Use {MAX_FILES} at most.")


def not_an_upload() -> InputError:
    return InputError("not_an_upload", "That is not an uploaded file.", "Upload the file itself.")


def _slow() -> InputError:
    return InputError("body_slow", "The request did not come in time.", "Send it again.")


def _bad() -> InputError:
    return InputError("bad_body", "That is not JSON as Quire takes it.", "Send plain JSON.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError("a number is too large")
    return found


def _whole(text: str) -> int:
    found = int(text) if len(text) < 21 else _LARGEST
    if not -_LARGEST <= found < _LARGEST:
        raise ValueError("a number is too large")
    return found


def _check(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        if not level:
            return
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += [*one, *one.values()]
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str):
                one.encode()  # a lone surrogate cannot be
                if "\0" in one:
                    raise ValueError("a NUL is in a text")
        level = below
    raise ValueError("it is too deep")
