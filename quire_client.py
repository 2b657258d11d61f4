"""A thin client of a running Quire: submit, watch with automatic re-attach, search, export, import.

Works with any Quire, local or a Space; needs `gradio_client` only. Copy this file where you need it.
What Quire refuses is a `gradio_client.exceptions.AppError` whose `title` is a code of docs/errors.md.
As a program: `python quire_client.py submit FILE…` with a bar of pages, `search QUESTION`, `export`,
`reembed MODEL`.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client
from gradio_client.exceptions import AppError
from tqdm import tqdm

Json = dict[str, Any]
FINISHED = frozenset({"succeeded", "partial", "failed", "cancelled"})
_PASSING = frozenset({  # docs/errors.md, "again"; and what a server that went away leaves
    "body_slow", "catalog_unavailable", "changed_elsewhere", "database_busy", "disk_full", "gpu_unavailable",
    "hub_hourly_limit", "hub_unavailable", "identity_unavailable", "index_early", "live_store_failed",
    "local_remote_failed", "mail_away", "mirror_behind", "model_mismatch", "model_not_found", "opening",
    "publish_failed", "push_needs_owner", "restoring", "s3_unavailable", "start_failed", "store_in_use",
    "taken_over", "too_many_codes", "too_many_jobs", "too_many_open_files", "too_many_requests",
    "webhook_away", "worker_busy", "worker_starting", "worker_stopping", "worker_unavailable",
    "event_not_found", "http_502", "http_503", "http_504",
})  # fmt: skip
_BROKEN = (httpx.HTTPError, httpx.StreamError, OSError, ValueError)
_TIMES = httpx.Timeout(30, read=60)  # an open stream is never silent for so long


class Quire:
    """`Quire("http://127.0.0.1:7860")`, or `Quire("owner/space", token="quire_…")` with a token that
    was made on the page, or a Hugging Face token. Other options are `gradio_client.Client`'s."""

    def __init__(self, url: str, token: str | None = None, **options: Any) -> None:
        headers = {**({"Authorization": f"Bearer {token}"} if token else {})}
        self._source = url
        self._options = {**options, "headers": {**headers, **options.get("headers", {})}}
        self._client = self._connected()

    def submit(self, *files: str | Path, **options: Any) -> list[Json]:
        """One job per file; options as `/submit` takes them (collection, strategy, password …)."""
        return list(self.call("submit", files=[self.upload(f) for f in files], **options))

    def upload(self, file: str | Path) -> Json:
        """A file as an endpoint takes it, sent and not yet used."""
        path = Path(file)
        with path.open("rb") as content:
            answer = httpx.post(
                f"{self._url}upload",
                files={"files": (path.name, content)},
                timeout=httpx.Timeout(60, read=600, write=600),
                **self._credentials(),
            )
        _checked(answer)
        return {
            "path": answer.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"},
        }  # fmt: skip

    def watch(self, job_id: str, after: int = 0, patience: float = 60.0) -> Iterator[Json]:
        """Events after that number until the job is finished; each is given once. When the
        connection or the server goes away it attaches again by itself, and gives up with
        TimeoutError after `patience` seconds without any answer."""
        answered = time.monotonic()
        over = False  # for now: a job that is tried again goes on after such an event
        while True:
            try:
                for event in self._values("watch", {"job_id": job_id, "after": after}):
                    answered = time.monotonic()
                    ended = event.get("status") in FINISHED
                    if event["seq"] > after or (ended and not over):
                        after = max(after, event["seq"])
                        yield event
                    over = ended
                if self.job(job_id)["status"] in FINISHED:
                    return
            except _BROKEN as problem:
                if isinstance(problem, AppError) and problem.title not in _PASSING:
                    raise
                if time.monotonic() - answered > patience:
                    raise TimeoutError("the server does not answer") from problem
                time.sleep(1)
                self._attach()

    def wait(self, job_id: str, patience: float = 60.0) -> Json:
        """The job once it is finished, whatever came of it."""
        for _ in self.watch(job_id, patience=patience):
            pass
        return self.job(job_id)

    def job(self, job_id: str) -> Json:
        return dict(self.call("job", job_id=job_id))

    def jobs(self, status: str | None = None, limit: int = 50) -> list[Json]:
        return list(self.call("jobs", status=status, limit=limit))

    def cancel(self, job_id: str) -> Json:
        return dict(self.call("cancel", job_id=job_id))

    def retry(
        self, job_id: str, pages: list[int] | None = None, strategy: str | None = None
    ) -> Json:
        """Go on from where it stopped; or only those pages, with another strategy."""
        return dict(self.call("retry", job_id=job_id, pages=pages, strategy=strategy))

    def search(self, query: str, **options: Any) -> list[Json]:
        """Hits, best first; options as `/search` takes them (collection, mode, top_k, where)."""
        return list(self.call("search", query=query, **options))

    def collections(self) -> list[Json]:
        return list(self.call("collections"))

    def export(self, collection: str = "default", format: str = "parquet") -> str:
        """The URL of a zip file, for whoever sends the same token."""
        made = self.call("export", collection=collection, format=format)
        return str(self._client.src).rstrip("/") + str(made["url"])

    def download(
        self, to: str | Path, collection: str = "default", format: str = "parquet"
    ) -> Path:
        """Export into the folder or file `to`; the file's path."""
        url = self.export(collection, format)
        target = Path(to) / url.rsplit("/", 1)[-1] if Path(to).is_dir() else Path(to)
        with httpx.stream("GET", url, timeout=_TIMES, **self._credentials()) as answer:
            _checked(answer)
            with target.open("wb") as file:
                for part in answer.iter_bytes(1 << 20):
                    file.write(part)
        return target

    def push(self, collection: str = "default", dataset: str = "") -> Json:
        """A job that pushes it to a private dataset of yours on the Hub; needs a Hugging Face token
        that may make repositories, as `token` or `oauth_token`."""
        return dict(self.call("push", collection=collection, dataset=dataset))

    def import_collection(self, file: str | Path, title: str = "") -> Json:
        """A job that makes a new collection of a zip that `/export` wrote (parquet or chroma)."""
        return dict(self.call("import_collection", file=self.upload(file), title=title))

    def reembed(self, collection: str, model: str | None = None, gpu: str = "auto") -> Json:
        """A job that makes the collection anew for another model, without reading its PDFs again."""
        return dict(self.call("reembed", collection=collection, model=model, gpu=gpu))

    def call(self, name: str, **arguments: Any) -> Any:
        """Any endpoint by its name, such as `call("delete_source", …)`."""
        return list(self._values(name, arguments))[-1]

    def _values(self, name: str, arguments: Json) -> Iterator[Any]:
        """What an endpoint yields, by Gradio's plain HTTP interface. Not by `Client.submit`, which
        waits for ever for an answer whose connection broke."""
        begun = httpx.post(
            f"{self._url}call/v2/{name}", json=arguments, timeout=_TIMES, **self._credentials()
        )
        _checked(begun)
        url = f"{self._url}call/{name}/{begun.json()['event_id']}"
        kind = ""
        with httpx.stream("GET", url, timeout=_TIMES, **self._credentials()) as answer:
            _checked(answer)
            for line in answer.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    kind = value
                elif field == "data" and kind == "error":
                    raise _refused(json.loads(value))
                elif field == "data" and kind == "generating":
                    yield json.loads(value)[0]
                elif field == "data" and kind == "complete":
                    yield (json.loads(value) or [None])[0]
                    return
        raise OSError("the connection ended before the answer")

    def _credentials(self) -> Json:
        return {"headers": self._client.headers, "cookies": self._client.cookies}

    @property
    def _url(self) -> str:
        return str(self._client.src_prefixed)

    def _connected(self) -> Client:
        return Client(self._source, verbose=False, **self._options)

    def _attach(self) -> None:
        try:
            self._client = self._connected()
        except _BROKEN:
            return  # still away; the caller's patience decides


def _checked(answer: httpx.Response) -> None:
    """AppError with the code of what was refused, or `http_<status>`."""
    if answer.is_success:
        return
    answer.read()
    problem: Any = {}
    with contextlib.suppress(ValueError):
        problem = answer.json()
    told = problem.get("error") if isinstance(problem, dict) else None
    if isinstance(told, dict):
        raise AppError(f"{told['message']} {told['advice']}".strip(), title=told["code"])
    raise AppError(answer.text[:500], title=f"http_{answer.status_code}")


def _refused(problem: Any) -> AppError:
    told = problem if isinstance(problem, dict) else {"error": str(problem)}
    return AppError(str(told.get("error")), title=str(told.get("title") or "Error"))


# As a program


def main(arguments: list[str] | None = None) -> int:
    """0 when all that was asked for was done, 1 when a file was not, 2 when Quire refused."""
    parser = argparse.ArgumentParser(prog="quire_client.py", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="or owner/space")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("submit", help="add PDFs, and follow them to their end")
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument("--strategy", default="auto")
    command.add_argument("--notify", help="a mail address or https URL")
    command.set_defaults(run=_submit)
    command = commands.add_parser("search", help="ask a collection")
    command.add_argument("question")
    command.add_argument("--mode", default="hybrid")
    command.set_defaults(run=_search)
    command = commands.add_parser("export", help="a collection as a zip in this folder")
    command.add_argument("--format", default="parquet")
    command.set_defaults(run=_export)
    command = commands.add_parser("reembed", help="another embedding model for a collection")
    command.add_argument("model", help="one of those of /status")
    command.add_argument("--gpu", default="auto", help="auto, never or wait")
    command.set_defaults(run=_reembed)
    for one in commands.choices.values():
        one.add_argument("--collection", default="default", help="name or id")
    asked = parser.parse_args(arguments)
    try:
        return int(asked.run(Quire(asked.url, token=os.environ.get("QUIRE_TOKEN")), asked))
    except AppError as problem:
        print(f"{problem.title}: {problem}", file=sys.stderr)
        return 2


def _submit(quire: Quire, asked: argparse.Namespace) -> int:
    jobs = quire.submit(
        *asked.files, collection=asked.collection, strategy=asked.strategy, notify=asked.notify
    )
    done = [_followed(quire, job) for job in jobs]
    return int(any(job["status"] != "succeeded" for job in done))


def _followed(quire: Quire, job: Json, stage: str = "index", unit: str = "page") -> Json:
    """A bar of what can be searched already, then a line that stays."""
    name = job["source"]["filename"]
    with tqdm(total=None, unit=unit, desc=name[-40:], disable=None, dynamic_ncols=True) as bar:
        for event in quire.watch(job["id"]):
            if event["stage"] == stage and event.get("total"):
                bar.total = event["total"]
                bar.update(event["done"] - bar.n)
            bar.set_postfix_str(event.get("message", "")[:60])
    job = quire.job(job["id"])
    problem = job["error"]
    told = f"{problem['code']}: {problem['message']} {problem['advice']}" if problem else ""
    unread = f"pages not read: {job['pages_failed']}" if job["pages_failed"] else ""
    line = f"{name}: {job['status']} {told or unread}".rstrip()
    print(line, file=sys.stderr if told or unread else sys.stdout, flush=True)
    return job


def _search(quire: Quire, asked: argparse.Namespace) -> int:
    for hit in quire.search(asked.question, collection=asked.collection, mode=asked.mode):
        print(f"{hit['filename']} page {hit['page']}: {' '.join(hit['text'].split())[:200]}")
    return 0


def _reembed(quire: Quire, asked: argparse.Namespace) -> int:
    job = quire.reembed(asked.collection, asked.model, asked.gpu)
    return int(_followed(quire, job, "reembed", "record")["status"] != "succeeded")


def _export(quire: Quire, asked: argparse.Namespace) -> int:
    print(quire.download(".", collection=asked.collection, format=asked.format))
    return 0


if __name__ == "__main__":
    sys.exit(main())
