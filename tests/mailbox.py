"""A mail server on loopback, and what people find in their mails."""

import email
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.conftest import free_port


@dataclass
class Inbox:
    """An SMTP server's handler; `at_rcpt` and `at_data` are its answers before what it accepts."""

    mails: list[Message] = field(default_factory=list)
    at_rcpt: list[str] = field(default_factory=list)
    at_data: list[str] = field(default_factory=list)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.at_rcpt:
            return self.at_rcpt.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.at_data:
            answer = self.at_data.pop(0)
            if answer == "hang up":
                self.mails.append(email.message_from_bytes(envelope.original_content or b""))
                server.transport.abort()
            return answer
        self.mails.append(email.message_from_bytes(envelope.original_content or b""))
        return "250 OK"

    def code(self) -> str:
        """The one that the last mail brings."""
        text = self.mails[-1].get_payload(decode=True).decode()  # type: ignore[union-attr]
        (found,) = re.findall(r"the code is (\w{4}-\w{4})", text)
        return str(found)


@contextmanager
def mailbox() -> Iterator[tuple[Inbox, str]]:
    """The inbox, and what QUIRE_MAIL_URL is for its server."""
    inbox = Inbox()
    server = Controller(inbox, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        yield inbox, f"smtp://127.0.0.1:{server.port}"
    finally:
        server.stop()
