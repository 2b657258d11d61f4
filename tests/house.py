"""Everything of one data directory, as the worker wires it, for one user with one collection; `library`
answers what needs neither a model nor a page process."""

from pathlib import Path
from typing import Any, cast

from pipeline.ingest.checkpoints import write_batch
from pipeline.pdf.page import PageRecord
from pipeline.worker.handlers import Library
from settings import Settings
from storage.catalog.catalog import Catalog, SourceRow
from storage.elements_folder import list_files
from storage.generations.committer import Pace
from storage.generations.compose import Wish
from storage.generations.reader import digest
from storage.live.chroma import Record
from storage.live.workspace import Space
from storage.names import CropName
from storage.paths import Paths, user_key
from storage.remotes.local import LocalRemote
from storage.remotes.remote import Remote
from storage.stores import open_stores

USER = user_key(b"secret", "ada")
OTHER = user_key(b"secret", "bob")


class House:
    """Everything of one data directory, as the worker wires it."""

    def __init__(
        self,
        root: Path,
        *,
        primary: Remote | None = None,
        mirror: Remote | Path | None = None,
        pace: Pace | None = None,
    ) -> None:
        root.mkdir(exist_ok=True)
        self.paths = Paths(root)
        self.catalog = Catalog(f"sqlite:///{root}/catalog.sqlite", alone=True)
        if isinstance(mirror, Path):
            mirror = LocalRemote(mirror, "mirror")
        self.stores = open_stores(
            self.paths,
            self.catalog,
            primary or LocalRemote(root.parent / "remote"),
            mirror,
            pace=pace,
            patience=60,
        )
        self.replication = self.stores.replication
        self.workspaces = self.stores.workspaces
        self.committer = self.stores.committer
        given = {
            "settings": Settings(data_dir=root, secret=b"secret", database_url=""),
            "paths": self.paths, "catalog": self.catalog, "stores": self.stores,
        }  # fmt: skip
        self.library = cast(Any, Library)(**dict.fromkeys(Library.__slots__) | given)

    def close(self) -> None:
        self.workspaces.close()
        self.catalog.close()

    def space(self) -> Space:
        made = self.catalog.create_collection(USER, "papers")
        return Space(collection=made.id, title="papers", model="m", dimension=3)

    def put(self, *numbers: int) -> None:
        with self.workspaces.open(USER) as workspace:
            workspace.upsert(self.space(), [record(n) for n in numbers])

    def ids(self) -> list[str]:
        with self.workspaces.open(USER) as workspace:
            return sorted(r.id for r in workspace.get(self.space().collection))

    def source(self, sha256: str) -> None:
        self.catalog.put_source(
            USER,
            SourceRow(
                collection=self.space().collection, sha256=sha256, filename="f", bytes=1, pages=1,
                version="v1", created_at=1.0,
            ),
        )  # fmt: skip

    def document(self, text: str = "and so on", version: str = "v1") -> str:
        """A listed document with its original, elements in two batches, and a picture: its sha256."""
        content, picture = f"%PDF-1.7 {text}".encode(), f"picture of {text}".encode()
        sha256, crop = digest(content), CropName(f"{digest(picture)}.png")
        folder = self.paths.elements(USER, sha256, version)
        for path, held in (
            (self.paths.source(USER, sha256), content),
            (self.paths.crop(USER, crop), picture),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(held)
        for n, shown in enumerate((crop, None)):
            record = PageRecord(page=n + 1, reader="fast", reason="", seconds=0.0, elements=1)
            found: dict[str, Any] = {
                "type": "Image",
                "text": text,
                "metadata": {"page_number": n + 1},
            }
            if shown:
                found["metadata"]["image_path"] = shown
            write_batch(folder / f"batch-{n:05d}.jsonl", [record], [found])
        list_files(folder)
        self.source(sha256)
        return sha256

    def publish(self) -> int:
        """What the committer does at a quiet moment."""
        copy = self.workspaces.copy(USER)
        assert copy
        return self.replication.save(USER, Wish(copy=copy))


def record(n: int, **metadata: object) -> Record:
    return Record(
        id=f"id{n}",
        document=f"document number{n}",
        embedding=[1.0, n / 10, 0.0],
        metadata={
            "source_id": "s" * 64,
            "page": n,
            "element_type": "Text",
            "model": "m",
            **metadata,
        },
    )
