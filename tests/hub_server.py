"""A Hub on loopback that speaks the real protocol to the real client, in LFS mode, for one test.

Datasets with a linear history, commits with a parent check, large files by LFS with verification,
downloads from a second origin that must get no token. `faults` break the n-th matching request.
"""

import asyncio
import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

Entry = tuple[str, int, bool]  # sha256, size, large
BUSY = "Another commit operation is in progress for this repository. Please try again later."
STALE = "A commit has happened since. Please refresh and try again."


@dataclass
class Fault:
    """`after` does the work and then fails; `corrupt` flips a byte of the body."""

    method: str
    path: str
    status: int = 500
    after: bool = False
    corrupt: bool = False
    times: int = 1


@dataclass
class Repo:
    private: bool = True
    commits: list[tuple[str, dict[str, Entry]]] = field(default_factory=list)

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    def tree(self, revision: str) -> dict[str, Entry] | None:
        if revision in {"main", "refs/heads/main"}:
            return self.commits[-1][1]
        return next((t for oid, t in self.commits if oid.startswith(revision)), None)

    def add(self, tree: dict[str, Entry]) -> str:
        seen = json.dumps([len(self.commits), sorted(tree.items())])
        self.commits.append((hashlib.sha1(seen.encode()).hexdigest(), tree))
        return self.head


class Hub:
    """`with Hub() as hub: hub.url`. Tokens: `hf_write` and `hf_read`, both of user `ada`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.leaks: list[str] = []
        self.ignored = ""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url, self.cdn = f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"
        paths = {
            "/api/whoami-v2": self._whoami,
            "/api/repos/create": self._create,
            "/api/validate-yaml": self._yaml,
            "/api/datasets/{ns}/{name}": self._info,
            "/api/datasets/{ns}/{name}/revision/{rev}": self._info,
            "/api/datasets/{ns}/{name}/auth-check": self._auth,
            "/api/datasets/{ns}/{name}/auth-check/write": self._auth,
            "/api/datasets/{ns}/{name}/preupload/{rev}": self._preupload,
            "/api/datasets/{ns}/{name}/commit/{rev}": self._commit,
            "/api/datasets/{ns}/{name}/tree/{rev}": self._tree,
            "/api/datasets/{ns}/{name}/tree/{rev}/{path:path}": self._tree,
            "/datasets/{ns}/{name}.git/info/lfs/objects/batch": self._batch,
            "/datasets/{ns}/{name}.git/info/lfs/objects/verify": self._verify,
            "/datasets/{ns}/{name}/resolve/{rev}/{path:path}": self._resolve,
            "/cdn/{sha}": self._cdn,
        }
        methods = ["GET", "HEAD", "POST", "PUT"]
        routes = [Route(p, self._guarded(f), methods=methods) for p, f in paths.items()]
        config = uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def _guarded(self, work: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            path = unquote(request.url.path)
            self.log.append((request.method, path))
            fault = next(
                (f for f in self.faults if f.times and f.method == request.method
                 and re.search(f.path, path)), None,
            )  # fmt: skip
            if fault:
                fault.times -= 1
                if not fault.after and not fault.corrupt:
                    return error(fault.status, "made to fail")
            answer: Response = await work(request)
            if fault and fault.corrupt:
                body = bytearray(answer.body)
                body[len(body) // 2] ^= 1
                return Response(bytes(body))
            return error(fault.status, "made to fail") if fault else answer

        return endpoint

    def _repo(self, request: Request) -> Repo | None:
        return self.repos.get(f"{request.path_params['ns']}/{request.path_params['name']}")

    def _role(self, request: Request) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return {"hf_write": "write", "hf_read": "read"}.get(token)

    async def _whoami(self, request: Request) -> Response:
        if not self._role(request):
            return error(401, "Invalid credentials in Authorization header")
        return JSONResponse({"type": "user", "id": "1", "name": "ada", "orgs": []})

    async def _yaml(self, _: Request) -> Response:
        return JSONResponse({"errors": [], "warnings": []})

    async def _create(self, request: Request) -> Response:
        body = await request.json()
        name = f"{body.get('organization') or 'ada'}/{body['name']}"
        url = f"{self.url}/datasets/{name}"
        if self._role(request) != "write":
            return error(403, "You don't have the rights to create a repository")
        if name in self.repos:
            return JSONResponse({"error": "exists", "url": url}, status_code=409)
        private = body.get("visibility") == "private" or bool(body.get("private"))
        self.repos[name] = Repo(private=private)
        self.repos[name].add({})
        return JSONResponse({"url": url, "name": name, "id": name})

    async def _auth(self, request: Request) -> Response:
        if request.url.path.endswith("/write") and self._role(request) != "write":
            return error(403, "Forbidden")
        return JSONResponse({})

    async def _info(self, request: Request) -> Response:
        repo = self._repo(request)
        if repo is None or (repo.private and not self._role(request)):
            return error(404, "Repository not found", "RepoNotFound")
        name = f"{request.path_params['ns']}/{request.path_params['name']}"
        return JSONResponse(
            {
                "_id": "1", "id": name, "sha": repo.head, "private": repo.private, "gated": False,
                "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                "siblings": [{"rfilename": p} for p in repo.commits[-1][1]],
            }
        )  # fmt: skip

    async def _preupload(self, request: Request) -> Response:
        if self._role(request) != "write":
            return error(403, "Forbidden")
        files = (await request.json())["files"]
        return JSONResponse(
            {
                "files": [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if re.search(r"\.(parquet|pdf|zip)$", f["path"]) else "regular",
                        "shouldIgnore": fnmatch(f["path"], self.ignored),
                    }
                    for f in files
                ]
            }
        )  # fmt: skip

    async def _commit(self, request: Request) -> Response:
        repo = self._repo(request)
        if repo is None:
            return error(404, "Repository not found", "RepoNotFound")
        tree = dict(repo.commits[-1][1])
        for line in (await request.body()).splitlines():
            step = json.loads(line)
            key, value = step["key"], step["value"]
            if key == "header":
                if value.get("parentCommit") and value["parentCommit"] != repo.head:
                    return error(412, STALE)
            elif key == "file":
                content = base64.b64decode(value["content"])
                sha = hashlib.sha256(content).hexdigest()
                self.objects[sha] = content
                tree[value["path"]] = (sha, len(content), False)
            elif key == "lfsFile":
                if value["oid"] not in self.objects:
                    return error(400, "LFS pointer pointed to a file that does not exist")
                tree[value["path"]] = (value["oid"], len(self.objects[value["oid"]]), True)
            elif tree.pop(value["path"], None) is None:
                return error(404, "A file with this name doesn't exist", "EntryNotFound")
        oid = repo.add(tree)
        return JSONResponse({"success": True, "commitOid": oid, "commitUrl": f"{self.url}/c/{oid}"})

    async def _tree(self, request: Request) -> Response:
        repo = self._repo(request)
        tree = repo.tree(request.path_params["rev"]) if repo else None
        if tree is None:
            return error(404, "Invalid rev id", "RevisionNotFound")
        top = request.path_params.get("path", "").rstrip("/")
        found = [
            self._entry(p, e) for p, e in sorted(tree.items()) if not top or p.startswith(f"{top}/")
        ]
        if top and not found:
            return error(404, "Entry not found", "EntryNotFound")
        return JSONResponse(found)

    def _entry(self, path: str, entry: Entry) -> dict[str, Any]:
        sha, size, large = entry
        told = {"type": "file", "path": path, "oid": git(self.objects[sha]), "size": size}
        return told | ({"lfs": {"oid": sha, "size": size, "pointerSize": 130}} if large else {})

    async def _batch(self, request: Request) -> Response:
        objects = []
        for wanted in (await request.json())["objects"]:
            one: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                verify = f"{self.url}{request.url.path.removesuffix('batch')}verify"
                one["actions"] = {
                    "upload": {"href": f"{self.cdn}/cdn/{wanted['oid']}"},
                    "verify": {"href": verify},
                }
            objects.append(one)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _verify(self, request: Request) -> Response:
        wanted = await request.json()
        there = len(self.objects.get(wanted["oid"], b"")) == wanted["size"]
        return JSONResponse({}) if there else error(400, "not there")

    async def _resolve(self, request: Request) -> Response:
        repo = self._repo(request)
        if repo is None or (repo.private and not self._role(request)):
            return error(404, "Repository not found", "RepoNotFound")
        tree = repo.tree(request.path_params["rev"])
        entry = (tree or {}).get(request.path_params["path"])
        if entry is None:
            return error(404, "Entry not found", "EntryNotFound")
        sha, size, large = entry
        headers = {"X-Repo-Commit": repo.head}
        if large:
            headers |= {"X-Linked-ETag": f'"{sha}"', "X-Linked-Size": str(size)}
            return RedirectResponse(f"{self.cdn}/cdn/{sha}", 302, headers)
        return Response(
            self.objects[sha], headers={**headers, "ETag": f'"{git(self.objects[sha])}"'}
        )

    async def _cdn(self, request: Request) -> Response:
        if "authorization" in request.headers:
            self.leaks.append(request.url.path)
            return error(400, "Only one auth mechanism allowed")
        sha = request.path_params["sha"]
        if request.method == "PUT":
            content = await request.body()
            if hashlib.sha256(content).hexdigest() != sha:
                return error(400, "wrong hash")
            self.objects[sha] = content
            return Response(headers={"ETag": f'"{sha}"'})
        return Response(self.objects[sha])


def git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def error(status: int, text: str, code: str | None = None) -> Response:
    headers = {"X-Error-Message": text, **({"X-Error-Code": code} if code else {})}
    return JSONResponse({"error": text}, status_code=status, headers=headers)
