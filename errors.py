"""The errors Quire shows to people and programs; a leaf that every layer may import.

    QuireError                 code, message, advice, permanent
    ├── InputError             the caller's file or argument: never retried
    ├── NotFound               an id that is not there, or not the caller's
    ├── Refused                a limit, a quota, a missing right
    ├── Unavailable            a remote, the worker, a GPU: retried with back-off
    ├── Conflict               somebody else wrote first: rebase, then retry
    ├── Corrupt                bytes that do not match their hash or format
    ├── PageProcessDied        reading a page took too much memory or time
    └── Cancelled              the caller no longer wants the answer

`code` is stable and listed in docs/errors.md (a test holds the two together). Retry policy asks
`permanent`, never the text. This module knows nothing of Gradio, DBOS or HTTP.
"""

import json
from typing import Any


class QuireError(Exception):
    """What happened (`message`) and what to do next (`advice`), under a stable `code`."""

    permanent = True

    def __init__(self, code: str, message: str, advice: str = "", **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.advice = advice
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process borders whole."""
        return _rebuilt, (type(self), self.__dict__.copy())

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "advice": self.advice}

    def packed(self) -> dict[str, Any]:
        """All of it in plain values, for another process; `unpacked` makes it whole again."""
        names = [kind.__name__ for kind in type(self).__mro__ if issubclass(kind, QuireError)]
        return {"kinds": names, "state": json.loads(json.dumps(self.__dict__, default=str))}


def kinds(kind: type[QuireError] = QuireError) -> dict[str, type[QuireError]]:
    """Every class of errors by its name."""
    return {kind.__name__: kind} | {
        n: k for sub in kind.__subclasses__() for n, k in kinds(sub).items()
    }


def unpacked(packed: dict[str, Any]) -> QuireError:
    """What was packed, as its own class, or the nearest one that this process knows."""
    known = kinds()
    return _rebuilt(next(known[n] for n in packed["kinds"] if n in known), packed["state"])


def _rebuilt(kind: type[QuireError], state: dict[str, Any]) -> QuireError:
    made = kind.__new__(kind, state["message"])
    made.__dict__.update(state)
    return made


class InputError(QuireError):
    """The file or the argument is at fault; the same call would fail again."""


class NotFound(QuireError):
    """No such id for this caller."""


class Refused(QuireError):
    """A limit, a quota or a missing right stands in the way."""


class Unavailable(QuireError):
    """Something outside cannot be reached now; `retry_after` seconds when it said so."""

    permanent = False

    def __init__(
        self,
        code: str,
        message: str,
        advice: str = "",
        retry_after: float | None = None,
        **details: Any,
    ) -> None:
        super().__init__(code, message, advice, **details)
        self.retry_after = retry_after


class Conflict(QuireError):
    """The state moved under us; read again and retry."""

    permanent = False


class Corrupt(QuireError):
    """Bytes that do not match their hash, size or format."""


class PageProcessDied(QuireError):
    """A page process was killed by the system, by its memory limit or by its time limit."""


class Cancelled(QuireError):
    """The caller no longer wants the answer."""


def was_cancelled() -> Cancelled:
    return Cancelled("cancelled", "The job was cancelled.", "Retry it when you want it.")
