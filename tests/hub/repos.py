"""Dataset repositories in memory: a linear history of trees, as the Hub tells it."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from typing import Any

MAIN = {"main", "refs/heads/main"}
LARGE = 10 * 2**20
ATTRIBUTES = "".join(
    f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n"
    for kind in ("bin", "gz", "npy", "parquet", "pickle", "safetensors", "tar", "zip", "png", "jpg")
)


@dataclass(frozen=True)
class Entry:
    sha256: str
    size: int
    blob: str  # git's name of the content, or of the pointer to it
    large: bool


@dataclass(frozen=True)
class Commit:
    oid: str
    tree: dict[str, Entry]
    title: str
    time: float


@dataclass
class Repo:
    private: bool = True
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of commits, for the hourly limit
    busy: bool = False

    def __post_init__(self) -> None:
        if not self.commits:
            self.add({}, "initial commit")

    @property
    def head(self) -> str:
        return self.commits[-1].oid

    @property
    def tree(self) -> dict[str, Entry]:
        return self.commits[-1].tree

    def at(self, revision: str) -> Commit | None:
        if revision in MAIN:
            return self.commits[-1]
        exact = len(revision) >= 7
        return next((c for c in self.commits if exact and c.oid.startswith(revision)), None)

    def add(self, tree: dict[str, Entry], title: str) -> str:
        if not self.commits or tree != self.tree:
            parent = self.commits[-1].oid if self.commits else ""
            told = [parent, title, sorted((p, e.sha256) for p, e in tree.items()), time.time_ns()]
            oid = hashlib.sha1(json.dumps(told).encode()).hexdigest()
            self.commits.append(Commit(oid, tree, title, time.time()))
        return self.head

    def squash(self, title: str) -> None:
        tree = self.tree
        self.commits = []
        self.add(tree, title)

    def kept(self) -> dict[str, Entry]:
        """Every entry that some commit holds, by sha256."""
        return {e.sha256: e for commit in self.commits for e in commit.tree.values()}


def is_large(path: str, size: int, sample: bytes, attributes: str) -> bool:
    rules = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
    return any(matches(path, rule) for rule in rules) or size >= LARGE or b"\0" in sample


def is_ignored(path: str, rules: str) -> bool:
    lines = [line.strip() for line in rules.splitlines()]
    return any(matches(path, line) for line in lines if line and not line.startswith("#"))


def matches(path: str, rule: str) -> bool:
    return fnmatch(path, rule) or fnmatch(path.rsplit("/", 1)[-1], rule)


def entry(content: bytes, large: bool) -> Entry:
    sha = hashlib.sha256(content).hexdigest()
    return Entry(sha, len(content), git(pointer(sha, len(content)) if large else content), large)


def pointed(sha: str, size: int) -> Entry:
    return Entry(sha, size, git(pointer(sha, size)), True)


def pointer(sha: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n".encode()


def git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def told(path: str, one: Entry, xet: str | None) -> dict[str, Any]:
    """An entry as the tree lists it."""
    plain = {"type": "file", "path": path, "oid": one.blob, "size": one.size}
    if not one.large:
        return plain
    lfs = {"oid": one.sha256, "size": one.size, "pointerSize": len(pointer(one.sha256, one.size))}
    return {**plain, "lfs": lfs, **({"xetHash": xet} if xet else {})}


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
