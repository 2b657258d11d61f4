"""Vectors from a borrowed GPU where that pays, else from this process: the worker's side.

The app process is the only one that may borrow (ZeroGPU); its broker listens on a local socket, and
where none listens there is nothing to borrow. Texts and vectors travel as files. A borrowed GPU that
does not come never fails anything: what is missing is computed here, and a note says so.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.embed import Encoder
from pipeline.link import address, key
from storage.paths import Paths

PART = 256  # texts per file of vectors: what a call that is cut short loses at most
_PATIENCE = 240.0  # seconds for a broker's answer: its queue, its tries, the work


def broker_address(paths: Paths) -> str:
    return f"{address(paths)}-gpu"


@dataclass(slots=True)
class Borrower:
    """`worth` is how many seconds the CPU must need before a GPU is asked for."""

    paths: Paths
    encoder: Callable[[], Encoder]
    worth: float = 5.0
    _rate: float | None = None

    def encode(self, user: str, texts: Sequence[str]) -> tuple[list[list[float]], str | None]:
        """A vector per text, in order, and a note when a GPU had a part in it."""
        encoder = self.encoder()
        slow = self._rate is not None and len(texts) / self._rate >= self.worth
        found, note = self._borrowed(user, texts, encoder) if slow or not self.worth else ({}, None)
        missing = [i for i in range(len(texts)) if i not in found]
        began = time.monotonic()
        found |= dict(zip(missing, encoder.encode([texts[i] for i in missing]), strict=True))
        if len(missing) >= 8:
            rate = len(missing) / max(time.monotonic() - began, 1e-3)
            self._rate = rate if self._rate is None else 0.7 * self._rate + 0.3 * rate
        return [found[i] for i in range(len(texts))], note

    def _borrowed(
        self, user: str, texts: Sequence[str], encoder: Encoder
    ) -> tuple[dict[int, list[float]], str | None]:
        with tempfile.TemporaryDirectory(dir=self.paths.run) as folder:
            source = Path(folder) / "texts.json"
            source.write_text(json.dumps(list(texts)), encoding="utf-8")
            answer = self._ask({"user": user, "folder": folder, "count": len(texts)})
            if answer is None:
                return {}, None
            found: dict[int, list[float]] = {}
            for path in sorted(Path(folder).glob("part-*.npy")):
                vectors = np.load(path, allow_pickle=False)
                first = int(path.stem.removeprefix("part-")) * PART
                usable = vectors.ndim == 2 and vectors.shape[1] == encoder.dimension
                if usable and np.isfinite(vectors).all():
                    found |= {first + i: row.tolist() for i, row in enumerate(vectors)}
            return found, str(answer["note"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The broker's answer; None where there is no broker or it went away."""
        try:
            with Client(broker_address(self.paths), "AF_UNIX", authkey=key(self.paths)) as broker:
                broker.send_bytes(json.dumps(request).encode())
                if broker.poll(_PATIENCE):
                    return dict(json.loads(broker.recv_bytes()))
        except (OSError, EOFError, AuthenticationError):
            pass
        return None
