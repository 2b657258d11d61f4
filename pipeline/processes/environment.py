"""What processes of ours are started with, and how they forget it.

A process's first environment can be read in /proc for as long as it lives, and its children have it. So a
program of ours is given in its environment what is no secret, and the rest on standard input; who was given
secrets in its environment all the same takes them out of it. Page processes get next to nothing.
"""

import ctypes
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PAGES = re.compile(r"PATH|HOME|LANG|LC_\w+|TMPDIR|LD_LIBRARY_PATH")
_PLAIN = re.compile(
    r"PATH|HOME|USER|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV|LD_\w+|PYTHON\w+|XDG_\w+|MALLOC_\w+"
    r"|HF_(HOME|ENDPOINT|HUB_\w+|XET_\w+|DEBUG)|(TRANSFORMERS|SENTENCE_TRANSFORMERS|TOKENIZERS)_\w+"
    r"|(TORCH|CUDA|NVIDIA|OMP|MKL|OPENBLAS|RUST)\w*|SSL_CERT_\w+|(REQUESTS|CURL)_CA_BUNDLE|DO_NOT_TRACK"
)
# A worker needs these besides: its settings, and what its libraries read for themselves.
_WORKER = re.compile(
    r"QUIRE_(?!PASSWORD|METRICS_TOKEN)\w+|SPACE_(ID|HOST)|(HF_TOKEN|AWS_\w+|PG\w+|\w+_PROXY)", re.I
)
_DUMPABLE = 4


def for_pages(environ: Mapping[str, str]) -> dict[str, str]:
    """Of a page process: one thread for tesseract, no library reports to its makers, and the stock
    reader takes its models from the local cache."""
    return {
        **{name: value for name, value in environ.items() if _PAGES.fullmatch(name)},
        "OMP_THREAD_LIMIT": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_CACHE": str(models(environ)),
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN_PATH": os.devnull,
    }


def models(environ: Mapping[str, str]) -> Path:
    """Where the Hub's client keeps the models that it brought."""
    home = environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def for_worker(environ: Mapping[str, str]) -> bytes:
    """What a worker is told on standard input."""
    return json.dumps({n: v for n, v in environ.items() if _WORKER.fullmatch(n)}).encode()


def start(
    command: Sequence[str], told: bytes, *descriptors: int, **usual: str
) -> "subprocess.Popen[bytes]":
    """A program of ours that is told its settings on standard input. It inherits these descriptors;
    `usual` is no secret, and what the environment says goes first."""
    plain = {name: value for name, value in os.environ.items() if _PLAIN.fullmatch(name)}
    program = subprocess.Popen(
        [*command, "--stdin"],
        env={**usual, **plain},
        stdin=subprocess.PIPE,
        pass_fds=descriptors,
    )
    assert program.stdin
    with suppress(BrokenPipeError), program.stdin as pipe:  # who waits for it sees that it ended
        pipe.write(told)
    return program


def take(*, stdin: bool = False) -> dict[str, str]:
    """What this process is told, on standard input or by its environment, which has no settings of
    ours afterwards: only what libraries read for themselves."""
    hide()
    given = {**os.environ, **(json.load(sys.stdin) if stdin else {})}
    os.environ.clear()
    os.environ.update({name: v for name, v in given.items() if not name.startswith("QUIRE_")})
    return given


def hide() -> None:
    """From now on this process's environment and memory are its own, and so are the files it makes."""
    os.umask(0o077)
    ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)
    kept = dict(os.environ)
    os.environ.clear()
    fields = (
        Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
    )
    begin, end = map(int, fields.split()[47:49])
    ctypes.memset(begin, 0, end - begin)  # what /proc/self/environ shows
    os.environ.update(kept)


def own(folder: Path) -> None:
    """Make a data directory, or one of an earlier version, its owner's alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine = os.geteuid()
    if folder.stat().st_uid == mine and folder.stat().st_mode & 0o077:
        for path in (*folder.rglob("*"), folder):  # itself last: then all of it is done
            with suppress(FileNotFoundError):
                found = path.lstat()
                if found.st_uid == mine and not stat.S_ISLNK(found.st_mode):
                    path.chmod(found.st_mode & 0o7700)
