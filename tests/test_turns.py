"""Whose turn it is, what a job that waits says, and what is left after a cancel."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobs.progress import Standing
from pipeline.jobs.queue import Engine as Queue
from pipeline.jobs.queue import turn
from settings import Settings
from storage.catalog.catalog import Catalog, JobRow
from storage.paths import Paths
from tests.engine import USER, Engine, engine

NOW = 1_800_000_000.0
seconds = st.floats(0, 100_000)


@given(seconds, seconds, seconds, seconds)
def test_the_smaller_goes_first_and_nobody_waits_for_ever(
    came: float, work: float, later: float, other: float
) -> None:
    mine = turn(NOW + came, work)
    assert turn(NOW + came, work + other) >= mine
    if later > 8 * work + 1:  # whoever comes after that does not go before
        assert turn(NOW + came + later, other) >= mine
    assert 1 <= mine < 1 << 31


@pytest.fixture
def standing(tmp_path: Path) -> Standing:
    paths = Paths(tmp_path)
    paths.run.mkdir(parents=True)
    (paths.run / "ready").touch()
    queue = Queue(Settings.from_env({"QUIRE_DATA_DIR": str(tmp_path)}), paths)
    return Standing(catalog=Catalog(f"sqlite:///{paths.catalog}"), engine=queue, most=500)


def put(standing: Standing, name: str, status: str, came: float, **summary: object) -> JobRow:
    row = JobRow(
        id=name, user=USER, collection="c", sha256="", filename=f"{name}.pdf", status=status,
        spec={}, summary=summary, created_at=came, started_at=None, finished_at=None,
    )  # fmt: skip
    assert standing.catalog.put_job(row)
    return row


def test_places_in_line_are_those_of_the_queue(standing: Standing) -> None:
    now = time.time()
    rows = [
        put(standing, "runs", "running", now, estimate=100.0),
        put(standing, "large", "queued", now - 10, estimate=100.0),
        put(standing, "small", "queued", now - 5, estimate=1.0),
        put(standing, "old", "queued", now - 1000, estimate=100.0),
    ]
    places = {row.id: standing.shown(row)["position"] for row in rows}
    assert places == {"runs": None, "old": 1, "small": 2, "large": 3}


def test_what_a_waiting_job_says_stays_true(standing: Standing) -> None:
    now = time.time()
    for late, said in ((-20.0, "Trying again at "), (20.0, "as soon as there is room")):
        row = put(
            standing, f"w{late}", "waiting", now, retry_at=now - late,
            waits_for="The Hub is away.", message="The Hub is away. Trying again in 20 s.",
        )  # fmt: skip
        shown = standing.shown(row)
        assert shown["waits_for"] == shown["message"]
        assert shown["message"].startswith("The Hub is away. ")
        assert said in shown["message"]
        assert (shown["retry_at"] is None) == (late > 0)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("turns") / "data") as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_file_does_not_wait_for_the_large_ones_before_it(running: Engine) -> None:
    large = [running.submit(running.pdf(200, f"large{n}"), strategy="ocr_only") for n in range(5)]
    running.until(large[3], lambda j: j["status"] == "running")
    small = running.submit(running.pdf(1, "small"))
    assert running.finished(small)["status"] == "succeeded"
    assert {running.jobs.job(USER, job)["status"] for job in large} <= {
        "running",
        "queued",
        "waiting",
    }
    for job in large:
        running.jobs.cancel(USER, job)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("keep", [True, False])
def test_what_is_left_after_a_cancel_is_listed_and_nothing_else(
    running: Engine, keep: bool
) -> None:
    pdf = running.pdf(60, f"cut {keep}")
    job = running.submit(pdf, strategy="ocr_only", collection=f"cut {keep}")

    def listed() -> list[dict[str, object]]:
        return list(running.link.call("sources", USER, collection=f"cut {keep}"))

    def found() -> list[object]:
        asked = {"query": "weather", "collection": f"cut {keep}", "mode": "keyword", "top_k": 100}
        return list(running.link.call("search", USER, **asked))

    running.eventually(found)
    running.jobs.cancel(USER, job, keep=keep)
    if keep:
        running.eventually(listed)
        (source,) = listed()
        assert (source["pages"], source["partial"]) == (60, True)
        assert found()
        gone = running.link.call(
            "delete_source", USER, collection=f"cut {keep}", source_id=source["id"]
        )
        assert gone["records"] > 0
    running.eventually(lambda: not found() and not listed())
    user, digest = running.data / "users" / USER, _digest(running, job)
    running.eventually(
        lambda: not [*user.glob(f"sources/{digest}*"), *user.glob(f"elements/{digest}*")]
    )


def _digest(running: Engine, job: str) -> str:
    return running.jobs.catalog.job(USER, job).sha256
