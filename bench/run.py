"""`make bench [PDF=path…]`: what a page, a vector and a search cost here, beside two peers.

CPU-seconds of child processes included, medians over three runs, everything in one go so that a
noisy machine disturbs all rows alike. Default: the PDFs of `samples/`.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pypdfium2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.__main__ import partition_file
from pipeline.chunk import ChunkOptions, chunks
from pipeline.embed import records
from pipeline.models import load_encoder
from pipeline.partition import PartitionOptions
from pipeline.pool import Pool
from pipeline.search import MODES, checked, search
from settings import DEFAULT_MODEL
from storage.paths import Paths
from storage.workspace import Space, Workspaces

USER = "0" * 32


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
    files = [Path(a) for a in sys.argv[1:]] or sorted(Path("samples").glob("*.pdf"))
    pages = sum(len(pypdfium2.PdfDocument(f)) for f in files)
    print(f"{len(files)} files, {pages} pages\n")
    print(f"{'partition':34s} {'CPU-s':>8s} {'wall s':>8s} {'pages/CPU-s':>12s}")

    def raw() -> None:
        for file in files:
            for page in pypdfium2.PdfDocument(file):
                page.get_textpage().get_text_bounded()

    def ours(strategy: str) -> None:
        with tempfile.TemporaryDirectory() as out, Pool(2) as pool:
            for file in files:
                partition_file(pool, file, Path(out), PartitionOptions(strategy=strategy))

    def row(name: str, work: Callable[[], object], runs: int = 3) -> None:
        spent, wall = timed(work, runs)
        print(f"{name:34s} {spent:8.2f} {wall:8.2f} {pages / max(spent, 1e-6):12.1f}")

    row("raw pypdfium2 text (the ceiling)", raw)
    row("quire fast", lambda: ours("fast"))
    row("quire auto (OCR, tables, crops)", lambda: ours("auto"))
    row("unstructured fast", lambda: [stock(f) for f in files], 1)
    embedding(files)


def stock(file: Path) -> None:
    """Stock `partition_pdf(strategy="fast")`; without spaCy's model, which is not on PyPI, its
    classes come out empty but the reading is done."""
    from unstructured.partition.pdf import partition_pdf

    partition_pdf(str(file), strategy="fast", languages=["eng"])


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
            f"\n{'embed on ' + encoder.device:34s} {spent:8.2f} {wall:8.2f} {len(texts) / wall:9.0f} chunks/s"
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
        spaces = Workspaces(Paths(out / "data"), lambda _: iter(()), lambda _: {})
        with spaces.open(USER) as workspace:
            space = Space(
                collection="c-bench", title="b", model=encoder.name, dimension=encoder.dimension
            )
            _, wall = timed(lambda: workspace.upsert(space, list(made.values())), 1)
            print(f"{'index':34s} {'':8s} {wall:8.2f} {len(made) / wall:9.0f} records/s")
            for mode in MODES:
                query = checked(
                    "how much rain fell", collection="c-bench", top_k=10, mode=mode, where=None
                )
                _, wall = timed(lambda q=query: search(workspace, q, encoder.encode_query), 9)  # type: ignore[misc]
                print(f"search, {mode:26s} {'':8s} {wall * 1000:6.1f} ms (median of 9)")
        spaces.close()


if __name__ == "__main__":
    main()
