"""An S3 bucket as a Remote. The only importer of boto3.

Files are create-only. A manifest is a create-only log under `<name>.log/`, numbered downwards so
that the newest is listed first: a commit is the one conditional write of the next entry, and two
writers cannot both make it. Relies on `If-None-Match: *` alone, which `check` proves at start,
because some S3-compatible servers accept and ignore it.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from errors import Conflict, NotFound, Refused, Unavailable
from storage.remote import Change

_NEWEST_FIRST = 10**12
_EXISTS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


@dataclass(frozen=True, slots=True)
class S3Remote:
    """Objects of one bucket under `prefix`; make it with `connect`."""

    client: Any
    bucket: str
    prefix: str = ""
    name: str = "s3"

    def check(self) -> None:
        """The bucket can be written, and a second create of the same key is refused."""
        key = self._key(f"probe/{secrets.token_hex(8)}")
        with _translated("the probe"):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=b"1", IfNoneMatch="*")
        try:
            refused = not self._create(key, b"2")
        finally:
            with _translated("the probe"):
                self.client.delete_object(Bucket=self.bucket, Key=key)
        if not refused:
            raise Refused(
                "s3_no_preconditions",
                "This S3 server ignores If-None-Match, so two writers could overwrite each other.",
                "Use a server that honours it (AWS, R2, MinIO, Ceph).",
            )

    def read(self, name: str) -> bytes:
        key = self._newest(name) if name.endswith("manifest.json") else self._key(name)
        return self._get(key or self._key(name), name)

    def fetch(self, name: str, to: Path) -> None:
        with _translated(name):
            self.client.download_file(self.bucket, self._key(name), str(to))

    def names(self, prefix: str) -> Iterator[str]:
        found = set()
        for key in self._keys(self._key(prefix.rstrip("/") + "/" if prefix else "")):
            found.add(key.removeprefix(self._key("")).split(".log/")[0])
        return iter(sorted(found))

    def commit(self, change: Change) -> None:
        heads = {name: self._newest(name) for name in change.manifests}
        for name, expected in change.expected.items():
            head = heads.get(name) or self._newest(name)
            now = hashlib.sha256(self._get(head, name)).hexdigest() if head else None
            if now != expected:
                raise _conflict()
        for name, content in change.files.items():
            self._create(self._key(name), content)
        for name, content in change.manifests.items():
            head = heads[name]
            number = int(head.rsplit("/", 1)[-1]) - 1 if head else _NEWEST_FIRST
            if not self._create(f"{self._key(name)}.log/{number:013d}", content):
                raise _conflict()
        for name in change.deletes:
            with _translated(name):
                self.client.delete_object(Bucket=self.bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return f"{self.prefix.strip('/')}/{name}" if self.prefix.strip("/") else name

    def _newest(self, name: str) -> str | None:
        with _translated(name):
            found = self.client.list_objects_v2(
                Bucket=self.bucket, Prefix=f"{self._key(name)}.log/", MaxKeys=1
            )
        return str(found["Contents"][0]["Key"]) if found.get("Contents") else None

    def _get(self, key: str, name: str) -> bytes:
        with _translated(name):
            return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def _keys(self, prefix: str) -> Iterator[str]:
        with _translated(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix
            )
            for page in pages:
                yield from (str(o["Key"]) for o in page.get("Contents", ()))

    def _create(self, key: str, content: Path | bytes) -> bool:
        """False when the key was there already."""
        body = content if isinstance(content, bytes) else content.read_bytes()
        try:
            with _translated(key):
                self.client.put_object(Bucket=self.bucket, Key=key, Body=body, IfNoneMatch="*")
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
    client = boto3.client("s3", endpoint_url=endpoint_url, config=config)
    return S3Remote(client, bucket, prefix)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except ClientError as problem:
        code = str(problem.response["Error"]["Code"])
        status = int(problem.response["ResponseMetadata"]["HTTPStatusCode"])
        if code in _EXISTS or status == 412:
            raise _conflict() from problem
        if status == 404:
            raise NotFound(
                "not_in_store", f"{name} is not in the store.", "Nothing was saved there yet."
            ) from problem
        if status in {400, 401, 403}:
            raise Refused(
                "s3_refused",
                f"S3 refused the request ({code}).",
                "Check the keys, the bucket and its region.",
            ) from problem
        raise _away(code) from problem
    except (BotoCoreError, OSError) as problem:
        raise _away(type(problem).__name__) from problem


def _away(why: str) -> Unavailable:
    return Unavailable(
        "s3_unavailable", f"S3 cannot be reached ({why}).", "The save is repeated by itself."
    )


def _conflict() -> Conflict:
    return Conflict(
        "changed_elsewhere",
        "Another instance saved in between.",
        "It is read again and the save repeated.",
    )
