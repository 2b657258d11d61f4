"""`python bench/ingest.py FILE.pdf [--profile]`: a whole ingest beside its two long steps.

Partitioning alone with 2 page processes, embedding its chunks alone with one thread and with all cores,
then the job in a running app whose model is loaded: its wall seconds from start to end by its
own row, as a share of the longer step's. `--profile` tells the seconds that each stage took, by
the worker's log.
"""

import argparse
import collections
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from pipeline.__main__ import partition_file
from pipeline.ingest.chunk import ChunkOptions, chunks
from pipeline.models.embedding import load_encoder
from pipeline.options import PartitionOptions
from pipeline.processes.pool import Pool
from quire_client import Quire
from settings import DEFAULT_MODEL, processors
from tests.conftest import start_app


def alone(file: Path) -> tuple[float, dict[int, float], int]:
    """Seconds of partitioning, of embedding by so many threads, and how many chunks."""
    with tempfile.TemporaryDirectory() as out, Pool(2) as pool:
        began = time.perf_counter()
        partition_file(pool, file, Path(out), PartitionOptions())
        read = time.perf_counter() - began
        elements = json.loads((Path(out) / f"{file.stem}.json").read_text(encoding="utf-8"))
    texts = [c.text for c in chunks([elements], ChunkOptions())]
    spent = {}
    for threads in (1, processors()):
        encoder = load_encoder(DEFAULT_MODEL, threads=threads)
        encoder.encode(texts[:8])
        began = time.perf_counter()
        encoder.encode(texts)
        spent[threads] = time.perf_counter() - began
    return read, spent, len(texts)


def stages(log: Path) -> dict[str, tuple[int, float]]:
    """By stage: how often, and seconds in all."""
    found: dict[str, tuple[int, float]] = collections.defaultdict(lambda: (0, 0.0))
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("{") and (told := json.loads(line)).get("message") == "stage ended":
            times, seconds = found[told["stage"]]
            found[told["stage"]] = (times + 1, seconds + told["seconds"])
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    read, embedded, count = alone(chosen.file)
    with tempfile.TemporaryDirectory() as folder:
        app = start_app(Path(folder) / "data")
        try:
            quire = Quire(app.url)
            while quire.call("status")["device"] == "loading":
                time.sleep(0.2)
            worker = psutil.Process(app.worker_pid())
            before = spent(worker)
            job = quire.wait(quire.submit(chosen.file)[0]["id"])
            cpu = spent(worker) - before
            wall = job["finished_at"] - job["started_at"]
        finally:
            app.stop()
        print(f"{chosen.file.name}: {job['status']}, {count} chunks")
        print(f"ingest {wall:.1f} s ({cpu:.1f} CPU-s); partition alone {read:.1f} s")
        for threads, seconds in embedded.items():
            ratio = wall / max(read, seconds)
            print(f"embedding alone, {threads} threads, {seconds:.1f} s: ratio {ratio:.2f}")
        if chosen.profile:
            for name, (times, seconds) in stages(app.data / "app.log").items():
                print(f"  {name:10} {times:4} × {seconds:7.2f} s")


def spent(process: psutil.Process) -> float:
    return sum(sum(p.cpu_times()[:2]) for p in (process, *process.children(recursive=True)))


if __name__ == "__main__":
    main()
