"""What a page process may do: read and write where it is told, compute, answer. Nothing else.

It gives up, each where the kernel allows it: the network (namespaces of its own, and a filter of system
calls), files but those named (Landlock), other processes, and every privilege. Knows nothing of PDFs.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parents[2]
_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2
# What the interpreter, libraries, fonts and language packs are read from.
_SYSTEM = (
    "/usr", "/lib", "/lib64", "/proc", "/sys", "/dev/urandom", "/etc/fonts", "/etc/ld.so.cache",
    "/etc/localtime", sys.prefix, sys.base_prefix,
    *(str(_ROOT / name) for name in ("errors.py", "settings.py", "pipeline", "storage")),
)  # fmt: skip
# Landlock's rights: of files (run, write, read, cut), and of folders. None makes links or devices.
_RUN, _WRITE, _READ, _LIST, _REMOVE, _MAKE, _CUT = 1, 2, 4, 8, 3 << 4, 1 << 7 | 1 << 8, 1 << 14
_RIGHTS = (13, 14, 15, 15, 16)  # how many rights versions 1 to 5 know
# Their numbers on x86_64 and on aarch64: sockets of any family, other processes' memory, other
# namespaces, mounts, and interfaces of the kernel that page processes have no use for.
_FORBIDDEN = {
    "socket": (41, 198), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "keyctl": (250, 219),
}  # fmt: skip
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000  # system calls of another kind on x86_64


class Confined(NamedTuple):
    """What keeps a process from the network (`namespace`, `seccomp` or `open`), and from files that are
    not its own (`landlock` or `open`)."""

    network: str
    files: str


def enter(folders: tuple[Sequence[str], Sequence[str]] | None) -> Confined:
    """Confine this process, which has one thread, for good. `folders`: those to read, and those to
    write as well; None: any file."""
    libc = ctypes.CDLL(None, use_errno=True)
    apart = libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC) == 0
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.syscall(_call(126, 91), struct.pack("Ii", 0x20080522, 0), bytes(24))  # capset: none
    files = folders is not None and _keep_to(libc, *folders)
    filtered = _filter(libc)
    return Confined(
        network="namespace" if apart else "seccomp" if filtered else "open",
        files="landlock" if files else "open",
    )


def _call(x86_64: int, aarch64: int) -> int:
    return aarch64 if platform.machine() == "aarch64" else x86_64


def _filter(libc: ctypes.CDLL) -> bool:
    """EPERM for each forbidden system call, and for those of another architecture."""
    if platform.machine() not in _MACHINES:
        return False
    column, architecture = _MACHINES[platform.machine()]
    numbers = [each[column] for each in _FORBIDDEN.values()]
    refuse = len(numbers) + 1  # where it is told, counted from the first comparison
    program = [
        (0x20, 0, 0, 4),  # load the architecture
        (0x15, 0, refuse + 2, architecture),
        (0x20, 0, 0, 0),  # load the number
        (0x35, refuse, 0, _X32),  # at least
        *((0x15, refuse - 1 - i, 0, number) for i, number in enumerate(numbers)),
        (0x06, 0, 0, 0x7FFF0000),  # allow
        (0x06, 0, 0, 0x00050001),  # EPERM
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    told = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    return bool(libc.prctl(_SECCOMP, _FILTER, ctypes.c_char_p(told), 0, 0) == 0)


def _keep_to(libc: ctypes.CDLL, read: Sequence[str], write: Sequence[str]) -> bool:
    """By Landlock: what lies in those folders and the system's own."""
    create, add, restrict = 444, 445, 446  # on each machine
    version = libc.syscall(create, None, 0, 1)
    if version < 1:
        return False
    handled = (1 << _RIGHTS[min(version, 5) - 1]) - 1
    # From version 6 also: no signals to others, no abstract sockets of theirs.
    asked = struct.pack("QQQ", handled, 0, 3) if version >= 6 else struct.pack("Q", handled)
    rules = libc.syscall(create, asked, len(asked), 0)
    reading = _RUN | _READ | _LIST
    writing = _WRITE | _READ | _LIST | _REMOVE | _MAKE | _CUT
    allowed = [*((p, reading) for p in (*_SYSTEM, *read)), *((p, writing) for p in write)]
    for path, rights in (*allowed, ("/dev/null", _READ | _WRITE)):
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights &= handled & (-1 if Path(path).is_dir() else _RUN | _WRITE | _READ | _CUT)
        libc.syscall(add, rules, 1, struct.pack("=Qi", rights, beneath), 0)
        os.close(beneath)
    kept = libc.syscall(restrict, rules, 0) == 0
    os.close(rules)
    return bool(kept)
