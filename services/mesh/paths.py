"""Paths as requests and answers write them: text in which everything a file system can name has one spelling."""

import os
import re
from typing import Final

from services.mesh.errors import PathNotAllowed

# In UTF-8, so that the path fits the kernel's 4096 bytes (PATH_MAX) and, with a root's name, our messages.
MAX_BYTES: Final = 3900

# Control characters (C0, DEL, C1), and what ends a line or turns the direction of writing.
_CONTROL: Final = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_ILLEGIBLE: Final = re.compile(f"[{_CONTROL}]")
# With the escape character itself, and bytes that are not UTF-8, which Python holds as lone surrogates (PEP 383).
_UNSHOWABLE: Final = re.compile(rf"[\\{_CONTROL}\udc80-\udcff]")
_ESCAPE: Final = re.compile(r"\\(?:\\|x([0-9a-f]{2}))")


def shown(path: str) -> str:
    r"""A path of the file system as text: `\` as `\\`, bytes that cannot be shown as `\xNN`. `names_in` undoes it."""
    return _UNSHOWABLE.sub(_escaped, path)


def names_in(path: str) -> tuple[str, ...]:
    r"""The names on a path as `shown` spells it, `/` between them; empty ones and `.` count for nothing.

    Raises:
        PathNotAllowed: it holds `..`, a character that `shown` escapes, an escape it would not have made, or is too
            long. The message holds the path, escaped.
    """
    try:
        long = len(path.encode()) > MAX_BYTES
    except UnicodeEncodeError:
        raise PathNotAllowed(f"{legible(path)}: it is no Unicode text") from None
    if long:
        raise PathNotAllowed(f"{legible(path)}: a path has at most {MAX_BYTES} bytes")
    raw = _ESCAPE.sub(_unescaped, path)
    try:
        # Bytes escaped one by one may make up characters together.
        raw = os.fsdecode(os.fsencode(raw))
    except UnicodeEncodeError:
        raise PathNotAllowed(f"{legible(path)}: no file can have this name") from None
    if shown(raw) != path or "\0" in raw:
        raise PathNotAllowed(
            rf"{legible(path)}: a backslash is written \\, and \xNN stands for a byte that cannot be shown; other "
            "control characters are not allowed"
        )
    names = tuple(name for name in raw.split("/") if name not in ("", "."))
    if ".." in names:
        raise PathNotAllowed(f"{legible(path)}: '..' is not allowed in a path")
    return names


def legible(path: str, most: int = 200) -> str:
    """A path somebody sent, fit for a message: escaped, and cut where it is long."""
    cut = path if len(path) <= most else f"{path[: most // 2]}...{path[-most // 2 :]}"
    return _ILLEGIBLE.sub(_escaped, cut.encode("utf-8", "backslashreplace").decode())


def _escaped(found: re.Match[str]) -> str:
    return "\\\\" if found[0] == "\\" else "".join(f"\\x{byte:02x}" for byte in os.fsencode(found[0]))


def _unescaped(found: re.Match[str]) -> str:
    return os.fsdecode(bytes.fromhex(found[1])) if found[1] else "\\"
