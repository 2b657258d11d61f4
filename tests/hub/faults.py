"""What goes wrong on purpose: rules that match requests, and the broken answers they give."""

import re
from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass, field

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send


@dataclass
class Fault:
    """The `times` requests after the first `skip` that match `method` and `path` (a pattern) fail.

    As they come: `status` is answered instead of the work; `drop` closes the connection without an
    answer; `after` does the work first, so that it landed and nobody was told. With the body of the true answer: `truncate` sends that
    many bytes of it under its full length, `corrupt` flips one bit in its middle.
    """

    method: str
    path: str
    status: int = 500
    after: bool = False
    corrupt: bool = False
    times: int = 1
    skip: int = 0
    drop: bool = False
    truncate: int | None = None
    text: str = "made to fail"
    xml: str = ""  # the answer's body instead of the Hub's own
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def works_first(self) -> bool:
        return self.after or self.corrupt or self.truncate is not None

    def broken(self, answer: Response | None) -> Response:
        """What is sent in place of `answer`, None when the work was not done."""
        if self.drop:
            return Dropped()
        if answer is not None and self.truncate is not None:
            return Cut(bytes(answer.body)[: self.truncate], len(answer.body), answer)
        if answer is not None and self.corrupt:
            body = bytearray(answer.body)
            body[len(body) // 2] ^= 1
            return Response(bytes(body), answer.status_code, headers(answer))
        if answer is not None and not self.status:
            return answer
        if self.xml:
            return Response(self.xml, self.status, dict(self.headers), "application/xml")
        return error(self.status, self.text, more=self.headers)


class Cut(Response):
    """Promises `length` bytes, sends `body` and hangs up."""

    def __init__(self, body: bytes, length: int, like: Response | None = None) -> None:
        kept = headers(like) if like is not None else {}
        super().__init__(body, like.status_code if like is not None else 200, kept)
        self.length = length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = [(k, v) for k, v in self.raw_headers if k != b"content-length"]
        sized = [*kept, (b"content-length", str(self.length).encode())]
        await send({"type": "http.response.start", "status": self.status_code, "headers": sized})
        if self.body:
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
        raise ConnectionAbortedError  # the server hangs up


class Dropped(Response):
    """No answer at all; `Loopback` says how to hang up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["hang_up"]()


def taken(faults: MutableSequence[Fault], method: str, path: str) -> Fault | None:
    """The first rule that this request triggers, counted down."""
    for fault in faults:
        if fault.times and fault.method in {method, "*"} and re.search(fault.path, path):
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            return fault
    return None


def error(
    status: int, text: str, code: str | None = None, more: Mapping[str, str] | None = None
) -> Response:
    """An error as the Hub words it: its client reads the two headers."""
    named = {"X-Error-Message": text, **({"X-Error-Code": code} if code else {}), **(more or {})}
    return JSONResponse({"error": text}, status_code=status, headers=named)


def headers(answer: Response) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k != "content-length"}
