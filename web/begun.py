"""Who began which session, event or upload: what a stream or a queue holds is theirs alone.

Each share (a person, or all visitors at one address) has room for its newest names. When all shares together
have too many, the largest one gives up its oldest: whoever makes up names pushes out their own. Knows nothing
of requests.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

_DAY = 86400.0


@dataclass(slots=True)
class Begun:
    """`most` names in all, `each` of one share; a name is forgotten after a day without use."""

    most: int = 50_000
    each: int = 2_000
    clock: Callable[[], float] = time.monotonic
    _owners: dict[str, tuple[str, str]] = field(default_factory=dict)  # name → who, share
    _used: dict[str, "OrderedDict[str, float]"] = field(default_factory=dict)  # share → names

    def __len__(self) -> int:
        return len(self._owners)

    def get(self, name: str) -> str | None:
        """Who began it; None when nobody is known to have."""
        who, share = self._owners.get(name, (None, ""))
        if who is None:
            return None
        if self._used[share][name] + _DAY < self.clock():
            self._forget(share, name)
            return None
        self._use(share, name)
        return who

    def put(self, name: str, who: str, share: str) -> None:
        """It is theirs from now on."""
        if name in self._owners:
            self._forget(self._owners[name][1], name)
        self._owners[name] = (who, share)
        self._used.setdefault(share, OrderedDict())
        self._use(share, name)
        if len(self._used[share]) > self.each:
            self._forget_oldest(share)
        if len(self._owners) > self.most:
            self._forget_oldest(max(self._used, key=lambda s: len(self._used[s])))

    def _use(self, share: str, name: str) -> None:
        self._used[share][name] = self.clock()
        self._used[share].move_to_end(name)

    def _forget_oldest(self, share: str) -> None:
        self._forget(share, next(iter(self._used[share])))

    def _forget(self, share: str, name: str) -> None:
        del self._owners[name], self._used[share][name]
        if not self._used[share]:
            del self._used[share]
