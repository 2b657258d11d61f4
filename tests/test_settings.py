"""What the environment may say: each value is read or refused by its variable's name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import InputError
from settings import Settings, unknown
from tests.conftest import ROOT

NUMBERS = [
    "MAX_FILE_MB", "MAX_PAGES", "USER_QUOTA_MB", "VISITOR_QUOTA_MB", "VISITOR_HOURS", "MAX_JOBS",
    "PAGE_PROCESSES", "PORT", "WEBHOOK_PRIVATE", "VISITORS_QUOTA_MB",
]  # fmt: skip
URLS = ["PUBLIC_URL", "S3_ENDPOINT_URL", "MAIL_URL", "DATABASE_URL"]


def settings(**environ: str) -> Settings:
    return Settings.from_env({"QUIRE_SECRET": "s", **{f"QUIRE_{n}": v for n, v in environ.items()}})


@given(st.sampled_from(NUMBERS), st.text(st.characters(codec="utf-8", exclude_characters="\x00")))
def test_any_text_is_a_number_or_refused_by_name(name: str, text: str) -> None:
    try:
        settings(**{name: text})
    except InputError as problem:
        assert problem.code == "setting_invalid"
        assert problem.message.startswith(f"QUIRE_{name} has to be a whole number from ")
        assert problem.message.isprintable()


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["5k", "-1", "NaN", "1e3", "0x10", "9" * 30, "5 000", "٣", "1.0"])
def test_what_is_no_number_is_refused(name: str, text: str) -> None:
    with pytest.raises(InputError, match=f"QUIRE_{name} has to be"):
        settings(**{name: text})


@pytest.mark.parametrize(
    "name", ["MAX_FILE_MB", "MAX_PAGES", "USER_QUOTA_MB", "MAX_JOBS", "PAGE_PROCESSES"]
)
def test_nothing_is_not_enough(name: str) -> None:
    with pytest.raises(InputError, match=f"QUIRE_{name} has to be"):
        settings(**{name: "0"})


@pytest.mark.parametrize("name", URLS)
def test_an_empty_one_is_not_set_and_what_is_no_url_is_refused(name: str) -> None:
    assert settings(**{name: ""}) == settings()
    for text in (
        "x",
        "ftp://host",
        "https://host:99999",
        "https://[",
        "smtp:/host",
        "://",
        "https:///",
    ):
        with pytest.raises(InputError, match=f"QUIRE_{name} has to be") as caught:
            settings(**{name: text + "hunter2" if "/" in text else text})
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "sqlite://", "sqlite:///", "sqlite://host/a", "sqlite+pysqlite:///a", "SQLITE:///a",
        "sqlite:///a?mode=memory", "postgresql+asyncpg://h/q", "postgres+x://h/q", "postgresql:/q",
    ],
)  # fmt: skip
def test_a_database_that_not_every_process_would_find_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="QUIRE_DATABASE_URL has to be"):
        settings(DATABASE_URL=text)


def test_what_is_written_on_purpose_is_read() -> None:
    assert settings(DATABASE_URL="sqlite:////srv/quire/jobs.sqlite").jobs_file
    assert settings(DATABASE_URL="postgres://h/q").database_url
    assert settings(MAX_PAGES=" 12 ").max_pages == 12
    assert settings(MAIL_URL="resend://:key@").mail_url
    assert settings(MAIL_URL="ses://eu-west-1").mail_url
    assert settings(DATABASE_URL="postgresql+psycopg:///q?host=/run").database_url
    assert "hunter2" not in repr(settings(PASSWORD="hunter2", MAIL_URL="smtp://a:hunter2@h"))


def test_a_variable_that_is_no_setting_is_told_with_the_nearest_one() -> None:
    told = unknown({
        "QUIRE_MAX_PAGE": "1",
        "QUIRE_ZZZ": "",
        "QUIRE_MAX_PAGES": "1",
        "QUIRE_TOKEN": "",
    })
    assert told == [
        "There is no setting QUIRE_MAX_PAGE. Is QUIRE_MAX_PAGES meant?",
        "There is no setting QUIRE_ZZZ.",
    ]
    assert unknown({f"QUIRE_{name}": "" for name in [*NUMBERS, *URLS, "SECRET", "ALLOWED"]}) == []
    assert unknown({"QUIRE_HUB_TOKEN": "x"}) != []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "environ", "told"),
    [
        (["app.py"], {"QUIRE_MAX_PAGES": "5k"}, "setting_invalid: QUIRE_MAX_PAGES has to be"),
        (["app.py"], {"QUIRE_HOST": "0.0.0.0"}, "password_needed: QUIRE_HOST is 0.0.0.0"),
        (["app.py"], {"QUIRE_HOST": "0.0.0.0", "QUIRE_PASSWORD": "hunter2"}, "QUIRE_PASSWORD has to be"),
        (["-m", "pipeline.worker"], {"QUIRE_MAX_JOBS": "-1"}, "QUIRE_MAX_JOBS has to be"),
        (["-m", "pipeline", "jobs"], {"QUIRE_PORT": "x"}, "QUIRE_PORT has to be"),
    ],
)  # fmt: skip
def test_a_program_ends_with_one_line(
    tmp_path: Path, program: list[str], environ: dict[str, str], told: str
) -> None:
    done = subprocess.run(
        [sys.executable, *program], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "QUIRE_DATA_DIR": str(tmp_path), **environ},
    )  # fmt: skip
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert told in line
    assert "hunter2" not in line
    assert "Traceback" not in line
