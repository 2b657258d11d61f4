"""The main job, end to end, against a running app: `make demo [PDF=path] [KILL=1]`.

Starts the app on a free port over its own data directory, submits PDFs, prints the progress,
detaches and attaches again, asks three questions in three modes, and leaves the data there.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from quire_client import FINISHED, Json, Quire

HERE = Path(__file__).resolve().parent
QUESTIONS = (
    ("hybrid", "How much rain fell in the valley in April?"),
    ("dense", "why do birds travel in autumn"),
    ("keyword", "population river length"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pdf", nargs="*", type=Path, help="default: the PDFs in samples/")
    parser.add_argument("--kill", action="store_true", help="kill -9 the worker in the middle")
    chosen = parser.parse_args()
    files = chosen.pdf or sorted((HERE / "samples").glob("*.pdf"))
    missing = [str(f) for f in files if not f.is_file()]
    if missing:
        print(f"There is no file {', '.join(missing)}.", file=sys.stderr)
        return 2
    data = HERE / "demo-data"
    port = _free_port()
    environment = {**os.environ, "QUIRE_DATA_DIR": str(data), "QUIRE_PORT": str(port)}
    data.mkdir(exist_ok=True)
    log_path = data / "app.log"
    with log_path.open("w", encoding="utf-8") as log:
        app = subprocess.Popen(
            [sys.executable, "app.py"], cwd=HERE, env=environment, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if not _ready(url, app):
                print(f"The app did not start; see {log_path}.", file=sys.stderr)
                return 1
            print(f"Quire runs at {url}\n")
            failed = run(url, files, data if chosen.kill else None, own=bool(chosen.pdf))
        finally:
            app.send_signal(signal.SIGTERM)
            app.wait(15)
    print(f"\nThe data is in {data}; `make run` with QUIRE_DATA_DIR={data.name} opens it again.")
    return failed


def run(url: str, files: list[Path], kill: Path | None, *, own: bool) -> int:
    """0 when every job ended well and every mode found something."""
    quire = Quire(url)
    jobs = quire.submit(*files, collection="demo")
    for job in jobs:
        again = "  (submitted before: its first result)" if job.get("duplicate") else ""
        print(f"job {job['id']}  {job['source']['filename']}{again}")
    watched = jobs[0]["id"]
    print(f"\nFollowing {watched}, leaving it after two events, and coming back with a new client.")
    seen = 0
    for event in quire.watch(watched):
        _show(event)
        seen = event["seq"]
        if seen >= 2:
            break
    if kill is not None:
        pid = int((kill / "run" / "ready").read_text(encoding="ascii"))
        os.kill(pid, signal.SIGKILL)
        print(f"  … the worker (process {pid}) was killed; its supervisor starts another …")
    print(f"  … detached after event {seen}; attaching again …")
    again = Quire(url)
    for event in again.watch(watched, after=seen):
        _show(event)
    bad = 0
    for job in jobs:
        if job["id"] != watched:
            print(f"\n{job['source']['filename']}")
            for event in again.watch(job["id"]):
                _show(event)
        final = again.job(job["id"])
        if final["status"] not in {"succeeded", "partial"}:
            bad += 1
            print(f"  {final['status']}: {final['error']}", file=sys.stderr)
    questions = [(mode, files[0].stem.replace("-", " ")) for mode, _ in QUESTIONS]
    for mode, question in questions if own else QUESTIONS:
        print(f"\n{mode}: {question}")
        hits = again.search(question, collection="demo", mode=mode, top_k=3)
        for hit in hits:
            _hit(hit)
        if not hits and not own:
            bad += 1
            print("  nothing found", file=sys.stderr)
    for kind in ("Table", "Image"):
        print(f"\nthe best {kind.lower()} for 'rainfall by month'")
        where = {"element_type": kind}
        for hit in again.search("rainfall by month", collection="demo", top_k=1, where=where):
            _hit(hit)
    return 1 if bad else 0


def _show(event: Json) -> None:
    count = f"{event['done']}/{event['total']}" if event.get("total") else ""
    ended = f"[{event['status']}]" if event.get("status") in FINISHED else ""
    print(
        f"  {event['seq']:4d}  {event['stage']:10s} {count:9s} {event.get('message', '')} {ended}"
    )


def _hit(hit: Json) -> None:
    text = " ".join(hit["text"].split())[:110]
    print(
        f"  {hit['score']:.4f}  {hit['filename']} page {hit['page']}  [{hit['element_type']}]  {text}"
    )
    if hit["table_html"]:
        print(f"          table: {hit['table_html'][:150]}…")
    if hit["image_url"]:
        print(f"          picture: {hit['image_url'][:40]}…")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(url: str, app: "subprocess.Popen[bytes]") -> bool:
    """Whether page and worker answered within three minutes."""
    limit = time.monotonic() + 180
    while time.monotonic() < limit and app.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return True
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.3)
    return False


if __name__ == "__main__":
    sys.exit(main())
