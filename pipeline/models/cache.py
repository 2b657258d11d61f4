"""Models that stay loaded: each is loaded once, when it is first asked for, and few are kept."""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from errors import QuireError
from pipeline.ingest.embed import Encoder

_LOADED = 3  # embedding models at once
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
    One that is being loaded keeps nobody waiting who asks for one that is there."""

    def __init__(self, load: Callable[[str], Encoder], default: str) -> None:
        self._load = load
        self._default = default
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Once[Encoder]] = OrderedDict()

    def __call__(self, name: str | None) -> Encoder:
        wanted = name or self._default
        with self._lock:
            once = self._held.setdefault(wanted, Once(functools.partial(self._load, wanted)))
            self._held.move_to_end(wanted)
            while len({id(o) for o in self._held.values()}) > _LOADED:
                self._held.popitem(last=False)
        found = once()
        with self._lock:  # also under the commit that it turned out to be
            self._held.setdefault(found.name, once)
        return found

    def state(self) -> Encoder | QuireError | None:
        """The default one, or why it cannot be loaded; None before it was."""
        with self._lock:
            once = self._held.get(self._default)
        return (once.made or once.problem) if once else None
