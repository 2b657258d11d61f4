"""What scripts and tools use: the client over a restart, MCP, OpenAPI, and the examples of docs/clients.md."""

import asyncio
import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from quire_client import FINISHED, Quire
from tests.conftest import OTHER_MODEL, ROOT, SAMPLES, Running, start_app
from tests.oidc import Provider
from tests.people import signed_in

pytestmark = pytest.mark.slow
CLIENTS = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reports(app: Running) -> Quire:
    """A collection with the report in it."""
    quire = Quire(app.url)
    made = quire.wait(quire.submit(SAMPLES / "report.pdf", collection="reports")[0]["id"])
    assert made["status"] == "succeeded"
    return quire


def examples(kind: str, below: str) -> list[str]:
    """The code blocks of that kind in that chapter of docs/clients.md."""
    chapter = CLIENTS[CLIENTS.index(f"## {below}\n") :].split("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", chapter, re.S)


def here(text: str, app: Running) -> str:
    assert "http://127.0.0.1:7860" in text
    return text.replace("http://127.0.0.1:7860", app.url)


# The examples, as they stand there


def test_the_python_examples_run(app: Running, tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes((SAMPLES / "report.pdf").read_bytes())
    told = []
    for code in examples("python", "From Python"):
        done = subprocess.run(
            [sys.executable, "-c", token(here(code, app))], cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.lower())
    assert "rain" in told[0]
    assert "succeeded" in told[1]


def token(text: str) -> str:
    """A token as it looks; where there is one local user it counts for nothing."""
    return text.replace("quire_…", "quire_" + "x" * 43)


def test_the_curl_example_runs(app: Running, reports: Quire) -> None:
    (code,) = examples("sh", "With curl")
    code = token(here(code, app))
    done = subprocess.run(["bash", "-euc", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "event: complete" in done.stdout
    assert "report.pdf" in done.stdout


def test_the_command_line_examples_run_with_a_bar(app: Running, tmp_path: Path) -> None:
    (code,) = examples("sh", "On the command line")
    (tmp_path / "report.pdf").write_bytes((SAMPLES / "report.pdf").read_bytes())
    (tmp_path / "letter.pdf").write_bytes(b"no pdf")
    seen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 120))  # a new one has no width, which tqdm believes
    drawn = bytearray()

    def look() -> None:  # a terminal that nobody reads is soon full
        with contextlib.suppress(OSError):
            while part := os.read(seen, 1 << 16):
                drawn.extend(part)

    looks = threading.Thread(target=look, daemon=True)
    looks.start()
    said = []
    more = ("submit letter.pdf", f"reembed {OTHER_MODEL} --collection reports")
    for line in [*code.splitlines(), *(f"python quire_client.py {words}" for words in more)]:
        words = shlex.split(line)
        assert words[:2] == ["python", "quire_client.py"]
        program = [sys.executable, str(ROOT / "quire_client.py"), "--url", app.url]
        said.append(
            subprocess.run(
                [*program, *words[2:]], cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal,
                text=True, timeout=100,
            )
        )  # fmt: skip
    assert [one.returncode for one in said] == [0, 0, 1, 0]
    assert said[0].stdout == "report.pdf: succeeded\n"
    assert "report.pdf page 1: " in said[1].stdout
    assert said[3].stdout == "reports: succeeded\n"
    os.close(terminal)
    looks.join(10)
    os.close(seen)
    assert "2/2" in drawn.decode()
    assert "letter.pdf: failed not_a_pdf" in drawn.decode()


def test_the_mcp_configuration_works(app: Running, reports: Quire) -> None:
    (configuration,) = examples("json", "As MCP tools")
    server = json.loads(token(here(configuration, app)))["mcpServers"]["quire"]

    async def ask(session: ClientSession) -> Any:
        tools = {t.name: t for t in (await session.list_tools()).tools}
        wanted = tools["search"].inputSchema
        assert wanted["required"] == ["query"]
        assert "request" not in wanted["properties"]
        assert "oauth_token" not in wanted["properties"]
        assert all(len(t.description or "") > 20 for t in tools.values())
        hits = await told(session, "search", query="rain in April", collection="reports")
        assert hits[0]["filename"] == "report.pdf"
        job = (await told(session, "jobs"))[0]
        assert (await told(session, "job", job_id=job["id"]))["status"] in FINISHED
        refused = await session.call_tool("job", {"job_id": "nothing"})
        assert refused.isError
        assert "job_not_found" in refused.content[0].text  # type: ignore[union-attr]

    finished(with_tools(server["url"], server.get("headers"), ask))


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    """Its answer, from a thread of its own: a browser's test leaves an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def with_tools(url: str, headers: Any, work: Callable[[ClientSession], Any]) -> Any:
    async with (
        streamablehttp_client(url, headers=headers) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return await work(session)


async def told(session: ClientSession, name: str, **arguments: Any) -> Any:
    """A tool's answer, which is JSON."""
    answer = await session.call_tool(name, arguments)
    assert not answer.isError, answer
    return json.loads(answer.content[0].text)  # type: ignore[union-attr]


# MCP as somebody


def test_a_tool_acts_for_the_holder_of_its_token(tmp_path: Path) -> None:
    with Provider() as provider:
        app = start_app(tmp_path / "data", **provider.environment())
        ada = signed_in(app.url, provider, "ada")
        ada.call("create_collection", title="of ada")
        token = ada.post("/account/tokens", {"label": "agent"}, X_Quire="1")[1]["token"]
        url = f"{app.url}/gradio_api/mcp/"

        async def titles(session: ClientSession) -> list[str]:
            name = next(
                t.name
                for t in (await session.list_tools()).tools
                if t.name.endswith("_collections")
            )
            return [c["title"] for c in await told(session, name)]

        async def refused(session: ClientSession) -> str:
            name = next(
                t.name
                for t in (await session.list_tools()).tools
                if t.name.endswith("_collections")
            )
            answer = await session.call_tool(name, {})
            assert answer.isError
            return str(answer.content)

        def bearer(text: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {text}"}

        assert finished(with_tools(url, bearer(token), titles)) == ["of ada"]
        assert finished(with_tools(url, bearer("hf_bob"), titles)) == []
        assert "sign_in" in finished(with_tools(url, None, refused))
        assert "token_refused" in finished(with_tools(url, bearer("quire_x"), refused))

        # and scripts, in each way that gradio_client knows
        space = Quire(app.url, token=token)
        assert [c["title"] for c in space.collections()] == ["of ada"]
        job = space.submit(SAMPLES / "greek.pdf", collection="of ada")[0]
        assert space.wait(job["id"])["status"] == "succeeded"
        assert space.download(tmp_path, "of ada").stat().st_size > 1000
        by_body = Client(app.url, verbose=False, oauth_token="hf_ada")
        assert [c["title"] for c in by_body.predict(api_name="/collections")] == ["of ada"]
        again = Quire(app.url, oauth_token="hf_ada").submit(SAMPLES / "greek.pdf", collection="x")
        assert again[0]["status"] == "queued"
        with pytest.raises(AppError) as caught:
            Quire(app.url, token="hf_bob").job(job["id"])
        assert caught.value.title == "job_not_found"
        app.stop()


# The client


@pytest.mark.timeout(600)
def test_the_client_comes_back_by_itself_over_a_restart_and_gives_up_in_the_end(
    tmp_path: Path, make_pdf: Callable[..., Path]
) -> None:
    first = start_app(tmp_path / "data")
    quire = Quire(first.url)
    job = quire.submit(make_pdf("long.pdf", pages=40), collection="c")[0]
    seen: list[int] = []
    ends: list[str] = []
    began = threading.Event()

    def follow() -> None:
        for event in quire.watch(job["id"], patience=280):
            seen.append(event["seq"])
            ends.append(event.get("status", ""))
            if len(seen) == 3:
                began.set()

    watcher = threading.Thread(target=follow, daemon=True)
    watcher.start()
    assert began.wait(120)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(60)
    second = start_app(tmp_path / "data", port=int(first.url.rsplit(":", 1)[1]))
    watcher.join(280)
    assert not watcher.is_alive()
    assert seen == list(range(1, len(seen) + 1))
    assert ends[-1] == "succeeded"
    second.stop()
    with pytest.raises(TimeoutError):  # it gives up when nobody answers
        list(quire.watch(job["id"], patience=2))


def test_the_client_tells_what_is_refused_at_once(reports: Quire) -> None:
    with pytest.raises(AppError) as caught:
        list(reports.watch("nothing"))
    assert caught.value.title == "job_not_found"


# OpenAPI


@pytest.fixture(scope="module")
def openapi(app: Running) -> Iterator[dict[str, Any]]:
    with urllib.request.urlopen(f"{app.url}/gradio_api/openapi.json", timeout=30) as answer:
        yield json.load(answer)


def test_openapi_describes_every_endpoint(openapi: dict[str, Any], app: Running) -> None:
    with urllib.request.urlopen(f"{app.url}/gradio_api/info", timeout=30) as answer:
        named = set(json.load(answer)["named_endpoints"])
    posted = {p for p in openapi["paths"] if "post" in openapi["paths"][p]}
    for name in named:
        matching = [p for p in posted if p.endswith((f"/call{name}", f"/v2{name}"))]
        assert matching, (name, sorted(posted))
        assert len(openapi["paths"][matching[0]]["post"].get("description", "")) > 20, name
