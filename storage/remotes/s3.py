"""An S3 bucket as a Remote.

Files are create-only. A manifest is a create-only log under `<name>.log/`, numbered downwards so
that the newest is listed first: a commit is the one conditional write of the next entry, and two
writers cannot both make it. Relies on `If-None-Match: *` alone, which `check` proves before the first use,
because some S3-compatible servers ignore it and some honour it for one writer at a time only.
"""

import hashlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from errors import Conflict, QuireError, Refused, Unavailable
from storage.remotes.remote import SMALL, Change, changed_elsewhere, not_there, too_large

_NEWEST_FIRST = 10**12
_LOG_KEPT = 20
_EXISTS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_REGION = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
_PASSES = {"RequestTimeout", "SlowDown", "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"}
_RACERS = 8


@dataclass(frozen=True, slots=True)
class S3Remote:
    """Objects of one bucket under `prefix`; make it with `connect`."""

    client: Any
    bucket: str
    prefix: str = ""
    name: str = "s3"

    def check(self) -> None:
        """The bucket can be written, read, listed and deleted from, and of many writers of one key
        at the same moment one wins."""
        key = self._key(f"probe/{secrets.token_hex(8)}")
        try:
            with ThreadPoolExecutor(_RACERS) as racers:
                won = sum(racers.map(lambda n: self._create(key, b"%d" % n), range(_RACERS)))
            if not won or key not in self._keys(key):
                raise _away("what was written is not there")
            self._digest(key)
            if won > 1:
                raise Refused(
                    "s3_no_preconditions",
                    "This S3 server lets two writers create the same object, so that one save could "
                    "overwrite another.",
                    "Use a server that honours If-None-Match (AWS, R2, MinIO, Ceph).",
                )
        finally:
            with _translated("the probe"):
                self.client.delete_object(Bucket=self.bucket, Key=key)

    def read(self, name: str, at_most: int = SMALL) -> bytes:
        with self._body(name, at_most) as body, _translated(name):
            return bytes(body.read())

    def fetch(self, name: str, to: Path, at_most: int = SMALL) -> None:
        with self._body(name, at_most) as body, to.open("wb") as file:
            while piece := _piece(body, name):
                file.write(piece)

    def names(self, prefix: str) -> Iterator[str]:
        found = set()
        for key in self._keys(self._key(prefix.rstrip("/") + "/" if prefix else "")):
            found.add(key.removeprefix(self._key("")).split(".log/")[0])
        return iter(sorted(found))

    def commit(self, change: Change) -> None:
        heads = {name: self._newest(name) for name in change.expected}
        moved = [n for n, seen in change.expected.items() if self._digest(heads[n]) != seen]
        if moved:
            raise changed_elsewhere(moved)
        for name, content in change.files.items():
            self._create(self._key(name), content, overwrite=change.overwrite)
        lost = []
        for name, content in change.manifests.items():
            head = heads[name]
            number = int(head.rsplit("/", 1)[-1]) - 1 if head else _NEWEST_FIRST
            key = f"{self._key(name)}.log/{number:013d}"
            ours = hashlib.sha256(content).hexdigest()
            if not self._create(key, content) and self._digest(key) != ours:
                lost.append(name)  # and not an answer to our own first try that was lost
                continue
            old = f"{self._key(name)}.log/{number + _LOG_KEPT:013d}"
            with _translated(name):
                self.client.delete_object(Bucket=self.bucket, Key=old)
        if lost:
            raise changed_elsewhere(lost)
        for name in change.deletes:
            with _translated(name):
                self.client.delete_object(Bucket=self.bucket, Key=self._key(name))

    def history(self) -> int:
        return 0  # a bucket's older versions are its lifecycle's business

    def forget(self, names: frozenset[str]) -> float:
        for folder in sorted({"/".join(n.split("/")[:2]) + "/" for n in names}):
            for version in self._versions(self._key(folder)):
                name, _, entry = version["Key"].removeprefix(self._key("")).partition(".log/")
                seen = version.get("IsLatest") and "Size" in version
                if seen and not entry:
                    continue
                if seen and version["Key"] == self._newest(name):
                    continue
                with _translated(name):
                    self.client.delete_object(
                        Bucket=self.bucket, Key=version["Key"], VersionId=version["VersionId"]
                    )
        return 0.0

    def _key(self, name: str) -> str:
        return f"{self.prefix.strip('/')}/{name}" if self.prefix.strip("/") else name

    def _newest(self, name: str) -> str | None:
        with _translated(name):
            found = self.client.list_objects_v2(
                Bucket=self.bucket, Prefix=f"{self._key(name)}.log/", MaxKeys=1
            )
        return str(found["Contents"][0]["Key"]) if found.get("Contents") else None

    def _digest(self, key: str | None) -> str | None:
        if key is None:
            return None
        with _translated(key):
            found = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return hashlib.sha256(found).hexdigest()

    @contextmanager
    def _body(self, name: str, at_most: int) -> Iterator[Any]:
        manifest = self._newest(name) if name.endswith("/manifest.json") else None
        with _translated(name):
            found = self.client.get_object(Bucket=self.bucket, Key=manifest or self._key(name))
        with closing(found["Body"]) as body:
            if found["ContentLength"] > at_most:
                raise too_large(name)
            yield body

    def _versions(self, prefix: str) -> list[dict[str, Any]]:
        """Every version and delete marker; where there are no versions, what is there."""
        with _translated(prefix):
            pages = self.client.get_paginator("list_object_versions").paginate(
                Bucket=self.bucket, Prefix=prefix
            )
            return [v for p in pages for k in ("Versions", "DeleteMarkers") for v in p.get(k, ())]

    def _keys(self, prefix: str) -> Iterator[str]:
        with _translated(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix
            )
            for page in pages:
                yield from (str(o["Key"]) for o in page.get("Contents", ()))

    def _create(self, key: str, content: Path | bytes, *, overwrite: bool = False) -> bool:
        """False when the key was there already."""
        with ExitStack() as files:
            body = (
                content if isinstance(content, bytes) else files.enter_context(content.open("rb"))
            )
            only_new = {} if overwrite else {"IfNoneMatch": "*"}
            try:
                with _translated(key):
                    self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **only_new)
            except Conflict:
                return False
        return True


def connect(bucket: str, prefix: str = "", endpoint_url: str | None = None) -> S3Remote:
    """A client of AWS or of a compatible server; keys come from the usual `AWS_*` variables."""
    config = Config(
        retries={"mode": "standard", "max_attempts": 4},
        connect_timeout=5,
        read_timeout=60,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if endpoint_url else {},
    )
    client = boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)
    return S3Remote(client, bucket, prefix)


def _piece(body: Any, name: str) -> bytes:
    with _translated(name):
        return bytes(body.read(1 << 20))


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except ClientError as problem:
        raise _told(problem, name) from problem
    except (NoCredentialsError, PartialCredentialsError, ParamValidationError) as problem:
        raise _refused(type(problem).__name__) from problem
    except (BotoCoreError, OSError) as problem:
        raise _away(type(problem).__name__) from problem


def _told(problem: ClientError, name: str) -> QuireError:
    code = str(problem.response["Error"]["Code"])
    answer = problem.response["ResponseMetadata"]
    status = int(answer["HTTPStatusCode"])
    if code in _EXISTS or status == 412:
        return changed_elsewhere()
    if code in _REGION or status == 301:
        return Refused(
            "s3_region",
            f"The bucket is in another region than the one that was asked ({code}).",
            "Set AWS_DEFAULT_REGION to the bucket's region.",
        )
    if code == "RequestTimeTooSkewed":
        return Refused(
            "clock_skew",
            "S3 refuses the request because this machine's clock is wrong.",
            "Set the clock (NTP); the save is repeated then.",
        )
    if code == "NoSuchKey":
        return not_there(name)
    if status == 404:  # no empty store: saying so would hide what a person has
        return Refused(
            "s3_no_bucket",
            f"The bucket is not there ({code}).",
            "Check QUIRE_S3_BUCKET and QUIRE_S3_ENDPOINT_URL. Nothing was changed.",
        )
    if status in {400, 401, 403} and code not in _PASSES:
        return _refused(code)
    asked = str(answer.get("HTTPHeaders", {}).get("retry-after", ""))
    return _away(code, float(asked) if asked.isdigit() else None)


def _refused(code: str) -> Refused:
    return Refused(
        "s3_refused",
        f"S3 refused the request ({code}).",
        "Check the keys, the bucket and its region.",
    )


def _away(why: str, retry_after: float | None = None) -> Unavailable:
    return Unavailable(
        "s3_unavailable",
        f"S3 cannot be reached ({why}).",
        "The save is repeated by itself.",
        retry_after,
    )
