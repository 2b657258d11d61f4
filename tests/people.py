"""People at a Space, as their browsers and scripts are seen from outside: cookies and headers."""

import json
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path
from typing import Any

from tests.oidc import Provider


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_Stay)


@dataclass
class Person:
    """Keeps every cookie for every request (the real ones are Secure; loopback is not https)."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)
    patient: int = 0  # how often it waits as long as a limit tells

    def ask(
        self, path: str, body: bytes | None = None, method: str | None = None, **headers: str
    ) -> tuple[int, bytes, Message]:
        url = path if path.startswith("http") else self.url + path
        request = urllib.request.Request(url, body, method=method)
        given = {**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}}
        if self.cookies and url.startswith(self.url):
            given["Cookie"] = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        for name, value in given.items():
            request.add_header(name, value)
        try:
            answer = _opener.open(request, timeout=60)
        except urllib.error.HTTPError as problem:
            answer = problem
        with answer:
            for cookie in answer.headers.get_all("set-cookie") or []:
                name, _, value = cookie.split(";")[0].partition("=")
                self.cookies[name] = value
            found = answer.status, answer.read(), answer.headers
        if self.patient and found[0] == 429:
            time.sleep(int(found[2]["retry-after"]))
            again = replace(self, patient=self.patient - 1)
            return again.ask(path, body, method, **headers)
        return found

    def follow(self, path: str, most: int = 6) -> int:
        """Through the redirects of a sign-in; the last status."""
        for _ in range(most):
            status, _body, headers = self.ask(path)
            if status not in {302, 303, 307}:
                return status
            path = urllib.parse.urljoin(self.url, headers["location"])
        raise AssertionError("too many redirects")

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        status, answer, _ = self.ask(
            path, json.dumps(body).encode(), **{"Content_Type": "application/json", **headers}
        )
        try:
            return status, json.loads(answer)
        except ValueError:
            return status, answer.decode(errors="replace")

    def call(self, name: str, **arguments: Any) -> Any:
        """An endpoint by Gradio's HTTP interface: its value, or `Refusal` with the code."""
        status, begun = self.post(f"/gradio_api/call/v2/{name}", arguments)
        if status != 200:
            raise _refusal(status, begun)
        status, stream, _ = self.ask(f"/gradio_api/call/{name}/{begun['event_id']}")
        if status != 200:
            raise _refusal(status, json.loads(stream))
        event, data = "", None
        for line in stream.decode().splitlines():
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: ") and event in {"complete", "error", "generating"}:
                data = json.loads(line[6:])
        if event == "error":
            raise Refusal(str((data or {}).get("title")), str((data or {}).get("error")))
        return data[0] if data else None

    def upload(self, file: Path | bytes, name: str = "report.pdf") -> tuple[int, Any]:
        content = file if isinstance(file, bytes) else file.read_bytes()
        body, kind = form(content, name)
        status, answer, _ = self.ask("/gradio_api/upload", body, Content_Type=kind)
        return status, json.loads(answer) if status == 200 else answer.decode()


class Refusal(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


def _refusal(status: int, told: Any) -> Refusal:
    error = told.get("error") if isinstance(told, dict) else None
    return Refusal(error["code"] if isinstance(error, dict) else str(status), str(told))


def form(content: bytes, name: str) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        "Content-Type: application/pdf\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def signed_in(url: str, provider: Provider, name: str, *, push: bool = False) -> Person:
    """Through the real redirect: the app, the provider, the callback."""
    person = Person(url)
    provider.person = name
    assert person.follow(f"/login/huggingface{'?push=1' if push else ''}") == 200
    assert "session" in person.cookies
    return person


def visitor(url: str) -> Person:
    """Each from another address: visitors at one share what there is for it."""
    at = f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"
    person = Person(url, {"X-Forwarded-For": at})
    assert person.ask("/")[0] == 200
    return person


def with_token(url: str, token: str) -> Person:
    return Person(url, {"Authorization": f"Bearer {token}"})
