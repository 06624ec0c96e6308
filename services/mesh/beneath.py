"""Opens what lies beneath a directory, and nothing else, whatever others rename or link meanwhile."""

import ctypes
import errno
import os
import sys
from functools import cache
from typing import Final, Protocol

# Without following a link at the end, waiting for a pipe's other end, or becoming a terminal's owner.
_ALWAYS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
# On the way only searching is needed, which Linux can ask for.
_ON_THE_WAY: Final = _ALWAYS | os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)

# openat2(2), linux/openat2.h; the number is the same on every architecture of Linux 5.6 and later but Alpha.
_SYS_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Opener(Protocol):
    """Opens `path` beneath the directory that `top` is open on, "" being that directory itself.

    No link is followed, in no part and wherever it leads. Mounts are: who mounts is not who writes files.

    Raises:
        FileNotFoundError: a part is missing.
        OSError: a link, `..` or an absolute path (ELOOP, ENOTDIR, EXDEV), or what opening any file may raise.
    """

    def __call__(self, top: int, path: str, flags: int) -> int: ...


def open_by_openat2(top: int, path: str, flags: int) -> int:
    """The Opener that has the kernel see to it, in one call."""
    parts = _parts(path)
    how = _OpenHow(flags | _ALWAYS, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    name = os.fsencode("/".join(parts) or ".")
    while True:
        descriptor = _syscall()(_SYS_OPENAT2, top, name, ctypes.byref(how), ctypes.sizeof(how))
        if descriptor >= 0:
            return int(descriptor)
        reason = ctypes.get_errno()
        if reason != errno.EINTR:
            raise OSError(reason, os.strerror(reason), path)


def open_by_steps(top: int, path: str, flags: int) -> int:
    """The Opener for kernels without openat2: part by part, each from the descriptor of the one above."""
    *folders, last = _parts(path) or (".",)
    current = top
    try:
        for part in folders:
            below = os.open(part, _ON_THE_WAY, dir_fd=current)
            if current != top:
                os.close(current)
            current = below
        return os.open(last, flags | _ALWAYS, dir_fd=current)
    finally:
        if current != top:
            os.close(current)


@cache
def safest_opener() -> Opener:
    """openat2 where this kernel has it and no sandbox forbids it, found out once; else steps."""
    if not sys.platform.startswith("linux"):
        return open_by_steps
    top = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_by_openat2(top, "", os.O_RDONLY | os.O_DIRECTORY))
    except (OSError, AttributeError):  # ENOSYS, or EPERM from seccomp; a C library without syscall()
        return open_by_steps
    else:
        return open_by_openat2
    finally:
        os.close(top)


@cache
def _syscall() -> "ctypes._NamedFuncPointer":
    """syscall(2) of the C library; it runs without the GIL."""
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_OpenHow), ctypes.c_size_t)
    function.restype = ctypes.c_long
    return function


def _parts(path: str) -> list[str]:
    """The names a path is made of, none of which leads anywhere but down."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    if "\0" in path:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    return parts
