"""What travels between the service and an engine: messages as msgpack behind their length."""

from collections.abc import Iterator
from struct import Struct
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

_LENGTH: Final = Struct("<I")
_MAX_FRAME: Final = 256 * 2**20

FORGET: Final = "forget"
"""`[id, FORGET]`: nobody waits for the answer to a request any more."""


def packed(message: object) -> bytes:
    """One frame: its length in 4 bytes, then msgpack."""
    content: bytes = msgpack.packb(message)
    return _LENGTH.pack(len(content)) + content


class Unframer:
    """Cuts a stream of bytes into the messages of its frames.

    Attributes:
        consumed: Bytes of all frames that are complete.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.consumed = 0

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that `data` completes."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            end = at + _LENGTH.size + length
            if length > _MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            if len(self._buffer) < end:
                break
            with memoryview(self._buffer)[at + _LENGTH.size : end] as content:
                message = msgpack.unpackb(content, strict_map_key=False)
            at = end
            self.consumed += _LENGTH.size + length
            yield message
        del self._buffer[:at]
