"""A thin client of a running Quire: submit, watch with automatic re-attach, search, export.

Works with any Quire, local or a Space; needs `gradio_client` only. Copy this file where you need it.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file

Json = dict[str, Any]
FINISHED = frozenset({"succeeded", "partial", "failed", "cancelled"})


class Quire:
    """`Quire("http://127.0.0.1:7860")`, or `Quire("owner/space", oauth_token="hf_…")`."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url
        self._options = options
        self._client = Client(url, verbose=False, **options)

    def submit(self, *files: str | Path, **options: Any) -> list[Json]:
        """One job per file; options as `/submit` takes them (collection, strategy, password …)."""
        return list(
            self._client.predict(
                files=[handle_file(str(f)) for f in files], api_name="/submit", **options
            )
        )

    def watch(self, job_id: str, after: int = 0, patience: float = 60.0) -> Iterator[Json]:
        """Events after that number until the job is finished. When the connection or the server
        goes away it attaches again by itself, for at most `patience` seconds without an answer."""
        quiet_since = time.monotonic()
        while True:
            try:
                for event in self._client.submit(job_id=job_id, after=after, api_name="/watch"):
                    quiet_since = time.monotonic()
                    if event["seq"] > after or event.get("status") in FINISHED:
                        after = max(after, event["seq"])
                        yield event
                if self.job(job_id)["status"] in FINISHED:
                    return
            except (OSError, ValueError) as problem:
                if time.monotonic() - quiet_since > patience:
                    raise TimeoutError("the server does not answer") from problem
                time.sleep(1)
                self._attach()

    def job(self, job_id: str) -> Json:
        return dict(self._client.predict(job_id=job_id, api_name="/job"))

    def jobs(self, status: str | None = None, limit: int = 50) -> list[Json]:
        return list(self._client.predict(status=status, limit=limit, api_name="/jobs"))

    def search(self, query: str, **options: Any) -> list[Json]:
        """Hits, best first; options as `/search` takes them (collection, mode, top_k, where)."""
        return list(self._client.predict(query=query, api_name="/search", **options))

    def collections(self) -> list[Json]:
        return list(self._client.predict(api_name="/collections"))

    def export(self, collection: str = "default", format: str = "parquet") -> str:
        """The URL of a zip file."""
        made = self._client.predict(collection=collection, format=format, api_name="/export")
        return self._url.rstrip("/") + str(made["url"])

    def call(self, name: str, **arguments: Any) -> Any:
        """Any other endpoint by its name, such as `call("delete_source", …)`."""
        return self._client.predict(api_name=f"/{name}", **arguments)

    def _attach(self) -> None:
        try:
            self._client = Client(self._url, verbose=False, **self._options)
        except (OSError, ValueError):
            return  # still away; the caller's patience decides
