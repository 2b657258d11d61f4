"""Uploads: each into a folder of its caller, checked for size and room before a byte is kept.

Takes the place of Gradio's own route, which keeps every caller's files side by side under hashes and
leaves what a broken connection had sent. What is submitted is moved away from here; what is not goes
after two hours (see pipeline/worker/cleanup.py).
"""

import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from gradio.route_utils import GradioMultiPartParser
from gradio.routes import file_upload_statuses
from gradio_client.utils import strip_invalid_filename_characters
from python_multipart.exceptions import FormParserError
from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from errors import InputError, QuireError
from pipeline.jobs.service import Jobs
from pipeline.jobs.uploads import Promise
from web.body import MAX_FILES, READ_ON, folder, not_an_upload, paced, read_on, too_many_files
from web.http_status import refusal
from web.identity import Caller, Identity

_AHEAD = 1 << 20  # bytes that are promised at once to a body that does not tell its size


def uploaded(file: Any, caller: Caller) -> tuple[Path, str]:
    """The path and the shown name of a file that the caller has uploaded."""
    data = file if isinstance(file, Mapping) else getattr(file, "__dict__", {"path": str(file)})
    path = Path(str(data.get("path") or "")).resolve()
    users = {caller.key, caller.uploader or caller.key}
    theirs = any(path.is_relative_to(folder(user).resolve()) for user in users)
    if not theirs or not path.is_file():
        raise not_an_upload()
    return path, str(data.get("orig_name") or path.name)


async def upload(request: Request, identity: Identity, jobs: Jobs) -> Response:
    """The paths of the files of a multipart form, as Gradio's clients expect them."""
    arriving, most_mb = paced(request.stream()), jobs.settings.max_file_mb
    try:
        try:
            return JSONResponse(await _taken(request, arriving, identity, jobs))
        except QuireError as problem:
            refused = problem
        except (MultiPartException, FormParserError) as problem:
            refused = _unreadable(str(problem), most_mb)
        except OSError as problem:
            found = jobs.scarce(problem)
            if found is None:
                raise
            refused = found
        await read_on(arriving, max(READ_ON, most_mb << 20))
    except ClientDisconnect:
        return Response(status_code=499)
    return refusal(refused)


async def _taken(
    request: Request, arriving: AsyncIterator[bytes], identity: Identity, jobs: Jobs
) -> list[str]:
    made: Path | None = None
    try:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise _no_form()
        caller = await run_in_threadpool(identity.of, request)
        made = folder(caller.key) / secrets.token_hex(8)
        with jobs.promised(caller.key, made) as promise:
            await run_in_threadpool(promise.need, int(request.headers.get("content-length") or 0))
            body = _promised(arriving, promise)
            paths = await _received(request, body, made, jobs.settings.max_file_mb << 20)
            await run_in_threadpool(promise.settle)
        made = None
        return paths
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


async def _received(
    request: Request, body: AsyncGenerator[bytes, None], made: Path, largest: int
) -> list[str]:
    upload_id = request.query_params.get("upload_id")
    if upload_id:
        file_upload_statuses.track(upload_id)
    parser = GradioMultiPartParser(
        request.headers,
        body,
        max_files=MAX_FILES,
        max_fields=0,  # which would be held in memory
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
            raise _no_files()
        await file.close()
        name = strip_invalid_filename_characters(Path(file.filename or "").name)
        name = "document.pdf" if name in {"", ".", ".."} else name
        target = made / str(number) / name
        target.parent.mkdir()
        Path(file.file.name).replace(target)
        paths.append(str(target))
    if not paths:
        raise _no_files()
    return paths


def _unreadable(message: str, most_mb: int) -> InputError:
    """Why the parser refused, which it says in words only."""
    if message.startswith("File size exceeded"):
        return _too_large(most_mb)
    if message.startswith("Too many files"):
        return too_many_files()
    return _no_files() if message.startswith("Too many fields") else _no_form()


def _no_form() -> InputError:
    return InputError("bad_body", "That is not a multipart form.", "Send one.")


def _too_large(most_mb: int) -> InputError:
    return InputError(
        "file_too_large",
        f"A file is larger than {most_mb} MB.",
        "Split it, or raise QUIRE_MAX_FILE_MB in your own Space.",
    )


def _no_files() -> InputError:
    return InputError("no_files", "There is no file.", "Give at least one PDF.")


async def _promised(
    arriving: AsyncIterator[bytes], promise: Promise
) -> AsyncGenerator[bytes, None]:
    """The body, no byte of which is kept before there is room for it."""
    total = 0
    async for chunk in arriving:
        total += len(chunk)
        if total > promise.bytes:
            await run_in_threadpool(promise.need, total, ahead=_AHEAD)
        yield chunk
