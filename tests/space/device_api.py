"""ZeroGPU's device API as a process of its own, for one test; prints its port.

Grants, queues, refuses and kills as told by POST /__set; keeps a log that GET /__log returns. A
process because the app forks itself for each call and must not take a server along.

An answer of `script` is `{"status": …, "body": …, "headers": …}` or `{"sse": [events]}`, an event
being "ping", "failed", "succeeded", "drop" or seconds to wait. Without one, a GPU is granted.
`kill_after` lists seconds, or "duration" for what was declared, per started fork; `warm` lets a fork
be used again.
"""

import base64
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

LOG: list[dict[str, Any]] = []
SCRIPT: list[dict[str, Any]] = []
GRANTS: dict[str, dict[str, Any]] = {}  # by allowToken, until released
KILL_AFTER: list[Any] = []
TOLD: dict[str, Any] = {}


def claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


def kill(allow: str, pid: int) -> None:
    if allow in GRANTS:
        os.kill(pid, signal.SIGKILL)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: Any, **headers: str) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        self.answer(200, {"log": LOG, "held": len(GRANTS)} if self.path == "/__log" else 0)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlparse(self.path)
        given = {k: v[0] for k, v in parse_qs(url.query).items()}
        if url.path == "/__set":
            TOLD.clear()
            TOLD.update(json.loads(body))
            LOG.clear()
            GRANTS.clear()
            SCRIPT[:] = TOLD.get("script", [])
            KILL_AFTER[:] = TOLD.get("kill_after", [])
            self.answer(200, {})
            return
        entry: dict[str, Any] = {"path": url.path, **given}
        LOG.append(entry)
        if url.path == "/schedule":
            self.schedule(given, entry)
        elif url.path == "/allow":
            self.allow(given)
        elif url.path == "/release":
            known = GRANTS.pop(given["allowToken"], None)
            if known:
                known["entry"]["used"] = time.monotonic() - known["at"]
            self.answer(200 if known else 404, {})
        else:
            self.answer(200, {})

    def schedule(self, given: dict[str, str], entry: dict[str, Any]) -> None:
        token = given.get("token")
        entry["user"] = claims(token)["user"] if token else None
        if token and claims(token).get("exp", time.time() + 1) < time.time():
            self.answer(401, {})
            return
        told = SCRIPT.pop(0) if SCRIPT else {}
        if "status" in told:
            self.answer(told["status"], told.get("body", {}), **told.get("headers", {}))
        elif "sse" in told:
            self.stream(told["sse"], entry)
        else:
            self.answer(200, self.grant(entry))

    def grant(self, entry: dict[str, Any]) -> dict[str, Any]:
        allow = f"a{len(LOG)}-{time.monotonic_ns()}"
        entry["granted"] = allow
        GRANTS[allow] = {"entry": entry, "at": time.monotonic()}
        idle, card = bool(TOLD.get("warm")), os.environ.get("CARD", "GPU-0")
        return {"idle": idle, "nvidiaIndex": 0, "nvidiaUUID": card, "allowToken": allow}

    def stream(self, events: list[Any], entry: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("X-Queuing-Reason", "node")
        self.send_header("X-Authenticated", "regular")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            if isinstance(event, float | int):
                time.sleep(event)
                continue
            if event == "drop":
                self.close_connection = True
                self.connection.close()
                return
            data = json.dumps(self.grant(entry)) if event == "succeeded" else ""
            raw = f"event: {event}\ndata: {data}\n\n".encode()
            self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def allow(self, given: dict[str, str]) -> None:
        allow, pid = given["allowToken"], int(given["pid"])
        if KILL_AFTER and allow in GRANTS:
            after = KILL_AFTER.pop(0)
            declared = float(GRANTS[allow]["entry"]["durationSeconds"])
            seconds = declared if after == "duration" else after
            threading.Timer(seconds, kill, (allow, pid)).start()
        self.answer(200, {"pid": pid, "allow": allow})


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
