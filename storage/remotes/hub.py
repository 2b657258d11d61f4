"""A private HF dataset as a Remote.

One explicit `create_commit` per change, with `parent_commit`; never `upload_folder`, which splits
into several commits. A commit's outcome can be unknown: then what stands at the head decides, by our
own manifest. Downloads check no hash; the caller does. "Not there" is said of a file only when the
Hub says so of that file: a dataset that is not there, or not ours to see, is no empty store.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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

from errors import NotFound, QuireError, Refused, Unavailable
from storage.remotes.dataset_card import ATTRIBUTES, CARD
from storage.remotes.remote import SMALL, Change, changed_elsewhere, not_there, too_large

_LIMITS = {"connect": 5.0, "read": 60.0, "write": 60.0, "pool": 60.0}
_PATIENCE = (
    10.0  # seconds that the client may sleep when it is told to; more is the caller's matter
)
_HOURLY = 900.0  # until the next try when the limit on commits does not say when it ends
_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_BUSY = {409, 412}
_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
_GONE_AFTER = 36 * 3600.0  # when the Hub has given back the storage of a rewritten history


@dataclass(slots=True)
class _Heads:
    """What the Hub calls the head may lag behind a commit that it has just confirmed."""

    newest: str | None = None
    behind: set[str] = field(default_factory=set)

    def told(self, head: str) -> str:
        if self.newest is None or head not in self.behind:
            self.newest = head
        return self.newest

    def made(self, parent: str, head: str) -> None:
        self.behind.add(parent)
        self.newest = head


@dataclass(frozen=True, slots=True)
class HubRemote:
    """Files of one dataset repository; make it with `connect`."""

    api: HfApi
    repo: str
    name: str = "hub"
    sleep: Callable[[float], None] = time.sleep
    _heads: _Heads = field(default_factory=_Heads)

    def check(self) -> None:
        """The dataset is there, private and ours to write; made when it is not there."""
        with translated(self.repo):
            if not self.api.repo_exists(self.repo, repo_type="dataset"):
                self.api.create_repo(self.repo, repo_type="dataset", private=True, exist_ok=True)
            head = self._private_head()
            self.api.auth_check(self.repo, repo_type="dataset", write=True)
            self._describe(head)

    def read(self, name: str, at_most: int = SMALL) -> bytes:
        return b"".join(self._pieces(name, self._head(), at_most))

    def fetch(self, name: str, to: Path, at_most: int = SMALL) -> None:
        pieces = self._pieces(name, self._heads.newest or self._head(), at_most)
        with to.open("wb") as file:
            for piece in pieces:
                file.write(piece)

    def names(self, prefix: str) -> Iterator[str]:
        return iter(
            sorted(p for p in self._tree(prefix) if p not in {"README.md", ".gitattributes"})
        )

    def commit(self, change: Change) -> None:
        for wait in (*_WAITS, None):
            head = self._private_head()
            there = {n: self._digest(n, head) for n in {**change.expected, **change.manifests}}
            if _landed(change, there):
                return
            moved = [n for n, seen in change.expected.items() if there[n] != seen]
            if moved:
                raise changed_elsewhere(moved)
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
                raise _transport(problem) from problem
            else:
                return

    def history(self) -> int:
        with translated(self.repo):
            return len(self.api.list_repo_commits(self.repo, repo_type="dataset")) - 1

    def forget(self, names: frozenset[str]) -> float:
        """The whole history goes: the Hub cannot forget one file of it."""
        with translated(self.repo):
            self.api.super_squash_history(self.repo, repo_type="dataset", branch="main")
            self._heads.newest = None
            self._heads.behind.clear()
            needed = {e.lfs.sha256 for e in self._tree("").values() if e.lfs}
            dead = [
                f
                for f in self.api.list_lfs_files(self.repo, repo_type="dataset")
                if f.file_oid not in needed and f.filename.startswith("users/")
            ]
            if dead:
                self.api.permanently_delete_lfs_files(self.repo, dead, repo_type="dataset")
        return _GONE_AFTER

    def _describe(self, head: str) -> None:
        """The dataset says itself how it is read, in the words of this version."""
        try:
            there = self._pieces("README.md", head, SMALL)
            if b"".join(there) == CARD.encode():
                return
        except NotFound:
            pass
        self.api.create_commit(
            self.repo,
            [
                CommitOperationAdd("README.md", CARD.encode()),
                CommitOperationAdd(".gitattributes", ATTRIBUTES.encode()),
            ],
            commit_message="Describe the store",
            repo_type="dataset",
            parent_commit=head,
        )

    def _post(self, change: Change, head: str) -> None:
        folders = {"/".join(name.split("/")[:2]) for name in change.deletes}
        there = {name for folder in folders for name in self._tree(folder)}
        every = {**change.files, **change.manifests}
        adds = [CommitOperationAdd(name, content) for name, content in every.items()]
        self.api.preupload_lfs_files(self.repo, adds, repo_type="dataset")
        if any(add._should_ignore for add in adds):
            raise Refused(
                "hub_ignored",
                f"The dataset {self.repo} leaves out files that were to be saved.",
                "Delete the .gitignore in the dataset.",
            )
        made = self.api.create_commit(
            self.repo,
            [
                *adds,
                *(CommitOperationDelete(name) for name in sorted(change.deletes & there)),
            ],
            commit_message=f"Save {len(change.manifests)} of Quire's users",
            repo_type="dataset",
            parent_commit=head,
        )
        self._heads.made(head, str(made.oid))

    def _tree(self, prefix: str) -> dict[str, Any]:
        try:
            with translated(prefix):
                entries = self.api.list_repo_tree(
                    self.repo, prefix.rstrip("/") or None, recursive=True, repo_type="dataset"
                )
                return {e.path: e for e in entries if hasattr(e, "size")}
        except NotFound:
            return {}

    def _head(self) -> str:
        with translated(self.repo):
            return self._heads.told(str(self.api.dataset_info(self.repo).sha))

    def _private_head(self) -> str:
        """The head to write on; it may have been made public since the last look."""
        with translated(self.repo):
            found = self.api.dataset_info(self.repo)
        if not found.private:
            raise Refused(
                "hub_public",
                f"The dataset {self.repo} is public; documents would be readable by anybody.",
                "Make it private, or name another one in QUIRE_HUB_DATASET.",
            )
        return self._heads.told(str(found.sha))

    def _landed_now(self, change: Change, problem: Exception) -> bool:
        try:
            head = self._head()
            return _landed(change, {n: self._digest(n, head) for n in change.manifests})
        except QuireError as second:
            raise second from problem

    def _digest(self, name: str, revision: str) -> str | None:
        try:
            return hashlib.sha256(b"".join(self._pieces(name, revision, SMALL))).hexdigest()
        except NotFound:
            return None

    def _pieces(self, name: str, revision: str, at_most: int) -> Iterator[bytes]:
        """The bytes of a file at a commit, which the client's own downloader would cache."""
        url = hf_hub_url(
            self.repo, name, repo_type="dataset", revision=revision, endpoint=self.api.endpoint
        )
        headers = build_hf_headers(token=self.api.token)
        size = 0
        with (
            translated(name),
            get_session().stream("GET", url, headers=headers, follow_redirects=True) as answer,
        ):
            if answer.status_code >= 400 and answer.history:
                raise _away(str(answer.status_code))  # of the store behind it, whatever it says
            if answer.status_code >= 400:
                raise _status(answer.status_code, answer.headers, name)
            for piece in answer.iter_bytes(1 << 20):
                size += len(piece)
                if size > at_most:
                    raise too_large(name)
                yield piece


def _landed(change: Change, there: Mapping[str, str | None]) -> bool:
    """Our own manifests stand at the head: an earlier try did arrive."""
    return bool(change.manifests) and all(
        there[name] == hashlib.sha256(content).hexdigest()
        for name, content in change.manifests.items()
    )


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

    def impatient(answer: Any) -> None:
        """The client would sleep as long as it is told, an hour if need be, inside one call."""
        if answer.status_code in {429, 503} and (_asked(answer.headers) or 0) > _PATIENCE:
            raise _status(answer.status_code, answer.headers)

    hooks = client.event_hooks
    client.event_hooks = {
        "request": [*hooks["request"], limit],
        "response": [*hooks["response"], impatient],
    }
    return client


@contextmanager
def translated(name: str) -> Iterator[None]:
    """What the client raises, as errors of ours."""
    try:
        yield
    except HfHubHTTPError as problem:
        raise _told(problem, name) from problem
    except (httpx2.TransportError, OSError, RuntimeError, ValueError) as problem:
        raise _transport(problem) from problem


def _transport(problem: BaseException) -> QuireError:
    """What the client raises without a status of its own; an upload hides the answer it got in its
    cause. A Xet token that was refused is a plain ConnectionError, told apart by its text alone."""
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, QuireError):
            return cause
        if isinstance(cause, HfHubHTTPError):
            return _told(cause)
        cause = cause.__cause__
    if "401 Unauthorized" in str(problem) or "403 Forbidden" in str(problem):
        return _status(401, {})
    return _away(type(problem).__name__)


def _told(problem: HfHubHTTPError, name: str = "the commit") -> QuireError:
    return _status(problem.response.status_code, problem.response.headers, name)


def _status(status: int, headers: Mapping[str, str], name: str = "the commit") -> QuireError:
    code = headers.get("x-error-code")
    if code == "EntryNotFound":
        return not_there(name)
    if code == "RevisionNotFound":
        return _away("the history was rewritten in between")
    if status == 404 or code in {"RepoNotFound", "GatedRepo"}:
        return Refused(
            "hub_no_dataset",
            "The dataset is not there, or HF_TOKEN may not see it.",
            "Check QUIRE_HUB_DATASET, and whose token HF_TOKEN is. Nothing was changed.",
        )
    if status == 401:
        return Refused(
            "hub_token",
            "The Hub does not accept the token: it is invalid or has expired.",
            "Make a new one with write access to this one dataset and set HF_TOKEN.",
        )
    if status in {400, 403}:
        return Refused(
            "hub_refused",
            f"The Hub refused the request ({status}).",
            "Check HF_TOKEN: it needs write access to this one dataset.",
        )
    message = headers.get("x-error-message", "")
    if status == 429 and "commit" in message:
        return _hourly(message, _asked(headers))
    return _away(str(status), _asked(headers))


def _asked(headers: Mapping[str, str]) -> float | None:
    """The seconds to wait that an answer names, in either of the two ways the Hub has."""
    if headers.get("retry-after", "").isdigit():
        return float(headers["retry-after"])
    window = re.search(r"\br=0;\s*t=(\d+)", headers.get("ratelimit", ""))
    return float(window[1]) if window else None


def _hourly(message: str, asked: float | None) -> Unavailable:
    """The limit on commits of an hour, which the headers do not describe: its text says when."""
    found = re.search(r"\bin (?:about )?(\d+|an?) (second|minute|hour)", message)
    told = float(found[1]) * _UNITS[found[2]] if found and found[1].isdigit() else None
    wait = max(asked or 0.0, told or (_UNITS[found[2]] if found else _HOURLY))
    return Unavailable(
        "hub_hourly_limit",
        f"The Hub takes no more commits this hour; the next try is in {wait / 60:.0f} minutes.",
        "Nothing is lost: what is not yet saved waits here, and is saved by itself.",
        wait,
    )


def _away(why: str, retry_after: float | None = None) -> Unavailable:
    return Unavailable(
        "hub_unavailable",
        f"The Hub cannot be reached ({why}).",
        "The save is repeated by itself.",
        retry_after,
    )
