"""Mails go to the people who asked for them: a code by mail, once, within limits, stored as a hash."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from errors import InputError, QuireError, Refused
from pipeline.jobs import notify
from storage.catalog.tokens import Accounts
from tests.mailbox import Inbox
from tests.test_identity import at_the_page, identity, request, session
from tests.test_notify import inbox
from web import addresses
from web.api import App, SubmitOptions, submit_files
from web.identity import Caller, Identity

__all__ = ["inbox"]  # a fixture


def quire(tmp_path: Path, mail_url: str = "smtp://127.0.0.1:9") -> tuple[App, Identity]:
    who = identity(tmp_path, QUIRE_MAIL_URL=mail_url)

    def call(name: str, _user: str, **given: str) -> None:
        assert name == "send_code"
        notify.send_code(who.settings, **given)

    made = SimpleNamespace(settings=who.settings, identity=who, link=SimpleNamespace(call=call))
    return cast("App", made), who


def refused(act: Any, *given: Any) -> str:
    with pytest.raises(QuireError) as caught:
        act(*given)
    return caught.value.code


def test_an_address_is_one_s_own_once_its_code_came_back(
    tmp_path: Path, inbox: tuple[Inbox, str]
) -> None:
    box, url = inbox
    app, who = quire(tmp_path, url)
    ada, bob = who.of(at_the_page(who, "ada")), who.of(at_the_page(who, "bob"))
    assert refused(who.may_mail, ada, "ada@example.org") == "address_unconfirmed"
    addresses.ask(app, ada, "ada@example.org")
    assert box.mails[-1]["To"] == "ada@example.org"
    told = box.code()
    assert refused(addresses.confirm, app, bob, "ada@example.org", told) == "code_wrong"
    assert refused(addresses.confirm, app, ada, "eve@example.org", told) == "code_wrong"
    stored = b"".join(p.read_bytes() for p in tmp_path.glob("catalog.sqlite*"))
    for secret in (told, told.replace("-", ""), "ada@example.org"):
        assert secret.encode() not in stored
    addresses.confirm(app, ada, "Ada@Example.org", told.lower())
    who.may_mail(ada, "ada@example.org")
    assert addresses.listed(app, ada.key) == ["Ada@Example.org"]
    assert refused(who.may_mail, bob, "ada@example.org") == "address_unconfirmed"
    addresses.remove(app, ada, "ada@example.org")
    assert refused(who.may_mail, ada, "ada@example.org") == "address_unconfirmed"
    assert refused(addresses.confirm, app, ada, "ada@example.org", told) == "code_wrong"  # used up


def test_a_code_is_not_found_by_trying_and_grows_old(
    tmp_path: Path, inbox: tuple[Inbox, str]
) -> None:
    box, url = inbox
    app, who = quire(tmp_path, url)
    ada = who.of(at_the_page(who, "ada"))
    addresses.ask(app, ada, "ada@example.org")
    for n in range(5):
        assert refused(addresses.confirm, app, ada, "ada@example.org", f"AAAA{n}") == "code_wrong"
    assert refused(addresses.confirm, app, ada, "ada@example.org", box.code()) == "code_wrong"
    addresses.ask(app, ada, "ada@example.org")
    with sqlite3.connect(tmp_path / "catalog.sqlite") as database:
        database.execute("UPDATE mail_codes SET sent_at = sent_at - 3601")
    assert refused(addresses.confirm, app, ada, "ada@example.org", box.code()) == "code_wrong"


def test_codes_are_bounded_by_person_by_address_and_in_all(tmp_path: Path) -> None:
    accounts = Accounts(f"sqlite:///{tmp_path}/catalog.sqlite")
    for n in range(5):
        accounts.expect_code("a" * 32, f"to {n}", "c")
    for n in range(2):
        accounts.expect_code(f"user {n}", "to 0", "c")
    for user, digest in (("a" * 32, "to 9"), ("user 9", "to 0")):
        with pytest.raises(Refused) as caught:
            accounts.expect_code(user, digest, "c")
        assert caught.value.code == "too_many_codes"
    for n in range(200 - 7):
        accounts.expect_code(f"person {n}", f"at {n}", "c")
    assert refused(accounts.expect_code, "one more", "at 1000", "c") == "too_many_codes"


def test_visitors_and_strangers_have_nobody_mailed(tmp_path: Path) -> None:
    app, who = quire(tmp_path)
    guest = who.of(request(Cookie=f"quire_visitor={who.new_visitor()}"))
    ada = who.of(at_the_page(who, "ada"))
    for caller, wanted in ((guest, "mail_sign_in"), (ada, "address_unconfirmed")):
        with pytest.raises(Refused) as caught:
            submit_files(app, caller, ["x"], SubmitOptions(notify="anybody@example.org"))
        assert caught.value.code == wanted
    for given in ("https://example.org", "", "5", "['a@b.org']", "a@b.org\nBcc: c@d.org"):
        with pytest.raises(InputError):
            addresses.ask(app, ada, given)


def test_the_hub_s_word_on_an_address_is_enough_if_it_verified_it(tmp_path: Path) -> None:
    for verified in (True, False, None, "true"):
        who = identity(tmp_path / str(verified), QUIRE_MAIL_URL="smtp://127.0.0.1:9")
        made = session("ada")
        made["oauth_info"]["userinfo"] |= {"email": "ada@x.org", "email_verified": verified}
        who.sign_in(made)
        caller = who.of(request(made))
        if verified is True:
            who.may_mail(caller, "ADA@x.org")
        else:
            assert refused(who.may_mail, caller, "ada@x.org") == "address_unconfirmed"


def test_where_there_is_one_user_they_choose(tmp_path: Path) -> None:
    who = identity(tmp_path, SPACE_ID="")
    who.may_mail(Caller(key=who.of(request()).key, name="local", kind="local"), "any@example.org")
