"""A tenant goes from the registry whole, a part at a time, and nobody else's with it."""

from datetime import timedelta

import pytest

from services.collections import erasure as module
from services.collections.adapters.memory import MemoryStore
from services.collections.collection_deletions import CollectionDeletions
from services.collections.erasure import Erasure
from services.collections.records import Collection
from services.collections.registry import Registry
from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import Caller
from services.mesh.quotas import Amounts
from tests.collections_records import FakeIndex, FakeModels, FakePlaces, collection_deletions, document, quotas, receipt

ANN = Caller(tenant="acme", subject="ann")
EVE = Caller(tenant="globex", subject="eve")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def index() -> FakeIndex:
    return FakeIndex()


@pytest.fixture
def registry(store: MemoryStore, index: FakeIndex) -> Registry:
    return Registry(store, index, FakeModels(), FakePlaces(), quotas(store))


@pytest.fixture
def deletions(store: MemoryStore, index: FakeIndex, registry: Registry) -> CollectionDeletions:
    return collection_deletions(store, index, registry)


async def fill(registry: Registry, store: MemoryStore, who: Caller, collections: int = 3) -> None:
    for number in range(collections):
        made = await registry.create(f"c{number}", {}, who, receipt=receipt(f"r{number}", tenant=who.tenant))
        await store.write_documents(made, ["a"], lambda _, made=made: {"a": document(of=made)})  # type: ignore[misc]


async def erased(erasure: Erasure, tenant: str, most: int = 20) -> int:
    """Calls it took, the one that found nothing included."""
    for calls in range(1, most):
        _, done = await erasure.erase(tenant)
        if done:
            return calls
    raise AssertionError("never done")


async def test_collections_documents_answers_and_events_of_the_tenant_go_and_no_others(
    registry: Registry,
    store: MemoryStore,
    index: FakeIndex,
    deletions: CollectionDeletions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_COLLECTIONS_AT_ONCE", 2)
    await fill(registry, store, ANN)
    await fill(registry, store, EVE)
    theirs = [each for each in await store.changes(0, 100) if each.collection.tenant == "globex"]
    assert await erased(Erasure(store, deletions, heard=timedelta(0)), "acme") >= 3
    assert await store.usage("acme") == Amounts()
    assert await store.usage("globex") == Amounts(3, 3)
    assert await store.changes(0, 100) == theirs
    assert await store.recall(receipt("r0"), Collection) is None
    assert await store.recall(receipt("r0", tenant="globex"), Collection) is not None
    assert len(index.dropped) == 3


async def test_what_followers_may_not_have_heard_of_yet_is_told_before_it_goes(
    registry: Registry, store: MemoryStore, deletions: CollectionDeletions
) -> None:
    await fill(registry, store, ANN, collections=1)
    last = await store.last_sequence()
    for _ in range(5):
        _, done = await Erasure(store, deletions).erase("acme")
        assert not done
    (told,) = await store.changes(last, 100)
    assert told.collection.delete_time is not None
    assert await erased(Erasure(store, deletions, heard=timedelta(0)), "acme") == 2
    assert await store.last_sequence() == last + 1


async def test_an_index_that_is_down_is_told_and_waited_for(
    registry: Registry, store: MemoryStore, index: FakeIndex, deletions: CollectionDeletions
) -> None:
    await fill(registry, store, ANN)
    index.down = True
    erasure = Erasure(store, deletions, heard=timedelta(0))
    with pytest.raises(DependencyUnavailable):
        await erasure.erase("acme")
    index.down = False
    await erased(erasure, "acme")
    assert await store.usage("acme") == Amounts()


async def test_a_deletion_that_was_interrupted_is_ended(
    registry: Registry, store: MemoryStore, index: FakeIndex, deletions: CollectionDeletions
) -> None:
    await fill(registry, store, ANN, collections=1)
    index.fails_at = "drop"
    erasure = Erasure(store, deletions, heard=timedelta(0))
    with pytest.raises(DependencyUnavailable):
        await erasure.erase("acme")
    index.fails_at = ""
    await erased(erasure, "acme")
    assert await store.deleted_collections("acme") == []


async def test_a_tenant_nobody_knows_is_erased_at_once(deletions: CollectionDeletions, store: MemoryStore) -> None:
    assert await Erasure(store, deletions).erase("nobody") == (0, True)
