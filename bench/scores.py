"""Append a row to `bench/scores.tsv`: what a change does to the scores.

    python bench/scores.py "what changed" SCORER CORPUS [--skip-headline]

CORPUS holds `text/`, `tables/` and `prose/`, each NAME.pdf with its truth, and perhaps
`headline195.pdf`, whose CPU-seconds are counted. SCORER is a script that prints a summary line per
set when it is given CORPUS and a folder of NAME.json.
"""

import argparse
import csv
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "bench" / "scores.tsv"
SUMMARIES = {
    "text_bag_f1": r"^TEXT .*bag-F1 ([\d.]+)",
    "text_order": r"^TEXT .*order ([\d.]+)",
    "geotopo_order": r"^text +GeoTopo-book .*order ([\d.]+)",
    "table_adjacency": r"^TABLES .*adjacency-F1 mean ([\d.]+)",
    "table_detection": r"^TABLES .*detection-F1 ([\d.]+)",
    "prose_per_100": r"^PROSE .*per 100 pages ([\d.]+)",
}
COLUMNS = ("change", *SUMMARIES, "headline_cpu_s")


def partition(files: list[Path], out: Path) -> float:
    """CPU-seconds of `python -m pipeline partition`, its page processes included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pipeline", "partition", *map(str, files), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scores(scorer: Path, corpus: Path, out: Path) -> dict[str, str]:
    """The figures of the scorer's summary lines, by column; all of its lines are printed."""
    command = [sys.executable, str(scorer), str(corpus), str(out)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(said, end="")
    found = {name: re.search(line, said, re.M) for name, line in SUMMARIES.items()}
    return {name: match[1] if match else "" for name, match in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("change")
    parser.add_argument("scorer", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--skip-headline", action="store_true")
    chosen = parser.parse_args()
    corpus = chosen.corpus.resolve()
    headline = corpus / "headline195.pdf"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        partition([p for s in ("text", "tables", "prose") for p in corpus.glob(f"{s}/*.pdf")], out)
        row = {"change": chosen.change, **scores(chosen.scorer.resolve(), corpus, out)}
        if headline.exists() and not chosen.skip_headline:
            row["headline_cpu_s"] = f"{partition([headline], out):.1f}"
    new = not TABLE.exists()
    with TABLE.open("a", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", dialect="excel-tab", lineterminator="\n")
        if new:
            table.writeheader()
        table.writerow(row)
    print("\t".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
