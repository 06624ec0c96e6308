"""Consistency tokens: which write of which index a search has to see. Made by who wrote, read by who searches."""

import base64
import json
from typing import Final

from services.mesh.errors import InvalidArgument

_VERSION: Final = 1


def consistency_token(collection_uid: str, index_revision: int) -> str:
    """Stands for all writes of the collection's index up to that revision; opaque to callers, safe in a URL."""
    packed = json.dumps([_VERSION, collection_uid, index_revision], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def written_at(token: str) -> tuple[str, int]:
    """The collection's uid and the index revision that a token stands for.

    Raises:
        InvalidArgument: the token is none of ours.
    """
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        version, uid, revision = json.loads(packed)
        if version != _VERSION or not isinstance(uid, str) or type(revision) is not int or revision < 0:
            raise ValueError("not a token of this version")
    except (ValueError, TypeError, RecursionError):
        raise InvalidArgument.of("consistency_token", "not a token that a job returned") from None
    return uid, revision
