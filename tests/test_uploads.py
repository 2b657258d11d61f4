"""The upload route by itself: each body gets its answer, and one that is refused is read on, so that its
sender hears why."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs.service import Jobs
from settings import Settings
from storage.catalog.catalog import Catalog
from storage.paths import Paths, user_key
from tests.test_quota import Known, arriving
from web.body import MAX_FILES
from web.uploads import upload

USER = user_key(b"secret", "ada")
FILE = 'name="files"; filename="{}.pdf"'


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    paths = Paths(tmp_path)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(paths.uploads))
    told = Settings.from_env({
        "QUIRE_DATA_DIR": str(tmp_path), "QUIRE_SECRET": "secret", "QUIRE_USER_QUOTA_MB": "8",
        "QUIRE_MAX_FILE_MB": "2",
    })  # fmt: skip
    return Jobs(told, paths, Catalog(f"sqlite:///{tmp_path}/catalog.sqlite"))


def form(*parts: tuple[str, bytes], boundary: str = "x") -> tuple[bytes, str]:
    said = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode()
        + content
        + b"\r\n"
        for head, content in parts
    )
    kind = f"multipart/form-data; boundary={boundary}"
    return said + f"--{boundary}--\r\n".encode(), kind


def answered(
    jobs: Jobs, body: bytes, kind: str, *, told: bool = True, query: bytes = b""
) -> tuple[str, int]:
    """The code, or "taken"; and how much of the body was left unread."""
    request = arriving(USER, body, kind, told=told)
    request.scope["query_string"] = query
    read, receive = 0, request._receive

    async def counted() -> Any:
        nonlocal read
        message = await receive()
        read += len(message["body"])
        return message

    request._receive = counted
    answer = asyncio.run(upload(request, Known(USER), jobs))  # type: ignore[arg-type]
    said = json.loads(bytes(answer.body))
    if answer.status_code != 200:
        assert not [p for p in jobs.paths.uploads.rglob("*") if p.is_file()]
    return "taken" if answer.status_code == 200 else said["error"]["code"], len(body) - read


BAD: dict[str, tuple[tuple[bytes, str], str]] = {
    "long boundary": (form((FILE.format(1), b"%PDF"), boundary="b" * 300), "bad_body"),
    "no boundary": ((form((FILE.format(1), b"%PDF"))[0], "multipart/form-data"), "bad_body"),
    "another boundary": ((form((FILE.format(1), b"%PDF"))[0], "multipart/form-data; boundary=y"), "bad_body"),
    "long name": (form((FILE.format("n" * 200_000), b"%PDF")), "bad_body"),
    "no name": (form(("", b"%PDF")), "bad_body"),
    "many heads": (form((FILE.format(1) + "\r\nX: y" * 500, b"%PDF")), "bad_body"),
    "large file": (form((FILE.format(1), b"%PDF" + bytes(3 << 20))), "file_too_large"),
    "many files": (form(*[(FILE.format(n), b"%PDF") for n in range(MAX_FILES + 1)]), "too_many_files"),
    "text": (form(('name="files"', b"%PDF")), "no_files"),
    "nothing": (form(), "no_files"),
}  # fmt: skip


@pytest.mark.parametrize("query", [b"", b"upload_id=u1"])
@pytest.mark.parametrize("name", BAD)
def test_a_form_that_is_none_is_refused_with_its_code(jobs: Jobs, name: str, query: bytes) -> None:
    (body, kind), code = BAD[name]
    assert answered(jobs, body, kind, query=query)[0] == code


@pytest.mark.parametrize("told", [True, False])
def test_a_refused_body_is_read_on_so_that_its_sender_hears_why(jobs: Jobs, told: bool) -> None:
    """An endless one is cut off."""
    files = [(FILE.format(n), bytes(1_900_000)) for n in range(5)]
    body, kind = form(*files)
    assert answered(jobs, body, kind, told=told) == ("quota_exceeded", 0)
    body, kind = form((FILE.format(1), bytes(64 << 20)))
    code, left = answered(jobs, body, kind, told=False)
    assert code == "file_too_large"
    assert left > 24 << 20
