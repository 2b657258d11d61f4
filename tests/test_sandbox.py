"""What a page process can do once it is somebody else's, and who holds the secrets of a running app."""

import contextlib
import ctypes
import json
import os
import pickle
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import QuireError
from pipeline.options import PartitionOptions
from pipeline.pdf.hi_res import Region
from pipeline.pdf.page import Box, PageRecord, Style
from pipeline.pdf.probe import Probe, Sample
from pipeline.pdf.read_pages import PageRead, Seen
from pipeline.processes import environment, pool, wire
from pipeline.processes.pool import PageProcessDied, Pool
from quire_client import Quire
from tests.conftest import SAMPLES, Running, start_app
from tests.in_child import add, connect, made, tried

SECRETS = {
    name: f"hidden-{number}-{name.lower()}"
    for number, name in enumerate((
        "QUIRE_SECRET", "HF_TOKEN", "OAUTH_CLIENT_SECRET", "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN", "PGPASSWORD", "SOMEBODY_ELSES_KEY", "HTTPS_PROXY",
    ))
}  # fmt: skip
SECRETS["QUIRE_MAIL_URL"] = "smtp://ada:hidden-mail@127.0.0.1:9"


TESTS = Path(__file__).parent
# The kernel is asked, not the product: landlock_create_ruleset tells its version.
LANDLOCK = ctypes.CDLL(None).syscall(444, None, 0, 1) >= 1


# A page process


def test_a_page_process_has_no_secrets_no_network_and_no_rights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as server, Pool(1) as alone:
        assert alone.run(connect, server.getsockname()[1], seconds=20) == "PermissionError"
        assert alone.confined().network in {"namespace", "seccomp"}
        proc = Path(f"/proc/{alone.run(os.getpid, seconds=20)}")
        assert "hidden-" not in (proc / "environ").read_text("utf-8")
        assert "hidden-" not in (proc / "cmdline").read_text("utf-8")
        held = dict(line.split(":\t") for line in (proc / "status").read_text("ascii").splitlines())
        assert (held["NoNewPrivs"], held["Seccomp"]) == ("1", "2")
        assert {int(held[kind], 16) for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
        opened = [fd.readlink().name for fd in (proc / "fd").iterdir()]
        assert sum(name.startswith("socket:") for name in opened) == 1
        others = [Path(f"/proc/{os.getpid()}/{name}") for name in ("environ", "mem", "maps")]
        found = alone.run(tried, others, seconds=20)
    assert set(found.values()) == {"PermissionError"}


@pytest.mark.skipif(not LANDLOCK, reason="this kernel has no Landlock")
def test_a_page_process_opens_what_its_call_is_about(tmp_path: Path) -> None:
    mine, shelf, other = tmp_path / "mine.pdf", tmp_path / "shelf", tmp_path / "other.pdf"
    for path in (mine, other, tmp_path / "secret"):
        path.write_text("x", encoding="ascii")
    with Pool(1) as every:
        alone = every.within([mine, TESTS], [shelf])
        assert alone.confined().files == "landlock"
        asked = [mine, other, tmp_path / "secret", Path("/etc/passwd")]
        found = alone.run(tried, asked, seconds=20)
        assert found.pop(str(mine)) == "x"
        assert set(found.values()) == {"PermissionError"}
        assert alone.run(made, tmp_path, seconds=20) == []
        assert alone.run(made, shelf, seconds=20) == ["file", "folder"]
        assert every.within([other, TESTS], []).run(tried, [mine, other], seconds=20) == {
            str(mine): "PermissionError", str(other): "x"
        }  # fmt: skip
    assert stat.S_IMODE((shelf / "file").stat().st_mode) == 0o600


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


HELLO = b'[["open","open"],false,null]\n'
FALSE = {
    "another type": b'["five",false,null]\n',
    "no answer": b"[]\n",
    "an object": b'{"__class__":"os.system"}\n',
    "not JSON": b"\xff\xfe\n",
    "deep": b"[" * 200_000 + b"\n",
    "an error of somebody else's": b'[null,false,{"kind":"SystemExit","code":"1","message":"","advice":""}]\n',
    "an error with more in it": b'[null,false,{"kind":"Refused","code":"1","message":"","advice":"","wait":"9"}]\n',
    "half an answer": b"[5,false",
}


@pytest.fixture
def doctored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Page processes are a program that says this, whatever it is asked."""

    def says(words: bytes) -> None:
        (tmp_path / "words").write_bytes(words)
        program = (
            "import json, pathlib, socket, sys, time\n"
            "told = json.loads(sys.argv[1])\n"
            "parent = socket.socket(fileno=told[0] if isinstance(told, list) else told)\n"
            f"parent.sendall(pathlib.Path({str(tmp_path / 'words')!r}).read_bytes())\n"
            "time.sleep(60)"
        )
        monkeypatch.setattr(pool, "_ENTRY", program)

    return says


def test_an_answer_that_is_a_pickle_does_nothing(
    tmp_path: Path, doctored: Callable[[bytes], None]
) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "gone off"))
    doctored(struct.pack("!i", len(bomb)) + bomb + b"\n")
    with Pool(1) as alone, contextlib.suppress(PageProcessDied, TypeError):
        alone.run(add, 2, 3, seconds=5)
    assert not (tmp_path / "gone off").exists()


@pytest.mark.parametrize("says", FALSE.values(), ids=FALSE.keys())
def test_a_false_answer_is_a_process_that_died(
    says: bytes, doctored: Callable[[bytes], None]
) -> None:
    doctored(HELLO + says)
    with Pool(1) as alone, pytest.raises(PageProcessDied):
        alone.run(add, 2, 3, seconds=1)


# Values between processes

TYPES = [PageRead, PageRecord, Style, Probe, Sample, Seen, PartitionOptions, Region, Box, bytes]
NUMBERS = st.floats(allow_nan=False)
LINES = st.tuples(*[NUMBERS] * 4).map(lambda sides: Box(*sides))
REGIONS = st.builds(
    Region, kind=st.text(), score=NUMBERS, box=LINES, rows=st.lists(LINES).map(tuple),
    columns=st.just(()), spans=st.just(()), headers=st.integers(),
)  # fmt: skip
VALUES = st.one_of(
    st.tuples(st.just(Seen), st.dictionaries(st.integers(), st.lists(REGIONS).map(tuple))),
    st.tuples(st.just(bytes), st.binary()),
    *(
        st.tuples(st.just(kind), st.builds(kind))
        for kind in (PageRecord, Style, Probe, Sample, PartitionOptions)
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_a_value_arrives_as_it_was_sent(sent: tuple[Any, Any]) -> None:
    kind, value = sent
    assert repr(wire.typed(kind, json.loads(wire.packed(value)))) == repr(value)


@given(st.sampled_from(TYPES), JSON)
def test_whatever_arrives_is_of_its_type_or_refused(kind: Any, value: Any) -> None:
    try:
        found = wire.typed(kind, value)
    except ValueError:
        return
    assert repr(wire.typed(kind, json.loads(wire.packed(found)))) == repr(found)


@given(JSON)
def test_an_error_that_arrives_is_one_of_ours(value: Any) -> None:
    try:
        found = wire.error(value)
    except ValueError:
        return
    assert isinstance(found, QuireError)


# The files


def test_a_data_directory_of_an_earlier_version_becomes_its_owners_alone(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "users").mkdir(parents=True)
    (root / "users" / "a.pdf").touch(0o644)
    (tmp_path / "elsewhere").touch(0o644)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    for folder in (root, root / "users"):
        folder.chmod(0o755)
    environment.own(root)
    assert open_to_others(root) == []
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o644


def open_to_others(root: Path) -> list[str]:
    return [
        str(path)
        for path in (root, *root.rglob("*"))
        if not path.is_symlink() and path.stat().st_mode & 0o077
    ]


# A running app


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_secrets_and_files_of_a_running_app(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    old = os.umask(0o022)
    try:
        app = start_app(data, **SECRETS)
    finally:
        os.umask(old)
    try:
        quire = Quire(app.url)
        worker = app.worker_pid()
        for again in (False, True):
            job = quire.submit(SAMPLES / "report.pdf", collection=f"again {again}")[0]
            assert list(quire.watch(job["id"]))[-1]["status"] == "succeeded"
            sandbox = quire.call("status")["sandbox"]
            assert sandbox["network"] in {"namespace", "seccomp"}
            assert sandbox["files"] == ("landlock" if LANDLOCK else "open")
            assert holders(app) == {}
            if not again:
                app.kill_worker()
                settled(app, worker)
        log = data / "app.log"
        assert "hidden-" not in log.read_text("utf-8")
        assert [path for path in open_to_others(data) if path != str(log)] == []
    finally:
        app.stop()


def settled(app: Running, before: int) -> None:
    """Another worker is ready than that one."""
    wait = psutil.Process(app.process.pid)
    while not (app.ready() and app.worker_pid() != before):
        assert wait.is_running()
        with contextlib.suppress(psutil.TimeoutExpired):
            wait.wait(0.1)


def holders(app: Running) -> dict[str, str]:
    """Processes of the app in whose environment or command line a secret can be read."""
    top = psutil.Process(app.process.pid)
    whole = [top, *top.children(recursive=True)]
    assert len(whole) >= 4  # the app, the supervisor, the worker, page processes
    found = {}
    for process in whole:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for name in ("environ", "cmdline"):
                said = Path(f"/proc/{process.pid}/{name}").read_text("utf-8", errors="replace")
                if "hidden-" in said:
                    found[f"{process.pid} {name}"] = said
    return found
