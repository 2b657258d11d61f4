"""Mail addresses that people have confirmed: nobody has mails sent to anybody else through this Quire.

A code goes to the address by mail and comes back by the page, from the same person. Off a Space there is
one user, who looks after the mail server, too. Addresses are rows by hash, and sealed to be shown.
"""

import hashlib
import hmac
import secrets

from errors import InputError
from pipeline.jobs.notify import checked, sealed, unsealed
from web.api import App
from web.identity import Caller, address_digest

_LETTERS = "ABCDEFGHJKMNPQRSTVWXYZ23456789"


def listed(app: App, user: str) -> list[str]:
    found = app.identity.accounts.addresses(user).values()
    return sorted(unsealed(app.settings.secret, text) for text in found)


def ask(app: App, caller: Caller, given: str) -> None:
    """Sends a code there."""
    address = _mail(given)
    if not app.settings.mail_url:
        raise InputError("mail_unset", "No mail server is set up.", "Set QUIRE_MAIL_URL.")
    code = "".join(secrets.choice(_LETTERS) for _ in range(8))
    digest = address_digest(app.settings, address)
    app.identity.accounts.expect_code(caller.key, digest, _hashed(app, caller, address, code))
    app.link.call("send_code", caller.key, address=address, code=code)


def confirm(app: App, caller: Caller, given: str, code: str) -> None:
    address, text = _mail(given), code.upper().replace("-", "").replace(" ", "")
    app.identity.accounts.confirm(
        caller.key,
        address_digest(app.settings, address),
        _hashed(app, caller, address, text),
        sealed(app.settings.secret, address),
    )


def remove(app: App, caller: Caller, given: str) -> None:
    app.identity.accounts.drop_address(caller.key, address_digest(app.settings, given))


def _mail(given: str) -> str:
    address = checked(given)
    if not address or "://" in address:
        raise InputError(
            "address_invalid", "That is no mail address.", "Type one, such as name@example.org."
        )
    return address


def _hashed(app: App, caller: Caller, address: str, code: str) -> str:
    said = f"code {caller.key} {address.lower()} {code}".encode()
    return hmac.new(app.settings.secret, said, hashlib.sha256).hexdigest()
