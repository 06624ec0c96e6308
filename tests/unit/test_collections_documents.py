"""Documents are recorded, imported, changed and deleted, and the index is told before anyone is answered."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from services.collections.adapters.memory import MemoryStore
from services.collections.collection_deletions import CollectionDeletions
from services.collections.document_changes import NewDocument, NewFile
from services.collections.document_deletions import DocumentDeletions
from services.collections.documents import Documents
from services.collections.ports import Content, Upload
from services.collections.records import Chunk, Collection, Document
from services.collections.registry import Registry
from services.mesh.errors import (
    AlreadyExists,
    CollectionDisabled,
    CollectionNotFound,
    DependencyUnavailable,
    DocumentNotFound,
    DocumentTooLarge,
    EmptyDocument,
    EtagMismatch,
    FailedPrecondition,
    InvalidArgument,
    InvalidFilter,
    LeaseLost,
    RequestIdReused,
)
from services.mesh.identity import Caller
from tests.collections_records import (
    AT_ONCE,
    LONG_AGO,
    FakeIndex,
    FakeJobs,
    FakeModels,
    FakePlaces,
    collection_deletions,
    document,
    document_deletions,
    quotas,
    receipt,
    upkeep_of,
)
from tests.sweeping import sweep

ANN = Caller(tenant="acme", subject="ann", scopes=frozenset({"collections.read", "documents.write"}))
BOB = Caller("acme", "bob", frozenset({"collections.read"}), frozenset({"user:bob", "group:crew"}))
EVE = Caller(tenant="globex", subject="eve", scopes=ANN.scopes)
A = "collections/docs/documents/a"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def index() -> FakeIndex:
    return FakeIndex()


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs()


@pytest.fixture
def documents(store: MemoryStore, index: FakeIndex, jobs: FakeJobs) -> Documents:
    return Documents(store, index, jobs, quotas(store), max_upload_bytes=100)


@pytest.fixture
def registry(store: MemoryStore, index: FakeIndex) -> Registry:
    return Registry(store, index, FakeModels(), FakePlaces(), quotas(store))


@pytest.fixture
def deletions(store: MemoryStore, index: FakeIndex, jobs: FakeJobs) -> DocumentDeletions:
    return document_deletions(store, index, jobs, retention=AT_ONCE)


@pytest.fixture
def whole(store: MemoryStore, index: FakeIndex, registry: Registry) -> CollectionDeletions:
    return collection_deletions(store, index, registry, retention=AT_ONCE)


@pytest.fixture
async def docs(registry: Registry) -> Collection:
    """The collection of ann's that most tests write to."""
    return await registry.create("docs", {}, ANN)


async def imported(documents: Documents, docs: Collection, document_id: str = "a", **fields: Any) -> Document:
    """An ACTIVE document, as an import leaves it."""
    given = {"state": "ACTIVE", "chunk_count": 2, "content_hash": "h1", "revision_key": "k1", **fields}
    return await documents.record(document(document_id, of=docs, **given), ANN)


async def test_a_new_document_is_pending_and_its_import_queued(
    documents: Documents, docs: Collection, jobs: FakeJobs
) -> None:
    new = NewDocument("a", title="T", metadata={"k": 1.0}, principals=("user:ann",))
    made, job = await documents.create("docs", new, "text", ANN)
    assert (made.name, made.state, made.size_bytes, made.content_hash) == (A, "PENDING", 4, "")
    assert job == f"job of {made.uid}".encode()
    assert jobs.imports == {made.uid: (made, "text")}
    assert await documents.get(A, ANN) == made


async def test_an_id_is_made_up_where_none_is_given(documents: Documents, docs: Collection) -> None:
    made, _ = await documents.create("collections/docs", NewDocument(), b"bytes", ANN)
    assert made.document_id.startswith("d-")


async def test_a_taken_id_is_refused(documents: Documents, docs: Collection, jobs: FakeJobs) -> None:
    made, _ = await documents.create("docs", NewDocument("a"), "text", ANN)
    for validate_only in (False, True):
        with pytest.raises(AlreadyExists, match=A):
            await documents.create("docs", NewDocument("a"), "other", ANN, validate_only=validate_only)
    assert list(jobs.imports) == [made.uid]


async def test_checking_only_records_nothing(documents: Documents, docs: Collection, jobs: FakeJobs) -> None:
    made, job = await documents.create("docs", NewDocument("a"), "text", ANN, validate_only=True)
    assert job
    assert jobs.imports == {}
    with pytest.raises(DocumentNotFound):
        await documents.get(made.name, ANN)


async def test_where_the_import_cannot_be_queued_nothing_is_recorded(
    documents: Documents, docs: Collection, store: MemoryStore, jobs: FakeJobs
) -> None:
    jobs.down = True
    with pytest.raises(DependencyUnavailable, match="jobs"):
        await documents.create("docs", NewDocument("a"), "text", ANN, receipt=receipt())
    assert (await documents.list("docs", ANN)).total_size == 0
    jobs.down = False
    made, _ = await documents.create("docs", NewDocument("a"), "text", ANN, receipt=receipt())
    assert await documents.get(A, ANN) == made
    with pytest.raises(AlreadyExists):
        await documents.create("docs", NewDocument("a"), "text", ANN)
    assert await documents.get(A, ANN) == made, "who comes second takes nothing back"


async def test_a_repeated_creation_is_answered_as_the_first(
    documents: Documents, docs: Collection, jobs: FakeJobs
) -> None:
    first = await documents.create("docs", NewDocument(), "text", ANN, receipt=receipt())
    assert await documents.create("docs", NewDocument(), "text", ANN, receipt=receipt()) == first
    assert len(jobs.imports) == 1
    with pytest.raises(RequestIdReused):
        await documents.create("docs", NewDocument(), "other", ANN, receipt=receipt(digest="other"))


async def test_a_disabled_or_missing_collection_takes_no_documents(
    documents: Documents, docs: Collection, registry: Registry
) -> None:
    await registry.update("docs", {"disabled": True}, [], ANN)
    with pytest.raises(CollectionDisabled):
        await documents.create("docs", NewDocument(), "text", ANN)
    with pytest.raises(CollectionNotFound):
        await documents.create("docs", NewDocument(), "text", EVE)


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewDocument(title="\0"), "document.title"),
        (NewDocument(source_uri="\0"), "document.source_uri"),
        (NewDocument(mime_type="\0"), "document.mime_type"),
        (NewDocument(metadata={"k": ["\0"]}), "document.metadata"),
        (NewDocument(metadata={"k": float("nan")}), "document.metadata"),
        (NewDocument(metadata={"k": "x" * 16_384}), "document.metadata"),
        (NewDocument(principals=("ann",)), "document.acl.principals"),
        (NewDocument(principals=("user:",)), "document.acl.principals"),
    ],
)
async def test_fields_that_cannot_be_are_refused_by_name(
    documents: Documents, docs: Collection, new: NewDocument, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await documents.create("docs", new, "text", ANN)
    assert refused.value.violations[0].field == field


async def parts(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_file_is_stored_as_it_comes_and_imported(
    documents: Documents, docs: Collection, jobs: FakeJobs
) -> None:
    file = NewFile("docs", filename="Annual report.PDF", metadata_json='{"year": 2024}', content_type="application/pdf")
    made, _ = await documents.upload(file, parts(b"one", b"two"), ANN)
    assert made.document_id.startswith("Annual-report.PDF-")
    assert (made.source_uri, made.mime_type, made.size_bytes) == ("Annual report.PDF", "application/pdf", 6)
    assert made.metadata == {"year": 2024.0}
    assert jobs.uploads == [b"onetwo"]
    assert jobs.parts_seen == [3, 3]
    assert isinstance(jobs.imports[made.uid][1], Upload)
    with pytest.raises(AlreadyExists):
        await documents.upload(file, parts(b"never read"), ANN)
    assert len(jobs.uploads) == 1


async def test_a_valid_file_name_is_the_id_and_a_transports_default_type_says_nothing(
    documents: Documents, docs: Collection
) -> None:
    file = NewFile("docs", filename="a.md", content_type="application/x-www-form-urlencoded; charset=x")
    made, _ = await documents.upload(file, parts(b"x"), ANN)
    assert (made.document_id, made.mime_type) == ("a.md", "")
    named, _ = await documents.upload(NewFile("docs", "mine", "a.md"), parts(b"x"), ANN)
    assert named.document_id == "mine"


@pytest.mark.parametrize(
    ("file", "pieces", "error", "message"),
    [
        (NewFile("docs"), [], EmptyDocument, "file: is empty"),
        (NewFile("docs"), [b"x" * 60, b"x" * 41], DocumentTooLarge, "limit of 100 bytes"),
        (NewFile("docs", sha256="0" * 64), [b"x"], InvalidArgument, "sha256"),
        (NewFile("docs", metadata_json="[1]"), [b"x"], InvalidArgument, "metadata_json: must be a JSON object"),
        (NewFile("docs", metadata_json="{"), [b"x"], InvalidArgument, "metadata_json: is not JSON"),
        (NewFile("docs", metadata_json='{"k": 1e999}'), [b"x"], InvalidArgument, "document.metadata"),
        (NewFile("docs", content_type="x" * 256), [b"x"], InvalidArgument, "file.content_type"),
        (NewFile("not/a/collection"), [b"x"], InvalidArgument, "parent"),
        (NewFile(""), [b"x"], InvalidArgument, "parent"),
        (NewFile("nowhere"), [b"x"], CollectionNotFound, "nowhere"),
    ],
)
async def test_a_bad_file_is_refused_and_not_recorded(
    documents: Documents,
    docs: Collection,
    jobs: FakeJobs,
    file: NewFile,
    pieces: list[bytes],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        await documents.upload(file, parts(*pieces), ANN)
    assert jobs.uploads == []
    assert (await documents.list("docs", ANN)).total_size == 0


async def test_an_upload_that_was_cut_off_goes_on_where_it_was(
    documents: Documents, docs: Collection, jobs: FakeJobs
) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield b"x" * 60
        raise ConnectionError

    file = NewFile("docs", "a", sha256=hashlib.sha256(b"x" * 90).hexdigest(), upload="r1")
    with pytest.raises(ConnectionError):
        await documents.upload(file, cut(), ANN, receipt=receipt())
    assert await documents.received("docs", "r1", ANN) == 60
    with pytest.raises(DocumentTooLarge, match="limit of 100 bytes"):
        await documents.upload(replace(file, offset=60), parts(b"x" * 41), ANN, receipt=receipt())
    made, _ = await documents.upload(replace(file, offset=60), parts(b"x" * 30), ANN, receipt=receipt())
    assert (made.document_id, jobs.uploads) == ("a", [b"x" * 90])


@pytest.mark.parametrize(
    ("file", "validate_only", "field"),
    [
        (NewFile("docs", offset=1, sha256="0" * 64), False, "request_id"),
        (NewFile("docs", offset=1, upload="r1"), False, "sha256"),
        (NewFile("docs", offset=1, upload="r1", sha256="0" * 64), True, "offset"),
    ],
)
async def test_what_going_on_takes_is_asked_for(
    documents: Documents, docs: Collection, file: NewFile, validate_only: bool, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await documents.upload(file, parts(b"x"), ANN, receipt=receipt(), validate_only=validate_only)
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_a_repeated_upload_is_answered_as_the_first_and_another_file_is_refused(
    documents: Documents, docs: Collection, jobs: FakeJobs
) -> None:
    file = NewFile("docs", filename="a.md")
    first = await documents.upload(file, parts(b"x"), ANN, receipt=receipt())
    assert await documents.upload(file, parts(b"x"), ANN, receipt=receipt()) == first
    with pytest.raises(RequestIdReused):
        await documents.upload(file, parts(b"y"), ANN, receipt=receipt())


async def test_an_import_records_what_it_made_and_counts_its_revisions(documents: Documents, docs: Collection) -> None:
    made, _ = await documents.create("docs", NewDocument("a"), "text", ANN)
    first = await imported(documents, docs, title="Found", source_key="inline")
    assert (first.uid, first.state, first.title, first.revision) == (made.uid, "ACTIVE", "Found", 1)
    assert first.create_time == made.create_time
    assert await imported(documents, docs, title="Found", source_key="inline") == first, "a replay changes nothing"
    renamed = await imported(documents, docs, title="Renamed")
    assert (renamed.revision, renamed.etag != first.etag) == (1, True)
    assert (await imported(documents, docs, content_hash="h2", revision_key="k2")).revision == 2
    assert (await imported(documents, docs, content_hash="h2", revision_key="k3", revision=7)).revision == 7
    assert (await imported(documents, docs, content_hash="h3", revision_key="k4", revision=2)).revision == 8


async def test_an_import_that_comes_after_one_whose_turn_was_later_is_refused(
    documents: Documents, docs: Collection
) -> None:
    first = await imported(documents, docs, fence=5)
    again = await imported(documents, docs, fence=7)
    assert (again.fence, again.etag, again.update_time) == (7, first.etag, first.update_time)
    for state in ("ACTIVE", "FAILED"):
        with pytest.raises(LeaseLost):
            await documents.record(document("a", of=docs, state=state, content_hash="late", fence=5), ANN)
    assert (await documents.record(document("a", of=docs, state="FAILED", error=b"why", fence=8), ANN)).fence == 8
    assert (await imported(documents, docs, content_hash="h2")).fence == 8  # takes no part
    with pytest.raises(LeaseLost):
        await imported(documents, docs, fence=7)


async def test_an_import_may_record_a_document_nobody_created(documents: Documents, docs: Collection) -> None:
    pending = await documents.record(document("a", of=docs, title="T"), ANN)
    assert (pending.state, pending.revision) == ("PENDING", 0)
    assert await documents.record(document("a", of=docs, title="other"), ANN) == pending
    active = await imported(documents, docs)
    assert await documents.record(document("a", of=docs, title="other"), ANN) == active


async def test_a_failed_import_leaves_an_active_document_searchable(documents: Documents, docs: Collection) -> None:
    failed = document("a", of=docs, state="FAILED", error=b"why", content_hash="h9")
    first = await documents.record(failed, ANN)
    assert (first.state, first.error, first.content_hash) == ("FAILED", b"why", "h9")
    active = await imported(documents, docs)
    assert (active.state, active.error, active.revision) == ("ACTIVE", b"", 1)
    kept = await documents.record(failed, ANN)
    assert (kept.state, kept.error, kept.content_hash, kept.chunk_count) == ("ACTIVE", b"why", "h1", 2)
    assert (await imported(documents, docs)).error == b""


async def test_an_import_of_a_collection_made_anew_is_refused(
    documents: Documents, docs: Collection, registry: Registry, whole: CollectionDeletions
) -> None:
    await whole.delete("docs", ANN)
    with pytest.raises(CollectionNotFound):
        await imported(documents, docs)
    await registry.create("docs", {}, ANN)
    with pytest.raises(CollectionNotFound, match="made anew"):
        await imported(documents, docs)


async def test_an_import_with_no_state_is_refused(documents: Documents, docs: Collection) -> None:
    with pytest.raises(InvalidArgument, match=r"document\.state"):
        await documents.record(document("a", of=docs, state="STATE_UNSPECIFIED"), ANN)
    with pytest.raises(InvalidArgument, match="document: holds a NUL character"):
        await imported(documents, docs, title="a\0b")


async def test_a_change_reaches_the_index_before_it_is_answered(
    documents: Documents, docs: Collection, index: FakeIndex
) -> None:
    first = await imported(documents, docs, metadata={"k": "v"})
    changed = await documents.update(
        A, {"title": "T", "metadata": {"n": 1.0}, "acl": ("user:ann",)}, ["title", "metadata.n", "acl.principals"], ANN
    )
    assert (changed.title, changed.metadata, changed.principals) == ("T", {"k": "v", "n": 1.0}, ("user:ann",))
    assert (changed.revision, changed.unsettled) == (1, 0)
    assert changed.etag != first.etag
    assert index.fields[docs.uid, "a"].principals == ("user:ann",)
    assert await documents.get(A, ANN) == changed
    assert await documents.update(A, {"title": "T"}, [], ANN) == changed


async def test_changes_are_refused_by_etag_field_and_state(documents: Documents, docs: Collection) -> None:
    first = await imported(documents, docs)
    with pytest.raises(EtagMismatch):
        await documents.update(A, {"title": "T"}, [], ANN, etag='"stale"')
    with pytest.raises(InvalidArgument, match="title, source_uri, metadata, acl"):
        await documents.update(A, {"mime_type": "x"}, ["mime_type"], ANN)
    with pytest.raises(DocumentNotFound):
        await documents.update("collections/docs/documents/b", {"title": "T"}, [], ANN)
    with pytest.raises(InvalidArgument, match=r"document\.name"):
        await documents.update("a", {"title": "T"}, [], ANN)
    checked = await documents.update(A, {"title": "T"}, [], ANN, validate_only=True)
    assert checked.title == "T"
    assert await documents.get(A, ANN) == first
    await documents.create("docs", NewDocument("p"), "text", ANN)
    with pytest.raises(FailedPrecondition, match="is being imported"):
        await documents.update("collections/docs/documents/p", {"title": "T"}, [], ANN)


async def test_a_change_the_index_may_not_have_got_is_taken_back_there(
    documents: Documents, docs: Collection, registry: Registry, store: MemoryStore, index: FakeIndex
) -> None:
    first = await imported(documents, docs, title="old")
    index.down = True
    with pytest.raises(DependencyUnavailable):
        await documents.update(A, {"title": "new"}, [], ANN)
    assert (await documents.get(A, ANN)).title == "old"
    assert (await documents.get(A, ANN)).etag == first.etag
    index.down = False
    age(store, docs, "a", unsettled_time=LONG_AGO)
    await sweep(upkeep_of(store, index, registry))
    assert index.fields[docs.uid, "a"].title == "old"
    assert (await documents.get(A, ANN)).unsettled == 0


def age(store: MemoryStore, docs: Collection, document_id: str, **times: Any) -> None:
    held = store._documents[docs.uid]
    held[document_id] = replace(held[document_id], **times)


class MeddlingIndex(FakeIndex):
    """Lets another writer go first, once, while it is told of new fields."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: Callable[[], Any] | None = None

    async def update_fields(self, document: Document) -> None:
        await super().update_fields(document)
        if meddle := self.meddle:
            self.meddle = None
            await meddle()


async def test_two_writers_at_once_both_hold_here_and_in_the_index(store: MemoryStore, jobs: FakeJobs) -> None:
    index = MeddlingIndex()
    documents = Documents(store, index, jobs, quotas(store), max_upload_bytes=1)
    docs = await Registry(store, index, FakeModels(), FakePlaces(), quotas(store)).create("docs", {}, ANN)
    first = await imported(documents, docs)
    index.meddle = lambda: documents.update(A, {"source_uri": "theirs"}, [], ANN)
    changed = await documents.update(A, {"title": "ours"}, [], ANN)
    assert (changed.title, changed.source_uri, changed.unsettled) == ("ours", "theirs", 0)
    assert index.fields[docs.uid, "a"].unlike(changed) is False
    index.meddle = lambda: documents.update(A, {"title": "theirs"}, [], ANN)
    with pytest.raises(EtagMismatch):
        await documents.update(A, {"title": "ours again"}, [], ANN, etag=changed.etag)
    assert index.fields[docs.uid, "a"].title == "theirs", "the loser puts the winner's fields back"
    assert (await documents.get(A, ANN)).unsettled == 0
    assert first.uid == changed.uid


async def test_an_import_that_races_a_change_leaves_index_and_registry_the_same(
    documents: Documents, docs: Collection, index: FakeIndex
) -> None:
    await imported(documents, docs, title="one", principals=("user:ann",))
    await documents.update(A, {"acl": ("user:bob",)}, [], ANN)
    again = await imported(documents, docs, title="one", principals=("user:ann",), content_hash="h2")
    assert again.principals == ("user:ann",)
    assert index.fields[docs.uid, "a"].principals == ("user:ann",)
    assert (await documents.get(A, ANN)).unsettled == 0


async def test_a_deleted_document_is_gone_everywhere(
    documents: Documents,
    docs: Collection,
    registry: Registry,
    index: FakeIndex,
    store: MemoryStore,
    deletions: DocumentDeletions,
) -> None:
    await imported(documents, docs)
    index.chunks[docs.uid, "a"] = [chunk(0)]
    deleted = await deletions.delete(A, ANN)
    assert deleted.delete_time is not None
    assert index.chunks == {}
    assert store._documents[docs.uid] == {}
    assert (await registry.get("docs", ANN)).document_count == 0
    for attempt in (documents.get(A, ANN), deletions.delete(A, ANN)):
        with pytest.raises(DocumentNotFound):
            await attempt


async def test_deletions_are_refused_whole(
    documents: Documents, docs: Collection, index: FakeIndex, deletions: DocumentDeletions
) -> None:
    first = await imported(documents, docs)
    with pytest.raises(EtagMismatch):
        await deletions.delete(A, ANN, etag='"stale"')
    with pytest.raises(DocumentNotFound, match="documents/b, collections/docs/documents/c"):
        await deletions.batch_delete("docs", [A, f"{A[:-1]}b", f"{A[:-1]}c"], ANN)
    with pytest.raises(InvalidArgument, match=r"names\[1\]"):
        await deletions.batch_delete("docs", [A, "collections/other/documents/a"], ANN)
    (checked,) = await deletions.batch_delete("docs", [A], ANN, validate_only=True)
    assert checked.delete_time
    index.down = True
    with pytest.raises(DependencyUnavailable):
        await deletions.delete(A, ANN)
    assert await documents.get(A, ANN) == first


async def test_a_batch_is_deleted_in_the_order_asked_for(
    documents: Documents, docs: Collection, deletions: DocumentDeletions
) -> None:
    for document_id in ("a", "b", "c"):
        await imported(documents, docs, document_id)
    names = [f"collections/docs/documents/{each}" for each in ("c", "a")]
    deleted = await deletions.batch_delete("collections/docs", names, ANN, receipt=receipt())
    assert [each.name for each in deleted] == names
    assert await deletions.batch_delete("collections/docs", names, ANN, receipt=receipt()) == deleted
    assert [each.document_id for each in (await documents.list("docs", ANN)).items] == ["b"]


async def interrupted(deletions: DocumentDeletions, index: FakeIndex) -> None:
    index.fails_at = "delete_documents"
    with pytest.raises(DependencyUnavailable):
        await deletions.delete(A, ANN, receipt=receipt())
    index.fails_at = ""


async def test_an_interrupted_deletion_is_ended_by_asking_again(
    documents: Documents, docs: Collection, index: FakeIndex, store: MemoryStore, deletions: DocumentDeletions
) -> None:
    await imported(documents, docs)
    await interrupted(deletions, index)
    with pytest.raises(DocumentNotFound):
        await documents.get(A, ANN)
    assert (await deletions.delete(A, ANN)).document_id == "a"
    assert store._documents[docs.uid] == {}


async def test_an_interrupted_deletion_is_ended_by_the_same_request(
    documents: Documents, docs: Collection, index: FakeIndex, store: MemoryStore, deletions: DocumentDeletions
) -> None:
    await imported(documents, docs)
    await interrupted(deletions, index)
    assert (await deletions.delete(A, ANN, receipt=receipt())).document_id == "a"
    assert store._documents[docs.uid] == {}


async def test_an_interrupted_deletion_is_ended_by_upkeep(
    documents: Documents,
    docs: Collection,
    index: FakeIndex,
    store: MemoryStore,
    registry: Registry,
    deletions: DocumentDeletions,
) -> None:
    await imported(documents, docs)
    await interrupted(deletions, index)
    age(store, docs, "a", purge_time=LONG_AGO)
    await sweep(upkeep_of(store, index, registry))
    assert store._documents[docs.uid] == {}


async def test_an_interrupted_deletion_is_ended_before_its_id_is_used_again(
    documents: Documents,
    docs: Collection,
    index: FakeIndex,
    deletions: DocumentDeletions,
) -> None:
    await imported(documents, docs)
    await interrupted(deletions, index)
    index.chunks[docs.uid, "a"] = [chunk(0)]
    made, _ = await documents.create("docs", NewDocument("a"), "text", ANN)
    assert index.chunks == {}
    assert await documents.get(A, ANN) == made


async def test_an_import_source_is_listed_and_cleared(
    documents: Documents, docs: Collection, deletions: DocumentDeletions
) -> None:
    for document_id in ("a", "b", "c"):
        await imported(documents, docs, document_id, source_key="directory:x")
    assert await documents.list_source("docs", "directory:x", "a", 10, ANN) == ["b", "c"]
    assert await deletions.delete_source("docs", ["a", "z", "c"], ANN) == 2
    assert await deletions.delete_source("docs", ["a"], ANN) == 0
    found = await documents.lookup("docs", ["a", "b"], ANN)
    assert [each.document_id for each in found] == ["b"]


async def test_only_documents_that_match_at_the_moment_of_deletion_are_deleted(
    documents: Documents, docs: Collection, index: FakeIndex, deletions: DocumentDeletions
) -> None:
    for document_id, title in {"a": "old", "b": "new"}.items():
        await imported(documents, docs, document_id, title=title)
        index.chunks[docs.uid, document_id] = [chunk(0)]
    found, total = await documents.select("docs", "title = old", "", 10, ANN, count=True)
    assert ([each.document_id for each in found], total) == (["a"], 1)
    assert await deletions.delete_source("docs", ["a", "b"], ANN, filter="title = old") == 1
    assert [each.document_id for each in await documents.lookup("docs", ["a", "b"], ANN)] == ["b"]
    assert list(index.chunks) == [(docs.uid, "b")]
    with pytest.raises(InvalidFilter):
        await deletions.delete_source("docs", ["b"], ANN, filter="colour = red")


async def test_what_users_may_change_of_a_document_stays_when_it_is_made_again(
    documents: Documents, docs: Collection, index: FakeIndex
) -> None:
    first = await imported(documents, docs, title="T", source_key="directory:x", origin="{}", fields_hash="f")
    begun = replace(first, chunk_count=5, revision_key="k2", source_key="", origin="", fields_hash="")
    await documents.update(A, {"title": "Mine"}, ["title"], ANN)
    index.fields.clear()
    made = await documents.record(begun, ANN, again=True)
    assert (made.title, made.chunk_count, made.revision_key, made.revision) == ("Mine", 5, "k2", 2)
    assert (made.source_key, made.origin, made.fields_hash) == ("directory:x", "{}", "f")
    assert index.fields[docs.uid, "a"].title == "Mine"  # chunks had been written with the title of before
    failed = await documents.record(replace(begun, state="FAILED", error=b"why"), ANN, again=True)
    assert (failed.state, failed.error, failed.chunk_count) == ("ACTIVE", b"why", 5)


async def test_a_document_that_is_gone_is_not_brought_back_by_being_made_again(
    documents: Documents, docs: Collection, deletions: DocumentDeletions
) -> None:
    first = await imported(documents, docs)
    await deletions.delete(A, ANN)
    with pytest.raises(DocumentNotFound):
        await documents.record(first, ANN, again=True)
    await documents.create("docs", NewDocument("a"), "text", ANN)
    with pytest.raises(DocumentNotFound):
        await documents.record(first, ANN, again=True)
    assert (await documents.get(A, ANN)).state == "PENDING"


async def test_who_only_reads_sees_what_is_open_to_them(documents: Documents, docs: Collection) -> None:
    for document_id, principals in {"a": (), "b": ("group:crew",), "c": ("user:ann",)}.items():
        await imported(documents, docs, document_id, principals=principals)
    names = [f"collections/docs/documents/{each}" for each in ("a", "b", "c")]
    assert [each.document_id for each in (await documents.list("docs", BOB)).items] == ["a", "b"]
    assert [each.document_id for each in (await documents.list("docs", ANN)).items] == ["a", "b", "c"]
    assert len(await documents.batch_get("docs", names[:2], BOB)) == 2
    for attempt in (
        documents.get(names[2], BOB),
        documents.list_chunks(names[2], BOB),
        documents.batch_get("docs", names, BOB),
    ):
        with pytest.raises(DocumentNotFound, match="documents/c"):
            await attempt


def chunk(ordinal: int) -> Chunk:
    return Chunk(f"abcd-{ordinal:05d}", ordinal, f"text {ordinal}", 0, 6, 2, "", 0)


async def test_chunks_are_paged_by_ordinal(documents: Documents, docs: Collection, index: FakeIndex) -> None:
    await imported(documents, docs)
    index.chunks[docs.uid, "a"] = [chunk(ordinal) for ordinal in range(5)]
    _, first = await documents.list_chunks(A, ANN, page_size=2)
    assert ([each.ordinal for each in first.items], first.total_size) == ([0, 1], 5)
    _, second = await documents.list_chunks(A, ANN, page_size=2, page_token=first.next_page_token)
    assert [each.ordinal for each in second.items] == [2, 3]
    _, third = await documents.list_chunks(A, ANN, page_size=2, page=3)
    assert ([each.ordinal for each in third.items], third.next_page_token) == ([4], "")


async def test_a_creation_that_is_cancelled_leaves_nothing(store: MemoryStore, index: FakeIndex) -> None:
    class StuckJobs(FakeJobs):
        def __init__(self) -> None:
            super().__init__()
            self.asked = asyncio.Event()

        async def import_document(self, document: Document, content: Content, *, validate_only: bool = False) -> bytes:
            self.asked.set()
            await asyncio.Event().wait()
            return b""

    jobs = StuckJobs()
    documents = Documents(store, index, jobs, quotas(store), max_upload_bytes=1)
    docs = await Registry(store, index, FakeModels(), FakePlaces(), quotas(store)).create("docs", {}, ANN)
    creating = asyncio.create_task(documents.create("docs", NewDocument("a"), "text", ANN))
    await jobs.asked.wait()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert store._documents[docs.uid] == {}
