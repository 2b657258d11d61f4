"""The running app, through `gradio_client` and plain HTTP, as its users' scripts do it."""

import concurrent.futures
import json
import os
import signal
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import pikepdf
import pytest
from gradio_client.exceptions import AppError

from quire_client import FINISHED, Json, Quire
from tests.conftest import SAMPLES, Running, once_restored, start_app
from tests.hub.server import Fault, Hub
from tests.people import Person

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def quire(app: Running) -> Quire:
    return Quire(app.url)


def finish(quire: Quire, job: Json) -> Json:
    events = list(quire.watch(job["id"]))
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert events[-1]["status"] in FINISHED
    return quire.job(job["id"])


def get(app: Running, path: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(app.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read()


def test_the_main_job(quire: Quire, app: Running) -> None:
    jobs = quire.submit(*sorted(SAMPLES.glob("*.pdf")), collection="main")
    done = [finish(quire, job) for job in jobs]
    assert [j["status"] for j in done] == ["succeeded"] * len(jobs)
    assert all(j["saved_generation"] for j in done)
    assert all(j["stages"]["index"]["done"] == j["source"]["pages"] for j in done)

    hits = quire.search("how much rain fell in April?", collection="main")
    assert hits[0]["filename"] == "report.pdf"
    assert hits[0]["page"] == 1
    assert hits[0]["box"]["page"] == 1
    assert hits[0]["rank"]["dense"]
    tables = quire.search("rain", collection="main", where={"element_type": "Table"}, mode="dense")
    assert {h["element_type"] for h in tables} == {"Table"}
    assert "<th>Month</th>" in "".join(h["table_html"] for h in tables)
    status, picture = get(app, tables[0]["image_url"])
    assert (status, picture[:2]) == (200, b"\xff\xd8")
    words = quire.search("sardines καλαμάρια", collection="main", mode="keyword")
    assert words[0]["filename"] == "greek.pdf"
    status, page = get(app, f"/pages/{hits[0]['source_id']}/1?w=400")
    assert (status, page[8:12]) == (200, b"WEBP")
    assert get(app, f"/pages/{hits[0]['source_id']}/99")[0] == 404

    again = quire.submit(SAMPLES / "report.pdf", collection="main")[0]
    first = next(j for j in jobs if j["source"]["filename"] == "report.pdf")
    assert (again["id"], again["duplicate"]) == (first["id"], True)


def test_a_second_client_comes_back_to_a_job(quire: Quire, app: Running) -> None:
    job = quire.submit(SAMPLES / "greek.pdf", collection="second")[0]
    first = next(iter(quire.watch(job["id"])))
    rest = list(Quire(app.url).watch(job["id"], after=first["seq"]))
    assert [e["seq"] for e in rest] == list(range(2, len(rest) + 2))
    assert job["id"] in [j["id"] for j in Quire(app.url).jobs()]
    assert list(quire.watch(job["id"], after=10_000))[-1]["status"] == "succeeded"


def test_bad_files_fail_alone_and_with_a_reason(
    app: Running, quire: Quire, tmp_path: Path, make_pdf: Callable[..., Path]
) -> None:
    empty, text = tmp_path / "empty.pdf", tmp_path / "text.pdf"
    empty.write_bytes(b"")
    text.write_bytes(b"not a pdf at all")
    locked = make_pdf("locked.pdf", encryption=pikepdf.Encryption(user="geheim", owner="o"))
    cut = tmp_path / "cut.pdf"
    cut.write_bytes((SAMPLES / "report.pdf").read_bytes()[:300])
    good = make_pdf("good.pdf", pages=3)
    jobs = quire.submit(text, locked, cut, good, collection="bad")
    done = [finish(quire, job) for job in jobs]
    assert [j["error"] and j["error"]["code"] for j in done] == [
        "not_a_pdf", "password_required", "damaged_pdf", None,
    ]  # fmt: skip
    assert all(j["error"]["advice"] for j in done[:3])
    assert done[3]["status"] == "succeeded"
    wrong = finish(quire, quire.submit(locked, collection="bad", password="falsch")[0])
    assert wrong["error"]["code"] == "password_wrong"
    assert not list((app.data / "users").glob("*/work/*/password"))
    right = finish(quire, quire.submit(locked, collection="bad", password="geheim")[0])
    assert right["status"] == "succeeded"


@pytest.mark.parametrize(
    "name",
    ["${Object.assign(window,{__e:1})}.pdf", "日本語 'quoted' \"x\".pdf", "a" * 240 + ".pdf", "‮fdp.exe.pdf"],
    ids=["template", "unicode", "long", "override"],
)  # fmt: skip
def test_any_name_is_only_shown(
    quire: Quire, tmp_path: Path, name: str, make_pdf: Callable[..., Path]
) -> None:
    path = make_pdf(f"{hash(name)}.pdf", pages=len(name) % 5 + 1).rename(tmp_path / name)
    done = finish(quire, quire.submit(path, collection="names")[0])
    assert done["status"] == "succeeded"
    assert done["source"]["filename"]


def code(call: Callable[[], object]) -> str | None:
    with pytest.raises(AppError) as caught:
        call()
    return caught.value.title


def test_errors_have_codes(quire: Quire, app: Running) -> None:
    assert code(lambda: quire.search("", collection="main")) == "query_empty"
    assert code(lambda: quire.search("x" * 9_000)) == "query_too_long"
    assert code(lambda: quire.search("x" * 100_000)) == "bad_text"
    assert code(lambda: quire.search("x", mode="magic")) == "mode_unknown"
    assert code(lambda: quire.search("x", where={"a": 1})) == "bad_where"
    assert code(lambda: quire.search("x", top_k=0)) == "top_k_range"
    assert code(lambda: quire.job("nothing")) == "job_not_found"
    assert code(lambda: quire.call("cancel", job_id="nothing")) == "job_not_found"
    assert code(lambda: quire.search("x", collection="none such")) == "collection_not_found"
    assert code(lambda: quire.call("create_collection", title="  ")) == "title_empty"
    told = Person(app.url).post("/gradio_api/call/v2/submit", {"files": [{"path": "/etc/passwd"}]})
    assert (told[0], told[1]["error"]["code"]) == (400, "not_an_upload")


def test_every_endpoint_is_described_to_a_stranger(app: Running) -> None:
    found = json.loads(get(app, "/gradio_api/info")[1])["named_endpoints"]
    public = {
        "submit", "watch", "job", "jobs", "cancel", "retry", "collections", "create_collection",
        "delete_collection", "sources", "delete_source", "receipt", "search", "export", "push",
        "import_collection", "reembed", "status",
    }  # fmt: skip
    assert {name.strip("/") for name in found} == public
    assert all(len(found[f"/{name}"].get("description", "")) > 20 for name in public)


def test_deleting_deletes(quire: Quire, app: Running) -> None:
    finish(quire, quire.submit(SAMPLES / "report.pdf", collection="gone")[0])
    source = quire.call("sources", collection="gone")[0]["id"]
    found = quire.search("rain", collection="gone", where={"element_type": "Table"})
    receipt = quire.call("delete_source", source_id=source, collection="gone")
    assert receipt["records"] > 0
    assert receipt["saved"] is False
    assert quire.search("rain", collection="gone") == []
    assert quire.call("sources", collection="gone") == []
    quire.call("delete_collection", collection="gone")
    assert code(lambda: quire.search("rain", collection="gone")) == "collection_not_found"
    assert found


@pytest.mark.parametrize("format", ["parquet", "chroma", "json", "markdown"])
def test_an_export_opens_elsewhere(quire: Quire, app: Running, tmp_path: Path, format: str) -> None:
    finish(quire, quire.submit(SAMPLES / "report.pdf", collection="take")[0])
    status, content = get(app, quire.export("take", format).removeprefix(app.url))
    assert status == 200
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert "README.md" in names
        if format == "markdown":
            assert "# Rainfall in the valley" in archive.read(names[1]).decode()
        if format == "json":
            assert json.loads(archive.read(names[1]))[0]["text"] == "Rainfall in the valley"


def test_pages_are_read_again_with_another_strategy(quire: Quire) -> None:
    job = finish(quire, quire.submit(SAMPLES / "two-columns.pdf", collection="again")[0])
    quire.call("retry", job_id=job["id"], pages=[1], strategy="ocr_only")
    seen = list(quire.watch(job["id"], after=1))
    assert any("1 by ocr" in e["message"] for e in seen)
    assert quire.job(job["id"])["status"] == "succeeded"
    hits = quire.search("warbler", collection="again", mode="keyword")
    assert hits
    assert code(lambda: quire.call("retry", job_id=job["id"], pages=[9])) == "pages_range"


def test_a_cancelled_job_stops_and_goes_on_after_a_retry(
    quire: Quire, make_pdf: Callable[..., Path]
) -> None:
    job = quire.submit(make_pdf("long.pdf", pages=60), collection="stop")[0]
    quire.call("cancel", job_id=job["id"])
    assert quire.job(job["id"])["status"] == "cancelled"
    assert list(quire.watch(job["id"]))[-1]["status"] == "cancelled"
    quire.call("retry", job_id=job["id"])
    assert list(quire.watch(job["id"]))[-1]["status"] == "succeeded"


def test_a_foreign_site_gets_nothing(app: Running) -> None:
    for path in ("/", "/jobs/x", "/gradio_api/info", "/config"):
        status, _ = get(app, path, Origin="https://evil.example")
        assert status == 403
        assert get(app, path, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert get(app, "/healthz")[0] == 200
    for path in ("/figures/..%2F..%2Fsecret", "/exports/..%2Fsecret", "/figures/none.jpg"):
        assert get(app, path)[0] in {400, 404}


def test_the_sidebar_needs_no_worker(quire: Quire, app: Running) -> None:
    finish(quire, quire.submit(SAMPLES / "greek.pdf", collection="aside")[0])
    app.freeze_worker()
    try:
        told = json.loads(get(app, "/collections")[1])
        (held,) = (c for c in told["collections"] if c["title"] == "aside")
        assert (held["sources"], held["pages"], held["records"]) == (1, 1, None)
        rows = json.loads(get(app, f"/collections/{held['id']}/documents")[1])
        assert [r["source"]["filename"] for r in rows] == ["greek.pdf"]
    finally:
        os.kill(app.worker_pid(), signal.SIGCONT)
    (held,) = (c for c in quire.collections() if c["title"] == "aside")
    assert held["records"] > 0


def test_a_submit_answers_while_jobs_run(quire: Quire, make_pdf: Callable[..., Path]) -> None:
    files = [make_pdf(f"{n}.pdf", pages=n + 3) for n in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda f: quire.submit(f, collection="many")[0], files))
    assert len({j["id"] for j in made}) == 6
    assert all(finish(quire, j)["status"] == "succeeded" for j in made)


def test_a_wiped_space_is_restored_from_the_dataset(tmp_path: Path) -> None:
    with Hub() as hub:
        told = {
            "QUIRE_HUB_DATASET": "ada/quire", "HF_TOKEN": "hf_write", "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "0",
            "QUIRE_SECRET": "the same after the wipe",
        }  # fmt: skip
        first = start_app(tmp_path / "first", **told)
        job = finish(Quire(first.url), Quire(first.url).submit(SAMPLES / "report.pdf")[0])
        assert job["saved_generation"] == 1
        first.stop()
        assert hub.repos["ada/quire"].private
        assert any(seen.path.startswith("/xet/v1/xorb-commits") for seen in hub.log)
        assert hub.leaks == []
        hub.faults = [Fault("GET", "/resolve/", status=503, times=2)]
        second = start_app(tmp_path / "second", **told)
        quire = Quire(second.url)
        back = once_restored(lambda: quire.job(job["id"]))  # before anything else is asked
        assert back["status"] == "succeeded"
        assert [j["id"] for j in quire.call("jobs")] == [job["id"]]
        hit = once_restored(lambda: quire.search("how much rain fell in April?"))[0]
        assert hit["filename"] == "report.pdf"
        assert [c["sources"] for c in quire.call("collections")] == [1]
        assert quire.call("status")["remotes"]["primary"] == "hub"
        source = quire.call("sources")[0]["id"]
        assert get(second, f"/pages/{source}/1")[0] == 200
        second.stop()
        for folder in ("first", "second"):
            log = (tmp_path / folder / "app.log").read_text(encoding="utf-8")
            assert "hf_write" not in log
