"""ZeroGPU's device API as a process of its own, for one test; prints its port.

Grants, queues and refuses as told by POST /__set; keeps a log that GET /__log returns. A process
because the app forks itself for each call and must not take a server along.
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
GRANTS: dict[str, dict[str, Any]] = {}
KILL_AFTER: list[float] = []


def claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


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
        self.answer(200, LOG if self.path == "/__log" else 0)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlparse(self.path)
        given = {k: v[0] for k, v in parse_qs(url.query).items()}
        if url.path == "/__set":
            told = json.loads(body)
            LOG.clear()
            SCRIPT[:] = told.get("script", [])
            KILL_AFTER[:] = told.get("kill_after", [])
            self.answer(200, {})
            return
        entry = {"path": url.path, **given}
        LOG.append(entry)
        if url.path == "/schedule":
            self.schedule(given, entry)
        elif url.path == "/allow":
            self.allow(given)
        elif url.path == "/release":
            known = GRANTS.pop(given["allowToken"], None)
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
            return
        allow = f"a{len(LOG)}-{time.monotonic_ns()}"
        GRANTS[allow] = {}
        self.answer(
            200, {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": allow}
        )

    def allow(self, given: dict[str, str]) -> None:
        allow, pid = given["allowToken"], int(given["pid"])
        if KILL_AFTER:
            threading.Timer(KILL_AFTER.pop(0), os.kill, (pid, signal.SIGKILL)).start()
        self.answer(200, {"pid": pid, "allow": allow})


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
