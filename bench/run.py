"""`make bench [PDF=path…]`: what a page, a vector and a search cost here, beside peers.

CPU-seconds of child processes and of imports included, ours as medians over three runs, everything in
one go so that a noisy machine disturbs all rows alike. Default: the PDFs of `samples/`. `make
bench-peers` installs the peers; one that is not there is printed as such. With `--corpus` and
`--scorer` the long file is timed by kind of page, and the scores are printed too.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pypdfium2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.peers import PEERS
from bench.robustness import peak_mb
from pipeline.__main__ import partition_file
from pipeline.ingest.chunk import ChunkOptions, chunks
from pipeline.ingest.embed import records
from pipeline.ingest.partition import partition_batch, plan
from pipeline.models.embedding import load_encoder
from pipeline.options import PartitionOptions
from pipeline.pdf import document_style
from pipeline.pdf.probe import look
from pipeline.pdf.read_pages import read_pages
from pipeline.processes.pool import Pool
from pipeline.search import MODES, checked, search
from settings import DEFAULT_MODEL
from storage.catalog.catalog import Catalog
from storage.live.workspace import Space
from storage.paths import Paths
from storage.remotes.local import LocalRemote
from storage.stores import open_stores

ROOT = Path(__file__).resolve().parent.parent
USER = "0" * 32
Measured = dict[str, object]


def cpu() -> float:
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, both))


def timed(work: Callable[[], object], runs: int = 3) -> tuple[float, float]:
    """Median CPU-seconds and wall seconds."""
    spent = []
    for _ in range(runs):
        c, w = cpu(), time.perf_counter()
        work()
        spent.append((cpu() - c, time.perf_counter() - w))
    return statistics.median(s[0] for s in spent), statistics.median(s[1] for s in spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--corpus", type=Path, help="holds text/, tables/, prose/, headline195.pdf")
    parser.add_argument("--scorer", type=Path, help="prints a summary line per set")
    chosen = parser.parse_args()
    files = chosen.files or sorted(Path("samples").glob("*.pdf"))
    pages = count(files)
    print(f"{len(files)} files, {pages} pages\n")
    print(f"{'partition':36s} {'CPU-s':>8s} {'wall s':>8s} {'pages/CPU-s':>12s} {'peak MB':>8s}")
    for strategy, does in (("fast", "text"), ("auto", "OCR, tables, crops")):
        quire(f"quire {strategy} ({does})", files, strategy)
    row("  fast, the reading alone", pages, alone(files))
    for name in PEERS:
        row(name, pages, peer(name, files))
    row("unstructured fast", pages, stock(files, "fast"))
    row("unstructured hi_res, random weights", pages, stock_hi_res(files))
    page_process()
    if chosen.corpus:
        by_kind(chosen.corpus)
    if chosen.corpus and chosen.scorer:
        scored(chosen.scorer, chosen.corpus)
    embedding(files)


def count(files: Iterable[Path]) -> int:
    return sum(len(pypdfium2.PdfDocument(f)) for f in files)


def row(name: str, pages: int, found: Measured) -> None:
    if "failed" in found:
        print(f"{name:36s} {found['failed']}")
        return
    spent, wall = (float(str(found[key])) for key in ("cpu", "wall"))
    peak = round(float(str(found["peak_mb"])))
    print(f"{name:36s} {spent:8.2f} {wall:8.2f} {pages / max(spent, 1e-6):12.1f} {peak or '':>8}")


def quire(name: str, files: list[Path], strategy: str) -> None:
    """One page process and this one, the child's imports counted, as for the peers; memory is that of
    the page process."""
    peak = 0

    def work() -> None:
        nonlocal peak
        with tempfile.TemporaryDirectory() as out, Pool(1) as pool:
            for file in files:
                partition_file(pool, file, Path(out), PartitionOptions(strategy=strategy))
            peak = peak_mb(pool)

    spent, wall = timed(work)
    row(name, count(files), {"cpu": spent, "wall": wall, "peak_mb": peak})


def alone(files: list[Path]) -> Measured:
    """Elements of every page in this process: no imports, no look at the file before, no output."""
    read, styles = (
        PartitionOptions(strategy="fast"),
        {file: document_style.look(file) for file in files},
    )

    def work() -> None:
        for file in files:
            pages = range(1, count([file]) + 1)
            for _ in read_pages(file, pages, read, styles[file], Path(os.devnull), {}):
                pass

    spent, wall = timed(work)
    return {"cpu": spent, "wall": wall, "peak_mb": 0}


def page_process() -> None:
    """What a page process holds by /proc/self/smaps_rollup, in MB: resident with shared pages, its
    share of them (Pss), its own memory (Anonymous); after what it imported and after its first page."""
    print(f"\n{'a page process, MB':42s} {'Rss':>6s} {'Pss':>6s} {'own':>6s} {'peak':>6s}")
    for name, module in (
        ("started", "pipeline.processes.pool"),
        ("imports: text, tables, figures", "pipeline.pdf.read_pages, PIL.JpegImagePlugin, tablers"),
        (
            "imports: OCR besides",
            "pipeline.pdf.read_pages, pipeline.pdf.ocr.scanned_page, PIL.Image",
        ),
    ):
        with Pool(1) as pool:
            pool.run(exec, f"import {module}", seconds=60)
            held(name, pool)
    for name, strategy in (("two-columns", "fast"), ("report", "auto"), ("scanned", "auto")):
        path = ROOT / "samples" / f"{name}.pdf"
        with tempfile.TemporaryDirectory() as out, Pool(1) as pool:
            partition_file(pool, path, Path(out), PartitionOptions(strategy=strategy))
            held(f"after {path.name}, {strategy}", pool)


def held(name: str, pool: Pool) -> None:
    said = Path(f"/proc/{pool.run(os.getpid, seconds=30)}/smaps_rollup").read_text("ascii")
    kb = [int(said.split(f"{kind}:")[1].split()[0]) for kind in ("Rss", "Pss", "Anonymous")]
    print(f"{name:42s} " + " ".join(f"{n / 1024:6.1f}" for n in kb) + f" {peak_mb(pool):6d}")


def peer(name: str, files: list[Path], out: Path | None = None) -> Measured:
    """A peer in its own process, by the bench environment where there is one."""
    own = ROOT / ".venv-bench" / "bin" / "python"
    command = [str(own if own.exists() else sys.executable), str(ROOT / "bench" / "peers.py"), name]
    command += [*map(str, files), *(["--out", str(out)] if out else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": "took longer than half an hour"}
    said = done.stdout.strip().splitlines()
    if done.returncode or not said:
        return {"failed": f"ended with {done.returncode}"}
    found: Measured = json.loads(said[-1])
    if str(found.get("failed", "")).startswith(("ModuleNotFoundError", "ImportError")):
        found["failed"] = f"not installed ({found['failed']}); make bench-peers"
    return found


def stock(files: list[Path], strategy: str, *models: Path) -> Measured:
    """Stock `partition_pdf`; without spaCy's model, which is not on PyPI, the classes of `fast` come
    out empty but the reading is done. `models`: those of hi_res, when the library's own are away."""
    code = (
        "import json, resource, sys, time\n"
        "t = time.perf_counter()\n"
        "from unstructured.partition.pdf import partition_pdf\n"
        "strategy, layout, table, *files = sys.argv[1:]\n"
        "if layout:\n"
        "    from pipeline.ingest.reference import prepare\n"
        "    prepare(layout, table)\n"
        "for f in files:\n"
        "    partition_pdf(f, strategy=strategy, languages=['eng'], infer_table_structure=bool(layout))\n"
        "u = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]\n"
        "hwm = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
        "print(json.dumps({'cpu': sum(v.ru_utime + v.ru_stime for v in u),"
        " 'wall': time.perf_counter() - t, 'peak_mb': int(hwm) >> 10}))"
    )
    layout, table = map(str, models or ("", ""))
    command = [sys.executable, "-c", code, strategy, layout, table, *map(str, files)]
    quiet = {**os.environ, "DO_NOT_TRACK": "1", "OMP_THREAD_LIMIT": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no word"])[-1][:160]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def stock_hi_res(files: list[Path]) -> Measured:
    """With random weights of the real size: the time is that of the library, the answer is not."""
    from tests import stock_models

    with tempfile.TemporaryDirectory() as folder:
        layout = stock_models.layout_model(Path(folder) / "yolox.onnx", tiny=False)
        table = stock_models.table_model(Path(folder) / "table", tiny=False)
        return stock(files, "hi_res", layout, table)


def by_kind(corpus: Path) -> None:
    """The long file by kind of page, from the seconds in the page records."""
    headline = corpus / "headline195.pdf"
    if not headline.exists():
        return
    with tempfile.TemporaryDirectory() as folder, Pool(2) as pool:
        work = Path(folder)
        started, before = time.perf_counter(), cpu()
        seen = look(pool, headline, work / "copy.pdf", password=None, max_pages=1 << 20)
        records = []
        with ThreadPoolExecutor(2) as threads:
            for done in threads.map(
                lambda batch: partition_batch(
                    pool, headline, batch, PartitionOptions(), out=work / "b", crops=work / "c"
                ),
                plan(seen),
            ):
                records += done.pages
        wall = time.perf_counter() - started
    print(f"\n{headline.name}: {wall:.1f} s with 2 processes, {cpu() - before:.1f} CPU-s")
    for reader in sorted({r.reader for r in records}):
        spent = [r.seconds for r in records if r.reader == reader]
        print(f"  {reader:32s} {len(spent):4d} pages, {statistics.mean(spent):6.3f} s each")


def scored(scorer: Path, corpus: Path) -> None:
    """The scorer's summary lines for us and for each peer that is there."""
    files = [p for kind in ("text", "tables") for p in sorted(corpus.glob(f"{kind}/*.pdf"))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        with Pool(2) as pool:
            for file in files:
                partition_file(pool, file, out, PartitionOptions())
        summary("quire auto", scorer, corpus, out)
    for name in PEERS:
        with tempfile.TemporaryDirectory() as folder:
            if "failed" not in peer(name, files, Path(folder)):
                summary(name, scorer, corpus, Path(folder))


def summary(name: str, scorer: Path, corpus: Path, out: Path) -> None:
    command = [sys.executable, str(scorer), str(corpus), str(out)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in said.splitlines():
        if line.startswith(("TEXT ", "TABLES ")):
            print(f"{name:36s} {line}")


def embedding(files: list[Path]) -> None:
    encoder = load_encoder(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        with Pool(2) as pool:
            for file in files:
                partition_file(pool, file, out, PartitionOptions(strategy="fast"))
        found = []
        for path in sorted(out.glob("*.json")):
            elements = json.loads(path.read_text(encoding="utf-8"))
            found += [(path.stem, c) for c in chunks([elements], ChunkOptions())]
        while 0 < len(found) < 500:
            found += [(f"{name}+", chunk) for name, chunk in found]
        texts = [c.text for _, c in found]
        spent, wall = timed(lambda: encoder.encode(texts), 1)
        print(
            f"\n{'embed on ' + encoder.device:36s} {spent:8.2f} {wall:8.2f} {len(texts) / wall:9.0f} chunks/s"
        )
        made = {
            r.id: r
            for name, chunk in found
            for r in records(
                [chunk],
                lambda t: encoder.encode(t),
                source_id=name,
                filename=name,
                model=encoder.name,
            )
        }
        paths = Paths(out / "data")
        stores = open_stores(paths, Catalog("sqlite://"), LocalRemote(paths.remote))
        spaces = stores.workspaces
        with spaces.open(USER) as workspace:
            space = Space(
                collection="c-bench", title="b", model=encoder.name, dimension=encoder.dimension
            )
            _, wall = timed(lambda: workspace.upsert(space, list(made.values())), 1)
            print(f"{'index':36s} {'':8s} {wall:8.2f} {len(made) / wall:9.0f} records/s")
            for mode in MODES:
                query = checked(
                    "how much rain fell", collection="c-bench", top_k=10, mode=mode, where=None
                )
                _, wall = timed(lambda q=query: search(workspace, q, encoder.encode_query), 9)  # type: ignore[misc]
                print(f"search, {mode:26s} {'':8s} {wall * 1000:6.1f} ms (median of 9)")
        spaces.close()


if __name__ == "__main__":
    main()
