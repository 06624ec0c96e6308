"""Names, etags and text of requests, checked where the contract's own rules do not."""

import re

from services.mesh.errors import InvalidArgument

_ID = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_COLLECTION = re.compile(rf"(?:collections/)?({_ID})", re.ASCII)
_DOCUMENT = re.compile(rf"collections/({_ID})/documents/({_ID})", re.ASCII)


def collection_id_of(name: str, *, field: str = "name") -> str:
    """The id in `collections/{collection}` or a bare id. Raises InvalidArgument naming `field`."""
    found = _COLLECTION.fullmatch(name)
    if found is None:
        raise InvalidArgument.of(field, "must be collections/{collection} or the bare id")
    return found[1]


def document_ids_of(name: str, *, field: str = "name") -> tuple[str, str]:
    """The ids in `collections/{collection}/documents/{document}`. Raises InvalidArgument naming `field`."""
    found = _DOCUMENT.fullmatch(name)
    if found is None:
        raise InvalidArgument.of(field, "must be collections/{collection}/documents/{document}")
    return found[1], found[2]


def checked(field: str, text: str) -> str:
    """`text`, once it is known to be text for every store. Raises InvalidArgument naming `field`."""
    if "\0" in text:
        raise InvalidArgument.of(field, "holds a NUL character")
    return text


def same_etag(given: str, current: str) -> bool:
    """Whether two etags are the same, with their quotes or without."""
    return given.strip('"') == current.strip('"')
