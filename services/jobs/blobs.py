"""What identifies stored content, and what may be part of its key."""

import hashlib
import re
from dataclasses import dataclass

from services.mesh.errors import DocumentTooLarge, InvalidArgument, UploadNotFound

PIECE_BYTES = 1 << 20
# Into how many parts all content falls, by the first byte of its hash.
PARTS = 256

_HASH = re.compile(r"[0-9a-f]{64}")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Blob:
    """Stored content: its SHA-256 in lower-case hex, and its size."""

    content_hash: str
    size_bytes: int


def check_size(size: int, max_bytes: int | None) -> None:
    """Raises DocumentTooLarge where content of that many bytes, so far, is over the limit."""
    if max_bytes is not None and size > max_bytes:
        raise DocumentTooLarge(f"the content is over the limit of {max_bytes} bytes")


def check_content(content_hash: str, sha256: str) -> None:
    """Raises InvalidArgument where content of that hash was to have another."""
    if sha256 and content_hash != sha256:
        raise InvalidArgument.of("sha256", f"is {sha256}, but the file that arrived has {content_hash}")


def is_hash(name: str) -> bool:
    """Whether content can have this name: a SHA-256 in lower-case hex."""
    return _HASH.fullmatch(name) is not None


def check_hash(content_hash: str) -> str:
    """The hash itself, if it is one: nothing else may ever become part of a path.

    Raises:
        UploadNotFound: it is no SHA-256, so there can be no content of that name.
    """
    if not is_hash(content_hash):
        raise UploadNotFound(f"no stored content is named {content_hash[:80]!r}: it is not a SHA-256 in lower-case hex")
    return content_hash


def key_part(name: str) -> str:
    """One safe, distinct file-name part for any tenant or version: itself where it is plain, else a digest."""
    if _PLAIN.fullmatch(name):
        return name
    return "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
