"""Telling somebody that a job is done: mail by SMTP, or a signed webhook. At most once each.

Never fails a job: what goes wrong is an answer. A webhook reaches public addresses only, follows no
redirect and reads no answer. Knows nothing of DBOS.
"""

import hashlib
import hmac
import http.client
import ipaddress
import json
import re
import smtplib
import socket
import ssl
import time
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

from errors import InputError
from settings import Settings
from storage.catalog import Catalog

_ADDRESS = re.compile(r"[^@\s<>\"',;:\\]{1,64}@[A-Za-z0-9.-]{1,255}")
_TIMEOUT = 20


def checked(address: str | None) -> str | None:
    """A mail address or an https URL, or an InputError; None when nothing was asked for."""
    if not address or not address.strip():
        return None
    wanted = address.strip()
    if _ADDRESS.fullmatch(wanted) or (wanted.startswith("https://") and wanted.isprintable()):
        return wanted
    raise InputError(
        "notify_invalid",
        "That is neither a mail address nor an https address.",
        "Use one mail address, or a URL that begins with https://.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifier:
    settings: Settings
    catalog: Catalog

    def send(self, address: str | None, spec: dict[str, Any], result: dict[str, Any]) -> Any:
        """`{"note": what happened}`, empty when nobody asked."""
        if address is None:
            return {}
        delivery = f"{spec['job']}~{spec['attempt']}"
        if not self.catalog.claim_delivery(delivery, spec["job"]):
            return {}
        try:
            if address.startswith("https://"):
                self._post(address, spec, result)
            else:
                self._mail(address, spec, result)
        except (OSError, smtplib.SMTPException, http.client.HTTPException, InputError) as problem:
            self.catalog.end_delivery(delivery, "failed", type(problem).__name__)
            return {"note": f"The notification could not be sent ({type(problem).__name__})."}
        self.catalog.end_delivery(delivery, "sent")
        return {"note": "The notification was sent."}

    def _mail(self, address: str, spec: dict[str, Any], result: dict[str, Any]) -> None:
        url = urlsplit(self.settings.mail_url or "")
        if not url.hostname:
            raise InputError("mail_unset", "No mail server is set up.", "Set QUIRE_MAIL_URL.")
        message = EmailMessage()
        message["To"] = address
        message["From"] = self.settings.mail_from or "quire@localhost"
        name = "".join(c for c in spec["filename"] if c.isprintable())[:120]
        message["Subject"] = f"Quire: {name} {result['status']}"
        message["Message-ID"] = f"<{spec['job']}.{spec['attempt']}@quire>"
        message.set_content("\n".join([f"{name}: {result['message']}", "", self._link(spec)]))
        context = ssl.create_default_context()
        port = url.port or (465 if url.scheme == "smtps" else 587)
        if url.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                url.hostname, port, timeout=_TIMEOUT, context=context
            )
        else:
            server = smtplib.SMTP(url.hostname, port, timeout=_TIMEOUT)
        with server:
            if url.scheme == "smtp" and server.has_extn("starttls"):
                server.starttls(context=context)
            if url.username:
                server.login(unquote(url.username), unquote(url.password or ""))
            server.send_message(message)

    def _post(self, address: str, spec: dict[str, Any], result: dict[str, Any]) -> None:
        url = urlsplit(address)
        host, port = url.hostname or "", url.port or 443
        ip = public_address(host, port)
        body = json.dumps({"job": spec["job"], "filename": spec["filename"], **result}).encode()
        stamp = str(int(time.time()))
        key = hmac.new(self.settings.secret, b"webhook", hashlib.sha256).digest()
        signature = hmac.new(key, f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        raw = socket.create_connection((ip, port), timeout=_TIMEOUT)
        wrapped = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
        connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT)
        connection.sock = wrapped
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request(
                "POST",
                path,
                body,
                {
                    "Content-Type": "application/json",
                    "X-Quire-Timestamp": stamp,
                    "X-Quire-Signature": f"sha256={signature}",
                },
            )
            status = connection.getresponse().status
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise http.client.HTTPException(f"status {status}")

    def _link(self, spec: dict[str, Any]) -> str:
        return f"{self.settings.public_url or ''}/?job={spec['job']}"


def public_address(host: str, port: int) -> str:
    """An address of that host that is on the public internet: InputError otherwise."""
    for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not ipaddress.ip_address(place[0]).is_global:
            raise InputError(
                "webhook_private", "That address is not public.", "Use a public https address."
            )
        return str(place[0])
    raise InputError("webhook_private", "That host has no address.", "Check the URL.")
