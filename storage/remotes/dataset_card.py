"""The dataset's own README: what is in it, and how anybody with read access reads it without Quire.

A test runs these very lines. Knows nothing of the Hub's client.
"""

CARD = """---
license: other
pretty_name: Quire
configs:
  - config_name: segments
    default: true
    data_files: "users/*/segments/*.parquet"
---

# A Quire store

Written by [Quire](https://huggingface.co/docs/hub/spaces); do not edit it by hand. One folder per
person, under a key that tells nothing about them:

| name | what it is |
|---|---|
| `users/<key>/manifest.json` | the newest generation: every file below with its sha256 |
| `users/<key>/manifests/` | the generations before it that can still be read |
| `users/<key>/segments/*.parquet` | the records, in order of the names: `op` (`put`, `delete`, `drop`), `collection`, `id`, `document`, `metadata` (JSON), `embedding` (list of float32) |
| `users/<key>/chroma/<generation>/` | the same records as a Chroma directory, as of that generation |
| `users/<key>/sources/`, `elements/` | the PDFs by sha256; their elements and pictures |

## Open it with Chroma

```python
import json
from pathlib import Path

import chromadb
from huggingface_hub import snapshot_download

folder = Path(snapshot_download(DATASET, repo_type="dataset", allow_patterns=f"users/{KEY}/*"))
body = json.loads((folder / "users" / KEY / "manifest.json").read_bytes())["body"]
generation = body["published"]["generation"]
client = chromadb.PersistentClient(str(folder / "users" / KEY / "chroma" / f"{generation:08d}"))
for found in client.list_collections():
    collection = client.get_collection(found.name, embedding_function=None)
    print(collection.metadata["title"], collection.metadata["model"], collection.count())
```

Pass `embedding_function=None`, and embed your question with the model that the collection's
metadata names, normalised; the space is cosine. Chroma writes to a directory it opens: open a copy
when the download folder is shared.

## Read the segments

```python
import duckdb
import pandas
from datasets import load_dataset

rows = load_dataset("parquet", data_files=SEGMENTS, split="train")
frame = pandas.concat(map(pandas.read_parquet, SEGMENTS))
table = duckdb.read_parquet(SEGMENTS)
```

`SEGMENTS` is the list of a person's segment files, sorted. A record is its last `put` that no later
`delete` of its id, nor `drop` of its collection, follows.
"""
ATTRIBUTES = "".join(
    f"users/**/*.{ending} filter=lfs diff=lfs merge=lfs -text\n"
    for ending in ("parquet", "pdf", "zip", "sqlite3", "bin", "pickle")
)
