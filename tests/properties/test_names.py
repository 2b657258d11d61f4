"""Names from outside: whatever a field holds that it should not, the outcome is a coded refusal or a value
that stays inside its user's folder; nothing outside is opened, read or written."""

import contextlib
import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from errors import Corrupt, InputError, NotFound, QuireError, Refused
from pipeline import search
from pipeline.jobs.uploads import Admission
from pipeline.options import PartitionOptions
from pipeline.transfers import import_archive, unzip
from pipeline.transfers.push_tokens import Lent, dataset_name
from pipeline.worker.handlers import CALLS, Library, dispatch
from settings import Settings
from storage import names
from storage.catalog.catalog import JobRow
from storage.generations import lease, saved_jobs
from storage.generations import manifest as manifests
from storage.generations.manifest import (
    CollectionEntry,
    File,
    Manifest,
    Published,
    Retired,
    SourceEntry,
)
from storage.live import parquet_shards
from storage.live import record_metadata as metadata
from storage.live.chroma import Record
from storage.live.workspace import entry_of
from storage.paths import Paths
from tests.house import USER, House, record

SHA, CROP = "a" * 64, f"{'b' * 64}.jpg"
LONG = "x" * (1 << 20)
FIXED = settings(suppress_health_check=list(HealthCheck), max_examples=60)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that nobody has any business in, with a file that nobody may read."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret").write_text("hf_not_for_you", encoding="ascii")
    return folder


def hostile(outside: Path) -> st.SearchStrategy[Any]:
    """What a field should not hold: ways out, addresses, other types, half of a letter, a megabyte."""
    leaf = f"{outside}/secret"
    ways = [
        leaf, f"/{leaf}", f"../../../../../../../../..{leaf}", f"a/../..{leaf}", f"{leaf}\0.jpg",
        f"{SHA}/../{leaf}", f"{CROP}\0", f"{CROP}\n", f"../{CROP}", f"{'B' * 64}.jpg", f"{SHA}.svg",
        "..", ".", "", "/", "~", "~root/.ssh", "C:\\Windows", "\\\\host\\share", "c:x", "NUL", "-rf",
        f"file://{leaf}", "http://169.254.169.254/latest", "https://evil.example/x@main",
        "evil/model@main", f"evil/model@{'a' * 40}", "segments/../../x", "segments//x", "a%2f..%2fb",
        "\ud800", "\u202e", "a\u0000b", "{title}", "'; DROP TABLE jobs; --", LONG, LONG + "/..",
        None, True, False, 0, -1, 1 << 70, -(1 << 70), 1e400, float("nan"), 0.5,
        [], {}, [leaf], {"a": leaf}, [[[]]], {"": None}, ["a", 1],
    ]  # fmt: skip
    return st.one_of(st.sampled_from(ways), st.text(max_size=80), st.integers(), st.floats())


_opened: list[str] | None = None


def _listen(event: str, given: tuple[Any, ...]) -> None:
    if _opened is not None and event in {
        "open", "os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.listdir",
        "os.scandir", "sqlite3.connect", "socket.connect", "subprocess.Popen", "os.truncate",
    }:  # fmt: skip
        _opened.extend(str(g) for g in given[:2])
        if event in {"socket.connect", "subprocess.Popen"}:
            raise AssertionError(event)


sys.addaudithook(_listen)


@contextlib.contextmanager
def nothing_of(outside: Path) -> Iterator[None]:
    """Nothing in that folder is opened, nobody is connected to, no program is started."""
    global _opened
    before = sorted(p.name for p in outside.rglob("*"))
    _opened = []
    try:
        yield
        assert not [p for p in _opened if str(outside) in p]
    finally:
        _opened = None
    assert sorted(p.name for p in outside.rglob("*")) == before


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the fields of a document are: each value, also those that hold others."""
    if at:
        yield at
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, one in inner:
        yield from leaves(one, (*at, key))


def changed(value: Any, at: tuple[Any, ...], to: Any) -> Any:
    made = json.loads(json.dumps(value))
    place = made
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = to
    return made


def test_a_name_holds_what_its_pattern_says_and_nothing_else(outside: Path) -> None:
    kinds = (
        names.UserKey, names.Sha256, names.CropName, names.Version, names.CollectionId, names.JobId,
        names.ExportName, names.ElementsFile, names.JournalName, names.StoredPath, names.Word,
    )  # fmt: skip

    @FIXED
    @given(st.sampled_from(kinds), hostile(outside))
    def holds(kind: Any, given_: Any) -> None:
        try:
            made = kind(given_)
        except InputError as problem:
            assert problem.code == "bad_id"
            return
        top = Path("/top")
        assert made == given_
        assert (top / made).is_relative_to(top)
        assert ".." not in (top / made).parts
        assert made.isascii()
        assert made.isprintable()
        assert not set(made) & set("\\: ")

    holds()


def test_every_path_stays_in_its_users_folder(outside: Path) -> None:
    paths = Paths(Path("/data"))
    asked: dict[str, Callable[[Any], Path]] = {
        "user": paths.user, "crops": paths.crops, "chroma": paths.chroma, "base": paths.base,
        "source": lambda x: paths.source(USER, x), "crop": lambda x: paths.crop(USER, x),
        "elements": lambda x: paths.elements(USER, x, "v1"),
        "version": lambda x: paths.elements(USER, SHA, x), "work": lambda x: paths.work(USER, x),
        "pages": lambda x: paths.page_images(USER, x), "export": lambda x: paths.export(USER, x),
    }  # fmt: skip

    @FIXED
    @given(st.sampled_from(sorted(asked)), hostile(outside))
    def stays(name: str, given_: Any) -> None:
        try:
            made = asked[name](given_)
        except InputError as problem:
            assert problem.code == "bad_id"
            return
        assert made.parent in {
            Path(f"/data/users/{USER}/{f}")
            for f in ("sources", "crops", "elements", "work", "pages")
        } | {Path(f"/data/exports/{USER}"), Path("/data/users"), Path(f"/data/users/{given_}")}

    stays()


def is_shown(name: str) -> bool:
    """Whether it is a file's name on one line, without a folder, which stays as it is when it is read again."""
    return (
        0 < len(name) <= 300
        and name.isprintable()
        and not set(name) & set("/\\")
        and names.file_name(name) == name
    )


FACTS = {
    "format": 1, "title": "papers", "model": "m",
    "sources": [{"sha256": SHA, "filename": "a.pdf", "pages": 3, "bytes": 0}],
}  # fmt: skip


@pytest.mark.slow
def test_what_an_archive_says_of_itself(outside: Path, tmp_path: Path) -> None:
    """Bytes are measured, the rest is parsed; a reader that was broken into answers no better."""
    picture = hashlib.sha256(b"jpg").hexdigest()
    kept = [record(1, source_id=SHA, filename="a.pdf", image=f"{picture}.jpg")]
    rows, pdf = parquet_shards.write(tmp_path, [kept])[0].read_bytes(), b"%PDF-1.7"
    own = hashlib.sha256(pdf).hexdigest()
    zipped, work = tmp_path / "a.zip", tmp_path / "work"

    def taken(facts: Any) -> dict[str, Any]:
        with zipfile.ZipFile(zipped, "w") as made:
            made.writestr("quire.json", json.dumps(facts))
            made.writestr("data/a.parquet", rows)
            made.writestr(f"sources/{own}.pdf", pdf)
            made.writestr(f"figures/{picture}.jpg", b"jpg")
        return import_archive.take_in(zipped, work, 1 << 24)

    @FIXED
    @given(st.sampled_from(sorted(leaves(FACTS), key=str)), hostile(outside))
    def facts(at: tuple[Any, ...], to: Any) -> None:
        with nothing_of(outside):
            try:
                found = import_archive.Taken.of(taken(changed(FACTS, at, to)), work)
            except (InputError, Refused) as problem:
                assert problem.code in {"import_unreadable", "import_newer"}
                return
        plain = json.dumps(asdict(found)).encode()
        assert b"hf_not_for_you" not in plain
        assert found.figures == (f"{picture}.jpg",)
        assert all(s.bytes == 0 and s.sha256 == SHA and is_shown(s.filename) for s in found.sources)
        assert len(found.title) <= 200
        assert found.files == ()  # no source of that archive
        assert 3 < found.bytes < 2000

    facts()
    answer = taken(FACTS)

    @FIXED
    @given(st.sampled_from(sorted(leaves(answer), key=str)), hostile(outside))
    def answers(at: tuple[Any, ...], to: Any) -> None:
        with nothing_of(outside), contextlib.suppress(InputError):
            found = import_archive.Taken.of(changed(answer, at, to), work)
            assert all(map(names.CropName, found.figures))
            assert all(map(names.Sha256, found.files))

    answers()


@pytest.mark.slow
def test_what_a_record_says_of_itself(outside: Path, tmp_path: Path) -> None:
    """Of a Parquet file or a Chroma directory: what is let in can be stored, found and shown."""
    good = Record(
        id="id", document="text", embedding=[1.0, 0.0],
        metadata={
            "source_id": SHA, "filename": "a.pdf", "page": 1, "last_page": 1, "page_numbers": [1],
            "boxes": '[{"page": 1, "x0": 1.5}]', "element_type": "Image", "element_types": ["Image"],
            "element_ids": ["e"], "section_titles": ["s"], "languages": ["eng"], "table_html": "<table>",
            "image": CROP, "caption": "c", "model": "m", "own": 1,
        },
    )  # fmt: skip
    assert metadata.checked(good) == good
    fields = ["id", "document", *good.metadata, "", "a/b", "chroma:document", "#document", LONG]

    @settings(FIXED, max_examples=200)
    @given(st.sampled_from(fields), hostile(outside))
    def record_(field: str, to: Any) -> None:
        made = (
            Record(**{**asdict(good), field: to})
            if field in {"id", "document"}
            else Record(**{**asdict(good), "metadata": {**good.metadata, field: to}})
        )
        with nothing_of(outside):
            try:
                found = metadata.checked(made)
            except InputError as problem:
                assert problem.code == "import_unreadable"
                return
            shown = search.hit(found, 0.0, {})
            assert json.dumps(shown, allow_nan=False).encode()
            assert shown["image_url"] in {None, f"/figures/{CROP}"}
            assert entry_of(found).page >= 0
            assert is_shown(shown["filename"])
            assert names.is_one(names.Sha256, shown["source_id"])
            (shard,) = parquet_shards.write(tmp_path, [[found]])
            ((again,),) = parquet_shards.read(shard)
            assert again.metadata == found.metadata

    record_()


def signed(body: Mapping[str, Any]) -> bytes:
    said = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(said.encode(errors="surrogatepass")).hexdigest()
    return f'{{"sha256":"{digest}","body":{said}}}\n'.encode(errors="surrogatepass")


MANIFEST = Manifest(
    user=USER, generation=2, parent=SHA, created_at=1.5, writer="a1",
    collections=(CollectionEntry(id="c-1", title="t", model="m", created_at=1.0),),
    sources=(
        SourceEntry(
            collection="c-1", sha256=SHA, filename="f", bytes=1, pages=1, version="v1",
            created_at=1.0,
        ),
    ),
    segments=(File(path="segments/1-a.parquet", sha256=SHA, bytes=9, rows=2, generation=1),),
    files=(File(path=f"sources/{SHA}.pdf", sha256=SHA, bytes=9),),
    published=Published(
        generation=1, records=1,
        files=(File(path="chroma/00000001/chroma.sqlite3", sha256=SHA, bytes=9),),
    ),
    kept=(File(path="manifests/1.json", sha256=SHA, bytes=9, generation=1),),
    retired=(Retired(path="segments/0.parquet", generation=1),),
    forgetting=("segments/0.parquet",), erased_at=1.0,
    shipped=(("a1", f"{1:020d}.parquet"),),
)  # fmt: skip


def test_what_a_manifest_says(outside: Path) -> None:
    body = json.loads(manifests.dump(MANIFEST))["body"]
    assert manifests.load(signed(body), user=USER) == MANIFEST

    @settings(FIXED, max_examples=300)
    @given(st.sampled_from(sorted(leaves(body), key=str)), hostile(outside))
    def said(at: tuple[Any, ...], to: Any) -> None:
        with nothing_of(outside):
            try:
                found = manifests.load(signed(changed(body, at, to)), user=USER)
            except (Corrupt, Refused) as problem:
                assert problem.code in {"manifest_corrupt", "manifest_newer"}
                return
        top = Path("/top")
        for path in (
            *(f.path for f in (*found.needs(), *found.kept)), *(r.path for r in found.retired),
            *found.forgetting,
        ):  # fmt: skip
            assert ".." not in (top / path).parts
            assert (top / path).is_relative_to(top)
        assert manifests.load(manifests.dump(found), user=USER) == found
        json.dumps(asdict(found), allow_nan=False).encode()

    said()


def test_what_a_saved_job_or_a_lease_says(outside: Path) -> None:
    row = JobRow(
        id="t1", user=USER, collection="c-1", sha256=SHA, filename="f.pdf", status="queued",
        spec={"user": USER, "job": "t1", "kind": "import", "collection": "c-1", "sha256": SHA,
              "languages": ["eng"], "bytes": 1},
        summary={"kind": "ingest", "attempt": 1, "epoch": 0, "pages": 3, "version": "v1",
                 "again": {"pages": [1]}, "error": {"code": "x"}, "message": "m"},
        created_at=1.5, started_at=None, finished_at=None,
    )  # fmt: skip
    told = json.loads(saved_jobs.dump([row]))
    assert saved_jobs.load(saved_jobs.dump([row]), user=USER) == [row]
    term = json.loads(lease.dump(lease.Term(number=1, instance="a", until=2.0, users=(USER,))))

    @settings(FIXED, max_examples=200)
    @given(st.sampled_from(sorted(leaves(told), key=str)), hostile(outside))
    def saved(at: tuple[Any, ...], to: Any) -> None:
        paths = Paths(Path("/data"))
        with nothing_of(outside):
            try:
                found = saved_jobs.load(json.dumps(changed(told, at, to)).encode(), user=USER)
            except Corrupt as problem:
                assert problem.code == "jobs_corrupt"
                return
            for one in found:
                assert paths.work(one.user, one.id).is_relative_to(f"/data/users/{USER}/work")
                for work in saved_jobs.works([one]):
                    paths.elements(USER, work.sha256, work.version or "v1")
                with contextlib.suppress(InputError, KeyError):  # its stages ask, and tell the code
                    paths.elements(USER, SHA, PartitionOptions.of(one.spec).version())

    @FIXED
    @given(st.sampled_from(sorted(leaves(term), key=str)), hostile(outside))
    def leased(at: tuple[Any, ...], to: Any) -> None:
        found = lease.load(json.dumps(changed(term, at, to)).encode())
        assert all(map(names.UserKey, found.users))
        assert 0 <= found.until < 1e12

    saved()
    leased()


def test_what_an_archive_calls_its_files(outside: Path, tmp_path: Path) -> None:
    @FIXED
    @given(hostile(outside).filter(lambda x: isinstance(x, str) and len(x) < 60_000))
    def member(name: str) -> None:
        zipped, folder = tmp_path / "a.zip", tmp_path / "in"
        try:
            with zipfile.ZipFile(zipped, "w") as made:
                made.writestr(zipfile.ZipInfo(name), b"evil")
        except (UnicodeEncodeError, IndexError):
            return  # no zip can say that
        with nothing_of(outside):
            try:
                (written,) = unzip.unpack(zipped, folder, 1000) or ("",)
            except InputError as problem:
                assert problem.code == "archive_refused"
                return
        assert (folder / written).resolve().is_relative_to(folder.resolve())

    member()


@pytest.mark.slow
def test_what_a_request_asks_for(outside: Path, tmp_path: Path) -> None:
    """Each call of the worker, each argument: an answer, or an error with a code."""
    house = House(tmp_path / "data")
    house.put(1, 2)
    told = Settings(data_dir=house.paths.root, secret=b"s", database_url="")
    library = Library(
        settings=told, admission=Admission(told, house.paths, house.catalog),
        confined=lambda: SimpleNamespace(),  # type: ignore[arg-type,return-value]
        paths=house.paths, catalog=house.catalog, stores=house.stores,
        viewer=SimpleNamespace(),  # type: ignore[arg-type]
        encoder=lambda _: SimpleNamespace(encode_query=lambda _: [1.0, 0.0, 0.0]),  # type: ignore[arg-type,return-value]
        loaded=lambda: None, lent=Lent(),
    )  # fmt: skip
    held = house.space().collection
    good: dict[str, dict[str, Any]] = {
        "search": {"query": "a", "collection": held, "top_k": 3, "mode": "hybrid",
                   "where": {"source_id": SHA, "pages": [1, 2], "element_type": "Text"}},
        "create_collection": {"title": "papers"}, "rename_collection": {"collection": "x", "title": "y"},
        "delete_collection": {"collection": "x"}, "sources": {"collection": held},
        "delete_source": {"collection": held, "source_id": SHA},
        "page_image": {"source_id": SHA, "page": 1, "width": 200}, "crop": {"name": CROP},
        "elements": {"source_id": SHA, "page": 1}, "pages": {"source_id": SHA},
        "markdown": {"source_id": SHA, "page": 1},
        "gallery": {"collection": held, "limit": 3}, "lend": {"job": "j1", "token": "t"}, "receipt": {"receipt": "3-1.5"},
    }  # fmt: skip
    assert set(good) == CALLS.keys() - {"collections", "status", "settle", "send_code"}
    asked = [(call, at) for call, arguments in sorted(good.items()) for at in leaves(arguments)]

    @settings(FIXED, max_examples=250)
    @given(st.sampled_from(asked), hostile(outside))
    def request(what: tuple[str, tuple[Any, ...]], to: Any) -> None:
        call, at = what
        body = {"call": call, "user": USER, "arguments": changed(good[call], at, to)}
        with nothing_of(outside), contextlib.suppress(InputError, NotFound, Refused):
            answer = dispatch(library, json.dumps(body).encode())
            assert b"hf_not_for_you" not in json.dumps(answer).encode()

    @FIXED
    @given(hostile(outside), hostile(outside))
    def options(one: Any, other: Any) -> None:
        with contextlib.suppress(QuireError):
            given_ = other if isinstance(other, list) else [other]
            made = PartitionOptions(strategy=one, languages=tuple(given_)).checked()
            names.Version(made.version())
        with contextlib.suppress(InputError):
            assert dataset_name("ada", "papers", str(one)).count("/") == 1

    request()
    options()
    house.close()
