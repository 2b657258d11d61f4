"""Debian's PostgreSQL for the tests that need one: an own cluster on loopback, never as root."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert homes, "PostgreSQL is not installed; bin/setup does it"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = os.getuid() == 0
    wrapper = ["runuser", "-u", "postgres", "--"] if root else []
    folder = Path(tempfile.mkdtemp(prefix="quire-postgres-"))

    def call(name: str, *arguments: str) -> None:
        subprocess.run(
            [*wrapper, str(homes[-1] / name), *arguments],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )

    try:
        if root:
            shutil.chown(folder, "postgres")
        data = str(folder / "data")
        call("initdb", "-D", data, "-U", "quire", "--auth=trust", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
        call("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://quire@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
