"""What a push to somebody's own dataset needs: the dataset's name, and the token that its owner lends.

A lent token is in memory only, gone with its job or the worker: never written, logged or told. Knows
nothing of the Hub's client.
"""

import re
import threading
import unicodedata
from dataclasses import dataclass, field

from errors import InputError, Unavailable

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_]|[-.](?![-.])){0,94}", re.ASCII)


@dataclass(slots=True)
class Lent:
    """Any number of threads may lend and take."""

    _tokens: dict[str, str] = field(default_factory=dict, repr=False)
    _lends: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def lend(self, job: str, token: str) -> None:
        with self._changed:
            self._tokens[job] = token
            self._lends += 1
            self._changed.notify_all()

    def take(self, job: str, seconds: float) -> str:
        """The token for that job; it may come a moment after the job."""
        with self._changed:
            if not self._changed.wait_for(lambda: job in self._tokens, seconds):
                raise Unavailable(
                    "push_needs_owner",
                    "Quire was restarted, and your sign-in was in its memory only.",
                    "Push once more, and this goes on; what was sent is not sent again.",
                )
            return self._tokens[job]

    def wait(self, seconds: float) -> None:
        """That long, or until somebody lends something."""
        with self._changed:
            before = self._lends
            self._changed.wait_for(lambda: self._lends != before, seconds)

    def forget(self, job: str) -> None:
        with self._changed:
            self._tokens.pop(job, None)


def dataset_name(owner: str, title: str, given: str) -> str:
    """`owner/name` as the Hub allows it: as given, else the owner's and named like the title."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    like = re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:80] or "collection"
    whole = given.strip() or like
    whole = whole if "/" in whole else f"{owner}/{whole}"
    parts = whole.split("/")
    fine = all(_NAME.fullmatch(p) and p[-1] not in "-." and not p.endswith(".git") for p in parts)
    if len(parts) != 2 or not fine:
        raise InputError(
            "push_name",
            "That is no name of a dataset.",
            "Use a name or owner/name, of letters, digits and - _ . between them.",
        )
    return whole
