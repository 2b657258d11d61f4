"""Mails and webhooks at the end of a job, to a real SMTP server and real HTTP receivers."""

import hashlib
import hmac
import http.server
import ipaddress
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from errors import InputError, Refused, Unavailable
from pipeline.jobs.notify import Notifier, _public, checked, receiver, webhook_key
from settings import Settings
from storage.catalog.catalog import Catalog
from tests.conftest import free_port
from tests.mailbox import Inbox, mailbox

SPEC = {"job": "j1", "attempt": 1, "filename": "a\nb.pdf"}
DONE = {"status": "partial", "message": "Done, but 1 page was not read: 7.", "pages_failed": [7]}


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, str]]:
    with mailbox() as made:
        yield made


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted and answers with `status`, or as `behave` says."""

    got: list[tuple[str, dict[str, str], bytes]]
    status = 200
    behave = ""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, dict(self.headers), body))
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(10 << 30))
        self.end_headers()
        if self.behave == "endless":
            try:
                while True:
                    self.wfile.write(b"x" * 65536)
            except OSError:
                return

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def listening(**what: Any) -> Iterator[tuple[type[Receiver], str]]:
    kind = type("Kind", (Receiver,), {"got": [], **what})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield kind, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def notifier(tmp_path: Path, **settings: Any) -> Notifier:
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    catalog.append_event("j1", {"page": 7, "reason": "It is damaged."})
    made = Settings(
        data_dir=tmp_path, secret=b"s", database_url="", public_url="https://q.example", **settings
    )
    return Notifier(settings=made, catalog=catalog)


def test_a_mail_says_what_was_done_and_what_was_skipped(
    tmp_path: Path, inbox: tuple[Inbox, str]
) -> None:
    box, url = inbox
    sender = notifier(tmp_path, mail_url=url, mail_from="quire@example.org")
    assert sender.send("ada@example.org", SPEC, DONE)["state"] == "sent"
    assert sender.send("ada@example.org", SPEC, DONE)["state"] == "sent"
    assert len(box.mails) == 1
    mail = box.mails[0]
    assert mail["Subject"] == "Quire: ab.pdf partial"
    text = mail.get_payload(decode=True).decode()  # type: ignore[union-attr]
    assert "Page 7 was not read: It is damaged." in text
    assert "https://q.example/?job=j1" in text


def test_a_mail_server_that_is_away_is_tried_again_until_the_last_time(
    tmp_path: Path, inbox: tuple[Inbox, str]
) -> None:
    box, url = inbox
    box.at_rcpt = ["450 greylisted"]
    box.at_data = ["451 later"]
    sender = notifier(tmp_path, mail_url=url)
    states = [sender.send("a@b.org", SPEC, DONE)["state"] for _ in range(3)]
    assert states == ["waiting", "waiting", "sent"]
    away = notifier(tmp_path, mail_url=f"smtp://127.0.0.1:{free_port()}")
    other = {**SPEC, "attempt": 2}
    assert away.send("a@b.org", other, DONE)["state"] == "waiting"
    assert away.send("a@b.org", other, {**DONE, "last": True})["state"] == "failed"


def test_what_was_handed_over_or_refused_is_not_sent_again(
    tmp_path: Path, inbox: tuple[Inbox, str]
) -> None:
    box, url = inbox
    sender = notifier(tmp_path, mail_url=url)
    box.at_data = ["hang up"]
    assert sender.send("a@b.org", SPEC, DONE)["state"] == "unanswered"
    assert sender.send("a@b.org", SPEC, DONE)["state"] == "unanswered"
    box.at_rcpt = ["550 no such user"]
    told = sender.send("a@b.org", {**SPEC, "attempt": 2}, DONE)
    assert (told["state"], "550" in told["reason"]) == ("failed", True)
    assert len(box.mails) == 1


def test_a_mail_goes_out_by_https_where_mail_ports_are_closed(tmp_path: Path) -> None:
    with listening() as (kind, url):
        port = urlsplit(url).port
        sender = notifier(tmp_path, mail_url=f"resend://:k%20y@127.0.0.1:{port}")
        assert sender.send("a@b.org", SPEC, DONE)["state"] == "sent"
    path, headers, body = kind.got[0]
    assert (path, headers["Authorization"]) == ("/emails", "Bearer k y")
    assert headers["Idempotency-Key"] == "j1.1@quire"
    assert json.loads(body)["to"] == ["a@b.org"]
    with listening(status=503) as (_, url):
        sender = notifier(tmp_path, mail_url=f"resend://:k@127.0.0.1:{urlsplit(url).port}")
        assert sender.send("a@b.org", {**SPEC, "attempt": 2}, DONE)["state"] == "waiting"


@pytest.mark.slow
def test_a_mail_goes_out_by_ses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in (
            ("AWS_ENDPOINT_URL", url), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        sender = notifier(tmp_path, mail_url="ses://eu-west-1", mail_from="quire@example.org")
        refused = sender.send("a@b.org", SPEC, DONE)
        assert (refused["state"], "550" in refused["reason"]) == ("failed", True)
        boto3.client("sesv2", region_name="eu-west-1").create_email_identity(
            EmailIdentity="quire@example.org"
        )
        assert sender.send("a@b.org", {**SPEC, "attempt": 2}, DONE)["state"] == "sent"
    finally:
        server.stop()
    assert sender.send("a@b.org", {**SPEC, "attempt": 3}, DONE)["state"] == "waiting"


def test_a_webhook_is_signed(tmp_path: Path) -> None:
    with listening() as (kind, url):
        told = notifier(tmp_path, webhook_private=True).send(f"{url}/hook?a=1", SPEC, DONE)
    assert told["state"] == "sent"
    path, headers, body = kind.got[0]
    assert path == "/hook?a=1"
    stamp = headers["X-Quire-Timestamp"]
    wanted = hmac.new(webhook_key(b"s"), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["X-Quire-Signature"] == f"sha256={wanted}"
    assert json.loads(body)["status"] == "partial"


@pytest.mark.parametrize(
    ("what", "state"),
    [
        ({"status": 302}, "failed"),
        ({"status": 404}, "failed"),
        ({"status": 500}, "waiting"),
        ({"behave": "endless"}, "sent"),
    ],
)
def test_a_webhook_follows_nothing_and_reads_nothing(
    tmp_path: Path, what: dict[str, Any], state: str
) -> None:
    with listening(**what) as (kind, url):
        told = notifier(tmp_path, webhook_private=True).send(url, SPEC, DONE)
    assert told["state"] == state
    assert [path for path, *_ in kind.got] == ["/"]


def test_a_webhook_that_hangs_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.jobs.notify._WHOLE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        told = notifier(tmp_path, webhook_private=True).send(url, SPEC, DONE)
    assert told["state"] == "unanswered"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "[::1]", "[fe80::1]",
        "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "[2002:a00:1::]", "100.64.0.1", "localhost",
        "2130706433", "224.0.0.1", "192.0.0.1", "192.0.0.9", "192.88.99.1", "198.18.0.1", "240.0.0.1",
        "[fec0::1]", "[fc00::1]", "[ff0e::1]", "[64:ff9b:1::808:808]", "[::7f00:1]", "[::808:808]",
        "[::ffff:0:7f00:1]", "[2001:0:808:808::]", "[2002:808:808::]", "[2001:db8::1]", "[3fff::1]",
        "[2606:4700::5efe:a00:1]", "[2606:4700::200:5efe:a00:1]", "[100::1]", "[5f00::1]",
    ],
)  # fmt: skip
def test_a_webhook_reaches_public_addresses_only(tmp_path: Path, host: str) -> None:
    with pytest.raises(Refused) as caught:
        receiver(urlsplit(f"https://{host}/x"), private=False)
    assert caught.value.code == "webhook_private"
    with pytest.raises(Refused, match="not public"):  # before the job begins
        checked(f"https://{host}/x")
    assert checked(f"https://{host}/x", private=True)
    assert notifier(tmp_path).send(f"https://{host}/x", SPEC, DONE)["state"] == "failed"


@given(st.integers(0, 2**32 - 1))
def test_a_private_address_stays_private_however_it_is_wrapped(number: int) -> None:
    plain = ipaddress.IPv4Address(number)
    public = _public(str(plain))
    assert not public or (plain.is_global and not plain.is_multicast)
    for form in ("::ffff:{}", "64:ff9b::{}"):
        assert _public(form.format(plain)) == public  # resolvers write it so
    for form in ("::{}", "::ffff:0:{}", "64:ff9b:1::{}", "2606:4700::5efe:{}", "fe80::{}"):
        assert not _public(form.format(plain))
    assert not _public(str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1)))
    assert not _public(str(ipaddress.IPv6Address((0x20010000 << 96) | (number << 64) | 1)))


@given(st.integers(0, 2**128 - 1))
def test_only_what_is_given_out_of_ipv6_is_public(number: int) -> None:
    ip = ipaddress.IPv6Address(number)
    assert (
        not _public(str(ip))
        or number >> 125 == 1
        or ip.ipv4_mapped
        or number >> 32 == 0x64FF9B << 64
    )


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_any_text_as_a_url_is_taken_or_refused_with_a_code(text: str) -> None:
    for url in (f"https://{text}", f"https://example.org:{text}", f"https://{'a' * 70}.{text}"):
        try:
            assert checked(url)
        except (InputError, Refused) as problem:
            assert problem.code in {"notify_invalid", "webhook_private"}


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that gives one public and one private address: neither is connected to."""
    rows = [(2, 1, 6, "", (ip, 443)) for ip in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
    with pytest.raises(Refused):
        receiver(urlsplit("https://both.example"), private=False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows[:1])
    assert receiver(urlsplit("https://one.example"), private=False) == ("93.184.216.34", 443)


def test_a_name_that_resolves_to_nothing_may_come_back() -> None:
    with pytest.raises(Unavailable):
        receiver(urlsplit("https://nothing.invalid"), private=False)


@pytest.mark.parametrize(
    "address",
    [
        "a@b.org\nBcc: x@y.org", "a@b.org\r", "a@b.org\n", "a b@c.org", "a@b.org, c@d.org", "nobody",
        "http://example.org", "https://", "https://a b", "ftp://x", "<a@b.org>", "https://x\u202e",
        "https://a:99999/", "https://a:0/", "https://a:x/", "https://a:-1/", "https://[::1", "https://a..b/",
        f"https://{'a' * 64}.org/", "https://[1]/", "https://.", "https://ex\u00e4mple.org/\u00e4",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InputError) as caught:
        checked(address)
    assert caught.value.code == "notify_invalid"


def test_addresses() -> None:
    assert [checked(a) for a in (None, "", "  ")] == [None] * 3
    assert checked(" ada+quire@example.org ") == "ada+quire@example.org"
    assert checked("https://example.org/x?y=1") == "https://example.org/x?y=1"
    assert checked("http://10.0.0.1/x", private=True) == "http://10.0.0.1/x"
