"""Telling somebody that a job is done: a mail, or a signed webhook. At most once, never failing a job.

`Notifier.send` answers what became of it; the rows of the outbox are the catalogue's. What was handed
over without an answer is not sent again. A webhook reaches public addresses only, at the address that
was checked, follows no redirect and reads no answer. Knows nothing of DBOS.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import json
import re
import secrets
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from errors import InputError, QuireError, Refused, Unavailable
from settings import LOOPBACK, Settings
from storage.catalog.catalog import Catalog

_ADDRESS = re.compile(r"[A-Za-z0-9!#$%&*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,255}")
_TIMEOUT = 15.0
_WHOLE = 30.0  # seconds for a webhook, however slowly its receiver drips
_LISTED = 50
_UNICAST = ipaddress.ip_network("2000::/3")  # all that is given out of IPv6
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ISATAP = {0x5EFE, 0x02005EFE}  # what stands before an IPv4 address
_SPECIAL = [  # protocols, anycast, Teredo, 6to4, documentation: nobody's receiver
    ipaddress.ip_network(n)
    for n in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")
]


def checked(address: str | None, *, private: bool = False) -> str | None:
    """A mail address or an https URL, or an InputError; None when nothing was asked for. Refused when
    the URL names an address that is not public. `private` allows these and http, for receivers in the
    operator's own network."""
    if not address or not address.strip(" "):
        return None
    wanted = address.strip(" ")
    if wanted.isprintable() and " " not in wanted and len(wanted) <= 2000:
        if _ADDRESS.fullmatch(wanted):
            return wanted
        if "://" in wanted:
            host, _ = _url(wanted, private=private)
            place = _literal(host)
            if place and not private and not _public(place):
                raise _private()
            return wanted
    raise _invalid()


def _url(text: str, *, private: bool) -> tuple[str, int]:
    """Of a URL to post to the host, as it is looked up, and the port; InputError for any other text."""
    try:
        url = urlsplit(text)
        host = (url.hostname or "").encode("idna").decode("ascii")
        port = url.port if url.port is not None else 443 if url.scheme == "https" else 80
    except ValueError as problem:  # a port that is no number, a label that is no name
        raise _invalid() from problem
    known = url.scheme == "https" or (private and url.scheme == "http")
    if not known or not host or not 0 < port < 65536 or not text.isascii():
        raise _invalid()
    return host, port


def _invalid() -> InputError:
    return InputError(
        "notify_invalid",
        "That is neither a mail address nor an https address.",
        "Use one mail address, or a URL that begins with https://.",
    )


def sealed(secret: bytes, address: str) -> str:
    """Not to be read, or put in the place of another, without QUIRE_SECRET: rows leave the machine."""
    return str(_seal(secret).encrypt(address.encode()), "ascii")


def unsealed(secret: bytes, address: str) -> str:
    """InputError when it was sealed with another secret."""
    from cryptography.fernet import InvalidToken

    try:
        return str(_seal(secret).decrypt(address.encode()), "utf-8")
    except InvalidToken as problem:
        raise InputError(
            "notify_lost", "The address cannot be read: QUIRE_SECRET has changed.", "Submit again."
        ) from problem


def _seal(secret: bytes) -> Any:
    from cryptography.fernet import Fernet

    key = hmac.new(secret, b"address", hashlib.sha256).digest()
    return Fernet(base64.urlsafe_b64encode(key))


class _Unanswered(Exception):
    """It was handed over and nobody said whether it arrived; never leaves this module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifier:
    settings: Settings
    catalog: Catalog

    def send(self, address: str, spec: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        """`state` is `sent`, `failed`, `unanswered`, or `waiting`: nothing was handed over, the
        next call may. `reason` says why. With `last` in the result there is no next call."""
        delivery = f"{spec['job']}~{spec['attempt']}"
        if not self.catalog.claim_delivery(delivery, spec["job"]):
            return {"state": self.catalog.delivery_state(delivery), "reason": None}
        state, reason = "sent", None
        try:
            if "://" in address:
                self._post(address, spec, result)
            else:
                self._mail(address, spec, result)
        except _Unanswered:
            state, reason = "unanswered", "It was handed over, but nobody confirmed it."
        except QuireError as problem:
            waiting = not problem.permanent and not result.get("last")
            state, reason = "waiting" if waiting else "failed", str(problem)
        self.catalog.end_delivery(delivery, state, reason)
        return {"state": state, "reason": reason}

    def _mail(self, address: str, spec: dict[str, Any], result: dict[str, Any]) -> None:
        name = "".join(c for c in spec["filename"] if c.isprintable())[:120]
        text = "\n".join(self._text(name, spec, result))
        mail_id = f"{spec['job']}.{spec['attempt']}"
        _send(self.settings, address, f"Quire: {name} {result['status']}", text, mail_id)

    def _text(self, name: str, spec: dict[str, Any], result: dict[str, Any]) -> Iterator[str]:
        yield f"{name}: {result['status']}. {result['message']}"
        yield ""
        skipped = [e for e in self.catalog.events(spec["job"]) if "reason" in e]
        for one in skipped[-_LISTED:]:
            yield f"Page {one['page']} was not read: {one['reason']}"
        base = self.settings.public_url
        yield f"{base.rstrip('/')}/?job={spec['job']}" if base else f"Job {spec['job']}"

    def _post(self, address: str, spec: dict[str, Any], result: dict[str, Any]) -> None:
        url = urlsplit(address)
        told = {k: result[k] for k in ("status", "message", "pages_failed")}
        body = json.dumps({"job": spec["job"], "filename": spec["filename"], **told}).encode()
        stamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "X-Quire-Timestamp": stamp,
            "X-Quire-Signature": f"sha256={signature(self.settings.secret, stamp, body)}",
        }
        place = receiver(url, private=self.settings.webhook_private)
        status = _posted(url, place, body, headers)
        if status == 429 or status >= 500:
            raise Unavailable("webhook_away", f"The receiver answered {status}.", "")
        if not 200 <= status < 300:
            raise Refused("webhook_refused", f"The receiver answered {status}.", "Check the URL.")


def send_code(settings: Settings, address: str, code: str) -> None:
    """A mail with which its reader can confirm the address."""
    where = f" ({settings.public_url})" if settings.public_url else ""
    text = (
        f"Somebody who signed in to Quire{where} wants to have mails sent here when a document is read.\n\n"
        f"If that is you, the code is {code[:4]}-{code[4:]}; it is good for an hour.\n"
        "If it is not, there is nothing to do: without the code no mail comes."
    )
    with contextlib.suppress(_Unanswered):  # whoever has no mail has another one sent
        _send(settings, address, "Quire: confirm this address", text, secrets.token_hex(8))


def _send(settings: Settings, address: str, subject: str, text: str, mail_id: str) -> None:
    url = urlsplit(settings.mail_url or "")
    send = {"smtp": _smtp, "smtps": _smtp, "ses": _ses, "resend": _resend}.get(url.scheme)
    if send is None:
        raise InputError("mail_unset", "No mail server is set up.", "Set QUIRE_MAIL_URL.")
    message = EmailMessage(policy=SMTP)
    message["To"] = address
    message["From"] = settings.mail_from or "quire@localhost"
    message["Subject"] = subject
    message["Message-ID"] = f"<{mail_id}@quire>"
    message.set_content(text)
    send(url, message)


def signature(secret: bytes, stamp: str, body: bytes) -> str:
    """Hex HMAC-SHA256 over `stamp.body`; the key is made from QUIRE_SECRET (docs/clients.md)."""
    return hmac.new(webhook_key(secret), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()


def webhook_key(secret: bytes) -> bytes:
    return hmac.new(secret, b"webhook", hashlib.sha256).digest()


def receiver(url: SplitResult, *, private: bool) -> tuple[str, int]:
    """An address and port of that host to connect to: Refused unless all of its addresses are on
    the public internet or private ones are allowed, Unavailable when it has none now."""
    host, port = _url(url.geturl(), private=private)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        raise Unavailable("webhook_away", "That host has no address now.", "") from problem
    places = [str(place[0]) for *_, place in found]
    if not private and not all(map(_public, places)):
        raise _private()
    return places[0], port


def _literal(host: str) -> str | None:
    """The address that a host is by itself, in whatever way it is written; None for a name."""
    if host.rstrip(".") in LOOPBACK:
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host.split("%")[0]))
    except ValueError:
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            return None


def _private() -> Refused:
    return Refused("webhook_private", "That address is not public.", "Use a public https address.")


def _public(place: str) -> bool:
    """Whether that is a machine's address on the public internet; of IPv4 within IPv6, as a resolver
    gives it, the IPv4 one is asked about."""
    ip = ipaddress.ip_address(place.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return _public(str(inner))
        if ip not in _UNICAST or (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)


def _posted(url: SplitResult, place: tuple[str, int], body: bytes, headers: dict[str, str]) -> int:
    """The status of the answer, whose body is never read. Unavailable before the request was
    whole, `_Unanswered` after it."""
    host = url.hostname or ""
    connection = http.client.HTTPConnection(host, place[1], timeout=_TIMEOUT)
    sent = False
    try:
        raw = socket.create_connection(place, timeout=_TIMEOUT)
        over = threading.Timer(_WHOLE, _cut, [raw])
        over.start()
        try:
            tls = ssl.create_default_context() if url.scheme == "https" else None
            connection.sock = tls.wrap_socket(raw, server_hostname=host) if tls else raw
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("POST", path, body, {"Host": url.netloc.split("@")[-1], **headers})
            sent = True
            return connection.getresponse().status
        finally:
            over.cancel()
            connection.close()
            raw.close()
    except ssl.SSLCertVerificationError as problem:
        raise Refused(
            "webhook_refused", "The receiver's certificate is not valid.", "Check the URL."
        ) from problem
    except (OSError, http.client.HTTPException) as problem:
        if sent:
            raise _Unanswered from problem
        raise Unavailable("webhook_away", "The receiver cannot be reached.", "") from problem


def _cut(raw: socket.socket) -> None:
    with contextlib.suppress(OSError):
        raw.shutdown(socket.SHUT_RDWR)


# Ways to send a mail: each raises Unavailable when the server is away, a permanent error when it
# refuses, `_Unanswered` when the mail was handed over and the answer is missing


def _smtp(url: SplitResult, message: EmailMessage) -> None:
    """`smtp://user:password@host:587` (STARTTLS where offered), `smtps://…:465`."""
    handed_over = False
    try:
        with _smtp_server(url) as server:
            _agreed(server.mail(message["From"].addresses[0].addr_spec))
            _agreed(server.rcpt(message["To"].addresses[0].addr_spec))
            handed_over = True
            _agreed(server.data(message.as_bytes()))
    except smtplib.SMTPResponseException as problem:
        _agreed((problem.smtp_code, problem.smtp_error))
    except (OSError, smtplib.SMTPException) as problem:
        if handed_over:
            raise _Unanswered from problem
        raise Unavailable(
            "mail_away", f"The mail server cannot be reached ({type(problem).__name__}).", ""
        ) from problem


@contextlib.contextmanager
def _smtp_server(url: SplitResult) -> Iterator[smtplib.SMTP]:
    host, context = url.hostname or "", ssl.create_default_context()
    secure = url.scheme == "smtps"
    if secure:
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            host, url.port or 465, timeout=_TIMEOUT, context=context
        )
    else:
        server = smtplib.SMTP(host, url.port or 587, timeout=_TIMEOUT)
    try:
        server.ehlo_or_helo_if_needed()
        if not secure and server.has_extn("starttls"):
            server.starttls(context=context)
            secure = True
        if url.username:
            if not secure and host not in LOOPBACK:
                raise Refused(
                    "mail_refused",
                    "The mail server offers no TLS for the password.",
                    "Use smtps://.",
                )
            server.login(unquote(url.username), unquote(url.password or ""))
        yield server
    finally:
        with contextlib.suppress(OSError, smtplib.SMTPException):
            server.quit()
        server.close()


def _agreed(answer: tuple[int, bytes | str]) -> None:
    code = answer[0]
    if 400 <= code < 500:
        raise Unavailable("mail_away", f"The mail server answered {code}.", "")
    if not 200 <= code < 300:
        raise Refused(
            "mail_refused",
            f"The mail server answered {code}.",
            "Check the address and QUIRE_MAIL_URL.",
        )


def _resend(url: SplitResult, message: EmailMessage) -> None:
    """`resend://:KEY@api.resend.com`: by HTTPS, where mail ports are closed. Its idempotency key
    makes a second request harmless, so a missing answer is asked for again."""
    host = url.hostname or "api.resend.com"
    local = host in {"localhost", "127.0.0.1"}
    scheme, port = ("http", url.port or 80) if local else ("https", url.port or 443)
    target = urlsplit(f"{scheme}://{host}:{port}/emails")
    told = {
        "from": message["From"],
        "to": [message["To"]],
        "subject": message["Subject"],
        "text": message.get_content(),
    }
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {unquote(url.password or '')}",
        "Idempotency-Key": message["Message-ID"].strip("<>"),
    }
    try:
        place = receiver(target, private=True)
        status = _posted(target, place, json.dumps(told, default=str).encode(), headers)
    except _Unanswered as problem:
        raise Unavailable("mail_away", "The mail provider did not answer.", "") from problem
    _agreed((450 if status == 429 or status >= 500 else 550 if status >= 300 else 250, b""))


def _ses(url: SplitResult, message: EmailMessage) -> None:
    """`ses://REGION`: Amazon's service by HTTPS, with the usual `AWS_*` variables."""
    import boto3
    from botocore import exceptions
    from botocore.config import Config

    config = Config(
        connect_timeout=_TIMEOUT, read_timeout=_TIMEOUT, retries={"total_max_attempts": 1}
    )
    client = boto3.session.Session().client("sesv2", region_name=url.hostname, config=config)
    try:
        client.send_email(
            FromEmailAddress=str(message["From"]),
            Destination={"ToAddresses": [str(message["To"])]},
            Content={"Raw": {"Data": message.as_bytes()}},
        )
    except exceptions.ReadTimeoutError as problem:
        raise _Unanswered from problem
    except exceptions.ClientError as problem:
        status = int(problem.response["ResponseMetadata"]["HTTPStatusCode"])
        _agreed((450 if status == 429 or status >= 500 else 550, b""))
    except exceptions.BotoCoreError as problem:
        raise Unavailable(
            "mail_away", f"SES cannot be reached ({type(problem).__name__}).", ""
        ) from problem
