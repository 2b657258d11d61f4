"""How many sequences a campaign goes through: a few here, what `make campaigns` asks for there."""

import os

IN_FULL = int(os.environ.get("QUIRE_TEST_SEQUENCES", "0"))


def sequences(few: int, *, share: int = 1) -> int:
    """`share`: of those that cost so many times as much."""
    return IN_FULL // share or few


def limit(seconds: int) -> int:
    """For one test."""
    return 7200 if IN_FULL else seconds
