"""What reaching the web on a caller's behalf needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Page:
    """What an address answered with.

    Attributes:
        url: Where it was found in the end, redirects followed.
        media_type: As its server says, without parameters; "" where it does not.
        filename: Its last path segment or the name its server gives it; "" where there is none.
        charset: As its server says, where it is one that Python knows; else "".
    """

    url: str
    media_type: str
    filename: str
    content: bytes = field(repr=False)
    charset: str = ""


class Web(Protocol):
    """The public web. No other address is ever connected to, whatever a name resolves to or a redirect says.

    Raises:
        AddressNotAllowed: the URL is not http or https, names an address that is not public, or leads to one.
        Unreachable: no answer in time, or none that can be understood; `passing` where it may answer later.
    """

    async def fetch(self, url: str, *, max_bytes: int) -> Page:
        """What is at a URL.

        Raises:
            DocumentTooLarge: more than `max_bytes`.
            Unreachable: it answered with an error; names the status.
        """
        ...

    async def check(self, url: str) -> None:
        """Raises AddressNotAllowed where a URL may not be asked. It is asked nothing now, and need not be there yet."""
        ...

    async def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> int:
        """Sends content; the status of the answer, whose body is dropped. Redirects are not followed."""
        ...
