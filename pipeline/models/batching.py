"""Groups of items through a model, on a GPU one after the other, on a CPU side by side. Knows nothing of
what the items are.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from pipeline.processes.pool import NICE
from settings import processors

Item = TypeVar("Item")
Made = TypeVar("Made")


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def lanes(device: str, threads: int | None) -> int:
    """How many groups go side by side: on a CPU so many threads, or all cores."""
    if device != "cpu":
        return 1
    torch.set_num_threads(1)
    return threads or processors()


def side_by_side(
    wide: int, work: Callable[[list[Item]], list[Made]], groups: Sequence[list[Item]]
) -> list[Made]:
    """What `work` makes of each item of the groups, in order. On a CPU each lane is a thread that
    computes alone: twice as fast as two that share every step, where they must wait for each other.
    They give way as page processes do, and so share with those alike."""

    def fitting(group: list[Item]) -> list[Made]:
        try:
            return work(group)
        except torch.cuda.OutOfMemoryError:
            if len(group) == 1:
                raise
            torch.cuda.empty_cache()
            half = len(group) // 2
        return fitting(group[:half]) + fitting(group[half:])

    if wide == 1 or len(groups) < 2:
        return [made for group in groups for made in fitting(group)]
    with ThreadPoolExecutor(wide, initializer=_give_way) as threads:
        return [made for each in threads.map(fitting, groups) for made in each]


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
