"""What one save sends: `python bench/store_bytes.py [--chunks 20000] [--added 500] [--saves 3]`.

A store of `chunks` chunks is saved once, then `added` more, `saves` times, to the Hub (by LFS and by
Xet) and to the S3 mirror. Counted are bytes of request bodies as they arrive at the servers of
tests/, everything included: segment, manifests, commit, Xet's shards. Target: 1.2 MB to each remote
for +500 on 20,000.
"""

import argparse
import os
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CACHE = tempfile.TemporaryDirectory()
os.environ |= {
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HOME": CACHE.name,
    "HF_XET_CACHE": f"{CACHE.name}/xet",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}

import huggingface_hub
import numpy as np
from moto.server import ThreadedMotoServer

from storage.catalog.catalog import Catalog
from storage.generations.replication import Replication
from storage.live import segments
from storage.live.segments import Row
from storage.paths import Paths
from storage.remotes import hub as hub_remote
from storage.remotes import s3
from tests.hub.server import Hub
from tests.loopback import Proxy

USER = "a" * 32
DIMENSION = 384
LETTERS = 900  # of a chunk, as of a page cut by title


def rows(first: int, count: int, words: list[str], seed: int) -> list[Row]:
    chance, vectors = random.Random(seed), np.random.default_rng(seed)
    made = []
    for number in range(first, first + count):
        vector = vectors.normal(size=DIMENSION).astype(np.float32)
        text = " ".join(chance.choices(words, k=LETTERS // 6))[:LETTERS]
        about = {"source_id": f"{number // 500:064x}", "page": number % 500 // 4 + 1,
                 "box": [chance.randint(0, 600) for _ in range(4)], "element_type": "Text"}  # fmt: skip
        unit = (vector / np.linalg.norm(vector)).tolist()
        made.append(Row(op="put", collection="c", id=secrets.token_hex(32), document=text,
                        metadata=about, embedding=unit))  # fmt: skip
    return made


def journal(paths: Paths, made: list[Row]) -> None:
    paths.pending(USER).mkdir(parents=True, exist_ok=True)
    (paths.pending(USER) / f"{time.time_ns():020d}.parquet").write_bytes(segments.encode(made))


def measure(options: argparse.Namespace, words: list[str], moto: str, *, xet: bool) -> None:
    huggingface_hub.constants.HF_HUB_DISABLE_XET = not xet
    with tempfile.TemporaryDirectory() as folder, Hub() as hub, Proxy(moto) as bucket:
        paths = Paths(Path(folder))
        mirror = s3.connect(f"quire-{secrets.token_hex(4)}", "", bucket.url)
        mirror.client.create_bucket(Bucket=mirror.bucket)
        primary = hub_remote.connect("ada/store", "hf_write", hub.url)
        primary.check()
        catalog = Catalog(f"sqlite:///{folder}/catalog.sqlite")
        replication = Replication(paths, catalog, primary, mirror)
        counts = [options.chunks, *[options.added] * options.saves]
        total = 0
        for number, count in enumerate(counts):
            journal(paths, rows(total, count, words, number))
            total += count
            seen, began = (len(hub.log), len(bucket.log)), time.perf_counter()
            replication.save(USER)
            took, way = time.perf_counter() - began, "xet" if xet else "lfs"
            sent = hub.received(seen[0]) / 1e6, bucket.received(seen[1]) / 1e6
            print(f"{way}  +{count:6}  {total:7}  {sent[0]:8.3f}  {sent[1]:8.3f}  {took:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--added", type=int, default=500)
    parser.add_argument("--saves", type=int, default=3)
    options = parser.parse_args()
    words = [w for p in sorted(ROOT.rglob("docs/**/*.md")) for w in p.read_text("utf-8").split()]
    moto = ThreadedMotoServer("127.0.0.1", 0)
    moto.start()
    host, port = moto.get_host_and_port()
    print("way     added   chunks    hub MB     s3 MB       s")
    for xet in (False, True):
        measure(options, words, f"http://{host}:{port}", xet=xet)
    moto.stop()


if __name__ == "__main__":
    main()
