"""Models that stay loaded: each is loaded once, when it is first asked for, and few are kept."""

import functools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from errors import QuireError, Refused
from pipeline.ingest.embed import Encoder
from settings import DEFAULT_MODEL

_LOADED = 3  # embedding models at once
_COMMIT = re.compile(r"[0-9a-f]{40}")
Made = TypeVar("Made")


class Once(Generic[Made]):
    """Makes a thing on first call, for any number of threads; `made` is it, or None before, and
    `problem` why the last call made none."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self.made: Made | None = None
        self.problem: QuireError | None = None

    def __call__(self) -> Made:
        with self._lock:
            if self.made is None:
                try:
                    self.made = self._make()
                except QuireError as problem:
                    self.problem = problem
                    raise
            return self.made


class Encoders:
    """Embedding models by name, the default one as None; each takes memory, so few stay loaded.
    One that is being loaded keeps nobody waiting who asks for one that is there. Whatever a store says,
    only what is `offered` is loaded: Refused for any other name."""

    def __init__(self, load: Callable[[str], Encoder], offered: Sequence[str]) -> None:
        self._load = load
        self._default = offered[0]
        self._offered = frozenset({*offered, DEFAULT_MODEL})  # that one is known by its hash
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Once[Encoder]] = OrderedDict()

    def __call__(self, name: str | None) -> Encoder:
        wanted = name or self._default
        if not self._is_offered(wanted):
            raise Refused(
                "model_not_offered",
                f"The model {wanted[:100]} is not offered here.",
                "Name it in QUIRE_EMBEDDING_MODELS, or use one of /status.",
            )
        with self._lock:
            once = self._held.setdefault(wanted, Once(functools.partial(self._load, wanted)))
            self._held.move_to_end(wanted)
            while len({id(o) for o in self._held.values()}) > _LOADED:
                self._held.popitem(last=False)
        found = once()
        with self._lock:  # also under the commit that it turned out to be
            self._held.setdefault(found.name, once)
        return found

    def _is_offered(self, name: str) -> bool:
        """As it is named, or a commit of a repository whose commit is left open."""
        base, _, revision = name.partition("@")
        left_open = (m for m in self._offered - {DEFAULT_MODEL} if not _COMMIT.search(m))
        open_ = {m.partition("@")[0] for m in left_open}
        return name in self._offered or (base in open_ and _COMMIT.fullmatch(revision) is not None)

    def state(self) -> Encoder | QuireError | None:
        """The default one, or why it cannot be loaded; None before it was."""
        with self._lock:
            once = self._held.get(self._default)
        return (once.made or once.problem) if once else None
