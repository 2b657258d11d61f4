"""A broker inside the real `spaces` package, driven from a test: `python -m tests.space.in_zero`.

Reads a call as JSON from each line of stdin and prints what came of it. A call that names a model
embeds with it, which is for a real card (`CARD`).
"""

import base64
import importlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.requests import Request

import tests.space.no_driver  # before gradio
from pipeline.models.gpu import Work, read_parts, write_items
from storage.paths import Paths
from web.gpu_broker import Asked, Broker

MODELS = "pipeline.models.embedding"
# Another process, started before the first fork, as the worker is: it starts programs all the time.
CANARY = """
import subprocess, time
worst = 0.0
end = time.monotonic() + 600
while time.monotonic() < end:
    began = time.monotonic()
    subprocess.run(["true"], check=True)
    worst = max(worst, time.monotonic() - began)
    print(worst, flush=True)
"""


def visitor(user: str, seconds: float) -> gr.Request:
    """A request as the platform's proxy hands it on, with a token that lives for some seconds."""
    claims = json.dumps({"user": user, "exp": time.time() + seconds}).encode()
    token = f"h.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.s"
    scope = {"type": "http", "headers": [(b"x-ip-token", token.encode())]}
    return gr.Request(request=Request(scope))


def vectors(texts: Sequence[str]) -> list[list[float]]:
    """Length and 1; some texts mean something else."""
    if "break" in texts:
        raise ZeroDivisionError
    if "slow" in texts:
        threading.Event().wait(30)
    for text in texts:
        if text.startswith("wait "):
            threading.Event().wait(float(text[5:]))
    return [[float(len(t)), 1.0] for t in texts]


def load(_: str, models: tuple[str, ...]) -> Work:
    return importlib.import_module(MODELS).load_encoder(*models).encode if models else vectors


def main() -> None:
    if tests.space.no_driver.CARD:
        importlib.import_module(MODELS)  # not in a fork, as in the app
    canary = subprocess.Popen([sys.executable, "-c", CANARY], stdout=subprocess.PIPE, text=True)
    here: list[str] = []
    starts = {"subprocess.Popen", "os.system", "os.posix_spawn"}
    sys.addaudithook(lambda event, _: here.append(event) if event in starts else None)
    with tempfile.TemporaryDirectory() as root:
        broker = Broker(Paths(Path(root)), load=load, sleep=lambda _: None, token_wait=1.5)
        for line in sys.stdin:
            call = json.loads(line)
            asked = call == "canary"
            answer = {**gaps(canary), "here": here} if asked else one(broker, Path(root), call)
            print(f"answer {json.dumps(answer)}", flush=True)
        for fork in multiprocessing.active_children():
            fork.kill()


def gaps(canary: "subprocess.Popen[str]") -> dict[str, Any]:
    """How many programs the other process has started, and the longest that one took."""
    canary.kill()
    assert canary.stdout
    told = canary.stdout.read().splitlines()[:-1]
    return {"runs": len(told), "worst": max(map(float, told), default=0.0)}


def one(broker: Broker, root: Path, call: dict[str, Any]) -> dict[str, Any]:
    user = call["user"]
    if "token_seconds" in call:
        broker.saw(user, visitor(user, call["token_seconds"]))
    if call.get("polls"):
        threading.Timer(0.7, lambda: broker.saw(user, visitor(user, 60))).start()
    folder = Path(tempfile.mkdtemp(dir=root))
    texts = call.get("texts") or ["x" * (i % 9) for i in range(call["count"])]
    write_items(folder, texts)
    began = time.monotonic()
    models = (call["model"],) if "model" in call else ()
    answer = broker.borrow(Asked(user=user, folder=str(folder), count=len(texts), models=models))
    wall = time.monotonic() - began
    found = read_parts(folder, "embed")
    right = all(found[i] == [float(len(texts[i])), 1.0] for i in found)
    return {**answer, "found": len(found), "right": right, "wall": wall, "folder": str(folder)}


if __name__ == "__main__":
    main()
