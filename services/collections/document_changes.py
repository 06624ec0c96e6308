"""What requests and imports make of a document; nothing here reads or writes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from services.collections.ports import Content, Upload
from services.collections.records import STATES, Collection, Document, new_etag, new_id, now
from services.collections.text import checked, same_etag
from services.mesh.errors import DocumentNotFound, EtagMismatch, FailedPrecondition, InvalidArgument, LeaseLost
from services.mesh.masks import Mask

DOCUMENT_MASK: Final = Mask(
    "document",
    mutable={"title": "", "source_uri": "", "metadata": {}, "acl": ()},
    ignored=(
        *("name", "uid", "content_hash", "size_bytes", "chunk_count", "token_count", "state", "error", "revision"),
        *("create_time", "update_time", "delete_time", "purge_time", "etag"),
    ),
)

_MAX_METADATA_BYTES: Final = 16 * 1024
_MAX_TYPE_LENGTH: Final = 255


@dataclass(frozen=True, slots=True)
class NewDocument:
    """What a caller says of a document to be; its id is made up where empty."""

    document_id: str = ""
    title: str = ""
    source_uri: str = ""
    mime_type: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    principals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewFile:
    """What a caller says of a file it sends.

    Attributes:
        document_id: Made from the file name where empty, else made up.
        content_type: As the transport has it.
        metadata_json: A JSON object, or empty.
        sha256: What the file's SHA-256 must be, lower-case hex; or empty.
        upload: Under which what has come is kept when the file is cut off; or empty.
        offset: Where in the file what is sent now begins.
    """

    parent: str
    document_id: str = ""
    filename: str = ""
    title: str = ""
    content_type: str = ""
    metadata_json: str = ""
    sha256: str = ""
    upload: str = ""
    offset: int = 0


def document_of(collection: Collection, new: NewDocument, content: Content) -> Document:
    """A PENDING document. Raises InvalidArgument where a field breaks what the contract's own bounds cannot say."""
    _check_fields({"title": new.title, "source_uri": new.source_uri, "metadata": new.metadata, "acl": new.principals})
    checked("document.mime_type", new.mime_type)
    made_at = now()
    return Document(
        collection_uid=collection.uid,
        collection_id=collection.collection_id,
        document_id=new.document_id or new_id("d"),
        uid=uuid4().hex,
        state="PENDING",
        create_time=made_at,
        update_time=made_at,
        etag=new_etag(),
        title=new.title,
        source_uri=new.source_uri,
        mime_type=new.mime_type,
        metadata=new.metadata,
        principals=new.principals,
        content_hash=content.content_hash if isinstance(content, Upload) else "",
        size_bytes=_size(content),
    )


def _size(content: Content) -> int:
    match content:
        case Upload():
            return content.size_bytes
        case str():
            return len(content.encode())
        case bytes():
            return len(content)


def with_fields(current: Document, given: Mapping[str, Any], paths: Sequence[str], etag: str) -> Document:
    """The document with its new fields; the same object where nothing changes.

    Raises:
        EtagMismatch: `etag` is given and is not the current one.
        InvalidArgument: A path or a value is wrong.
        FailedPrecondition: Its first import has not ended, and would not know of the change.
    """
    _check_etag(current, etag)
    held = {
        "title": current.title,
        "source_uri": current.source_uri,
        "metadata": current.metadata,
        "acl": current.principals,
    }
    changes = DOCUMENT_MASK.changes(held, given, ["acl" if path == "acl.principals" else path for path in paths])
    _check_fields(changes)
    if "acl" in changes:
        changes["principals"] = changes.pop("acl")
    changed = replace(current, **changes)
    if changed == current:
        return current
    if current.state == "PENDING":
        raise FailedPrecondition(f"{current.name} is being imported; change it when its job has ended")
    return replace(changed, update_time=now(), etag=new_etag(), patched=True)


def unsettled(document: Document) -> Document:
    """The document with one more push to the index begun."""
    return replace(document, unsettled=document.unsettled + 1, unsettled_time=now())


def as_deleted(found: Sequence[Document], etags: Mapping[str, str], retention: timedelta) -> dict[str, Document]:
    """The documents as their deletion leaves them, by id; for good at once where nothing is retained.

    Raises:
        EtagMismatch: The etag of an id is another.
    """
    deleted_at = now()
    for document in found:
        _check_etag(document, etags.get(document.document_id, ""))
    return {
        each.document_id: replace(
            unsettled(each),
            delete_time=deleted_at,
            purge_time=deleted_at + retention,
            purging=not retention,
            generation=each.generation + 1,
            update_time=deleted_at,
            etag=new_etag(),
        )
        for each in found
    }


def as_undeleted(deleted: Document, etag: str, *, whole: bool) -> Document:
    """The document as it comes back: as it was, or to be imported anew where the index lost its chunks.

    Raises:
        EtagMismatch: `etag` is given and is not the current one.
    """
    _check_etag(deleted, etag)
    back = replace(
        unsettled(deleted),
        delete_time=None,
        purge_time=None,
        generation=deleted.generation + 1,
        update_time=now(),
        etag=new_etag(),
    )
    return back if whole else replace(back, state="PENDING", chunk_count=0, token_count=0, revision_key="")


def purging(found: Iterable[Document], uids: Mapping[str, str]) -> dict[str, Document]:
    """Those of the documents that are deleted and have these uids, going for good, by id."""
    gone_at = now()
    return {
        each.document_id: replace(each, purging=True, purge_time=min(each.purge_time or gone_at, gone_at))
        for each in found
        if each.delete_time and each.uid == uids[each.document_id]
    }


def can_come_back(document: Document) -> bool:
    return not document.purging and document.purge_time is not None and document.purge_time > now()


def in_place_of(deleted: Document, given: Document) -> Document:
    """The document that an import makes under the id of a deleted one: a new one, which the index shows from now on.

    Raises:
        LeaseLost: Somebody else has recorded it whose turn was later.
    """
    _check_turn(given, deleted)
    return unsettled(replace(after_import(given, None), generation=deleted.generation + 1))


def after_import(given: Document, current: Document | None, *, again: bool = False) -> Document:
    """The document after an import; the same object where nothing changes.

    Args:
        again: It was made again from its stored original, and is to be the one of the given uid: fields of it stay.

    Raises:
        DocumentNotFound: The document that was made again is gone.
        InvalidArgument: The state is none of an import's, or a field holds what no store takes.
        LeaseLost: Somebody else has recorded it whose turn was later.
    """
    if given.state not in STATES:
        raise InvalidArgument.of("document.state", f"must be one of {', '.join(STATES)}")
    for text in (given.title, given.source_uri, given.mime_type, *given.principals, *_texts(given.metadata)):
        checked("document", text)
    made = given
    if again:
        if current is None or current.uid != given.uid:
            raise DocumentNotFound(f"{given.name} was deleted", document=given.name)
        given = _with_fields_of(current, given)
    if current is None:
        active = given.state == "ACTIVE"
        recorded_at = now()
        return replace(
            given,
            uid=uuid4().hex,
            error=given.error if given.state == "FAILED" else b"",
            revision=max(given.revision, 1) if active else 0,
            create_time=recorded_at,
            update_time=recorded_at,
            etag=new_etag(),
        )
    _check_turn(given, current)
    match given.state:
        case "ACTIVE":
            changed = _imported(given, current)
            if again and made.unlike(changed):  # chunks were written with the fields of before
                changed = unsettled(changed)
        case "FAILED" if current.state == "ACTIVE":
            changed = replace(current, error=given.error, fence=given.fence or current.fence)
        case "FAILED":
            changed = replace(
                current,
                fence=given.fence or current.fence,
                state="FAILED",
                error=given.error,
                mime_type=given.mime_type or current.mime_type,
                content_hash=given.content_hash or current.content_hash,
                size_bytes=given.size_bytes or current.size_bytes,
                source_key=given.source_key or current.source_key,
            )
        case _:
            changed = current
    if replace(changed, fence=current.fence) == current:
        return current if changed == current else changed
    return replace(changed, update_time=now(), etag=new_etag())


def _with_fields_of(current: Document, made: Document) -> Document:
    """The document made again, with what users may change of it, and where it came from, as recorded."""
    return replace(
        made,
        title=current.title,
        source_uri=current.source_uri,
        metadata=current.metadata,
        principals=current.principals,
        fields_hash=current.fields_hash,
        source_key=current.source_key,
        origin=current.origin,
        patched=current.patched,
    )


def _check_turn(given: Document, current: Document) -> None:
    if given.fence and given.fence < current.fence:
        raise LeaseLost(f"{current.name} has been recorded by somebody whose turn was later")


def _imported(given: Document, current: Document) -> Document:
    same = (given.content_hash, given.revision_key) == (current.content_hash, current.revision_key)
    changed = replace(
        given,
        uid=current.uid,
        error=b"",
        revision=current.revision if same and current.revision else max(given.revision, current.revision + 1),
        create_time=current.create_time,
        update_time=current.update_time,
        etag=current.etag,
        unsettled=current.unsettled,
        unsettled_time=current.unsettled_time,
        fence=given.fence or current.fence,
        generation=current.generation,
    )
    # Who changed the fields since may have done so while the import wrote its own: the index then holds either.
    return unsettled(changed) if current.patched and changed.unlike(current) else changed


def _check_etag(document: Document, etag: str) -> None:
    if etag and not same_etag(etag, document.etag):
        raise EtagMismatch(f"{document.name} has changed since this etag was read; read it again")


def declared_type(content_type: str) -> str:
    """The media type a client declared; nothing where it only filled in its own default. Raises InvalidArgument."""
    if len(content_type) > _MAX_TYPE_LENGTH:
        raise InvalidArgument.of("file.content_type", f"is longer than {_MAX_TYPE_LENGTH} characters")
    essence = content_type.partition(";")[0].strip().lower()
    return "" if essence in ("application/octet-stream", "application/x-www-form-urlencoded") else content_type


def parsed_metadata(metadata_json: str) -> Mapping[str, Any]:
    """Metadata sent as a JSON object; its numbers are doubles, as everywhere. Raises InvalidArgument."""
    try:
        metadata = json.loads(metadata_json or "{}", parse_int=float)
    except (ValueError, RecursionError):
        raise InvalidArgument.of("metadata_json", "is not JSON") from None
    if not isinstance(metadata, dict):
        raise InvalidArgument.of("metadata_json", "must be a JSON object")
    return metadata


def _check_fields(fields: Mapping[str, Any]) -> None:
    """Checks what the contract's own bounds cannot say. Raises InvalidArgument."""
    for name in ("title", "source_uri"):
        checked(f"document.{name}", fields.get(name, ""))
    metadata = fields.get("metadata", {})
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
    except (ValueError, RecursionError):
        raise InvalidArgument.of("document.metadata", "holds a number or text that JSON cannot hold") from None
    if size > _MAX_METADATA_BYTES:
        raise InvalidArgument.of("document.metadata", f"has {size} bytes as JSON; at most {_MAX_METADATA_BYTES}")
    for text in _texts(metadata):
        checked("document.metadata", text)
    for principal in fields.get("acl", ()):
        kind, _, name = checked("document.acl.principals", principal).partition(":")
        if kind not in ("user", "group") or not name:
            raise InvalidArgument.of(
                "document.acl.principals", f"{principal[:80]!r} is not user:{{subject}} or group:{{group}}"
            )


def _texts(value: Any) -> Iterable[str]:
    match value:
        case str():
            yield value
        case Mapping():
            yield from value
            for each in value.values():
                yield from _texts(each)
        case list() | tuple():
            for each in value:
                yield from _texts(each)
