"""Heavy steps on a borrowed GPU where that pays, else in this process: the worker's side.

The app process is the only one that may borrow (ZeroGPU); its broker listens on a local socket, and
where none listens there is nothing to borrow. Texts, page pictures and answers travel as files in a
folder of the call. A borrowed GPU that does not come never fails anything: what is missing is
computed here, and notes say so.
"""

import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from errors import InputError, Unavailable
from pipeline.ingest.embed import Encoder
from pipeline.pdf.hi_res import KINDS, Detector, Region
from pipeline.pdf.page import Box
from pipeline.processes import channel
from pipeline.processes.rpc import address, key
from storage.paths import Paths

POLICIES = ("auto", "never", "wait")
GPU_WAIT = 3600.0  # seconds that a job with gpu=wait waits at most
_PATIENCE = 240.0  # seconds for a broker's next word: its queue, the work

Work = Callable[[list[Any]], Sequence[Any]]  # items in, an answer per item out


class Answers(NamedTuple):
    """An answer per item, in order; what the user is told of a GPU, and the seconds of the user's quota
    that it took."""

    made: list[Any]
    notes: list[str]
    seconds: float = 0.0


@dataclass(slots=True)
class Spent:
    """What a stage's calls for a GPU came to."""

    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, found: Answers) -> list[Any]:
        self.notes += found.notes
        self.seconds += found.seconds
        return found.made

    def as_dict(self) -> dict[str, Any]:
        return {"notes": self.notes, "gpu_seconds": self.seconds}


class Step(NamedTuple):
    """A kind of work; `part` items have one file of answers: what a kill loses at most. `usual` is
    seconds per item on a CPU before anything was measured."""

    part: int
    items: str
    usual: float


STEPS = {"embed": Step(256, "chunks", 0.0), "layout": Step(8, "pages", 1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Whose quota, for which job, and how much a GPU is wanted; `wait` ends at `until` (epoch).
    `tell` hears at once what is waited for."""

    user: str
    job: str
    policy: str = "auto"
    until: float = 0.0
    tell: Callable[[str], None] = lambda _: None


def broker_address(paths: Paths) -> str:
    return f"{address(paths)}-gpu"


def checked(policy: str) -> str:
    if policy not in POLICIES:
        raise InputError(
            "gpu_policy_unknown",
            f"There is no GPU policy {policy!r}.",
            f"Use one of: {', '.join(POLICIES)}.",
        )
    return policy


@dataclass(slots=True)
class Borrower:
    """`worth` is how many seconds the CPU must need before a GPU is asked for."""

    paths: Paths
    worth: float = 5.0
    _each: dict[str, float] = field(default_factory=dict)  # seconds per item here, by step
    _told: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=1000))

    def encode(self, ask: Ask, texts: Sequence[str], encoder: Encoder) -> Answers:
        """A vector per text."""

        def fits(vector: Any) -> bool:
            return len(vector) == encoder.dimension and bool(np.isfinite(vector).all())

        policy = "never" if encoder.device != "cpu" else ask.policy
        return self._run("embed", ask, policy, (encoder.name,), texts, encoder.encode, fits)

    def detect(
        self,
        ask: Ask,
        pictures: Sequence[Path],
        models: tuple[str, str],
        here: Callable[[], Detector],
    ) -> Answers:
        """The regions of each picture. `here` is loaded only when pages are left for it."""
        return self._run(
            "layout",
            ask,
            ask.policy,
            models,
            [str(p) for p in pictures],
            lambda left: here().detect([Path(p) for p in left]),
            lambda regions: all(r.kind in KINDS.values() for r in regions),
        )

    def _run(
        self,
        name: str,
        ask: Ask,
        policy: str,
        models: tuple[str, ...],
        items: Sequence[str],
        here: Work,
        fits: Callable[[Any], bool],
    ) -> Answers:
        step, found, notes, seconds = STEPS[name], {}, list[str](), 0.0
        slow = len(items) * self._each.get(name, step.usual) >= self.worth
        if items and policy != "never" and (slow or policy == "wait" or not self.worth):
            with tempfile.TemporaryDirectory(dir=self.paths.run) as folder:
                write_items(Path(folder), items)
                asked = {"user": ask.user, "folder": folder, "count": len(items)}
                answer = self._ask({**asked, "step": name, "models": models}, ask.tell)
                found = {i: a for i, a in read_parts(Path(folder), name).items() if fits(a)}
            if answer is not None:
                notes, seconds = self._notes(ask, policy, answer, bool(found)), answer["seconds"]
        missing = [i for i in range(len(items)) if i not in found]
        if missing:
            began = time.monotonic()
            found |= dict(zip(missing, here([items[i] for i in missing]), strict=True))
            if len(missing) >= min(8, step.part):
                each = (time.monotonic() - began) / len(missing)
                self._each[name] = 0.7 * self._each.get(name, each) + 0.3 * each
        return Answers([found[i] for i in range(len(items))], notes, seconds)

    def _notes(self, ask: Ask, policy: str, answer: dict[str, Any], some: bool) -> list[str]:
        """What the user is told, once per job; Unavailable while the job wants to wait."""
        notes, reason = list(answer["notes"]), answer["reason"]
        if reason and policy == "wait" and not some and time.time() < ask.until:
            raise Unavailable(
                "gpu_unavailable", f"Waiting for a GPU: {reason}", "It is asked again."
            )
        if reason and (ask.job, reason) not in self._told:
            self._told.append((ask.job, reason))
            notes.append(f"{reason} Going on with the CPU.")
        return notes

    def _ask(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any] | None:
        """The broker's answer; None where there is no broker or it went away."""
        try:
            with channel.dial(broker_address(self.paths), key(self.paths)) as broker:
                broker.send(json.dumps(request).encode())
                while True:
                    told = dict(json.loads(broker.receive(_PATIENCE)))
                    if "note" not in told:
                        return told
                    tell(told["note"])
        except (OSError, EOFError):
            return None


# Files of a call, written on one side and read on the other


def write_items(folder: Path, items: Sequence[str]) -> None:
    (folder / "items.json").write_text(json.dumps(list(items)), encoding="utf-8")


def compute_part(folder: Path, name: str, part: int, work: Work) -> int:
    """The answers of one part into its file, whole or not there; how many they are."""
    items = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    size = STEPS[name].part
    answers = work(items[part * size : (part + 1) * size])
    target = folder / f"part-{part:05d}"
    aside = target.with_suffix(".tmp")
    if name == "embed":
        with aside.open("wb") as file:
            np.save(file, np.asarray(answers, dtype=np.float32))
    else:
        aside.write_text(json.dumps(answers), encoding="utf-8")
    aside.replace(target)
    return len(answers)


def read_parts(folder: Path, name: str) -> dict[int, Any]:
    """The answer of each item that has one; a file that is not what it should be is passed over."""
    found: dict[int, Any] = {}
    for path in sorted(folder.glob("part-?????")):
        first = int(path.name.removeprefix("part-")) * STEPS[name].part
        try:
            if name == "embed":
                answers = np.load(path, allow_pickle=False).tolist()
            else:
                answers = [
                    tuple(map(_region, page)) for page in json.loads(path.read_text("utf-8"))
                ]
        except (ValueError, TypeError):
            continue
        found |= {first + i: answer for i, answer in enumerate(answers)}
    return found


def _region(values: list[Any]) -> Region:
    kind, score, box, rows, columns, spans, headers = values
    rows, columns, spans = (tuple(Box(*b) for b in boxes) for boxes in (rows, columns, spans))
    return Region(str(kind), float(score), Box(*box), rows, columns, spans, int(headers))
