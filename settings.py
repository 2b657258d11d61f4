"""Settings: everything the environment may say, read once. The only reader of the environment."""

import contextlib
import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

from errors import InputError, QuireError

log = logging.getLogger(__name__)
_DATABASES = ("postgresql", "postgresql+psycopg", "postgres", "sqlite")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
DEFAULT_LAYOUT_MODEL = (
    "docling-project/docling-layout-heron@8f39ad3c0b4c58e9c2d2c84a38465abf757272d8"
)
DEFAULT_TABLE_MODEL = (
    "microsoft/table-transformer-structure-recognition-v1.1-all"
    "@7587a7ef111d9dcbf8ac695f1376ab7014340a0c"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One value per variable; docs/self-hosting.md documents each (a test holds them together)."""

    data_dir: Path
    secret: bytes = field(repr=False)
    database_url: str = field(repr=False)
    hub_dataset: str | None = None
    hub_token: str | None = field(default=None, repr=False)
    s3_bucket: str | None = None
    s3_prefix: str = ""
    s3_endpoint_url: str | None = None
    embedding_model: str = DEFAULT_MODEL
    embedding_models: tuple[str, ...] = ()
    layout_model: str = DEFAULT_LAYOUT_MODEL
    table_model: str = DEFAULT_TABLE_MODEL
    mail_url: str | None = field(default=None, repr=False)
    mail_from: str | None = None
    public_url: str | None = None
    max_file_mb: int = 200
    max_pages: int = 5000
    user_quota_mb: int = 5000
    visitor_quota_mb: int = 200
    visitors_quota_mb: int = 2000
    visitor_hours: int = 24
    allowed: frozenset[str] = frozenset()
    max_jobs: int = 500
    webhook_private: bool = False
    page_processes: int = 2
    host: str = "127.0.0.1"
    password: str | None = field(default=None, repr=False)
    metrics_token: str | None = field(default=None, repr=False)
    port: int | None = None
    space_id: str | None = None
    zero_gpu: bool = False
    oauth_scopes: tuple[str, ...] = ()  # what the Space may ask of those who sign in

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str], cpu_count: int = 2, *, any_secret: bool = False
    ) -> "Settings":
        """Read `QUIRE_*` and the platform's own variables; one that is empty is as if it were not set.
        InputError names the first that cannot be read. Refuses a secret that is not the one of what is
        stored, unless `any_secret` will do."""

        def number(name: str, default: int, least: int = 1, most: int = 10**9) -> int:
            text = environ.get(name, "").strip() or str(default)
            if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
                raise _unreadable(name, f"a whole number from {least:,} to {most:,}", text)
            return int(text)

        def url(name: str, *schemes: str) -> str | None:
            text = environ.get(name, "").strip()
            if text and not _is_url(text, schemes):
                begin = " or ".join(f"{scheme}://" for scheme in schemes)
                raise _unreadable(name, f"a URL that begins with {begin}")
            return text or None

        data_dir = data_dir_of(environ)
        space_id = environ.get("SPACE_ID")
        hub_dataset = environ.get("QUIRE_HUB_DATASET") or None
        s3_bucket = environ.get("QUIRE_S3_BUCKET") or None
        if space_id and (hub_dataset or s3_bucket) and not environ.get("QUIRE_SECRET"):
            raise InputError(
                "secret_needed",
                "What is stored outside is filed under keys made with QUIRE_SECRET, and it is unset.",
                "Set QUIRE_SECRET to a long random text, and keep it.",
            )
        return cls(
            data_dir=data_dir,
            secret=_secret(environ.get("QUIRE_SECRET"), data_dir, proved=not any_secret),
            database_url=url("QUIRE_DATABASE_URL", *_DATABASES)
            or f"sqlite:///{data_dir}/jobs.sqlite",
            hub_dataset=hub_dataset,
            hub_token=environ.get("HF_TOKEN") or None,
            s3_bucket=s3_bucket,
            s3_prefix=environ.get("QUIRE_S3_PREFIX", ""),
            s3_endpoint_url=url("QUIRE_S3_ENDPOINT_URL", "https", "http"),
            embedding_model=environ.get("QUIRE_EMBEDDING_MODEL") or DEFAULT_MODEL,
            embedding_models=_listed(environ.get("QUIRE_EMBEDDING_MODELS", "")),
            layout_model=environ.get("QUIRE_LAYOUT_MODEL") or DEFAULT_LAYOUT_MODEL,
            table_model=environ.get("QUIRE_TABLE_MODEL") or DEFAULT_TABLE_MODEL,
            mail_url=url("QUIRE_MAIL_URL", "smtps", "smtp", "resend", "ses"),
            mail_from=environ.get("QUIRE_MAIL_FROM") or None,
            public_url=url("QUIRE_PUBLIC_URL", "https", "http") or _space_url(environ),
            max_file_mb=number("QUIRE_MAX_FILE_MB", 200),
            max_pages=number("QUIRE_MAX_PAGES", 5000),
            user_quota_mb=number("QUIRE_USER_QUOTA_MB", 5000),
            visitor_quota_mb=number("QUIRE_VISITOR_QUOTA_MB", 200, 0),
            visitors_quota_mb=number("QUIRE_VISITORS_QUOTA_MB", 2000, 0),
            visitor_hours=number("QUIRE_VISITOR_HOURS", 24, 0, 24 * 3650),
            allowed=frozenset(_listed(environ.get("QUIRE_ALLOWED", "").lower())),
            max_jobs=number("QUIRE_MAX_JOBS", 500),
            webhook_private=number("QUIRE_WEBHOOK_PRIVATE", 0, 0, 1) == 1,
            page_processes=number("QUIRE_PAGE_PROCESSES", max(1, cpu_count), 1, 1024),
            host="0.0.0.0" if space_id else environ.get("QUIRE_HOST") or "127.0.0.1",
            password=environ.get("QUIRE_PASSWORD") or None,
            metrics_token=environ.get("QUIRE_METRICS_TOKEN") or None,
            port=number("QUIRE_PORT", 0, 0, 65535) or None,
            space_id=space_id,
            zero_gpu=environ.get("SPACES_ZERO_GPU", "").lower() in {"1", "t", "true"},
            oauth_scopes=_listed(environ.get("OAUTH_SCOPES", "")),
        )

    @property
    def visitors(self) -> bool:
        """Whether anybody may come in without signing in."""
        return bool(self.space_id and self.visitor_hours and not self.allowed)

    @property
    def asks_password(self) -> bool:
        """Whether the one user has to know QUIRE_PASSWORD."""
        return bool(self.password and not self.space_id)

    @property
    def jobs_file(self) -> Path | None:
        """The job database, where it is a file."""
        url = self.database_url
        return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None

    @property
    def key_id(self) -> str:
        """Says which secret this is, and nothing else about it."""
        return key_id(self.secret)

    @property
    def models(self) -> tuple[str, ...]:
        """Embedding models that a collection may have, the one of new collections first."""
        return tuple(dict.fromkeys((self.embedding_model, *self.embedding_models)))


def data_dir_of(environ: Mapping[str, str]) -> Path:
    """Known also where the rest is refused."""
    return Path(environ.get("QUIRE_DATA_DIR") or "./data").resolve()


def at_start(
    environ: Mapping[str, str], *, serves: bool = False, any_secret: bool = False
) -> Settings:
    """The settings of a program that starts; it ends with a line on what cannot be read. `serves`:
    also where Quire would stand open to whoever reaches it."""
    try:
        found = Settings.from_env(environ, processors(), any_secret=any_secret)
        if serves:
            _closed(found)
    except QuireError as problem:
        sys.exit(f"{problem.code}: {problem}")
    for line in unknown(environ):
        log.warning(line)
    return found


def unknown(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like a setting and is none, with the nearest that is one."""
    known = {one.name.upper() for one in fields(Settings)} - _THE_PLATFORM_S | _THE_CLIENT_S
    given = sorted(name.removeprefix("QUIRE_") for name in environ if name.startswith("QUIRE_"))
    others = [name for name in given if name not in known and not name.startswith("TEST_")]
    near = {name: get_close_matches(name, known, 1) for name in others}
    return [
        f"There is no setting QUIRE_{name}." + (f" Is QUIRE_{found[0]} meant?" if found else "")
        for name, found in near.items()
    ]


_THE_PLATFORM_S = {"HUB_TOKEN", "SPACE_ID", "ZERO_GPU", "OAUTH_SCOPES"}
_THE_CLIENT_S = {"TOKEN"}


def _closed(settings: Settings) -> None:
    """InputError where anybody who reaches the address would be the one user."""
    if settings.password and len(settings.password) < 12:
        raise _unreadable("QUIRE_PASSWORD", "12 characters or more")
    if not settings.space_id and settings.host not in LOOPBACK and not settings.password:
        raise InputError(
            "password_needed",
            f"QUIRE_HOST is {settings.host}, and whoever reaches that could read and delete everything.",
            "Set QUIRE_PASSWORD to 12 characters or more, or leave QUIRE_HOST out.",
        )


def _unreadable(name: str, wanted: str, given: str | None = None) -> InputError:
    told = "" if given is None else f" It is “{''.join(filter(str.isprintable, given))[:40]}”."
    return InputError(
        "setting_invalid", f"{name} has to be {wanted}.{told}", "Correct it, or leave it out."
    )


def processors(group: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processors this process is given, by its affinity and its control group (version 2, or
    1): a container counts those of the whole machine otherwise. joblib knows as well, a quarter of a
    second after each start."""
    given = len(os.sched_getaffinity(0))
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        if all((group / name).exists() for name in names):
            quota, period = " ".join((group / name).read_text() for name in names).split()
            if quota not in {"max", "-1"}:
                given = min(given, math.ceil(int(quota) / int(period)))
    return given


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        found = urlsplit(text)
        usable = found.port != 0
    except ValueError:  # a port that is no number
        return False
    named = found.scheme in schemes and text.startswith(f"{found.scheme}://")
    if found.scheme == "sqlite":
        return named and not found.netloc and not found.query and found.path not in {"", "/"}
    hosted = found.hostname or found.scheme in {"resend", *_DATABASES}
    return bool(named and hosted and usable)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _space_url(environ: Mapping[str, str]) -> str | None:
    host = environ.get("SPACE_HOST", "").split(",")[0].strip()
    return f"https://{host}" if host else None


def key_id(secret: bytes) -> str:
    """HMAC-SHA256 of a fixed text, 32 hex digits."""
    return hmac.new(secret, b"quire: which secret this is", hashlib.sha256).hexdigest()[:32]


def _secret(given: str | None, data_dir: Path, *, proved: bool) -> bytes:
    """The HMAC key for user keys: as given, else made once and kept beside the data. Another one than
    what is stored here was filed under would show everybody an empty Quire: it is refused."""
    path, known = data_dir / "secret", data_dir / "secret.id"
    kept = path.read_text(encoding="ascii", errors="replace").strip() if path.exists() else ""
    stored = known.exists() or any(
        any(data_dir.glob(f"{top}users/{'[0-9a-f]' * 32}")) for top in ("", "remote/")
    )
    if not given and not kept:
        if proved and stored:
            raise InputError(
                "secret_lost",
                f"What is stored in {data_dir} is filed under keys made with its secret, and that is"
                " gone.",
                "Put the file `secret` back from a backup, or set QUIRE_SECRET to what it held; to give"
                " up what is there, use `python -m pipeline accept-secret`.",
            )
        kept = made_once(path).decode("ascii").strip()
    secret = (given or kept).encode()
    if proved and known.exists() and known.read_text("ascii", "replace").strip() != key_id(secret):
        raise other_secret()
    return secret


def other_secret() -> InputError:
    return InputError(
        "secret_changed",
        "What is stored was filed under keys made with another secret: nobody would find what is theirs.",
        "Set QUIRE_SECRET, or the file `secret`, to what it was; to go on with this one and give up what"
        " is there, use `python -m pipeline accept-secret`.",
    )


def made_once(path: Path) -> bytes:
    """A random key in a file of its own: what is there, else 32 bytes in hex, made by whoever is first."""
    if path.exists() and path.read_bytes().strip():
        return path.read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    made.touch(mode=0o600)
    made.write_text(secrets.token_hex(32), encoding="ascii")
    if path.exists() and not path.read_bytes().strip():
        path.unlink()  # left empty by a full disk
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(made)
    made.unlink()
    return path.read_bytes()
