"""Uploads: each into a folder of its caller, checked for size and room before a byte is kept.

Takes the place of Gradio's own route, which keeps every caller's files side by side under hashes and
leaves what a broken connection had sent. What is submitted is moved away from here; what is not goes
after two hours (see pipeline/worker/cleanup.py).
"""

import secrets
import shutil
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from gradio.route_utils import GradioMultiPartParser
from gradio.routes import file_upload_statuses
from gradio_client.utils import strip_invalid_filename_characters
from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from errors import InputError, QuireError
from pipeline.jobs.service import Jobs
from pipeline.jobs.uploads import Promise
from web.body import MAX_FILES, folder, not_an_upload, paced
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
    made: Path | None = None
    try:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise _no_form()
        caller = await run_in_threadpool(identity.of, request)
        made = folder(caller.key) / secrets.token_hex(8)
        with jobs.promised(caller.key, made) as promise:
            await run_in_threadpool(promise.need, int(request.headers.get("content-length") or 0))
            paths = await _received(request, made, promise, jobs.settings.max_file_mb << 20)
            await run_in_threadpool(promise.settle)
        made = None
        return JSONResponse(paths)
    except QuireError as problem:
        return refusal(problem)
    except MultiPartException as problem:
        large = "maximum allowed size" in problem.message
        return refusal(_too_large(jobs.settings.max_file_mb) if large else _no_form())
    except OSError as problem:
        found = jobs.scarce(problem)
        if found is None:
            raise
        return refusal(found)
    except ClientDisconnect:
        return Response(status_code=499)
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


async def _received(request: Request, made: Path, promise: Promise, largest: int) -> list[str]:
    upload_id = request.query_params.get("upload_id")
    if upload_id:
        file_upload_statuses.track(upload_id)
    parser = GradioMultiPartParser(
        request.headers,
        _promised(request, promise),
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


async def _promised(request: Request, promise: Promise) -> AsyncGenerator[bytes, None]:
    """The body, no byte of which is kept before there is room for it."""
    total = 0
    async for chunk in paced(request.stream()):
        total += len(chunk)
        if total > promise.bytes:
            await run_in_threadpool(promise.need, total, ahead=_AHEAD)
        yield chunk
