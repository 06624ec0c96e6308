"""What is deleted can come back until it is purged, and nothing shows it meanwhile."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from google.rpc.status_pb2 import Status

from services.collections.adapters.memory import MemoryStore
from services.collections.collection_deletions import CollectionDeletions
from services.collections.document_changes import NewDocument
from services.collections.document_deletions import DocumentDeletions
from services.collections.documents import Documents
from services.collections.ports import Upload
from services.collections.records import Chunk, Collection, Document, now
from services.collections.registry import Registry
from services.mesh.errors import (
    AlreadyExists,
    CollectionNotFound,
    DependencyUnavailable,
    DocumentNotFound,
    EtagMismatch,
    LeaseLost,
    PermissionDenied,
    QuotaExceeded,
)
from services.mesh.identity import Caller
from services.mesh.quotas import Amounts
from tests.collections_records import (
    LONG_AGO,
    PLENTY,
    WEEK,
    FakeIndex,
    FakeJobs,
    FakeLimits,
    FakeModels,
    FakePlaces,
    collection_deletions,
    document,
    document_deletions,
    quotas,
    upkeep_of,
)
from tests.sweeping import sweep

ANN = Caller("acme", "ann", frozenset({"collections.read", "collections.write", "documents.write"}))
BOB = Caller("acme", "bob", frozenset({"collections.read"}), frozenset({"user:bob"}))
A = "collections/docs/documents/a"


@dataclass
class World:
    """The registry over fakes, with what it deletes kept a week."""

    store: MemoryStore = field(default_factory=MemoryStore)
    index: FakeIndex = field(default_factory=FakeIndex)
    jobs: FakeJobs = field(default_factory=FakeJobs)
    limits: FakeLimits = field(default_factory=FakeLimits)

    def __post_init__(self) -> None:
        held = quotas(self.store, self.limits, fresh_s=0)
        self.registry = Registry(self.store, self.index, FakeModels(), FakePlaces(), held)
        self.documents = Documents(self.store, self.index, self.jobs, held, max_upload_bytes=100)
        self.deletions: DocumentDeletions = document_deletions(self.store, self.index, self.jobs, held)
        self.whole: CollectionDeletions = collection_deletions(self.store, self.index, self.registry, held)

    async def docs(self) -> Collection:
        return await self.registry.find("docs", "acme")

    async def imported(self, document_id: str = "a", **fields: Any) -> Document:
        given = {"state": "ACTIVE", "chunk_count": 2, "content_hash": "h1", "revision_key": "k1", **fields}
        docs = await self.docs()
        pieces = [Chunk(f"k1-{at}", at, "text", 0, 4, 1, "", 0) for at in range(2)]
        self.index.chunks[docs.uid, document_id] = pieces
        return await self.documents.record(document(document_id, of=docs, size_bytes=10, **given), ANN)

    async def age(self, **times: Any) -> None:
        """As if what is deleted or unsettled had been so since then."""
        for held in self.store._documents.values():
            for name, each in held.items():
                held[name] = replace(each, **{key: at for key, at in times.items() if getattr(each, key, None)})
        for uid, each in self.store._collections.items():
            changes = {key: at for key, at in times.items() if getattr(each, key, None) and key != "unsettled_time"}
            self.store._collections[uid] = replace(each, **changes)

    async def sweep(self) -> None:
        await sweep(upkeep_of(self.store, self.index, self.registry, jobs=self.jobs, retention=WEEK))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.registry.create("docs", {}, ANN)
    yield made


async def test_a_deleted_document_is_hidden_and_comes_back_as_it_was(world: World) -> None:
    before = await world.imported(title="T", principals=("user:bob",))
    docs = await world.docs()
    deleted = await world.deletions.delete(A, ANN)
    assert deleted.purge_time == deleted.delete_time + WEEK  # type: ignore[operator]
    assert world.index.hidden == {(docs.uid, "a")}
    assert world.index.chunks[docs.uid, "a"], "nothing is to be embedded again"
    assert ((await world.docs()).document_count, (await world.docs()).chunk_count) == (0, 0)
    assert (await world.registry.stats("docs", ANN))[1].hidden_chunks == 2
    with pytest.raises(DocumentNotFound):
        await world.deletions.delete(A, ANN)
    back = await world.deletions.undelete(A, ANN, etag=deleted.etag)
    assert (back.uid, back.title, back.state, back.principals) == (before.uid, "T", "ACTIVE", ("user:bob",))
    assert (back.delete_time, back.purge_time, back.generation) == (None, None, 2)
    assert world.index.hidden == set()
    assert world.index.fields[docs.uid, "a"].principals == ("user:bob",)
    assert ((await world.docs()).document_count, (await world.docs()).chunk_count) == (1, 2)
    assert (await world.documents.get(A, ANN)).unsettled == 0
    assert not world.jobs.imports


async def test_who_may_delete_sees_what_can_come_back_and_nobody_else(world: World) -> None:
    await world.imported()
    await world.deletions.delete(A, ANN)
    assert (await world.documents.get(A, ANN)).delete_time
    assert [each.name for each in (await world.documents.list("docs", ANN, show_deleted=True)).items] == [A]
    assert (await world.documents.list("docs", ANN)).items == ()
    assert await world.documents.lookup("docs", ["a"], ANN) == []
    for attempt in (
        world.documents.get(A, BOB),
        world.documents.list_chunks(A, ANN),
        world.documents.batch_get("docs", [A], ANN),
        world.documents.update(A, {"title": "x"}, [], ANN),
    ):
        with pytest.raises(DocumentNotFound):
            await attempt
    with pytest.raises(PermissionDenied, match=r"documents\.write"):
        await world.documents.list("docs", BOB, show_deleted=True)
    await world.whole.delete("docs", ANN, force=True)
    assert (await world.registry.get("docs", ANN)).delete_time
    assert [each.name for each in (await world.registry.list(ANN, show_deleted=True)).items] == ["collections/docs"]
    for call in (world.registry.get("docs", BOB), world.registry.stats("docs", ANN), world.documents.get(A, ANN)):
        with pytest.raises(CollectionNotFound):
            await call
    with pytest.raises(PermissionDenied, match=r"collections\.write"):
        await world.registry.list(BOB, show_deleted=True)


async def test_an_undeletion_is_refused_where_it_cannot_be(world: World) -> None:
    await world.imported()
    with pytest.raises(AlreadyExists, match="is not deleted"):
        await world.deletions.undelete(A, ANN)
    with pytest.raises(DocumentNotFound):
        await world.deletions.undelete(f"{A}b", ANN)
    with pytest.raises(AlreadyExists, match="is not deleted"):
        await world.whole.undelete("docs", ANN)
    with pytest.raises(CollectionNotFound):
        await world.whole.undelete("nowhere", ANN)
    await world.deletions.delete(A, ANN)
    deleted = await world.documents.get(A, ANN)
    with pytest.raises(EtagMismatch):
        await world.deletions.undelete(A, ANN, etag='"stale"')
    tried = await world.deletions.undelete(A, ANN, validate_only=True)
    assert (tried.delete_time, await world.documents.get(A, ANN)) == (None, deleted)
    world.index.down = True
    with pytest.raises(DependencyUnavailable):
        await world.deletions.undelete(A, ANN)
    world.index.down = False
    assert await world.documents.get(A, ANN) == deleted
    await world.age(purge_time=now())
    for attempt in (world.deletions.undelete(A, ANN), world.documents.get(A, ANN)):
        with pytest.raises(DocumentNotFound):
            await attempt


async def test_what_is_deleted_counts_for_no_quota_and_coming_back_is_held_to_it(world: World) -> None:
    await world.imported()
    world.limits.amounts = replace(PLENTY, documents=1)
    with pytest.raises(QuotaExceeded):
        await world.imported("b")
    await world.deletions.delete(A, ANN)
    await world.imported("b")
    for validate_only in (True, False):
        with pytest.raises(QuotaExceeded, match="documents: 1 of 1"):
            await world.deletions.undelete(A, ANN, validate_only=validate_only)
    await world.whole.delete("docs", ANN, force=True)
    assert await world.store.usage("acme") == Amounts()
    world.limits.amounts = Amounts()
    with pytest.raises(QuotaExceeded, match="collections: 0 of 0"):
        await world.whole.undelete("docs", ANN)
    world.limits.amounts = PLENTY
    await world.whole.undelete("docs", ANN)
    assert await world.store.usage("acme") == Amounts(1, 1, 2, 10)


async def test_a_document_whose_chunks_are_gone_comes_back_by_an_import_of_its_bytes(world: World) -> None:
    await world.imported()
    await world.deletions.delete(A, ANN)
    world.index.chunks.clear()
    back = await world.deletions.undelete(A, ANN)
    assert (back.state, back.chunk_count, back.content_hash) == ("PENDING", 0, "h1")
    assert list(world.jobs.imports.values()) == [(back, Upload("h1", 10))]
    await world.deletions.delete(A, ANN)
    world.jobs.lost = True
    await world.imported("b")
    b = f"{A[:-1]}b"
    await world.deletions.delete(b, ANN)
    world.index.chunks.clear()
    await world.deletions.undelete(b, ANN)
    failed = await world.documents.get(b, ANN)
    assert failed.state == "FAILED"
    assert "its bytes are gone" in Status.FromString(failed.error).message


async def test_an_import_under_a_deleted_id_makes_a_new_document_once_nothing_is_left_of_the_old(world: World) -> None:
    before = await world.imported(title="old", fence=3)
    docs = await world.docs()
    await world.deletions.delete(A, ANN)
    with pytest.raises(LeaseLost):
        await world.imported(revision_key="k2", fence=2)
    made = await world.imported(title="new", revision_key="k2", fence=4)
    assert made.uid != before.uid
    assert (made.title, made.revision, made.delete_time, made.generation) == ("new", 1, None, 2)
    calls = world.index.calls
    assert world.index.retired[-1] == ("a", "k2")
    assert calls.index("retire") < len(calls) - 1 - calls[::-1].index("update_fields"), "gone before the new is shown"
    assert world.index.hidden == set()
    assert world.index.fields[docs.uid, "a"].title == "new"
    assert (await world.docs()).document_count == 1
    with pytest.raises(AlreadyExists):
        await world.deletions.undelete(A, ANN)


async def test_a_failed_import_under_a_deleted_id_leaves_no_chunks_of_the_old(world: World) -> None:
    await world.imported()
    await world.deletions.delete(A, ANN)
    failed = await world.imported(state="FAILED")
    assert (failed.state, failed.delete_time) == ("FAILED", None)
    assert "delete_documents" in world.index.calls


async def test_a_new_document_takes_the_place_of_a_deleted_one(world: World) -> None:
    await world.imported()
    docs = await world.docs()
    await world.deletions.delete(A, ANN)
    made, _ = await world.documents.create("docs", NewDocument("a"), "text", ANN)
    assert await world.documents.get(A, ANN) == made
    assert (docs.uid, "a") not in world.index.chunks
    with pytest.raises(AlreadyExists):
        await world.documents.create("docs", NewDocument("a"), "text", ANN)


@pytest.mark.parametrize("age", [{"purge_time": LONG_AGO}, {}], ids=["due", "not yet"])
async def test_what_is_due_is_purged_by_upkeep(world: World, age: dict[str, Any]) -> None:
    await world.imported()
    await world.imported("b")
    docs = await world.docs()
    other = await world.registry.create("other", {}, ANN)
    await world.deletions.delete(A, ANN)
    await world.whole.delete("other", ANN)
    await world.age(**age)
    await world.sweep()
    await world.sweep()
    assert set(world.store._documents[docs.uid]) == ({"b"} if age else {"a", "b"})
    assert (set(world.index.chunks) == {(docs.uid, "b")}) is bool(age)
    assert world.index.dropped == ([other.uid] if age else [])
    assert (other.uid in world.store._collections) is not bool(age)


@pytest.mark.parametrize("interrupt", ["hide", "update_fields", "apply"])
async def test_what_was_interrupted_is_settled_by_upkeep(world: World, interrupt: str) -> None:
    await world.imported()
    docs = await world.docs()
    undone: dict[str, Callable[[], Any]] = {
        "hide": lambda: world.deletions.delete(A, ANN),
        "update_fields": lambda: world.deletions.undelete(A, ANN),
        "apply": lambda: world.whole.delete("docs", ANN, force=True),
    }
    if interrupt == "update_fields":
        await world.deletions.delete(A, ANN)
    world.index.fails_at = interrupt
    with pytest.raises(DependencyUnavailable):
        await undone[interrupt]()
    world.index.fails_at = ""
    await world.sweep()
    assert bool(world.index.hidden) is (interrupt == "update_fields"), "the call may still be at work"
    await world.age(unsettled_time=LONG_AGO, update_time=LONG_AGO)
    await world.sweep()
    assert bool(world.index.hidden) is (interrupt == "hide")
    deleted = world.index.applied[docs.uid].delete_time
    assert (deleted is not None) is (interrupt == "apply")
    assert await world.store.unsettled_collections(now()) == []
    assert await world.store.unfinished_documents(now(), 10) == []


async def test_an_interrupted_deletion_or_undeletion_is_ended_by_asking_again(world: World) -> None:
    await world.imported()
    docs = await world.docs()
    world.index.fails_at = "hide"
    with pytest.raises(DependencyUnavailable):
        await world.deletions.delete(A, ANN)
    world.index.fails_at = ""
    deleted = await world.deletions.delete(A, ANN)
    assert (deleted.delete_time is not None, world.index.hidden) == (True, {(docs.uid, "a")})
    world.index.fails_at = "update_fields"
    with pytest.raises(DependencyUnavailable):
        await world.deletions.undelete(A, ANN)
    world.index.fails_at = ""
    with pytest.raises(AlreadyExists):
        await world.deletions.undelete(A, ANN)
    assert world.index.hidden == set()
    world.index.fails_at = "apply"
    with pytest.raises(DependencyUnavailable):
        await world.whole.delete("docs", ANN, force=True)
    world.index.fails_at = ""
    assert (await world.whole.delete("docs", ANN)).uid == docs.uid
    with pytest.raises(CollectionNotFound):
        await world.whole.delete("docs", ANN)


async def test_of_several_deleted_collections_of_one_id_the_last_comes_back(world: World) -> None:
    first = await world.docs()
    await world.whole.delete("docs", ANN)
    second = await world.registry.create("docs", {}, ANN)
    with pytest.raises(AlreadyExists, match="can come back once this one is deleted"):
        await world.whole.undelete("docs", ANN)
    await world.whole.delete("docs", ANN)
    assert (await world.registry.get("docs", ANN)).uid == second.uid
    assert (await world.whole.undelete("docs", ANN)).uid == second.uid
    await world.whole.delete("docs", ANN)
    await world.whole.purge(await world.registry.get("docs", ANN))
    assert (await world.whole.undelete("docs", ANN)).uid == first.uid
    assert world.index.applied[first.uid].delete_time is None


async def test_an_expired_collection_is_deleted_and_then_purged_by_upkeep(world: World) -> None:
    made = await world.registry.create("short", {"ttl": timedelta(hours=1)}, ANN)
    world.store._collections[made.uid] = replace(made, expire_time=now())
    await world.sweep()
    deleted = await world.registry.get("short", ANN)
    assert deleted.purge_time == deleted.delete_time + WEEK  # type: ignore[operator]
    assert world.index.applied[made.uid].delete_time
    await world.sweep()
    assert world.index.dropped == []
    await world.age(purge_time=LONG_AGO)
    await world.sweep()
    assert world.index.dropped == [made.uid]
    with pytest.raises(CollectionNotFound):
        await world.whole.undelete("short", ANN)


async def test_a_collection_that_expired_comes_back_for_good(world: World) -> None:
    made = await world.registry.create("short", {"ttl": timedelta(hours=1)}, ANN)
    world.store._collections[made.uid] = replace(made, expire_time=LONG_AGO)
    deletions = collection_deletions(world.store, world.index, world.registry)
    await deletions.delete("short", ANN)
    assert (await deletions.undelete("short", ANN)).expire_time is None
    await world.sweep()
    assert (await world.registry.get("short", ANN)).delete_time is None


async def test_a_purge_that_has_begun_is_not_taken_back(world: World) -> None:
    await world.imported()
    await world.deletions.delete(A, ANN)
    await world.age(purge_time=now() + WEEK)
    world.index.fails_at = "delete_documents"
    await world.age(purge_time=LONG_AGO)
    await world.sweep()
    await world.age(purge_time=now() + WEEK)
    with pytest.raises(DocumentNotFound):
        await world.deletions.undelete(A, ANN)
    assert (await world.documents.list("docs", ANN, show_deleted=True)).items == ()
