"""The errors Quire shows to people and programs; a leaf that every layer may import.

    QuireError                 code, message, advice, permanent
    ├── InputError             the caller's file or argument: never retried
    ├── NotFound               an id that is not there, or not the caller's
    ├── Refused                a limit, a quota, a missing right
    ├── Unavailable            a remote, the worker, a GPU: retried with back-off
    ├── Conflict               somebody else wrote first: rebase, then retry
    └── Corrupt                bytes that do not match their hash or format

`code` is stable and listed in docs/errors.md (a test holds the two together). Retry policy asks
`permanent`, never the text. This module knows nothing of Gradio, DBOS or HTTP.
"""

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
        self, code: str, message: str, advice: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(code, message, advice)
        self.retry_after = retry_after


class Conflict(QuireError):
    """The state moved under us; read again and retry."""

    permanent = False


class Corrupt(QuireError):
    """Bytes that do not match their hash, size or format."""
