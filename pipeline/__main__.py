"""The command line: `python -m pipeline partition`, and the operator's commands over the stores."""

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from errors import QuireError
from pipeline.document import document_elements
from pipeline.partition import (
    PartitionOptions,
    partition_batch,
    plan,
)
from pipeline.pool import Pool
from pipeline.readers.layout import Detector
from pipeline.router import STRATEGIES
from pipeline.source import check_upload, look
from settings import DEFAULT_LAYOUT_MODEL, DEFAULT_TABLE_MODEL


def partition_file(
    pool: Pool,
    path: Path,
    out: Path,
    options: PartitionOptions,
    password: str | None = None,
    detector: Detector | None = None,
) -> list[str]:
    """Write OUT/NAME.json as unstructured's `elements_to_json` does, crops beside it; returns the
    pages that were not read, a line each."""
    check_upload(path, max_mb=1 << 20)
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / "copy.pdf"
        seen = look(pool, path, copy, password=password, max_pages=1 << 20)
        readable = copy if seen.copy else path
        with ThreadPoolExecutor(4) as threads:
            results = list(
                threads.map(
                    lambda batch: partition_batch(
                        pool,
                        readable,
                        batch,
                        options,
                        out=Path(work) / "b",
                        crops=out / "crops",
                        detector=(lambda: detector) if detector else None,
                    ),
                    plan(seen),
                )
            )
        elements = document_elements([r.path for r in results])
        for element in elements:
            element["metadata"]["filename"] = path.name
        target = out / f"{path.stem}.json"
        target.write_text(json.dumps(elements, indent=2, ensure_ascii=False), encoding="utf-8")
    return [f"page {r.page}: {r.reason}" for result in results for r in result.pages if r.error]


def _partition(arguments: argparse.Namespace) -> int:
    options = PartitionOptions(
        strategy=arguments.strategy, languages=tuple(arguments.languages)
    ).checked()
    arguments.out.mkdir(parents=True, exist_ok=True)
    detector: Detector | None = None
    if options.strategy == "hi_res":
        models = importlib.import_module("pipeline.models")  # torch: seconds, for hi_res only
        detector = models.load_detector(arguments.layout_model, arguments.table_model)
    failed = 0

    def one(path: Path) -> str | None:
        try:
            bad = partition_file(pool, path, arguments.out, options, arguments.password, detector)
        except QuireError as problem:
            return f"{path}: {problem.code}: {problem}"
        return f"{path}: {len(bad)} pages not read: {'; '.join(bad)}" if bad else None

    with Pool(arguments.jobs) as pool, ThreadPoolExecutor(arguments.jobs) as threads:
        for line in threads.map(one, arguments.files):
            if line:
                failed = 1
                print(line, file=sys.stderr)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("partition", help="PDFs into unstructured elements (JSON)")
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--strategy", choices=STRATEGIES, default="auto")
    command.add_argument("--languages", nargs="*", default=())
    command.add_argument("--password")
    command.add_argument("--jobs", type=int, default=2)
    command.add_argument("--layout-model", default=DEFAULT_LAYOUT_MODEL, help="for hi_res")
    command.add_argument("--table-model", default=DEFAULT_TABLE_MODEL, help="for hi_res")
    command.set_defaults(run=_partition)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] != ["partition"]:  # which needs no stores, and starts faster without
        importlib.import_module("pipeline.maintain").add_to(commands)
    chosen = parser.parse_args(given)
    return int(chosen.run(chosen))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QuireError as problem:
        print(f"{problem.code}: {problem}", file=sys.stderr)
        sys.exit(2)
