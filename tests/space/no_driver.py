"""The real `spaces` package without a card: only the two functions that touch a driver are replaced,
unless `CARD` names a real one by its UUID. Imported before anything else; `python -m
tests.space.no_driver` runs the whole app so, and writes each program that it starts to `started.log`
in the data directory, and each touch of CUDA outside of a GPU call to `cuda.log`."""

import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

import spaces.zero.torch
import torch

CARD = os.environ.get("CARD", "")
DATA = Path(os.environ.get("QUIRE_DATA_DIR", "data"))  # before the app takes it
if not CARD:
    spaces.zero.torch.init = lambda uuid: os.environ.__setitem__("CUDA_VISIBLE_DEVICES", uuid)
    spaces.zero.torch.move = lambda callback=None: None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        with (DATA / "started.log").open("a", encoding="utf-8") as log:
            log.write(f"{os.getpid()} {arguments[1]}\n")


def _touched() -> None:
    """In the place of what starts CUDA; in a GPU call `spaces` puts back what it found."""
    with (DATA / "cuda.log").open("a", encoding="utf-8") as log:
        traceback.print_stack(file=log)
    raise RuntimeError("CUDA was touched")


if __name__ == "__main__":
    sys.addaudithook(_note)
    torch._C._cuda_init = _touched
    runpy.run_path("app.py", run_name="__main__")
