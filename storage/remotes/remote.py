"""The Remote protocol: a place that keeps users' generations, and what it promises.

* `commit` is all or nothing to readers, for each manifest it names: either that manifest is the
  newest and every file it needs is readable, or nothing changed for its user. A commit of several
  users that fails may have reached some of them on a remote without transactions; the caller looks
  at each manifest for its own bytes. It raises Conflict, with the `names` of the manifests that are
  not what the caller had seen, Unavailable for a failure that may pass or an outcome that cannot
  be known, and Refused when the caller lacks the right.
* files are written once under a name and never change; only `manifest.json` of a user moves on.
* `read` and `fetch` give the bytes as stored, never more than `at_most` of them; hashing them is
  the caller's duty (`generations`).
* `forget` is what makes an erasure real: a deleted name stays in a dataset's history and in a
  bucket's versions until then.

Implementations: local directory, HF dataset, S3. Retrying is a wrapper, not a feature of each.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from errors import Conflict, Corrupt, NotFound

SMALL = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One commit for one user or several: `files` and `manifests` by name, `expected` the sha256
    of the manifest bytes seen before (None: there was none), `deletes` names that no kept
    generation needs. `overwrite` puts `files` in the place of what has their names: a repair."""

    files: Mapping[str, Path | bytes]
    manifests: Mapping[str, bytes]
    expected: Mapping[str, str | None]
    deletes: frozenset[str] = field(default_factory=frozenset)
    overwrite: bool = False


class Remote(Protocol):
    """Names are POSIX paths such as `users/<key>/manifest.json`."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Prove the rights and the preconditions, before the first use: Refused with the reason."""

    def read(self, name: str, at_most: int = SMALL) -> bytes:
        """A file, whole. NotFound when it is not there, Corrupt when it is larger."""

    def fetch(self, name: str, to: Path, at_most: int = SMALL) -> None:
        """A file to a path whose folder exists, in pieces; errors as of `read`."""

    def names(self, prefix: str) -> Iterator[str]:
        """Every name under a prefix, sorted."""

    def commit(self, change: Change) -> None:
        """See the module's first promise."""

    def history(self) -> int:
        """How many older states it keeps that `forget` would remove."""

    def forget(self, names: frozenset[str]) -> float:
        """Every version of these names, and of what was ever beside them in their user's folder, that a
        reader of the newest state does not see is gone for good: the seconds until then (0: now)."""


def changed_elsewhere(names: Iterable[str] = ()) -> Conflict:
    return Conflict(
        "changed_elsewhere",
        "Another instance saved in between.",
        "It is read again and the save repeated.",
        names=tuple(names),
    )


def not_there(name: str) -> NotFound:
    return NotFound("not_in_store", f"{name} is not in the store.", "Nothing was saved there yet.")


def too_large(name: str) -> Corrupt:
    return Corrupt(
        "stored_file_too_large",
        f"{name} is larger in the store than its manifest says.",
        "It is not used; restore from the other remote.",
    )
