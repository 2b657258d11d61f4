"""Uploads: each into a folder of its caller, checked for size and room before a byte is kept.

Takes the place of Gradio's own route, which keeps every caller's files side by side under hashes and
leaves what a broken connection had sent. What is submitted is moved away from here; what is not goes
after two hours (see pipeline/housekeeping.py).
"""

import secrets
import shutil
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from typing import Any

from gradio.route_utils import GradioMultiPartParser
from gradio.routes import file_upload_statuses
from gradio.utils import get_upload_folder
from gradio_client.utils import strip_invalid_filename_characters
from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from errors import InputError, QuireError, Refused
from pipeline.jobs import Jobs
from web.guard import status
from web.identity import Caller, Identity

MAX_FILES = 500
_ENVELOPE = 1 << 20  # what multipart adds to the files' own bytes


def folder(user: str) -> Path:
    return Path(get_upload_folder()) / user


def uploaded(file: Any, users: Iterable[str]) -> tuple[Path, str]:
    """The path and the shown name of a file that one of these users has uploaded."""
    data = file if isinstance(file, Mapping) else getattr(file, "__dict__", {"path": str(file)})
    path = Path(str(data.get("path") or "")).resolve()
    theirs = any(path.is_relative_to(folder(user).resolve()) for user in users)
    if not theirs or not path.is_file():
        raise InputError(
            "not_an_upload", "That is not an uploaded file.", "Upload the file itself."
        )
    return path, str(data.get("orig_name") or path.name)


async def upload(request: Request, identity: Identity, jobs: Jobs) -> Response:
    """The paths of the files of a multipart form, as Gradio's clients expect them."""
    made: Path | None = None
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return PlainTextResponse("Send a multipart form.", 400)
    try:
        caller = await run_in_threadpool(identity.of, request)
        most = await run_in_threadpool(_room, caller, jobs, request)
        made = folder(caller.key) / secrets.token_hex(8)
        made.mkdir(parents=True)
        paths = await _received(request, made, most, jobs.settings.max_file_mb << 20)
        made = None
        return JSONResponse(paths)
    except QuireError as problem:
        return PlainTextResponse(f"{problem} ({problem.code})", status(problem))
    except MultiPartException as problem:
        code = 413 if "maximum allowed size" in problem.message else 400
        return PlainTextResponse(problem.message, code)
    except ClientDisconnect:
        return Response(status_code=499)
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _room(caller: Caller, jobs: Jobs, request: Request) -> int:
    """Bytes that this request may bring; what lies uploaded counts as stored."""
    lying = sum(f.stat().st_size for f in folder(caller.key).rglob("*") if f.is_file())
    usage = jobs.usage(caller.key, visitor=caller.kind == "visitor")
    left = usage["limit_bytes"] - usage["bytes"] - lying
    free = shutil.disk_usage(get_upload_folder()).free - (500 << 20)
    wanted = int(request.headers.get("content-length") or 0) - _ENVELOPE
    if wanted > left:
        raise Refused(
            "quota_exceeded",
            f"Your {usage['limit_bytes'] >> 20} MB are used up.",
            "Delete sources that are not needed.",
        )
    if wanted > free:
        raise Refused(
            "disk_full", "The disk of this Space is almost full.", "Delete what is not needed."
        )
    return max(0, min(left, free)) + _ENVELOPE


async def _received(request: Request, made: Path, most: int, largest: int) -> list[str]:
    upload_id = request.query_params.get("upload_id")
    if upload_id:
        file_upload_statuses.track(upload_id)
    parser = GradioMultiPartParser(
        request.headers,
        _bounded(request, most),
        max_files=MAX_FILES,
        upload_dir=made,
        upload_id=upload_id,
        upload_progress=file_upload_statuses if upload_id else None,
        max_file_size=largest,
    )
    try:
        form = await parser.parse()
    finally:
        if upload_id:  # a progress stream ends with its upload, also with a broken one
            file_upload_statuses.set_done(upload_id)
    paths = []
    for number, file in enumerate(form.getlist("files")):
        if isinstance(file, str):
            raise InputError("no_files", "There is no file.", "Give at least one PDF.")
        await file.close()
        name = strip_invalid_filename_characters(Path(file.filename or "").name)
        name = "document.pdf" if name in {"", ".", ".."} else name
        target = made / str(number) / name
        target.parent.mkdir()
        Path(file.file.name).replace(target)
        paths.append(str(target))
    if not paths:
        raise InputError("no_files", "There is no file.", "Give at least one PDF.")
    return paths


async def _bounded(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > most:
            raise Refused(
                "quota_exceeded",
                "The upload is larger than what you may still store.",
                "Delete sources that are not needed.",
            )
        yield chunk
