"""The command line: `python -m pipeline partition`, with a bar of pages on a terminal, and the
operator's commands over the stores."""

import argparse
import datetime
import importlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from errors import QuireError
from pipeline.ingest.assemble import document_elements
from pipeline.ingest.partition import Batch, partition_batch, plan, style_of
from pipeline.jobs.queue import catalog_url
from pipeline.options import PartitionOptions
from pipeline.pdf import markdown
from pipeline.pdf.hi_res import Detector
from pipeline.pdf.probe import check_upload, look
from pipeline.pdf.router import STRATEGIES
from pipeline.processes import environment
from pipeline.processes.pool import Pool
from settings import DEFAULT_LAYOUT_MODEL, DEFAULT_TABLE_MODEL, at_start
from storage.catalog.catalog import ACTIVE, Catalog
from storage.paths import Paths


class Progress:
    """Pages done of all that are known so far; `shown` draws a bar where somebody can see it."""

    def __init__(self, *, shown: bool = False) -> None:
        self._bar = tqdm(total=0, unit="page", disable=None if shown else True, dynamic_ncols=True)
        self._plain = shown and bool(self._bar.disable)
        self._lock = threading.Lock()

    def more(self, pages: int) -> None:
        with self._lock:
            self._bar.total = (self._bar.total or 0) + pages
            self._bar.refresh()

    def read(self, name: str, pages: int) -> None:
        with self._lock:
            self._bar.set_postfix_str(name[-40:], refresh=False)
            self._bar.update(pages)

    def done(self, line: str, *, failed: bool = False) -> None:
        """A line that stays, above the bar; failures go to stderr, always."""
        with self._lock:
            if failed:
                self._bar.write(line, file=sys.stderr)
            elif self._plain:
                print(line, flush=True)

    def close(self) -> None:
        self._bar.close()


def partition_file(
    pool: Pool,
    path: Path,
    out: Path,
    options: PartitionOptions,
    password: str | None = None,
    detector: Detector | None = None,
    progress: Progress | None = None,
    written: str = "json",
) -> list[str]:
    """Write OUT/NAME.json as unstructured's `elements_to_json` does, or OUT/NAME.md, crops beside it;
    returns the pages that were not read, a line each."""
    progress = progress or Progress()
    check_upload(path, max_mb=1 << 20)
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / "copy.pdf"
        seen = look(pool, path, copy, password=password, max_pages=1 << 20)
        readable = copy if seen.copy else path
        progress.more(seen.pages)
        if options.strategy != "reference":
            style_of(pool, readable, Path(work) / "b")

        def batch_done(batch: Batch) -> Any:
            made = partition_batch(
                pool,
                readable,
                batch,
                options,
                out=Path(work) / "b",
                crops=out / "crops",
                detector=(lambda: detector) if detector else None,
            )
            progress.read(path.name, batch.last - batch.first + 1)
            return made

        with ThreadPoolExecutor(4) as threads:
            results = list(threads.map(batch_done, plan(seen)))
        elements = document_elements([r.path for r in results])
        for element in elements:
            element["metadata"]["filename"] = path.name
        if written == "markdown":
            text = markdown.document(elements, lambda name: f"crops/{name}" if name else None)
            (out / f"{path.stem}.md").write_text(text, encoding="utf-8", errors="replace")
        else:
            text = json.dumps(elements, indent=2, ensure_ascii=False)
            (out / f"{path.stem}.json").write_text(text, encoding="utf-8")
    return [f"page {r.page}: {r.reason}" for result in results for r in result.pages if r.error]


def _partition(arguments: argparse.Namespace) -> int:
    options = PartitionOptions(
        strategy=arguments.strategy, languages=tuple(arguments.languages)
    ).checked()
    arguments.out.mkdir(parents=True, exist_ok=True)
    detector: Detector | None = None
    if options.strategy == "hi_res":
        # torch takes seconds: for hi_res only
        detection = importlib.import_module("pipeline.models.detection")
        detector = detection.load_detector(arguments.layout_model, arguments.table_model)
    progress = Progress(shown=True)

    def one(path: Path) -> bool:
        began = time.monotonic()
        try:
            bad = partition_file(
                pool,
                path,
                arguments.out,
                options,
                arguments.password,
                detector,
                progress,
                arguments.format,
            )
        except QuireError as problem:
            progress.done(f"{path}: {problem.code}: {problem}", failed=True)
            return False
        except OSError as problem:
            progress.done(f"{path}: {problem.strerror}", failed=True)
            return False
        if bad:
            progress.done(f"{path}: {len(bad)} pages not read: {'; '.join(bad)}", failed=True)
        else:
            progress.done(f"{path}: read in {time.monotonic() - began:.1f} s")
        return not bad

    reads, writes = arguments.files, (arguments.out, Path(tempfile.gettempdir()))
    with Pool(arguments.jobs) as every, ThreadPoolExecutor(arguments.jobs) as threads:
        pool = every.within([path.absolute() for path in reads], [p.absolute() for p in writes])
        fine = all(list(threads.map(one, arguments.files)))
    progress.close()
    return 0 if fine else 1


def _jobs(arguments: argparse.Namespace) -> int:
    """A line per job of everybody, newest first, and the workers' signs of life."""
    settings = at_start(os.environ)
    catalog = Catalog(catalog_url(settings, Paths(settings.data_dir)))
    statuses = None if arguments.all else ACTIVE
    for row in catalog.jobs(None, statuses, arguments.limit):
        since = datetime.datetime.fromtimestamp(row.created_at).astimezone()
        message = row.summary.get("message") or ""
        print(f"{row.id:28} {row.user[:8]} {row.status:10} {since:%Y-%m-%d %H:%M} {message}")
    for role in ("main", "reader"):
        silent = catalog.workers.silence(role)
        print(f"{role}: " + ("none" if silent is None else f"last seen {silent:.0f} s ago"))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ["DO_NOT_TRACK"] = "1"  # unstructured reports that it was imported
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("partition", help="PDFs into elements or Markdown")
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--format", choices=("json", "markdown"), default="json")
    command.add_argument("--strategy", choices=STRATEGIES, default="auto")
    command.add_argument("--languages", nargs="*", default=())
    command.add_argument("--password")
    command.add_argument("--jobs", type=int, default=2)
    command.add_argument("--layout-model", default=DEFAULT_LAYOUT_MODEL, help="for hi_res")
    command.add_argument("--table-model", default=DEFAULT_TABLE_MODEL, help="for hi_res")
    command.set_defaults(run=_partition)
    command = commands.add_parser("jobs", help="jobs of everybody, for the operator")
    command.add_argument("--all", action="store_true", help="finished ones too")
    command.add_argument("--limit", type=int, default=100)
    command.set_defaults(run=_jobs)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] != ["partition"]:  # which needs no stores, and starts faster without
        importlib.import_module("pipeline.admin").add_to(commands)
    chosen = parser.parse_args(given)
    return int(chosen.run(chosen))


if __name__ == "__main__":
    environment.hide()
    try:
        sys.exit(main())
    except QuireError as problem:
        print(f"{problem.code}: {problem}", file=sys.stderr)
        sys.exit(2)
