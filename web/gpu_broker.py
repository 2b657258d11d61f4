"""The GPU broker of a ZeroGPU Space: whose quota, how long, one call at a time, else the CPU.

The only importer of spaces, and only made there. A call runs in a process that `spaces` forks; it
gets a folder and leaves a file per part in it, so that what was finished before a kill is kept. The
quota that pays is the owner's: by the newest request that passed the owner's check, never another.
"""

import contextlib
import contextvars
import json
import math
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pickle import PicklingError
from typing import Any, Literal

import spaces
import gradio as gr
import httpx
from gradio.context import LocalContext

from pipeline.models.gpu import STEPS, Work, broker_address, compute_part
from pipeline.processes import channel
from pipeline.processes.channel import Channel
from pipeline.processes.rpc import key
from storage.paths import Paths

FRESH = 60.0  # seconds after which a token counts as stale
SHORTEST, LONGEST = 3, 40  # seconds declared; a card may multiply them by 1.5
_COLD = 5.0  # seconds until a new fork works: CUDA, weights
_WARM = 0.2
_KEPT = 60.0  # seconds that a fork is thought to stay warm
_FIRST_GUESS = {"embed": 0.01, "layout": 0.3}  # seconds per item before any was measured
_BUSY_WAITS = (5.0, 20.0)
_NO_QUOTA = 600.0  # seconds without asking again when the refusal does not tell
# What `spaces`, its fork and its service are known to raise; the CPU goes on after each of them.
_ENDED = (
    gr.Error, RuntimeError, ValueError, TypeError, AssertionError, OSError, PicklingError,
    httpx.HTTPError,
)  # fmt: skip

Action = Literal["busy", "shrink", "quota", "runs", "token", "aborted", "race", "broken", "bug"]
_RETRIES: dict[Action, int] = {
    "busy": len(_BUSY_WAITS), "shrink": 4, "quota": 0, "runs": 0, "token": 1, "aborted": 1,
    "race": 2, "broken": 1, "bug": 0,
}  # fmt: skip
_SAYS: dict[Action, str] = {
    "busy": "No GPU is free.",
    "shrink": "The GPU call was too long.",
    "quota": "Your GPU quota is used up.",
    "runs": "You have had as many GPU calls as you may for now.",
    "token": "No fresh request of yours to borrow a GPU with.",
    "aborted": "The GPU call was cut short.",
    "race": "The GPU could not be started.",
    "broken": "The GPU service does not answer.",
    "bug": "The GPU call failed.",
}
_THEN: dict[Action, str] = {
    "shrink": "Less is asked for.",
    "token": "Waiting for the next one.",
    "aborted": "Less is asked for, once more.",
    "race": "It is tried again.",
    "broken": "It is asked once more.",
}


def classify(title: str, message: str) -> Action:
    """What `spaces` raised, by its message first: one title is used for two things."""
    title, message = title.lower(), message.lower()
    if "expired zerogpu proxy token" in message or "space app has reached" in message:
        return "token"  # the second is said to whom nobody knows
    if "no gpu was available" in message or "pending credits" in title:
        return "busy"
    if "illegal duration" in title:
        return "shrink"
    if "quota" in title:
        return "runs" if "runs limit" in message else "quota"
    if "gpu task aborted" in message:
        return "aborted"
    if "filelock is changing" in message:
        return "race"
    if "queue disconnect" in message or "end of stream" in message or "api /schedule" in message:
        return "broken"
    return "bug"


def affordable(message: str, declared: float) -> int:
    """How many seconds to declare so that what is left of the quota suffices; 0 when not told."""
    told = re.search(r"\((\d+)s requested vs\. (\d+)s left\)", message)
    return int(declared * int(told[2]) / int(told[1])) if told and int(told[1]) else 0


def until_again(message: str) -> float:
    """Seconds until the quota is back."""
    told = re.search(r"again in (?:(\d+) days?, )?(\d+):(\d\d):(\d\d)", message)
    if not told:
        return _NO_QUOTA
    days, hours, minutes, seconds = (int(n or 0) for n in told.groups())
    return float(days * 86_400 + hours * 3600 + minutes * 60 + seconds)


@dataclass(slots=True)
class Rate:
    """How long calls of a step take, as measured: fixed + items x p95 x 1.3."""

    guess: float
    each: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    cold: deque[float] = field(default_factory=lambda: deque(maxlen=10))
    ended: float = -math.inf  # when the last call ended well, and left a warm fork

    def learn(self, told: list[dict[str, Any]]) -> float:
        """From what a call yielded; its seconds at work. What a fork's first part takes beyond the
        others is of its start: kernels are loaded with the first texts, not with the weights."""
        cold = [float(step["cold"]) for step in told if "cold" in step]
        parts = [(float(step["seconds"]), int(step["items"])) for step in told if "part" in step]
        used = sum(cold) + sum(seconds for seconds, _ in parts)
        if cold and len(parts) > 1:
            (seconds, items), *parts = parts
            usual = max(seconds / max(1, items) for seconds, items in parts)
            cold[0] += max(0.0, seconds - items * usual)
        self.cold.extend(cold)
        self.each.extend(seconds / max(1, items) for seconds, items in parts)
        return used

    def start(self) -> float:
        warm = time.monotonic() - self.ended < _KEPT
        return _WARM if warm else max(_COLD, *self.cold, 0.0)

    def per_item(self) -> float:
        return 1.3 * (p95(self.each) if self.each else self.guess)

    def seconds(self, items: int, limit: int) -> float:
        return min(limit, max(SHORTEST, self.start() + items * self.per_item()))

    def parts(self, size: int, limit: int) -> int:
        """How many parts of that size fit a call."""
        return max(1, int((limit - self.start()) / (size * self.per_item())))

    def cut_short(self, *, loaded: bool) -> None:
        """A call ended before it had a part done: what took so long is thought to take twice that."""
        if loaded:
            self.guess = 2 * self.per_item() / 1.3
            self.each.clear()
        else:
            self.cold.append(2 * self.start())


def p95(values: deque[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call of the worker: `count` items of a step, as files in `folder`."""

    user: str
    folder: str
    count: int
    step: str = "embed"
    models: tuple[str, ...] = ()


@dataclass(slots=True)
class _Plan:
    """What the next call of a request may be: seconds at most, parts at most."""

    most: int
    limit: int = LONGEST
    tried: Counter[Action] = field(default_factory=Counter)

    def after(
        self, action: Action, message: str, parts: int, declared: float, least: float
    ) -> tuple[str | None, float]:
        """What is told before the next call, and seconds until then; None when there is none: also
        when it would be shorter than the `least` that a part needs."""
        self.most = max(1, parts // 2)
        says, pause = f"{_SAYS[action]} {_THEN.get(action, '')}", 0.0
        if action == "quota":
            self.limit = min(affordable(message, declared), self.limit - 1)
            says, action = (
                f"{self.limit} s of your GPU quota are left. Less is asked for.",
                "shrink",
            )
        elif action == "shrink":
            self.limit //= 2
        if action == "shrink" and self.limit < least:
            return None, 0.0
        self.tried[action] += 1
        if self.tried[action] > _RETRIES[action]:
            return None, 0.0
        if action == "busy":
            pause = _BUSY_WAITS[self.tried["busy"] - 1]
            says = f"No GPU is free: waiting {pause:.0f} s for one."
        return says, pause


@dataclass(slots=True, eq=False)
class Broker:
    """`load` makes a step's work inside the fork, where the card is."""

    paths: Paths
    load: Callable[[str, tuple[str, ...]], Work]
    sleep: Callable[[float], None] = time.sleep
    token_wait: float = 10.0
    _rates: dict[tuple[str, ...], Rate] = field(default_factory=dict)
    _held: dict[tuple[str, ...], Work] = field(default_factory=dict)  # filled in the fork only
    _seen: dict[str, tuple[float, Any]] = field(default_factory=dict)
    _news: threading.Condition = field(default_factory=threading.Condition)
    # user → when it may be asked for again, and why not before
    _refused: dict[str, tuple[float, Action]] = field(default_factory=dict)
    _one: threading.Lock = field(default_factory=threading.Lock)
    _call: Any = None

    def __post_init__(self) -> None:
        self._call = spaces.GPU(duration=self.seconds)(self.work_parts)

    def saw(self, user: str, request: Any) -> None:
        """A request that passed that owner's check; its token stays in memory only."""
        if request is not None and request.headers.get("x-ip-token"):
            with self._news:
                self._seen[user] = (time.monotonic(), request)
                if len(self._seen) > 10_000:
                    self._seen.pop(next(iter(self._seen)))
                self._news.notify_all()

    def listen(self) -> None:
        """Serve the worker from now on, in a thread; call before launch."""
        listener = channel.listen(broker_address(self.paths))
        serving = (listener, key(self.paths), self._serve)
        threading.Thread(target=channel.accept, args=serving, daemon=True).start()

    def seconds(self, asked: Asked, parts: list[int], limit: int) -> float:
        """What is declared for a call."""
        return self._rate(asked).seconds(_items(asked, parts), limit)

    def _rate(self, asked: Asked) -> Rate:
        """Of a step with its models: a large one says nothing of a small one."""
        return self._rates.setdefault((asked.step, *asked.models), Rate(_FIRST_GUESS[asked.step]))

    def work_parts(self, asked: Asked, parts: list[int], _limit: int) -> Iterator[dict[str, Any]]:
        """In the fork: the answers of each part into its file, and how long that took."""
        began = time.monotonic()
        name = (asked.step, *asked.models)
        cold = name not in self._held
        if cold:
            self._held[name] = self.load(asked.step, asked.models)
            yield {"cold": time.monotonic() - began}
        for part in parts:
            began = time.monotonic()
            items = compute_part(Path(asked.folder), asked.step, part, self._held[name])
            yield {"part": part, "items": items, "seconds": time.monotonic() - began}

    def borrow(self, asked: Asked, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
        """As many parts as a GPU could be had for: notes of what was decided, each told before it
        takes its time, and, when something is left to do, the reason."""
        step, rate = STEPS[asked.step], self._rate(asked)
        left = list(range(-(-asked.count // step.part)))
        done: list[int] = []
        notes: list[str] = []
        used, plan = 0.0, _Plan(most=len(left))
        action: Action | None = None
        request: Any = None
        with self._one:
            while left:
                if time.monotonic() < self._refused.get(asked.user, (0.0, None))[0]:
                    action = self._refused[asked.user][1]
                    break
                request = self._fresh(asked.user, not_again=request if action == "token" else None)
                if request is None:
                    action = "token"
                    break
                parts = left[: min(plan.most, rate.parts(step.part, plan.limit))]
                tell("Waiting for a GPU.")
                finished, seconds, action, message = self._try(request, asked, parts, plan.limit)
                done += finished
                left = [p for p in left if p not in finished]
                used += seconds
                if action is None or not left:
                    continue
                declared = self.seconds(asked, parts, plan.limit)
                least = self.seconds(asked, left[:1], LONGEST)
                note, pause = plan.after(action, message, len(parts), declared, least)
                if note is None:
                    if action in {"quota", "runs"}:
                        again = time.monotonic() + until_again(message)
                        self._refused[asked.user] = (again, action)
                    break
                notes.append(note)
                tell(note)
                self.sleep(pause)
        if done:
            notes.append(
                f"GPU: {_items(asked, done):,} {step.items} in {used:.0f} s of your quota."
            )
        reason = _SAYS[action or "bug"] if left else None
        return {"notes": notes, "reason": reason, "seconds": used}

    def _try(
        self, request: Any, asked: Asked, parts: list[int], limit: int
    ) -> tuple[list[int], float, Action | None, str]:
        """What was finished, its seconds, and what ended the call early."""
        rate = self._rate(asked)
        warm = rate.start() == _WARM
        # A fresh context: a copied one would carry the visitor's event, whose end kills the call.
        steps, problem = contextvars.Context().run(self._within, request, asked, parts, limit)
        finished = [int(step["part"]) for step in steps if "part" in step]
        used = rate.learn(steps)
        rate.ended = time.monotonic() if problem is None else -math.inf
        if problem is None:
            return finished, used, None, ""
        message = str(getattr(problem, "message", problem))
        action = classify(str(getattr(problem, "title", "")), message)
        if action == "bug" and isinstance(problem, httpx.HTTPError):
            action = "broken"
        if action == "aborted" and not finished:
            rate.cut_short(loaded=bool(steps) or warm)
        return finished, used, action, message

    def _within(
        self, request: Any, asked: Asked, parts: list[int], limit: int
    ) -> tuple[list[dict[str, Any]], Exception | None]:
        LocalContext.request.set(request)
        steps: list[dict[str, Any]] = []
        try:
            # What came before an error stays in the list.
            steps.extend(self._call(asked, parts, limit))
        except _ENDED as problem:
            return steps, problem
        return steps, None

    def _fresh(self, user: str, *, not_again: Any) -> Any | None:
        """The owner's newest request; one that is polling brings another within seconds."""

        def usable() -> Any | None:
            at, request = self._seen.get(user, (-math.inf, None))
            fresh = time.monotonic() - at < FRESH and request is not not_again
            return request if fresh else None

        with self._news:
            if user in self._seen:
                self._news.wait_for(lambda: usable() is not None, self.token_wait)
            return usable()

    def _serve(self, connection: Channel) -> None:
        with contextlib.suppress(EOFError, OSError):  # the worker may die at any moment
            given = json.loads(connection.receive())

            def tell(note: str) -> None:
                # Fails when the worker is gone: then nothing more is asked.
                connection.send(json.dumps({"note": note}).encode())

            answer = self.borrow(Asked(**{**given, "models": tuple(given["models"])}), tell)
            connection.send(json.dumps(answer).encode())


def _items(asked: Asked, parts: list[int]) -> int:
    size = STEPS[asked.step].part
    return sum(min(size, asked.count - p * size) for p in parts)
