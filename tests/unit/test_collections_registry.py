"""Collections are what their owner says, and searches know before the owner is answered."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.collections.adapters.memory import MemoryStore
from services.collections.collection_deletions import CollectionDeletions
from services.collections.entries import Kind
from services.collections.records import Change, Chunking, Collection, Fusion, SearchDefaults, Source, now
from services.collections.registry import Followed, Registry
from services.collections.upkeep import Upkeep
from services.mesh.errors import (
    AlreadyExists,
    CollectionNotEmpty,
    CollectionNotFound,
    DependencyUnavailable,
    EtagMismatch,
    InvalidArgument,
    RequestIdReused,
)
from services.mesh.identity import Caller
from tests.audit_fakes import FakeTrail
from tests.collections_records import (
    AT_ONCE,
    LONG_AGO,
    FakeIndex,
    FakeModels,
    FakePlaces,
    collection,
    collection_deletions,
    document,
    quotas,
    receipt,
    upkeep_of,
)
from tests.sweeping import sweep

ANN = Caller(tenant="acme", subject="ann", scopes=frozenset({"collections.write", "documents.write"}))
EVE = Caller(tenant="globex", subject="eve", scopes=ANN.scopes)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def index() -> FakeIndex:
    return FakeIndex()


@pytest.fixture
def places() -> FakePlaces:
    return FakePlaces()


@pytest.fixture
def registry(store: MemoryStore, index: FakeIndex, places: FakePlaces) -> Registry:
    return Registry(store, index, FakeModels(), places, quotas(store), poll_s=0.01)


@pytest.fixture
def trail() -> FakeTrail:
    return FakeTrail()


@pytest.fixture
def deletions(store: MemoryStore, index: FakeIndex, registry: Registry) -> CollectionDeletions:
    return collection_deletions(store, index, registry, retention=AT_ONCE)


@pytest.fixture
def upkeep(store: MemoryStore, index: FakeIndex, registry: Registry, trail: FakeTrail) -> Upkeep:
    return upkeep_of(store, index, registry, trail)


async def fill(store: MemoryStore, collection: Collection) -> None:
    await store.write_documents(collection, ["a"], lambda found: {"a": document(of=collection)})


async def test_a_new_collection_takes_the_default_model_and_language(registry: Registry, index: FakeIndex) -> None:
    made = await registry.create("docs", {"description": "x", "revision": 7, "uid": "mine"}, ANN)
    assert (made.name, made.embedding_model, made.dimension, made.language) == (
        "collections/docs",
        "models/mini",
        4,
        "en",
    )
    assert (made.revision, made.document_count, made.visibility) == (0, 0, "PRIVATE")
    assert made.uid != "mine"
    assert await registry.get("collections/docs", ANN) == await registry.get("docs", ANN) == made
    assert index.applied == {made.uid: made}


async def test_an_id_is_made_up_where_none_is_given(registry: Registry) -> None:
    made = await registry.create("", {}, ANN)
    assert made.collection_id.startswith("c-")
    assert len(made.collection_id) <= 20


async def test_a_collection_is_created_while_the_index_is_down(registry: Registry, index: FakeIndex) -> None:
    index.down = True
    made = await registry.create("docs", {}, ANN)
    assert await registry.get("docs", ANN) == made


async def test_a_taken_id_is_refused_but_only_within_the_tenant(registry: Registry) -> None:
    await registry.create("docs", {}, ANN)
    for validate_only in (False, True):
        with pytest.raises(AlreadyExists, match="collections/docs exists already"):
            await registry.create("docs", {}, ANN, validate_only=validate_only)
    assert await registry.create("docs", {}, EVE)


async def test_another_tenants_collection_is_not_found_by_any_method(
    registry: Registry, deletions: CollectionDeletions
) -> None:
    await registry.create("docs", {}, ANN)
    for attempt in (
        registry.get("docs", EVE),
        registry.update("docs", {"description": "x"}, [], EVE),
        deletions.delete("docs", EVE, force=True),
        registry.stats("docs", EVE),
    ):
        with pytest.raises(CollectionNotFound):
            await attempt


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"embedding_model": "models/none"}, "collection.embedding_model"),
        ({"language": "xx"}, "collection.language"),
        ({"chunking": Chunking(max_tokens=257)}, "collection.chunking.max_tokens"),
        ({"chunking": Chunking(max_tokens=100, overlap_tokens=50)}, "collection.chunking.overlap_tokens"),
        ({"chunking": Chunking(overlap_tokens=200)}, "collection.chunking.overlap_tokens"),
        ({"source": Source("do\0cs")}, "collection.source"),
        ({"source": Source("../docs")}, "collection.source.directory"),
        ({"source": Source("../docs", auto_sync=True)}, "collection.source.directory"),
        ({"source": Source("nope", auto_sync=True)}, "collection.source.directory"),
        ({"source": Source("file", auto_sync=True)}, "collection.source.directory"),
        ({"default_search": SearchDefaults(fusion=Fusion("DBSF"))}, "collection.default_search.fusion.dbsf"),
        ({"expire_time": LONG_AGO}, "collection.expire_time"),
        ({"ttl": timedelta(days=999_999_999)}, "collection.ttl"),
        ({"labels": {"a": "\0"}}, "collection.labels"),
        ({"description": "a\0"}, "collection.description"),
    ],
)
async def test_what_cannot_be_is_refused_by_field_on_creation_and_on_change(
    registry: Registry, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await registry.create("bad", given, ANN)
    assert refused.value.violations[0].field == field
    await registry.create("good", {}, ANN)
    with pytest.raises(InvalidArgument) as refused:
        await registry.update("good", given, [], ANN)
    assert refused.value.violations[0].field == field


async def test_a_directory_must_be_there_when_it_is_to_be_followed_and_not_before_or_after(
    registry: Registry, places: FakePlaces
) -> None:
    del places.found["docs"]
    await registry.create("docs", {"source": Source("docs")}, ANN)
    following = {"source": Source("docs", auto_sync=True)}
    with pytest.raises(InvalidArgument, match="no such file"):
        await registry.update("docs", following, [], ANN, validate_only=True)
    with pytest.raises(InvalidArgument, match="no such file"):
        await registry.update("docs", following, [], ANN)
    places.found["docs"] = Kind.DIRECTORY
    assert (await registry.update("docs", following, [], ANN)).source == following["source"]
    places.found.clear()
    assert (await registry.update("docs", {"description": "x"}, [], ANN)).source == following["source"]
    assert (await registry.update("docs", {"source": Source("docs")}, [], ANN)).source == Source("docs")


async def test_checking_only_changes_nothing(
    registry: Registry, store: MemoryStore, index: FakeIndex, deletions: CollectionDeletions
) -> None:
    made = await registry.create("docs", {}, ANN)
    index.calls.clear()
    assert (await registry.create("new", {}, ANN, validate_only=True)).collection_id == "new"
    assert (await registry.update("docs", {"description": "x"}, [], ANN, validate_only=True)).description == "x"
    assert (await deletions.delete("docs", ANN, validate_only=True)).delete_time is not None
    assert index.calls == []
    assert [each.collection for each in await store.changes(0, 10)] == [made]


async def test_a_change_holds_in_the_index_before_it_is_answered(registry: Registry, index: FakeIndex) -> None:
    made = await registry.create("docs", {"visibility": "PUBLIC"}, ANN)
    changed = await registry.update("docs", {"disabled": True}, ["visibility", "disabled"], ANN, etag=made.etag)
    assert (changed.visibility, changed.disabled) == ("PRIVATE", True)
    assert changed.etag != made.etag
    assert changed.update_time > made.update_time
    assert index.applied[made.uid] == changed
    assert await registry.get("docs", ANN) == changed


async def test_a_change_that_changes_nothing_keeps_the_etag(registry: Registry) -> None:
    made = await registry.create("docs", {"description": "same"}, ANN)
    assert await registry.update("docs", {"description": "same", "embedding_model": "mini"}, [], ANN) == made


async def test_a_stale_etag_is_refused(registry: Registry, deletions: CollectionDeletions) -> None:
    made = await registry.create("docs", {}, ANN)
    await registry.update("docs", {"description": "x"}, [], ANN, etag=made.etag.strip('"'))
    with pytest.raises(EtagMismatch):
        await registry.update("docs", {"description": "y"}, [], ANN, etag=made.etag)
    with pytest.raises(EtagMismatch):
        await deletions.delete("docs", ANN, etag=made.etag)


async def test_while_the_index_is_down_changes_and_deletions_are_refused_whole(
    registry: Registry, index: FakeIndex, store: MemoryStore, deletions: CollectionDeletions
) -> None:
    made = await registry.create("docs", {}, ANN)
    index.down = True
    with pytest.raises(DependencyUnavailable, match="retrieval"):
        await registry.update("docs", {"description": "x"}, [], ANN)
    with pytest.raises(DependencyUnavailable, match="retrieval"):
        await deletions.delete("docs", ANN)
    assert await registry.get("docs", ANN) == made
    assert [each.collection for each in await store.changes(0, 10)] == [made]


async def test_a_ttl_reads_back_as_the_time_it_ends(registry: Registry) -> None:
    before = now()
    made = await registry.create("docs", {"ttl": timedelta(hours=1)}, ANN)
    assert made.expire_time is not None
    assert before + timedelta(hours=1) <= made.expire_time <= now() + timedelta(hours=1)
    kept = await registry.update("docs", {"ttl": timedelta(hours=2)}, ["ttl"], ANN)
    assert kept.expire_time is not None
    assert kept.expire_time > made.expire_time
    assert (await registry.update("docs", {}, ["expire_time"], ANN)).expire_time is None


async def test_a_collection_with_documents_is_deleted_by_force_only(
    registry: Registry, store: MemoryStore, index: FakeIndex, deletions: CollectionDeletions
) -> None:
    made = await registry.create("docs", {}, ANN)
    await fill(store, made)
    with pytest.raises(CollectionNotEmpty, match="1 documents"):
        await deletions.delete("docs", ANN)
    deleted = await deletions.delete("docs", ANN, force=True)
    assert deleted.delete_time is not None
    assert index.applied[made.uid].delete_time == deleted.delete_time
    assert index.dropped == [made.uid]
    assert await store.deleted_collections("acme") == []
    with pytest.raises(CollectionNotFound):
        await registry.get("docs", ANN)
    with pytest.raises(CollectionNotFound):
        await deletions.delete("docs", ANN)


@pytest.mark.parametrize("interrupted_at", ["apply", "drop"])
async def test_an_interrupted_deletion_is_ended_by_asking_again(
    registry: Registry, store: MemoryStore, index: FakeIndex, interrupted_at: str, deletions: CollectionDeletions
) -> None:
    made = await registry.create("docs", {}, ANN)
    index.fails_at = interrupted_at
    with pytest.raises(DependencyUnavailable):
        await deletions.delete("docs", ANN)
    with pytest.raises(CollectionNotFound):
        await registry.get("docs", ANN)
    index.fails_at = ""
    assert (await deletions.delete("docs", ANN)).uid == made.uid
    assert index.dropped == [made.uid]
    assert await store.deleted_collections("acme") == []


async def test_an_interrupted_deletion_is_ended_by_upkeep_and_leaves_a_namesake_alone(
    registry: Registry, store: MemoryStore, index: FakeIndex, upkeep: Upkeep, deletions: CollectionDeletions
) -> None:
    made = await registry.create("docs", {}, ANN)
    index.fails_at = "drop"
    with pytest.raises(DependencyUnavailable):
        await deletions.delete("docs", ANN)
    anew = await registry.create("docs", {}, ANN)
    index.fails_at = ""
    await sweep(upkeep)
    assert index.dropped == [], "the call may still be at work"
    store._collections[made.uid] = replace(store._collections[made.uid], purge_time=LONG_AGO)
    await sweep(upkeep)
    assert index.dropped == [made.uid]
    assert await registry.get("docs", ANN) == anew


async def test_an_expired_collection_goes_with_what_it_holds(
    registry: Registry, store: MemoryStore, upkeep: Upkeep
) -> None:
    made = await registry.create("docs", {"ttl": timedelta(hours=1)}, ANN)
    await fill(store, made)
    await sweep(upkeep)
    await registry.get("docs", ANN)
    store._collections[made.uid] = replace(store._collections[made.uid], expire_time=now())
    await sweep(upkeep)
    with pytest.raises(CollectionNotFound):
        await registry.get("docs", ANN)


async def test_what_a_sweep_deletes_is_in_the_audit_trail_as_the_services_own_doing(
    registry: Registry, store: MemoryStore, index: FakeIndex, upkeep: Upkeep, trail: FakeTrail
) -> None:
    made = await registry.create("docs", {}, ANN)
    await sweep(upkeep)
    assert not trail.begun
    store._collections[made.uid] = replace(made, expire_time=now())
    index.down = True
    await sweep(upkeep)
    index.down = False
    await sweep(upkeep)
    assert [event.outcome for event in trail.begun] == ["UNKNOWN", "UNKNOWN"]
    assert [(event.tenant, event.subject, event.resource, event.code) for event in trail.ended] == [
        ("acme", "collections", "collections/docs", "UNAVAILABLE"),
        ("acme", "collections", "collections/docs", "OK"),
    ]


async def test_a_sweep_goes_on_past_what_fails(
    registry: Registry, store: MemoryStore, index: FakeIndex, upkeep: Upkeep
) -> None:
    for name in ("one", "two"):
        made = await registry.create(name, {}, ANN)
        store._collections[made.uid] = replace(made, expire_time=now())
    index.down = True
    await sweep(upkeep)
    index.down = False
    await sweep(upkeep)
    assert (await registry.list(ANN)).items == ()


async def test_a_repeated_request_gets_the_first_answer(
    registry: Registry, index: FakeIndex, deletions: CollectionDeletions
) -> None:
    made = await registry.create("", {}, ANN, receipt=receipt("r1", method="Create"))
    assert await registry.create("", {}, ANN, receipt=receipt("r1", method="Create")) == made
    with pytest.raises(RequestIdReused):
        await registry.create("", {}, ANN, receipt=receipt("r1", "other body", method="Create"))

    async def describe() -> Collection:
        once = receipt("r2", method="Update")
        return await registry.update(made.name, {"description": "x"}, [], ANN, etag=made.etag, receipt=once)

    changed = await describe()
    assert await describe() == changed
    deleted = await deletions.delete(made.name, ANN, receipt=receipt("r3", method="Delete"))
    assert await deletions.delete(made.name, ANN, receipt=receipt("r3", method="Delete")) == deleted


async def test_a_repeated_deletion_ends_what_the_first_began(
    registry: Registry, index: FakeIndex, deletions: CollectionDeletions
) -> None:
    made = await registry.create("docs", {}, ANN)
    index.fails_at = "drop"
    with pytest.raises(DependencyUnavailable):
        await deletions.delete("docs", ANN, receipt=receipt())
    index.fails_at = ""
    assert (await deletions.delete("docs", ANN, receipt=receipt())).uid == made.uid
    assert index.dropped == [made.uid]


async def test_parallel_changes_of_different_fields_all_hold(registry: Registry) -> None:
    await registry.create("docs", {}, ANN)
    await asyncio.gather(*(registry.update("docs", {"labels": {str(n): "x"}}, [f"labels.{n}"], ANN) for n in range(20)))
    assert len((await registry.get("docs", ANN)).labels) == 20


async def test_stats_count_documents_and_the_index(registry: Registry, store: MemoryStore, index: FakeIndex) -> None:
    made = await registry.create("docs", {}, ANN)
    await fill(store, made)
    collection, totals, in_index = await registry.stats("docs", ANN)
    assert (collection.document_count, totals.pending, in_index.chunks) == (1, 1, 0)


async def followed(stream: AsyncIterator[Followed], changes: int) -> list[str]:
    """The next messages, up to so many collections after the snapshot: "description@sequence", and "complete"."""
    seen: list[str] = []
    async for step in stream:
        seen += ["complete"] if step.complete else [f"{each.description}@{each.sequence}" for each in step.collections]
        if "complete" in seen and len(seen) - seen.index("complete") > changes:
            return seen
    raise AssertionError("the stream ended")


async def test_a_follower_gets_all_there_is_then_each_change(
    registry: Registry, deletions: CollectionDeletions
) -> None:
    await registry.create("docs", {"description": "one"}, ANN)
    await registry.create("docs", {"description": "two"}, EVE)
    await registry.update("docs", {"description": "one changed"}, [], ANN)
    await registry.create("gone", {"description": "gone"}, ANN)
    await deletions.delete("gone", ANN)
    stream = registry.follow(0)
    assert await followed(stream, 0) == ["two@2", "one changed@3", "complete"]
    watching = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    await deletions.delete("docs", EVE)
    (deleted,) = (await watching).collections
    assert (deleted.tenant, deleted.sequence, deleted.delete_time is not None) == ("globex", 6, True)
    await stream.aclose()


async def test_a_follower_goes_on_where_it_was(registry: Registry) -> None:
    for description in ("one", "two", "three"):
        await registry.create(description, {"description": description}, ANN)
    assert await followed(registry.follow(1), 0) == ["two@2", "three@3", "complete"]
    assert await followed(registry.follow(3), 0) == ["complete"]


async def test_a_follower_that_knows_more_than_there_is_begins_anew(registry: Registry) -> None:
    await registry.create("docs", {"description": "restored"}, ANN)
    assert await followed(registry.follow(99), 0) == ["restored@1", "complete"]


def test_a_change_is_named_by_what_it_did() -> None:
    live = collection()
    deleted = replace(live, delete_time=now())
    steps = [(None, live), (live, replace(live, description="new")), (live, deleted), (deleted, live)]
    assert [Change.of(*step).kind for step in steps] == [
        f"collection.{what}" for what in ("created", "updated", "deleted", "undeleted")
    ]


async def test_a_follower_of_changes_gets_every_one_and_how_many_there_were(
    registry: Registry, deletions: CollectionDeletions
) -> None:
    await registry.create("docs", {"description": "one"}, ANN)
    await registry.update("docs", {"description": "two"}, [], ANN)
    stream = registry.follow_changes(0)
    assert await anext(stream) == 2
    first = await anext(stream)
    assert not isinstance(first, int)
    assert [(each.kind, each.collection.description) for each in first] == [
        ("collection.created", "one"),
        ("collection.updated", "two"),
    ]
    coming = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await deletions.delete("docs", ANN)
    then = await coming
    assert not isinstance(then, int)
    assert [(each.kind, each.collection.sequence) for each in then] == [("collection.deleted", 3)]
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_follower_that_knows_more_changes_than_there_are_is_told_and_gets_those_to_come(
    registry: Registry,
) -> None:
    await registry.create("docs", {"description": "restored"}, ANN)
    stream = registry.follow_changes(99)
    assert await anext(stream) == 1
    await registry.update("docs", {"description": "new"}, [], ANN)
    changes = await anext(stream)
    assert not isinstance(changes, int)
    assert [each.collection.sequence for each in changes] == [2]
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_followers_stream_ends_when_the_process_stops(registry: Registry) -> None:
    stream = registry.follow(0)
    await followed(stream, 0)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    registry.stop_following()
    with pytest.raises(DependencyUnavailable, match="stopping"):
        await waiting


async def test_a_follower_sees_what_another_process_wrote(registry: Registry, store: MemoryStore) -> None:
    stream = registry.follow(0)
    await followed(stream, 0)
    other = Registry(store, FakeIndex(), FakeModels(), FakePlaces(), quotas(store))
    await other.create("docs", {"description": "elsewhere"}, ANN)
    step = await anext(stream)
    assert [each.description for each in step.collections] == ["elsewhere"]
    await stream.aclose()
