"""A broker inside the real `spaces` package, driven from a test: `python -m tests.space.in_zero`.

Reads a JSON list of calls from stdin and prints what came of each. Only the two functions that touch
a driver are replaced.
"""

import base64
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import spaces.zero.torch

spaces.zero.torch.init = lambda uuid: os.environ.__setitem__("CUDA_VISIBLE_DEVICES", uuid)
spaces.zero.torch.move = lambda callback=None: None

import gradio as gr  # noqa: E402
import numpy as np  # noqa: E402
from starlette.requests import Request  # noqa: E402

from pipeline.borrow import PART  # noqa: E402
from storage.paths import Paths  # noqa: E402
from web.broker import Broker  # noqa: E402


def visitor(user: str, seconds: float) -> gr.Request:
    """A request as the platform's proxy hands it on, with a token that lives for some seconds."""
    claims = json.dumps({"user": user, "exp": time.time() + seconds}).encode()
    token = f"h.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.s"
    scope = {"type": "http", "headers": [(b"x-ip-token", token.encode())]}
    return gr.Request(request=Request(scope))


def vectors(texts: Sequence[str]) -> list[list[float]]:
    if any(t == "break" for t in texts):
        raise ZeroDivisionError
    if any(t == "slow" for t in texts):
        threading.Event().wait(30)
    return [[float(len(t)), 1.0] for t in texts]


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        broker = Broker(Paths(Path(root)), load=lambda: vectors, sleep=lambda _: None)
        answers = []
        for call in json.loads(sys.stdin.read()):
            answers.append(one(broker, Path(root), call))
        for fork in multiprocessing.active_children():
            fork.kill()
    print(json.dumps(answers))


def one(broker: Broker, root: Path, call: dict[str, Any]) -> dict[str, Any]:
    user = call["user"]
    if "token_seconds" in call:
        broker.saw(user, visitor(user, call["token_seconds"]))
    folder = Path(tempfile.mkdtemp(dir=root))
    texts = call.get("texts") or ["x" * (i % 9) for i in range(call["count"])]
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    note = broker.borrow(user, str(folder), len(texts))
    found = {}
    for path in folder.glob("part-*.npy"):
        for i, row in enumerate(np.load(path)):
            found[int(path.stem[5:]) * PART + i] = row.tolist()
    right = all(found[i] == [float(len(texts[i])), 1.0] for i in found)
    return {"note": note, "found": len(found), "right": right}


if __name__ == "__main__":
    main()
