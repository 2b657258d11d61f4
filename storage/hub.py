"""A private HF dataset as a Remote. The only importer of huggingface_hub below the web.

One explicit `create_commit` per change, with `parent_commit`; never `upload_folder`, which splits
into several commits. A commit's outcome can be unknown: then what stands at the head decides, by our
own manifest. Downloads check no hash; the caller does.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_session,
    hf_hub_url,
    set_client_factory,
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import default_client_factory

from errors import Conflict, NotFound, QuireError, Refused, Unavailable
from storage.remote import Change

_LIMITS = {"connect": 5.0, "read": 60.0, "write": 60.0, "pool": 60.0}
_BUSY = {409, 412}
_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
_CARD = """---
license: other
pretty_name: Quire
---

Written by Quire: `users/<key>/manifest.json` names everything of one user's newest generation, with
sha256. Segments are Parquet (`op, collection, id, document, metadata, embedding`):
`pandas.read_parquet(path)`.
"""
_ATTRIBUTES = "*.parquet filter=lfs diff=lfs merge=lfs -text\n*.pdf filter=lfs diff=lfs merge=lfs -text\n*.zip filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True, slots=True)
class HubRemote:
    """Files of one dataset repository; make it with `connect`."""

    api: HfApi
    repo: str
    name: str = "hub"
    sleep: Callable[[float], None] = time.sleep

    def check(self) -> None:
        """The dataset is there, private and ours to write; made when it is not there."""
        with _translated(self.repo):
            self.api.create_repo(self.repo, repo_type="dataset", private=True, exist_ok=True)
            found = self.api.dataset_info(self.repo)
            if not found.private:
                raise Refused(
                    "hub_public",
                    f"The dataset {self.repo} is public; documents would be readable by anybody.",
                    "Make it private, or name another one in QUIRE_HUB_DATASET.",
                )
            self.api.auth_check(self.repo, repo_type="dataset", write=True)
            if not self.api.file_exists(self.repo, "README.md", repo_type="dataset"):
                self.api.create_commit(
                    self.repo,
                    [
                        CommitOperationAdd("README.md", _CARD.encode()),
                        CommitOperationAdd(".gitattributes", _ATTRIBUTES.encode()),
                    ],
                    commit_message="Begin",
                    repo_type="dataset",
                    parent_commit=found.sha,
                )

    def read(self, name: str) -> bytes:
        return self._read(name, "main")

    def fetch(self, name: str, to: Path) -> None:
        to.write_bytes(self._read(name, "main"))

    def names(self, prefix: str) -> Iterator[str]:
        try:
            with _translated(prefix):
                tree = self.api.list_repo_tree(
                    self.repo, prefix or None, recursive=True, repo_type="dataset"
                )
                found = [entry.path for entry in tree if hasattr(entry, "size")]
        except NotFound:
            return iter(())
        return iter(sorted(p for p in found if p not in {"README.md", ".gitattributes"}))

    def commit(self, change: Change) -> None:
        for wait in (*_WAITS, None):
            head = self._head()
            if self._landed(change, head):
                return
            self._expect(change, head)
            try:
                self._post(change, head)
            except HfHubHTTPError as problem:
                if problem.response.status_code not in _BUSY or wait is None:
                    if self._landed_now(change, problem):
                        return
                    raise _told(problem) from problem
                self.sleep(wait)
            except (httpx2.TransportError, OSError, RuntimeError, ValueError) as problem:
                if self._landed_now(change, problem):
                    return
                raise _away(type(problem).__name__) from problem
            else:
                return

    def _post(self, change: Change, head: str) -> None:
        there = set(self.names("users")) if change.deletes else set()
        every = {**change.files, **change.manifests}
        adds = [CommitOperationAdd(name, content) for name, content in every.items()]
        self.api.preupload_lfs_files(self.repo, adds, repo_type="dataset")
        if any(add._should_ignore for add in adds):
            raise Refused(
                "hub_ignored",
                f"The dataset {self.repo} leaves out files that were to be saved.",
                "Delete the .gitignore in the dataset.",
            )
        self.api.create_commit(
            self.repo,
            [
                *adds,
                *(CommitOperationDelete(name) for name in sorted(change.deletes & there)),
            ],
            commit_message=f"Save {len(change.manifests)} of Quire's users",
            repo_type="dataset",
            parent_commit=head,
        )

    def _head(self) -> str:
        with _translated(self.repo):
            return str(self.api.dataset_info(self.repo).sha)

    def _expect(self, change: Change, head: str) -> None:
        for name, expected in change.expected.items():
            if self._digest(name, head) != expected:
                raise Conflict(
                    "changed_elsewhere",
                    "Another instance saved in between.",
                    "It is read again and the save repeated.",
                )

    def _landed(self, change: Change, head: str) -> bool:
        """Our own manifests stand at the head: an earlier try did arrive."""
        return bool(change.manifests) and all(
            self._digest(name, head) == hashlib.sha256(content).hexdigest()
            for name, content in change.manifests.items()
        )

    def _landed_now(self, change: Change, problem: Exception) -> bool:
        try:
            return self._landed(change, self._head())
        except QuireError as second:
            raise second from problem

    def _digest(self, name: str, revision: str) -> str | None:
        try:
            return hashlib.sha256(self._read(name, revision)).hexdigest()
        except NotFound:
            return None

    def _read(self, name: str, revision: str) -> bytes:
        url = hf_hub_url(
            self.repo, name, repo_type="dataset", revision=revision, endpoint=self.api.endpoint
        )
        headers = build_hf_headers(token=self.api.token)
        try:
            answer = get_session().get(url, headers=headers, follow_redirects=True)
        except httpx2.TransportError as problem:
            raise _away(type(problem).__name__) from problem
        if answer.status_code >= 400:
            raise _status(answer.status_code, name, answer.headers.get("retry-after"))
        return bytes(answer.content)


def connect(repo: str, token: str | None, endpoint: str | None = None) -> HubRemote:
    """A client with time limits on every request: the library has none by default."""
    set_client_factory(_limited)
    return HubRemote(HfApi(endpoint=endpoint, token=token or False), repo)


def _limited() -> Any:
    client = default_client_factory()

    def limit(request: Any) -> None:
        given = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {
            k: given[k] if given.get(k) is not None else v for k, v in _LIMITS.items()
        }

    client.event_hooks = {"request": [*client.event_hooks["request"], limit]}
    return client


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as problem:
        raise _told(problem, name) from problem
    except (httpx2.TransportError, OSError, RuntimeError) as problem:
        raise _away(type(problem).__name__) from problem


def _told(problem: HfHubHTTPError, name: str = "the commit") -> QuireError:
    return _status(problem.response.status_code, name, problem.response.headers.get("retry-after"))


def _status(status: int, name: str, retry_after: str | None) -> QuireError:
    if status == 404:
        return NotFound(
            "not_in_store", f"{name} is not in the store.", "Nothing was saved there yet."
        )
    if status in {400, 401, 403}:
        return Refused(
            "hub_refused",
            f"The Hub refused the request ({status}).",
            "Check HF_TOKEN: it needs write access to this one dataset.",
        )
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    if status == 429:
        wait = max(wait or 0.0, 900.0)  # commits have an hourly limit that no header describes
    return _away(str(status), wait)


def _away(why: str, retry_after: float | None = None) -> Unavailable:
    return Unavailable(
        "hub_unavailable",
        f"The Hub cannot be reached ({why}).",
        "The save is repeated by itself.",
        retry_after,
    )
