"""What a process that meets untrusted documents gives up, for good: memory, files, the network, other processes.

stdlib only, since the extractor's child imports it. Limits and privileges hold on any Linux; files need Landlock
(5.13, linux/landlock.h), system calls seccomp (linux/seccomp.h) on x86-64 or AArch64: where the kernel has one of them
not, the others hold.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

# linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITIES_V3: Final = 0x20080522

# The numbers of these calls are the same everywhere.
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_ADD_RULE: Final = 445
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_VERSION: Final = 1
_BENEATH_A_PATH: Final = 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
# How many rights over files, TCP ports and other processes each version of Landlock knows.
_RIGHTS: Final = ((1, 13, 0, 0), (2, 14, 0, 0), (3, 15, 0, 0), (4, 15, 2, 0), (5, 16, 2, 0), (6, 16, 2, 2))

# What code is loaded from, on top of Python's own folders.
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# By architecture, what is refused: new connections, programs, looks into other processes, and ways around this filter.
_REFUSED: Final = {
    "x86_64": {
        "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "accept4": 288,
        "execve": 59, "execveat": 322, "fork": 57, "vfork": 58,
        "kill": 62, "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424,
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_open": 434, "pidfd_getfd": 438,
        "kcmp": 312, "mount": 165, "umount2": 166, "chroot": 161, "pivot_root": 155, "unshare": 272, "setns": 308,
        "open_by_handle_at": 304, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425,
        "add_key": 248, "request_key": 249, "keyctl": 250, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240,
        "init_module": 175, "finit_module": 313, "kexec_load": 246,
    },
    "aarch64": {
        "socket": 198, "connect": 203, "accept": 202, "bind": 200, "listen": 201, "accept4": 242,
        "execve": 221, "execveat": 281,
        "kill": 129, "tkill": 130, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "pidfd_send_signal": 424,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_open": 434, "pidfd_getfd": 438,
        "kcmp": 272, "mount": 40, "umount2": 39, "chroot": 51, "pivot_root": 41, "unshare": 97, "setns": 268,
        "open_by_handle_at": 265, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425,
        "add_key": 217, "request_key": 218, "keyctl": 219, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180,
        "init_module": 105, "finit_module": 273, "kexec_load": 104,
    },
}  # fmt: skip
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_TGKILL: Final = {"x86_64": 234, "aarch64": 131}
_CLONE3: Final = 435
_CLONE_THREAD: Final = 0x10000
# On x86-64 the same calls have a second number, for programs with short pointers.
_X32: Final = 0x40000000

# linux/bpf_common.h
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16


class _SockFilter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _SockProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_SockFilter)))


_libc = ctypes.CDLL(None, use_errno=True)


def confine(memory_bytes: int, parent: int) -> None:
    """Bound this process, which has one thread yet, for good; it dies when its parent does.

    What it may read from now on are the folders that code is loaded from, so that imports still work.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(0)
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    _drop_capabilities()
    _close_files(_code_folders())
    _refuse_calls(platform.machine())


def _drop_capabilities() -> None:
    """Where it runs as root: root without privileges, which cannot raise its limits again."""
    _libc.capset((ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)())


def _code_folders() -> Iterator[Path]:
    """Where imports look, but for the folder this package is in: data may lie beside it."""
    home = Path(__file__).parents[2]
    yield from (home / "services", Path(sys.base_prefix), *map(Path, _LIBRARIES))
    yield from (path for path in map(Path, filter(None, sys.path)) if path != home)


def _close_files(readable: Iterable[Path]) -> None:
    """Landlock: nothing is opened any more but for reading below these; no TCP, no signals to others where it can."""
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    known = [rights for first, *rights in _RIGHTS if first <= version]
    if not known:
        return
    handled = struct.pack("QQQ", *((1 << count) - 1 for count in known[-1]))
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _libc.syscall(_LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(size), 0)
    if rules < 0:
        return
    for path in readable:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed = _EXECUTE | _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        _libc.syscall(_LANDLOCK_ADD_RULE, rules, _BENEATH_A_PATH, struct.pack("=Qi", allowed, opened), 0)
        os.close(opened)
    _libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0)
    os.close(rules)


def _refuse_calls(machine: str) -> None:
    """seccomp: the calls of `_REFUSED` fail with EPERM, in threads started later too."""
    if machine not in _AUDIT_ARCH:
        return
    program = [_SockFilter(*each) for each in _program(machine)]
    filters = (_SockFilter * len(program))(*program)
    whole = _SockProgram(len(program), filters)
    _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0)


def _program(machine: str) -> Iterator[tuple[int, int, int, int]]:
    """The filter: instructions of (code, jump if so, jump if not, operand)."""
    refuse, allow = (_RETURN, 0, 0, _ERROR | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    yield (_LOAD, 0, 0, _ARCHITECTURE)
    yield (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine])
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _NUMBER)
    yield (_JUMP_AT_LEAST, 0, 1, _X32)
    yield refuse
    for number in _REFUSED[machine].values():
        yield (_JUMP_EQUAL, 0, 1, number)
        yield refuse
    yield (_JUMP_EQUAL, 0, 1, _CLONE3)  # whose arguments no filter sees: the C library falls back to clone
    yield (_RETURN, 0, 0, _ERROR | errno.ENOSYS)
    yield (_JUMP_EQUAL, 0, 4, _CLONE[machine])  # a thread, but no process
    yield (_LOAD, 0, 0, _FIRST_ARGUMENT)
    yield (_JUMP_SET, 0, 1, _CLONE_THREAD)
    yield allow
    yield refuse
    yield (_JUMP_EQUAL, 0, 4, _TGKILL[machine])  # abort() signals itself
    yield (_LOAD, 0, 0, _FIRST_ARGUMENT)
    yield (_JUMP_EQUAL, 0, 1, os.getpid())
    yield allow
    yield refuse
    yield allow
