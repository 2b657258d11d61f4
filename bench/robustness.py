"""Read every PDF below a folder with `auto` and count what went wrong.

    python bench/robustness.py FOLDER [--out TABLE.tsv] [--every N --offset I]

A file is *silently empty* when pdfium sees letters or ink on one of its pages, nothing was read from
it, and no page says why. *Slow* is more than 10 s for a file of up to 5 pages. Peak memory is that of
the page process; after a file that took much, the next one gets a fresh process. The table has a line
for each file.
"""

import argparse
import collections
import csv
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from errors import PageProcessDied, QuireError
from pipeline.ingest.checkpoints import read_batch
from pipeline.ingest.partition import partition_batch, plan
from pipeline.options import PartitionOptions
from pipeline.pdf.probe import check_upload, look
from pipeline.processes.pool import Pool

FRESH_MB = 180
COLUMNS = ("file", "outcome", "pages", "seconds", "peak_mb", "elements", "readers", "said")


def read(pool: Pool, path: Path, work: Path) -> dict[str, object]:
    """What became of one file."""
    check_upload(path, max_mb=1 << 20)
    copy = work / "copy.pdf"
    seen = look(pool, path, copy, password=None, max_pages=1 << 20)
    readers: collections.Counter[str] = collections.Counter()
    said: list[str] = []
    elements = 0
    for batch in plan(seen):
        done = partition_batch(
            pool,
            copy if seen.copy else path,
            batch,
            PartitionOptions(),
            out=work / "b",
            crops=work / "c",
        )
        elements += len(read_batch(done.path)[1])
        readers.update(record.reader for record in done.pages)
        said += [f"{r.page}: {r.reason}" for r in done.pages if r.error or not r.elements]
    outcome = "partial" if readers["failed"] else "read"
    if readers["failed"] == seen.pages:
        outcome = "failed, with reasons"
    if not elements and not said:
        outcome = "SILENTLY EMPTY"
    return {
        "outcome": outcome,
        "pages": seen.pages,
        "elements": elements,
        "readers": " ".join(f"{n} {reader}" for reader, n in sorted(readers.items())),
        "said": "; ".join(said)[:300],
    }


def peak_mb(pool: Pool) -> int:
    """The most memory the page process ever held."""
    status = Path(f"/proc/{pool.run(os.getpid, seconds=30)}/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0)
    chosen = parser.parse_args()
    files = sorted(chosen.folder.rglob("*.pdf"))[chosen.offset :: chosen.every]
    rows: list[dict[str, object]] = []
    pool = Pool(1)
    for path in files:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            try:
                row = read(pool, path, Path(work))
            except PageProcessDied as problem:
                row = {"outcome": "refused: its process died", "said": str(problem)}
            except QuireError as problem:
                row = {"outcome": f"refused: {problem.code}", "said": str(problem)}
        row["file"] = str(path.relative_to(chosen.folder))
        row["seconds"] = round(time.perf_counter() - started, 2)
        row["peak_mb"] = peak_mb(pool)
        if peak_mb(pool) > FRESH_MB:
            pool.close()
            pool = Pool(1)
        rows.append(row)
        print(row["file"], row["outcome"], row["seconds"], row["peak_mb"], flush=True)
    pool.close()
    report(rows)
    if chosen.out:
        with chosen.out.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, restval="", dialect="excel-tab")
            table.writeheader()
            table.writerows(rows)


def report(rows: list[dict[str, object]]) -> None:
    print(f"\n{len(rows)} files")
    for outcome, count in collections.Counter(str(r["outcome"]) for r in rows).most_common():
        print(f"{count:6d}  {outcome}")
    few = [r for r in rows if int(str(r.get("pages", 1))) <= 5]
    print(f"{sum(float(str(r['seconds'])) > 10 for r in few):6d}  of up to 5 pages took over 10 s")
    peaks = sorted((int(str(r["peak_mb"])), str(r["file"])) for r in rows if "peak_mb" in r)
    for limit in (250, 400):
        print(f"{sum(p > limit for p, _ in peaks):6d}  needed more than {limit} MB")
    print("largest:", ", ".join(f"{name} {mb} MB" for mb, name in peaks[-5:]))
    slow = sorted((float(str(r["seconds"])), str(r["file"])) for r in rows)[-5:]
    print("slowest:", ", ".join(f"{name} {seconds} s" for seconds, name in slow))


if __name__ == "__main__":
    main()
