"""What time removes, and what it leaves."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from errors import QuireError, Refused
from pipeline.worker.cleanup import DAMAGED_FOR, EXPORTS_FOR, UPLOADS_FOR, House, tidy
from storage.catalog.tokens import Accounts
from storage.paths import Paths

A, B = "a" * 32, "b" * 32


def aged(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_bytes(b"x")
    else:
        (path / "0").mkdir(parents=True)
        (path / "0" / "x.pdf").write_bytes(b"x")
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def house(tmp_path: Path, erased: list[str], refuse: bool = False) -> House:
    def erase(users: Sequence[str]) -> dict[str, QuireError | None]:
        if refuse:
            why = Refused("jobs_running", "There are unfinished jobs.", "Cancel them first.")
            return dict.fromkeys(users, why)
        erased.extend(users)
        return dict.fromkeys(users)

    accounts = Accounts(f"sqlite:///{tmp_path}/catalog.sqlite")
    return House(paths=Paths(tmp_path), accounts=accounts, erase=erase, visitor_hours=24)


def test_old_uploads_and_exports_go_and_fresh_ones_stay(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    old = [
        aged(paths.uploads / A / "one", UPLOADS_FOR + 60),
        aged(paths.exports / A / "c-x-parquet.zip", EXPORTS_FOR + 60),
        aged(paths.pending(A) / "1.damaged", DAMAGED_FOR + 60),
        aged(paths.root / "catalog.sqlite.damaged-20260101-000000", DAMAGED_FOR + 60),
    ]
    fresh = [
        aged(paths.uploads / A / "two", UPLOADS_FOR - 60),
        aged(paths.exports / B / "c-y-json.zip", EXPORTS_FOR - 60),
        aged(paths.pending(A) / "2.damaged", DAMAGED_FOR - 60),
        aged(paths.root / "catalog.sqlite.damaged-20260102-000000", DAMAGED_FOR - 60),
    ]
    assert tidy(house(tmp_path, []), time.time()) == []
    assert not any(p.exists() for p in old)
    assert all(p.exists() for p in fresh)


def test_a_visitor_is_erased_a_day_after_the_last_visit_and_not_before(tmp_path: Path) -> None:
    erased: list[str] = []
    kept = house(tmp_path, erased)
    kept.accounts.saw_visitor(A)
    kept.accounts.mint(A, "t", name="visitor", orgs=())
    aged(kept.paths.uploads / A / "one", 0)
    now = time.time()
    tidy(kept, now + 23 * 3600)
    assert erased == []
    tidy(kept, now + 25 * 3600)
    assert erased == [A]
    assert kept.accounts.tokens(A) == []
    assert not (kept.paths.uploads / A).exists()
    tidy(kept, now + 26 * 3600)
    assert erased == [A]


def test_what_cannot_be_erased_yet_is_tried_again(tmp_path: Path) -> None:
    erased: list[str] = []
    house(tmp_path, erased).accounts.saw_visitor(B)
    later = time.time() + 25 * 3600
    assert tidy(house(tmp_path, erased, refuse=True), later) == ["jobs_running"]
    assert tidy(house(tmp_path, erased), later) == []
    assert erased == [B]
