"""Page tokens: where the next page of a ranking begins, for the search that it belongs to."""

import base64
import json
from typing import Final

from services.mesh.errors import InvalidPageToken, Violation

_TOKEN_VERSION: Final = 1


def token(offset: int, binding: str) -> str:
    """What stands for a page: its first hit, and which search it is of."""
    content = json.dumps([_TOKEN_VERSION, binding, offset], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


def offset(token: str, binding: str, most: int) -> int:
    """The first hit of the page that a token stands for, below `most`.

    Raises:
        InvalidPageToken: It is no token, or of another search.
    """
    try:
        content = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        version, bound, found = content
        if version != _TOKEN_VERSION or type(found) is not int or not 0 < found < most:
            raise ValueError("not a token of this version")
    except (ValueError, TypeError, RecursionError):
        raise _refused("not a token that this method returned") from None
    if bound != binding:
        raise _refused("belongs to another search; start again without it")
    return int(found)


def _refused(description: str) -> InvalidPageToken:
    return InvalidPageToken(f"page_token: {description}", violations=[Violation("page_token", description)])
