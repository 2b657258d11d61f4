"""A Hub on loopback that speaks the real protocol to the real client, by LFS and by Xet.

Datasets with a linear history; commits with a parent check; large files by LFS (with verification)
or by Xet; downloads from a second origin, `localhost`, that must get no token. `faults` break
requests, `log` keeps what was asked. It cannot prove the real Hub's limits and delays.
"""

import asyncio
import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.hub import repos
from tests.hub.faults import Fault, error, taken
from tests.hub.repos import Entry, Repo
from tests.hub.xet import Cas, asked
from tests.loopback import Loopback, Seen

__all__ = ["Fault", "Hub", "Repo", "Seen"]

BUSY = "Another commit operation is in progress for this repository. Please try again later."
STALE = "A commit has happened since. Please refresh and try again."
HOURLY = (
    "You have exceeded the rate limit for repository commits ({limit} per hour). "
    "You can retry this action in {minutes} minutes."
)
INVALID = "Invalid credentials in Authorization header"
PART = 8 * 2**20  # bytes of one part of a large upload


class Hub:
    """`with Hub() as hub: hub.url`. Tokens: `hf_write` and `hf_read` of user `ada`, `hf_other` of
    user `bob`; any other is refused, as an expired one is."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[Seen] = []
        self.leaks: list[str] = []
        self.tokens = {"hf_write": ("ada", "write"), "hf_read": ("ada", "read"),
                       "hf_other": ("bob", "write")}  # fmt: skip
        self.commits_per_hour: int | None = None
        self.commit_takes = 0.0  # seconds, in which other commits of the repository get 409
        self.page = 1000
        self._parts: dict[str, dict[int, bytes]] = {}
        self._loopback = Loopback()
        port = self._loopback.port
        self.url, self.cdn = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        self.cas = Cas(f"{self.url}/xet", self.cdn)
        api, git = "/api/datasets/{ns}/{name}", "/datasets/{ns}/{name}.git/info/lfs/objects"
        reads, writes = self._reading, self._writing
        paths: dict[str, Callable[[Request], Any]] = {
            "/api/whoami-v2": self._whoami,
            "/api/repos/create": self._create,
            "/api/repos/delete": self._delete,
            "/api/validate-yaml": self._yaml,
            api: reads(self._info),
            f"{api}/revision/{{rev:path}}": reads(self._info),
            f"{api}/settings": writes(self._settings),
            f"{api}/auth-check": reads(self._allowed),
            f"{api}/auth-check/write": writes(self._allowed),
            f"{api}/preupload/{{rev}}": writes(self._preupload),
            f"{api}/commit/{{rev}}": writes(self._commit),
            f"{api}/commits/{{rev}}": reads(self._commits),
            f"{api}/refs": reads(self._refs),
            f"{api}/paths-info/{{rev}}": reads(self._paths_info),
            f"{api}/super-squash/{{rev}}": writes(self._squash),
            f"{api}/lfs-files": reads(self._lfs_files),
            f"{api}/lfs-files/batch": writes(self._lfs_delete),
            f"{api}/xet-write-token/{{rev}}": writes(self._xet_write),
            f"{api}/xet-read-token/{{rev}}": reads(self._xet_read),
            f"{api}/tree/{{rev}}": reads(self._tree),
            f"{api}/tree/{{rev}}/{{path:path}}": reads(self._tree),
            f"{git}/batch": writes(self._batch),
            f"{git}/verify": writes(self._verify),
            "/datasets/{ns}/{name}/resolve/{rev}/{path:path}": reads(self._resolve),
            "/lfs-complete/{sha}": self._complete,
            "/cdn/{sha}": self._cdn,
            **self.cas.paths(),
        }
        methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]
        routes = [Route(p, self._guarded(f), methods=methods) for p, f in paths.items()]
        routes.append(Route("/{path:path}", self._guarded(self._unknown), methods=methods))
        self._app = Starlette(routes=routes)

    def __enter__(self) -> "Hub":
        self._loopback.start(self._app)
        return self

    def __exit__(self, *_: object) -> None:
        self._loopback.stop()

    def put(self, repo: str, path: str, content: bytes) -> None:
        """A file of the repository, as if its owner had pushed it."""
        self.objects[hashlib.sha256(content).hexdigest()] = content
        one = self.repos[repo]
        one.add({**one.tree, path: repos.entry(content, large=False)}, f"Add {path}")

    def content(self, sha256: str) -> bytes:
        """What is stored under that hash, by whichever way it came."""
        return self.objects[sha256] if sha256 in self.objects else self.cas.content(sha256)

    def received(self, since: int = 0) -> int:
        """Bytes of request bodies from the `since`-th entry of the log on."""
        return sum(seen.received for seen in self.log[since:])

    # Around every request

    def _guarded(self, work: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            path, received = unquote(request.url.path), len(await request.body())
            self._watch(request, path)
            fault = taken(self.faults, request.method, path)
            answer: Response | None = None
            if fault is None or fault.works_first:
                answer = await work(request)
                answer.headers["X-Request-Id"] = secrets.token_hex(6)
            if fault:
                answer = fault.broken(answer)
            assert answer is not None
            status = 0 if fault and fault.drop else answer.status_code
            self.log.append(Seen(request.method, path, status, received, len(answer.body)))
            return answer

        return endpoint

    def _watch(self, request: Request, path: str) -> None:
        """A Hub token belongs to the Hub's own origin, and to no address of the store."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        elsewhere = request.url.hostname != "127.0.0.1" or path.startswith("/xet")
        if elsewhere and (token in self.tokens or token.startswith("hf_")):
            self.leaks.append(path)

    def _who(self, request: Request) -> tuple[str, str] | None:
        return self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))

    def _reading(self, work: Callable[[Request, Repo], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            repo, who = self.repos.get(self._name(request)), self._who(request)
            if "authorization" in request.headers and who is None:
                return error(401, INVALID)
            mine = who is not None and who[0] == request.path_params["ns"]
            if repo is None or (repo.private and not mine):
                return error(404 if who else 401, "Repository not found", "RepoNotFound")
            if repo.gated and not mine:
                return error(403, "Access to this dataset is restricted.", "GatedRepo")
            answer: Response = await work(request, repo)
            return answer

        return endpoint

    def _writing(self, work: Callable[[Request, Repo], Any]) -> Callable[[Request], Any]:
        async def checked(request: Request, repo: Repo) -> Response:
            who = self._who(request)
            if who is None or who[0] != request.path_params["ns"] or who[1] != "write":
                return error(403, "You don't have the rights to write to this repository")
            answer: Response = await work(request, repo)
            return answer

        return self._reading(checked)

    def _name(self, request: Request) -> str:
        return f"{request.path_params['ns']}/{request.path_params['name']}"

    async def _unknown(self, _: Request) -> Response:
        return error(404, "There is no such address")

    # Accounts and repositories

    async def _whoami(self, request: Request) -> Response:
        who = self._who(request)
        if who is None:
            return error(401, INVALID)
        access = {"displayName": "test", "role": who[1]}
        auth = {"type": "access_token", "accessToken": access}
        told = {"type": "user", "id": who[0], "name": who[0], "fullname": who[0], "orgs": []}
        return JSONResponse({**told, "auth": auth})

    async def _yaml(self, _: Request) -> Response:
        return JSONResponse({"errors": [], "warnings": []})

    async def _create(self, request: Request) -> Response:
        body, who = await request.json(), self._who(request)
        if who is None:
            return error(401, INVALID)
        name = f"{body.get('organization') or who[0]}/{body['name']}"
        url = f"{self.url}/datasets/{name}"
        if who[1] != "write" or name.split("/")[0] != who[0]:
            return error(403, f"You don't have the rights to create a repository under {name}")
        if name in self.repos:
            told = {"error": "You already created this dataset repo", "url": url}
            return JSONResponse(told, status_code=409)
        private = body.get("visibility") == "private" or bool(body.get("private"))
        self.repos[name] = Repo(private=private)
        self.put(name, ".gitattributes", repos.ATTRIBUTES.encode())
        return JSONResponse({"url": url, "name": name, "id": name})

    async def _delete(self, request: Request) -> Response:
        body, who = await request.json(), self._who(request)
        name = f"{body.get('organization') or (who[0] if who else '')}/{body['name']}"
        if who is None or who[1] != "write" or not name.startswith(f"{who[0]}/"):
            return error(403, "You don't have the rights to delete this repository")
        if self.repos.pop(name, None) is None:
            return error(404, "Repository not found", "RepoNotFound")
        return JSONResponse({})

    async def _settings(self, request: Request, repo: Repo) -> Response:
        body = await request.json()
        repo.private = body.get("visibility", "private" if repo.private else "public") == "private"
        repo.gated = bool(body.get("gated", repo.gated))
        return JSONResponse(body)

    async def _allowed(self, _: Request, __: Repo) -> Response:
        return JSONResponse({})

    async def _info(self, request: Request, repo: Repo) -> Response:
        commit = repo.at(request.path_params.get("rev", "main"))
        if commit is None:
            return error(404, "Invalid rev id", "RevisionNotFound")
        name = self._name(request)
        told = {
            "_id": "1", "id": name, "author": name.split("/")[0], "sha": commit.oid,
            "private": repo.private, "gated": "auto" if repo.gated else False, "disabled": False,
            "createdAt": repos.iso(repo.commits[0].time), "lastModified": repos.iso(commit.time),
            "downloads": 0, "likes": 0, "tags": [],
            "siblings": [{"rfilename": p} for p in commit.tree],
            "usedStorage": sum(e.size for e in repo.kept().values()),
        }  # fmt: skip
        return JSONResponse(told)

    # Commits

    async def _preupload(self, request: Request, repo: Repo) -> Response:
        body = await request.json()
        if len(body["files"]) > 256:
            return error(413, "At most 256 files")
        attributes, ignore = (self._text(repo, n) for n in (".gitattributes", ".gitignore"))
        files = []
        for file in body["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            large = repos.is_large(path, file["size"], sample, attributes)
            told = {
                "path": path,
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": repos.is_ignored(path, body.get("gitIgnore", ignore)),
            }
            if found := repo.tree.get(path):
                told["oid"] = found.sha256 if found.large else found.blob
            files.append(told)
        return JSONResponse({"files": files, "commitOid": repo.head})

    async def _commit(self, request: Request, repo: Repo) -> Response:
        if repo.busy:
            return error(409, BUSY)
        if limited := self._limited(repo):
            return limited
        repo.busy = True
        try:
            await asyncio.sleep(self.commit_takes)
            return self._committed(repo, await request.body(), self._name(request))
        finally:
            repo.busy = False

    def _committed(self, repo: Repo, lines: bytes, name: str) -> Response:
        tree, title = dict(repo.tree), ""
        for line in lines.splitlines():
            step = json.loads(line)
            key, value = step["key"], step["value"]
            if key == "header":
                title = value["summary"]
                parent = value.get("parentCommit")
                if parent and not repo.head.startswith(parent):
                    return error(412, STALE)
                continue
            path = value["path"]
            if path.startswith("/") or {"..", ".git", ""} & set(path.split("/")):
                return error(400, f"The path {path} is not allowed")
            if key == "file":
                content = base64.b64decode(value["content"])
                tree[path] = repos.entry(content, large=False)
                self.objects[tree[path].sha256] = content
            elif key == "lfsFile":
                if value["oid"] not in self.objects and value["oid"] not in self.cas.hashes:
                    text = f"LFS pointer pointed to a file that does not exist: {value['oid']}"
                    return error(400, text)
                tree[path] = repos.pointed(value["oid"], self._size(value["oid"]))
            elif key == "deletedFolder":
                tree = {p: e for p, e in tree.items() if not p.startswith(path.rstrip("/") + "/")}
            elif tree.pop(path, None) is None:
                return error(404, "A file with this name doesn't exist", "EntryNotFound")
        oid = repo.add(tree, title)
        repo.times.append(time.time())
        url = f"{self.url}/datasets/{name}/commit/{oid}"
        return JSONResponse({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _limited(self, repo: Repo) -> Response | None:
        """The limit on commits; the header that comes with it tells of another limit."""
        hour = [t for t in repo.times if t > time.time() - 3600]
        if self.commits_per_hour is None or len(hour) < self.commits_per_hour:
            return None
        left = int((hour[0] + 3600 - time.time()) / 60) + 1 if hour else 60
        text = HOURLY.format(limit=self.commits_per_hour, minutes=left)
        return error(429, text, more={"RateLimit": '"api";r=949;t=271'})

    def _size(self, sha256: str) -> int:
        if sha256 in self.objects:
            return len(self.objects[sha256])
        return sum(term.size for term in self.cas.files[self.cas.hashes[sha256]])

    def _text(self, repo: Repo, path: str) -> str:
        found = repo.tree.get(path)
        return self.content(found.sha256).decode() if found else ""

    # History

    async def _commits(self, request: Request, repo: Repo) -> Response:
        told = [
            {"id": c.oid, "title": c.title, "message": "", "date": repos.iso(c.time),
             "authors": [{"user": request.path_params["ns"]}]}
            for c in reversed(repo.commits)
        ]  # fmt: skip
        return self._paged(request, told, 50)

    async def _refs(self, _: Request, repo: Repo) -> Response:
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head}
        return JSONResponse({"branches": [branch], "tags": [], "converts": []})

    async def _squash(self, request: Request, repo: Repo) -> Response:
        repo.squash((await request.json()).get("message") or "Super-squash branch")
        self._collect()
        return JSONResponse({})

    async def _lfs_files(self, request: Request, repo: Repo) -> Response:
        told = [
            {"fileOid": sha, "oid": sha, "size": e.size, "pushedAt": repos.iso(time.time()),
             "filename": next(p for c in repo.commits for p, o in c.tree.items() if o.sha256 == sha),
             "ref": "main"}
            for sha, e in repo.kept().items() if e.large
        ]  # fmt: skip
        return self._paged(request, told, 100)

    async def _lfs_delete(self, request: Request, repo: Repo) -> Response:
        """With `rewriteHistory` every commit loses these files too."""
        wanted = (await request.json())["deletions"]
        gone = set(wanted["sha"])
        if wanted.get("rewriteHistory"):
            for number, commit in enumerate(repo.commits):
                tree = {p: e for p, e in commit.tree.items() if e.sha256 not in gone}
                repo.commits[number] = repos.Commit(commit.oid, tree, commit.title, commit.time)
        for sha in gone:
            self.objects.pop(sha, None)
        self._collect()
        return JSONResponse({})

    def _collect(self) -> None:
        """What no commit of any repository names is gone."""
        kept = {sha for repo in self.repos.values() for sha in repo.kept()}
        self.objects = {sha: content for sha, content in self.objects.items() if sha in kept}
        self.cas.forget(kept)

    # Trees and files

    async def _tree(self, request: Request, repo: Repo) -> Response:
        commit = repo.at(request.path_params["rev"])
        if commit is None:
            return error(404, "Invalid rev id", "RevisionNotFound")
        top = request.path_params.get("path", "").rstrip("/")
        start = f"{top}/" if top else ""
        below = {p: e for p, e in sorted(commit.tree.items()) if p.startswith(start)}
        if top and not below:
            return error(404, "Entry not found", "EntryNotFound")
        deep = request.query_params.get("recursive", "").lower() == "true"
        files = {p: e for p, e in below.items() if deep or "/" not in p[len(start) :]}
        folders = {
            start + "/".join(parts[:n])
            for parts in (p[len(start) :].split("/") for p in below)
            for n in range(1, len(parts) if deep else min(2, len(parts)))
        }
        told: list[dict[str, Any]] = [self._told(p, e) for p, e in files.items()]
        told += [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders]
        return self._paged(request, sorted(told, key=lambda one: one["path"]), self.page)

    async def _paths_info(self, request: Request, repo: Repo) -> Response:
        commit = repo.at(request.path_params["rev"])
        if commit is None:
            return error(404, "Invalid rev id", "RevisionNotFound")
        wanted = [str(p) for p in (await request.form()).getlist("paths")]
        return JSONResponse([self._told(p, commit.tree[p]) for p in wanted if p in commit.tree])

    async def _resolve(self, request: Request, repo: Repo) -> Response:
        commit = repo.at(request.path_params["rev"])
        if commit is None:
            return error(404, "Invalid rev id", "RevisionNotFound")
        found = commit.tree.get(request.path_params["path"])
        headers = {"X-Repo-Commit": commit.oid}
        if found is None:
            return error(404, "Entry not found", "EntryNotFound", headers)
        if not found.large:
            body = self.objects[found.sha256] if request.method == "GET" else b""
            length = {"Content-Length": str(found.size)}
            return Response(body, headers={**headers, **length, "ETag": f'"{found.blob}"'})
        headers |= {"X-Linked-ETag": f'"{found.sha256}"', "X-Linked-Size": str(found.size)}
        if xet := self.cas.hashes.get(found.sha256):
            token = f"{self.url}/api/datasets/{self._name(request)}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": xet, "Link": f'<{token}>; rel="xet-auth"'}
        return RedirectResponse(f"{self.cdn}/cdn/{found.sha256}?signed", 302, headers)

    def _told(self, path: str, entry: Entry) -> dict[str, Any]:
        return repos.told(path, entry, self.cas.hashes.get(entry.sha256))

    def _paged(self, request: Request, told: list[Any], size: int) -> Response:
        start = int(request.query_params.get("cursor", 0))
        headers = {}
        if start + size < len(told):
            onward = request.url.include_query_params(cursor=start + size)
            headers["Link"] = f'<{onward}>; rel="next"'
        return JSONResponse(told[start : start + size], headers=headers)

    # Large files

    async def _xet_write(self, _: Request, __: Repo) -> Response:
        return self._xet("write")

    async def _xet_read(self, _: Request, __: Repo) -> Response:
        return self._xet("read")

    def _xet(self, role: str) -> Response:
        """Told twice: hf_xet reads the body, the client in Python the headers."""
        made = self.cas.token(role)
        headers = {
            "X-Xet-Cas-Url": made["casUrl"],
            "X-Xet-Access-Token": made["accessToken"],
            "X-Xet-Token-Expiration": str(made["exp"]),
        }
        return JSONResponse(made, headers=headers)

    async def _batch(self, request: Request, _: Repo) -> Response:
        objects = [self._upload(request, o) for o in (await request.json())["objects"]]
        multipart = any("chunk_size" in str(o) for o in objects)
        told = {"transfer": "multipart" if multipart else "basic", "objects": objects}
        return JSONResponse(told, media_type="application/vnd.git-lfs+json")

    def _upload(self, request: Request, wanted: Mapping[str, Any]) -> dict[str, Any]:
        sha, size = wanted["oid"], wanted["size"]
        if sha in self.objects:
            return {"oid": sha, "size": size}
        verify = f"{self.url}{request.url.path.removesuffix('batch')}verify"
        upload: dict[str, Any] = {"href": f"{self.cdn}/cdn/{sha}?signed"}
        if size > PART:
            count = -(-size // PART)
            parts = {f"{n:05d}": f"{self.cdn}/cdn/{sha}?part={n}" for n in range(1, count + 1)}
            upload = {
                "href": f"{self.url}/lfs-complete/{sha}",
                "header": {"chunk_size": str(PART), **parts},
            }
        return {"oid": sha, "size": size, "actions": {"upload": upload, "verify": {"href": verify}}}

    async def _complete(self, request: Request) -> Response:
        sha, parts = request.path_params["sha"], (await request.json())["parts"]
        there = self._parts.pop(sha, {})
        for part in parts:
            content = there.get(part["partNumber"], b"")
            if hashlib.md5(content).hexdigest() != part["etag"].strip('"'):
                return error(400, "A part is missing or another one than its etag says")
        return self._stored(sha, b"".join(there[p["partNumber"]] for p in parts))

    async def _verify(self, request: Request, _: Repo) -> Response:
        wanted = await request.json()
        there = len(self.objects.get(wanted["oid"], b"")) == wanted["size"]
        return JSONResponse({}) if there else error(400, "not there")

    async def _cdn(self, request: Request) -> Response:
        """Only the signature in an address counts here; a token as well is one too many."""
        sha = request.path_params["sha"]
        if "authorization" in request.headers:
            return error(400, "Only one auth mechanism allowed")
        if request.method == "PUT":
            content, part = await request.body(), request.query_params.get("part")
            if part is None:
                return self._stored(sha, content)
            self._parts.setdefault(sha, {})[int(part)] = content
            return Response(headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})
        try:
            content = self.content(sha)
        except KeyError:
            return error(404, "Not found")
        except ValueError as problem:
            return error(500, str(problem))
        first, last = asked(request, len(content))
        if "range" not in request.headers:
            return Response(content, headers={"ETag": f'"{sha}"', "Accept-Ranges": "bytes"})
        if first >= len(content):
            return error(416, "Behind the end")
        told = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return Response(content[first : last + 1], 206, told)

    def _stored(self, sha: str, content: bytes) -> Response:
        if hashlib.sha256(content).hexdigest() != sha:
            return error(400, "The content has another hash")
        self.objects[sha] = content
        return Response(headers={"ETag": f'"{sha}"'})
