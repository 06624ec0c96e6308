"""Who may read which documents, and how those are named that nobody may."""

from collections.abc import Iterable, Sequence

from services.collections.records import Collection, Document
from services.collections.text import document_ids_of
from services.mesh.errors import DocumentNotFound, InvalidArgument
from services.mesh.identity import Caller


def reads_all(who: Caller) -> bool:
    """Who writes documents manages those of others too, and deleted ones."""
    return "documents.write" in who.scopes


def may_read(document: Document, who: Caller) -> bool:
    return reads_all(who) or not document.principals or not who.principals.isdisjoint(document.principals)


def ids_in(parent_id: str, names: Sequence[str]) -> list[str]:
    """The ids of documents of one collection. Raises InvalidArgument for a name of another."""
    document_ids = []
    for position, name in enumerate(names):
        collection_id, document_id = document_ids_of(name, field=f"names[{position}]")
        if collection_id != parent_id:
            raise InvalidArgument.of(f"names[{position}]", f"{name!r} is not in collections/{parent_id}")
        document_ids.append(document_id)
    return document_ids


def check_found(collection: Collection, wanted: Sequence[str], found: Iterable[str]) -> None:
    """Raises DocumentNotFound naming those that are missing."""
    there = set(found)
    missing = [document_id for document_id in wanted if document_id not in there]
    if missing:
        raise not_found(collection, missing)


def not_found(collection: Collection, document_ids: Sequence[str]) -> DocumentNotFound:
    names = ", ".join(f"{collection.name}/documents/{document_id}" for document_id in document_ids[:5])
    more = f" and {len(document_ids) - 5} more" if len(document_ids) > 5 else ""
    return DocumentNotFound(f"no document {names}{more}", document=f"{collection.name}/documents/{document_ids[0]}")
