"""How often one caller may ask: token buckets, bounded in number. Knows nothing of what is asked."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Buckets:
    """Each key may ask `burst` times at once and then `rate` times a second."""

    rate: float
    burst: float
    size: int = 4096
    _left: "OrderedDict[str, tuple[float, float]]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self._left)

    def wait(self, key: str, now: float | None = None) -> float:
        """0 when it may go on, else the seconds after which it may."""
        now = time.monotonic() if now is None else now
        with self._lock:
            left, before = self._left.pop(key, (self.burst, now))
            left = min(self.burst, left + (now - before) * self.rate)
            allowed = left >= 1
            self._left[key] = (left - 1 if allowed else left, now)
            while len(self._left) > self.size:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate
