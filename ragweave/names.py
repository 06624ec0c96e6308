"""Resource names of the contract: `collections/{c}`, `collections/{c}/documents/{d}`, and ids made from sources."""

import hashlib
import re
import unicodedata

# Ids are letters, digits, `-`, `_`, `.`, and begin with none of the last two.
ID_MAX = 128
_NOT_ID = re.compile(r"[^A-Za-z0-9_.-]+")
_DIGEST_LENGTH = 10


def collection_name(collection: str) -> str:
    """`collections/{c}` from itself or from the bare id."""
    return collection if collection.startswith("collections/") else f"collections/{collection}"


def last_id(name: str) -> str:
    """The last id of a resource name; a bare id is its own."""
    return name.rpartition("/")[2]


def document_name(collection: str, document: str) -> str:
    """`collections/{c}/documents/{d}` from a collection's name or bare id and a document's bare id."""
    return f"{collection_name(collection)}/documents/{document}"


def document_id_from(source: str) -> str:
    """The id of the document made from a relative path, file name or URI: readable, and always the same.

    A source that is a valid id is kept. Any other is spelt with dots and gets a part of its SHA-256, so that no two
    sources share an id.
    """
    spelt = unicodedata.normalize("NFKD", source.replace("/", ".")).encode("ascii", "ignore").decode()
    slug = _NOT_ID.sub("-", spelt).strip("-.")
    if slug == source and 0 < len(slug) <= ID_MAX:
        return slug
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    return f"{slug[: ID_MAX - _DIGEST_LENGTH - 1] or 'document'}-{digest}"
