"""The Remote protocol: a place that keeps users' generations, and what it promises.

* `commit` is all or nothing to readers: either the manifests it names are the newest and every
  file they need is readable, or nothing changed. It raises Conflict when a manifest it replaces is
  not the one the caller had seen, Unavailable when the outcome is a failure that may pass, and
  Refused when the caller lacks the right. An unknown outcome is resolved inside by looking.
* files are written once under a name and never change; only `manifest.json` of a user moves on.
* `fetch` gives the bytes as stored; hashing them is the caller's duty (`replication`).

Implementations: local directory, HF dataset, S3. Retrying is a wrapper, not a feature of each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One commit: `files` and `manifests` by name, `expected` the sha256 of the manifest bytes
    seen before (None: there was none), `deletes` names that no kept generation needs."""

    files: Mapping[str, Path | bytes]
    manifests: Mapping[str, bytes]
    expected: Mapping[str, str | None]
    deletes: frozenset[str] = field(default_factory=frozenset)


class Remote(Protocol):
    """Names are POSIX paths such as `users/<key>/manifest.json`."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Prove the rights and the preconditions, once at start: Refused with the reason."""

    def read(self, name: str) -> bytes:
        """A small file, whole. NotFound when it is not there."""

    def fetch(self, name: str, to: Path) -> None:
        """A file to a path whose folder exists. NotFound when it is not there."""

    def names(self, prefix: str) -> Iterator[str]:
        """Every name under a prefix, sorted."""

    def commit(self, change: Change) -> None:
        """See the module's first promise."""
