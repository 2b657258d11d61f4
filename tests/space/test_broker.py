"""GPU borrowing over the real `spaces` package and a device API that grants, refuses and kills."""

import base64
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr
import pytest
from gradio_client import Client, handle_file

from errors import InputError, Unavailable
from pipeline.models.gpu import STEPS, Ask, Borrower, checked
from pipeline.pdf.hi_res import Region
from pipeline.pdf.page import Box
from storage.paths import Paths
from tests.conftest import SAMPLES, start_app
from tests.space.device import Device, InZero, in_zero, started
from tests.tiny_models import embedding_model, layout_model, table_model
from web.gpu_broker import Asked, Broker, Rate, _Plan, affordable, classify, until_again

pytestmark = pytest.mark.slow

Json = dict[str, Any]
PART = STEPS["embed"].part


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with started(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture(scope="module")
def zero(device: Device) -> Iterator[InZero]:
    with in_zero(device) as made:
        yield made


def test_each_owner_pays_with_their_own_token(device: Device, zero: InZero) -> None:
    device.set()
    ada, bob, nobody = zero.run(
        {"user": "ada", "count": 300, "token_seconds": 60},
        {"user": "bob", "count": 10, "token_seconds": 60},
        {"user": "eve", "count": 10},
    )
    assert (ada["found"], ada["right"], ada["reason"]) == (300, True, None)
    assert ada["notes"][0].startswith("GPU: 300 chunks in ")
    assert (bob["found"], bob["right"]) == (10, True)
    assert nobody["found"] == 0
    assert "No fresh request" in nobody["reason"]
    asked = device.log("/schedule")
    assert [e["user"] for e in asked] == ["ada", "bob"]
    assert all(3 <= int(e["durationSeconds"]) <= 40 for e in asked)
    assert device.held() == 0


def test_a_token_that_expired_waits_for_the_next_poll(device: Device, zero: InZero) -> None:
    device.set()
    polls, gone = zero.run(
        {"user": "ada", "count": 10, "token_seconds": -1, "polls": True},
        {"user": "bob", "count": 10, "token_seconds": -1},
    )
    assert (polls["found"], polls["reason"]) == (10, None)
    assert gone["found"] == 0
    assert "No fresh request" in gone["reason"]
    assert [e["user"] for e in device.log("/schedule")] == ["ada", "ada", "bob"]
    assert device.held() == 0


def test_a_killed_call_keeps_what_was_finished(device: Device, zero: InZero) -> None:
    device.set(kill_after=[1.0, 0.5])
    texts = ["x"] * PART + ["slow"]
    (one,) = zero.run({"user": "ada", "texts": texts, "count": 0, "token_seconds": 60})
    assert one["found"] == PART
    assert one["notes"][0].startswith("The GPU call was cut short. Less is asked for")
    assert one["notes"][1].startswith(f"GPU: {PART} chunks")
    assert "cut short" in one["reason"]
    assert len(device.log("/schedule")) == 2
    assert device.held() == 0


def refused(left: int, wait: int, result: str = "quota-exceeded") -> Json:
    headers = {"X-Authenticated": "regular", "X-Approve-Result": result}
    return {"status": 429, "body": {"left": left, "wait": wait}, "headers": headers}


@pytest.mark.parametrize(
    ("script", "asked", "found", "says"),
    [
        ([refused(2, 600)], 1, 0, "quota is used up"),
        ([refused(7, 600)], 2, 20, "7 s of your GPU quota are left"),
        ([refused(0, 0)], 1, 0, "as many GPU calls as you may"),
        ([refused(9, 9, "pending-overquota-exceeded")], 2, 20, "waiting 5 s for one"),
        ([{"status": 503}] * 3, 3, 0, "No GPU is free"),
        ([{"status": 503}], 2, 20, "GPU: 20 chunks"),
        ([{"sse": ["ping", "failed"]}] * 3, 3, 0, "No GPU is free"),
        ([{"sse": ["ping", 0.2, "ping", "succeeded"]}], 1, 20, "GPU: 20 chunks"),
        ([{"sse": ["ping", "drop"]}], 2, 20, "GPU: 20 chunks"),
        ([{"sse": ["drop"]}] * 4, 4, 0, "does not answer"),
        ([{"sse": ["ping"]}], 2, 20, "GPU: 20 chunks"),
        ([refused(0, -1)], 2, 20, "GPU: 20 chunks"),
        ([{"status": 401}], 1, 0, "No fresh request"),
        ([{"status": 500}], 2, 20, "GPU: 20 chunks"),
        ([{"status": 404}] * 2, 2, 0, "does not answer"),
    ],
    ids=[
        "quota", "some quota left", "runs limit", "pending credits", "busy for long", "busy",
        "queue timeout", "queued", "queue dropped", "queue dropped always", "queue ends",
        "illegal duration", "token refused", "broken once", "broken",
    ],
)  # fmt: skip
def test_what_the_device_answers(
    device: Device, zero: InZero, script: list[Json], asked: int, found: int, says: str
) -> None:
    device.set(script=script)
    user = f"u{uuid4()}"
    (one,) = zero.run({"user": user, "count": 20, "token_seconds": 60})
    assert says in " ".join([*one["notes"], one["reason"] or ""])
    assert one["found"] == found
    schedules = device.log("/schedule")
    assert len(schedules) == asked
    assert {e["user"] for e in schedules} == {user}
    assert device.held() == 0


def test_a_refused_owner_is_not_asked_for_again(device: Device, zero: InZero) -> None:
    device.set(script=[refused(0, 600)])
    ada, again, bob = zero.run(
        {"user": "ann", "count": 5, "token_seconds": 60},
        {"user": "ann", "count": 5},
        {"user": "bob", "count": 5, "token_seconds": 60},
    )
    assert ada["reason"] == again["reason"] == "Your GPU quota is used up."
    assert bob["found"] == 5
    assert [e["user"] for e in device.log("/schedule")] == ["ann", "bob"]


def test_a_fault_in_the_work_is_not_tried_again(device: Device, zero: InZero) -> None:
    device.set()
    (one,) = zero.run({"user": "ada", "texts": ["break"], "count": 0, "token_seconds": 60})
    assert one["found"] == 0
    assert "failed" in one["reason"]
    assert len(device.log("/schedule")) == 1


def test_no_gpu_is_kept_whatever_happens_and_programs_start_meanwhile(
    device: Device, zero: InZero
) -> None:
    """Cold forks, each a fork of the app process, with failures in between."""
    draw = random.Random(3)
    bad: list[Json] = [{"status": 503}, {"status": 500}, refused(0, -1), {"sse": ["drop"]}]
    device.set(script=[draw.choice(bad) if draw.random() < 0.3 else {} for _ in range(60)])
    calls = [{"user": f"u{i % 3}", "count": 3, "token_seconds": 60} for i in range(30)]
    found = zero.run(*calls)
    granted = [e for e in device.log("/schedule") if "granted" in e]
    assert len(granted) >= 25
    assert len(device.log("/allow")) == len(granted)
    assert device.held() == 0
    assert all(one["right"] for one in found)
    (canary,) = zero.run("canary")
    assert canary["runs"] > 30
    assert canary["worst"] < 10  # a start that waits for a fork waits for ever
    assert canary["here"] == []  # in the app process it would, so nothing is started there


TOKEN = "secretsignature"


def test_a_job_borrows_for_pages_and_chunks_and_leaves_no_trace(
    device: Device, tmp_path: Path
) -> None:
    """The whole app on ZeroGPU: the owner's token pays, also when the client has gone."""
    claims = json.dumps({"user": "ada", "exp": time.time() + 600}).encode()
    token = f"h.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.{TOKEN}"
    device.set(script=[{"sse": ["ping", 1.0, "ping", "succeeded"]}], warm=True)
    app = start_app(
        tmp_path / "data",
        program=("-m", "tests.space.no_driver"),
        **device.environment(),
        QUIRE_EMBEDDING_MODEL=str(embedding_model(tmp_path / "embedding")),
        QUIRE_LAYOUT_MODEL=str(layout_model(tmp_path / "layout")),
        QUIRE_TABLE_MODEL=str(table_model(tmp_path / "table")),
    )
    programs = (app.data / "started.log").read_text("utf-8")
    one = Client(app.url, headers={"x-ip-token": token}, verbose=False)
    (job,) = one.predict(
        [handle_file(SAMPLES / "report.pdf")], "default", "hi_res", None, None, None, "wait",
        api_name="/submit",
    )  # fmt: skip
    one.close()
    other = Client(app.url, headers={"x-ip-token": token}, verbose=False)
    events = list(other.submit(job["id"], 0, api_name="/watch"))
    assert events[-1]["status"] == "succeeded", events[-1]
    said = [e["message"] for e in events]
    assert any(m.startswith("GPU: ") and "pages in" in m for m in said), said
    assert any(m.startswith("GPU: ") and "chunks in" in m for m in said), said
    assert other.predict(job["id"], api_name="/job")["gpu_seconds"] > 0
    schedules = device.log("/schedule")
    assert {e["user"] for e in schedules} == {"ada"}
    forks = {int(e["pid"]) for e in device.log("/allow")}
    assert forks
    assert len(device.log("/startup-report")) == 1
    others = forks | {app.worker_pid()}
    assert app.stop() == 0
    assert device.held() == 0
    assert not [p for p in others if Path(f"/proc/{p}").exists()]
    # CUDA is for the forks: once touched in the app process, every later fork is broken.
    assert not (app.data / "cuda.log").exists()
    # Nothing is started once the page is up: a fork of the app would hold its pipe.
    assert (app.data / "started.log").read_text("utf-8") == programs
    for path in app.data.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("title", "message", "wanted"),
    [
        ("ZeroGPU client error", "Expired ZeroGPU proxy token", "token"),
        ("ZeroGPU quota exceeded", "No GPU was available after 60s", "busy"),
        ("ZeroGPU pending credits exceeded", "You have too many", "busy"),
        ("ZeroGPU illegal duration", "The requested GPU duration", "shrink"),
        ("ZeroGPU quota exceeded", "Space app has reached its GPU limit.", "token"),
        ("ZeroGPU quota exceeded", "You have exceeded your ZeroGPU runs limit.", "runs"),
        ("ZeroGPU worker error", "GPU task aborted", "aborted"),
        ("", "os.fork is unsafe while filelock is changing descriptor ownership", "race"),
        ("ZeroGPU worker error", "ZeroDivisionError", "bug"),
    ],
)
def test_what_spaces_raises_is_told_apart(title: str, message: str, wanted: str) -> None:
    assert classify(title, message) == wanted


@pytest.mark.parametrize(
    ("message", "wanted"),
    [("Try again in 0:10:05. ", 605), ("Try again in 1 day, 2:00:00. ", 93_600), ("later", 600)],
)
def test_when_the_quota_is_back(message: str, wanted: int) -> None:
    assert until_again(message) == wanted


def test_what_is_left_of_the_quota_is_declared() -> None:
    assert affordable("quota (60s requested vs. 30s left).", 40) == 20  # the card's own factor
    assert affordable("runs limit", 40) == 0


def test_a_call_is_declared_by_what_was_measured() -> None:
    rate = Rate(guess=0.5)
    assert rate.seconds(4, 40) == pytest.approx(7.6)  # a cold start of 5 s and the guess
    rate.each.extend([0.01] * 20)
    rate.ended = time.monotonic()
    assert rate.seconds(1000, 40) == pytest.approx(13.2)
    assert rate.seconds(10, 40) == 3
    assert rate.seconds(10_000, 40) == 40
    assert rate.parts(256, 40) == 11


def test_what_a_fork_does_for_the_first_time_belongs_to_its_start() -> None:
    rate = Rate(guess=0.5)
    told: list[Json] = [
        {"cold": 2.0},
        {"part": 0, "items": 100, "seconds": 1.5},
        {"part": 1, "items": 100, "seconds": 0.1},
        {"part": 2, "items": 50, "seconds": 0.05},
    ]
    assert rate.learn(told) == pytest.approx(3.65)
    assert list(rate.cold) == pytest.approx([3.4])
    assert list(rate.each) == pytest.approx([0.001, 0.001])
    assert rate.learn([{"cold": 2.0}, {"part": 0, "items": 10, "seconds": 1.0}]) == 3.0
    assert list(rate.cold)[1:] == [2.0]  # nothing tells them apart
    assert list(rate.each)[2:] == [0.1]


def test_what_is_left_of_a_quota_is_used_while_it_holds_a_part() -> None:
    plan = _Plan(most=8)
    said = plan.after("quota", "(60s requested vs. 30s left).", 8, 40.0, 8.3)
    assert said == ("20 s of your GPU quota are left. Less is asked for.", 0.0)
    assert (plan.limit, plan.most) == (20, 4)
    assert plan.after("quota", "(30s requested vs. 12s left).", 4, 20.0, 8.3) == (None, 0.0)
    short = _Plan(most=8)
    says = [short.after("shrink", "", 8, 40.0, 8.3)[0] for _ in range(3)]
    assert says == ["The GPU call was too long. Less is asked for."] * 2 + [None]


def test_a_call_that_was_cut_short_is_declared_longer() -> None:
    rate = Rate(guess=0.1)
    before = rate.start(), rate.per_item()
    rate.cut_short(loaded=False)  # while its weights were loaded
    assert (rate.start(), rate.per_item()) == (2 * before[0], before[1])
    rate.each.extend([0.2] * 20)
    rate.cut_short(loaded=True)
    assert rate.per_item() == pytest.approx(2 * 1.3 * 0.2)


class Encoder:
    name, dimension, device = "two", 2, "cpu"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Any) -> list[list[float]]:
        self.texts += texts
        return [[float(len(t)), 1.0] for t in texts]

    def encode_query(self, text: str) -> list[float]:
        return [float(len(text)), 1.0]


ADA = Ask(user="ada", job="j1")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path)
    made.run.mkdir(parents=True)
    return made


def served(paths: Paths, load: Callable[..., Any], *users: str) -> Broker:
    """Off ZeroGPU `spaces.GPU` gives the function itself, so broker and worker run here whole."""
    broker = Broker(paths, load=load, token_wait=0.1)
    broker.listen()
    request = type("Request", (), {"headers": {"x-ip-token": "t"}})()
    for user in users:
        broker.saw(user, request)
    return broker


def test_without_a_broker_the_worker_computes_itself(paths: Paths) -> None:
    borrower = Borrower(paths, worth=0)
    for policy in ("auto", "never", "wait"):
        ask = Ask(user="ada", job="j", policy=policy, until=time.time() + 60)
        assert borrower.encode(ask, ["a", "bb"], Encoder()) == ([[1.0, 1.0], [2.0, 1.0]], [], 0.0)


def test_vectors_cross_over_and_what_is_missing_is_computed(paths: Paths) -> None:
    given: list[int] = []

    def load(_step: str, models: tuple[str, ...]) -> Callable[[Any], list[list[float]]]:
        assert models == ("two",)

        def encode(texts: Any) -> list[list[float]]:
            given.append(len(texts))
            bad = float("nan") if len(given) == 2 else 1.0
            return [[float(len(t)), bad] for t in texts]

        return encode

    served(paths, load, "ada")
    encoder = Encoder()
    texts = ["x" * (i % 7) for i in range(2 * PART + 5)]
    found, notes, seconds = Borrower(paths, worth=0).encode(ADA, texts, encoder)
    assert found == [[float(len(t)), 1.0] for t in texts]
    assert 0 < seconds < 60
    assert notes[0].startswith(f"GPU: {len(texts):,} chunks")
    assert len(encoder.texts) == PART  # the part that was not a number


def test_what_is_waited_for_is_told_at_once(paths: Paths) -> None:
    heard: list[str] = []
    pauses: list[float] = []
    broker = served(paths, lambda *_: lambda texts: [[1.0, 1.0]] * len(texts), "ada")
    answers: list[Any] = [gr.Error("No GPU was available", title="ZeroGPU client error")] * 2
    works = broker._call

    def call(*given: Any) -> Any:
        if answers:
            raise answers.pop()
        return works(*given)

    broker._call = call
    broker.sleep = pauses.append
    ask = replace(ADA, tell=heard.append)
    _, notes, _ = Borrower(paths, worth=0).encode(ask, ["a"], Encoder())
    waits = [f"No GPU is free: waiting {n} s for one." for n in (5, 20)]
    asking = "Waiting for a GPU."
    assert heard == [asking, waits[0], asking, waits[1], asking]
    assert pauses == [5, 20]
    assert notes == [*waits, "GPU: 1 chunks in 0 s of your quota."]


def test_nothing_is_borrowed_for_a_worker_that_is_gone(paths: Paths) -> None:
    loaded: list[str] = []
    broker = served(paths, lambda step, _: loaded.append(step), "ada")

    def gone(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        broker.borrow(Asked(user="ada", folder=str(paths.run), count=1), gone)
    assert loaded == []
    assert not broker._one.locked()


def test_a_job_may_wait_for_a_gpu_or_never_want_one(paths: Paths) -> None:
    served(paths, lambda *_: list)
    borrower = Borrower(paths, worth=0)
    waits = Ask(user="ada", job="j", policy="wait", until=time.time() + 60)
    with pytest.raises(Unavailable) as caught:
        borrower.encode(waits, ["a"], Encoder())
    assert caught.value.code == "gpu_unavailable"
    assert "Waiting for a GPU" in caught.value.message
    late = Ask(user="ada", job="j", policy="wait", until=time.time() - 1)
    found, notes, _ = borrower.encode(late, ["a"], Encoder())
    assert (found, len(notes)) == ([[1.0, 1.0]], 1)
    assert "Going on with the CPU." in notes[0]
    assert borrower.encode(late, ["a"], Encoder())[1] == []  # told once per job
    never = Ask(user="ada", job="k", policy="never")
    assert borrower.encode(never, ["a"], Encoder())[1] == []
    with pytest.raises(InputError) as wrong:
        checked("always")
    assert wrong.value.code == "gpu_policy_unknown"


def test_regions_cross_over_whole(paths: Paths) -> None:
    table = Region(
        "Table", 0.5, Box(0.1, 0.2, 0.3, 0.4), (Box(0, 0, 1, 1),), (Box(0, 0, 1, 1),), (), 1
    )
    answers = [(table, Region("Title", 0.9, Box(0, 0, 1, 0.1))), (), (table._replace(kind="Cat"),)]
    served(paths, lambda *_: lambda pictures: answers[: len(pictures)], "ada")

    class Here:
        def detect(self, pictures: Any) -> list[tuple[Region, ...]]:
            assert [p.name for p in pictures] == ["3.png"]  # the one with an unknown class
            return [()]

    pictures = [Path(f"/p/{i}.png") for i in (1, 2, 3)]
    found, notes, _ = Borrower(paths, worth=0).detect(ADA, pictures, ("l", "t"), Here)
    assert found == [*answers[:2], ()]
    assert notes[0].startswith("GPU: 3 pages in ")
