"""The GPU broker of a ZeroGPU Space: whose quota, how long, one call at a time, else the CPU.

The only importer of spaces, and only made there. A call runs in a process that `spaces` forks; it
gets a folder and leaves a file per part in it, so that what was finished before a kill is kept. The
quota that pays is the owner's: by the newest request that passed the owner's check, never another.
"""

import contextlib
import contextvars
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any, Literal

import spaces
import gradio as gr
import numpy as np
from gradio.context import LocalContext

from pipeline.borrow import PART, broker_address
from pipeline.link import accept, key
from storage.paths import Paths

FRESH = 60.0  # seconds after which a token counts as stale
SHORTEST, LONGEST = 10, 40  # seconds declared; a card may multiply them by 1.5
STARTING = 5.0  # seconds of a cold call: CUDA, weights
_BUSY_WAITS = (5.0, 20.0)

Action = Literal["busy", "shrink", "quota", "token", "aborted", "race", "bug"]
_SAYS: dict[Action, str] = {
    "busy": "No GPU is free: going on with the CPU.",
    "shrink": "The GPU call was too long: going on with the CPU.",
    "quota": "Your GPU quota is used up: going on with the CPU.",
    "token": "No fresh request of yours to borrow a GPU with: going on with the CPU.",
    "aborted": "The GPU call was cut short: going on with the CPU.",
    "race": "The GPU could not be started: going on with the CPU.",
    "bug": "The GPU call failed: going on with the CPU.",
}

Encode = Callable[[Sequence[str]], list[list[float]]]


def classify(title: str, message: str) -> Action:
    """What `spaces` raised, by its message first: one title is used for two things."""
    title, message = title.lower(), message.lower()
    if "expired zerogpu proxy token" in message:
        return "token"
    if "no gpu was available" in message or "pending credits" in title:
        return "busy"
    if "illegal duration" in title:
        return "shrink"
    if "quota" in title:
        return "quota"
    if "gpu task aborted" in message:
        return "aborted"
    if "filelock is changing" in message:
        return "race"
    if "queue disconnect" in message or "end of stream" in message or "api /schedule" in message:
        return "busy"
    return "bug"


@dataclass(slots=True, eq=False)
class Broker:
    """`load` makes the encoder inside the fork, where the card is. `each` is seconds per text,
    measured as calls go by."""

    paths: Paths
    load: Callable[[], Encode]
    sleep: Callable[[float], None] = time.sleep
    each: float = 0.01
    _held: list[Encode] = field(default_factory=list)  # filled in the fork only
    _seen: dict[str, tuple[float, Any]] = field(default_factory=dict)
    _one: threading.Lock = field(default_factory=threading.Lock)
    _call: Any = None

    def __post_init__(self) -> None:
        self._call = spaces.GPU(duration=self.seconds)(self.encode_parts)

    def saw(self, user: str, request: Any) -> None:
        """A request that passed that owner's check; its token stays in memory only."""
        if request is not None and request.headers.get("x-ip-token"):
            self._seen[user] = (time.monotonic(), request)
            if len(self._seen) > 10_000:
                self._seen.pop(next(iter(self._seen)))

    def listen(self) -> None:
        """Serve the worker from now on, in a thread; call before launch."""
        listener = Listener(
            broker_address(self.paths), "AF_UNIX", backlog=16, authkey=key(self.paths)
        )
        threading.Thread(target=accept, args=(listener, self._serve), daemon=True).start()

    def seconds(self, _folder: str, parts: list[int]) -> int:
        """What is declared for a call."""
        wanted = STARTING + len(parts) * PART * self.each * 1.3
        return round(min(LONGEST, max(SHORTEST, wanted)))

    def encode_parts(self, folder: str, parts: list[int]) -> Iterator[dict[str, Any]]:
        """In the fork: vectors of each part of texts.json into part-00000.npy."""
        if not self._held:
            self._held.append(self.load())
        texts = json.loads((Path(folder) / "texts.json").read_text(encoding="utf-8"))
        for part in parts:
            began = time.monotonic()
            vectors = self._held[0](texts[part * PART : (part + 1) * PART])
            target = Path(folder) / f"part-{part:05d}.npy"
            aside = target.with_suffix(".tmp")
            with aside.open("wb") as file:
                np.save(file, np.asarray(vectors, dtype=np.float32))
            aside.replace(target)
            yield {"part": part, "seconds": time.monotonic() - began}

    def borrow(self, user: str, folder: str, count: int) -> str:
        """As many parts as a GPU could be had for; says in a sentence what came of it."""
        wanted = list(range(-(-count // PART)))
        at_once = max(1, int((LONGEST - STARTING) / (PART * self.each * 1.3)))
        done: set[int] = set()
        used, tries = 0.0, 0
        with self._one:
            while left := [p for p in wanted if p not in done]:
                request = self._fresh(user)
                if request is None:
                    return self._told(count, done, used, "token")
                finished, seconds, action = self._try(request, folder, left[:at_once])
                done |= finished
                used += seconds
                if action is None:
                    continue
                tries += 1
                at_once = max(1, at_once // 2)
                if action in {"quota", "token", "bug"} or tries > len(_BUSY_WAITS):
                    return self._told(count, done, used, action)
                if action == "busy":
                    self.sleep(_BUSY_WAITS[tries - 1])
        return self._told(count, done, used, None)

    def _try(
        self, request: Any, folder: str, parts: list[int]
    ) -> tuple[set[int], float, Action | None]:
        finished: set[int] = set()
        began = time.monotonic()
        # A fresh context: a copied one would carry the visitor's event, whose end kills the call.
        steps, problem = contextvars.Context().run(self._within, request, folder, parts)
        action: Action | None = None
        if problem is not None:
            title = str(getattr(problem, "title", ""))
            action = classify(title, str(getattr(problem, "message", problem)))
        for step in steps:
            finished.add(int(step["part"]))
            self.each = 0.7 * self.each + 0.3 * step["seconds"] / PART
        return finished, time.monotonic() - began if finished else 0.0, action

    def _within(
        self, request: Any, folder: str, parts: list[int]
    ) -> tuple[list[dict[str, Any]], Exception | None]:
        """What was finished, and what ended it early."""
        LocalContext.request.set(request)
        steps: list[dict[str, Any]] = []
        try:
            steps.extend(self._call(folder, parts))  # what came before an error stays in the list
        except (gr.Error, RuntimeError) as problem:
            return steps, problem
        return steps, None

    def _fresh(self, user: str) -> Any | None:
        at, request = self._seen.get(user, (0.0, None))
        return request if request is not None and time.monotonic() - at < FRESH else None

    def _told(self, count: int, done: set[int], used: float, action: Action | None) -> str:
        said = []
        if done:
            texts = sum(min(PART, count - p * PART) for p in done)
            said.append(f"GPU: {texts:,} chunks in {used:.0f} s of your quota.")
        return " ".join([*said, *([_SAYS[action]] if action else [])])

    def _serve(self, connection: Connection) -> None:
        with contextlib.suppress(EOFError, OSError), connection:  # the worker may die at any moment
            asked = json.loads(connection.recv_bytes())
            note = self.borrow(asked["user"], asked["folder"], int(asked["count"]))
            connection.send_bytes(json.dumps({"note": note}).encode())
