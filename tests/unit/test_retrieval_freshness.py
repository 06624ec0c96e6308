"""Searches wait for a revision as long as they may, and however many wait, the counter is hardly asked."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient

from services.mesh.errors import DeadlineExceeded, DependencyUnavailable
from services.retrieval.adapters.qdrant import QdrantVectorStore
from services.retrieval.adapters.redis import RedisRevisions
from services.retrieval.chunks import IndexId, VectorQuery
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.freshness import Freshness
from services.retrieval.indexer import Indexer
from services.retrieval.scaling import SparseScales
from tests.jobs_store import store_in
from tests.retrieval_fakes import FakeRegistry, FakeRevisions, chunk, direction, vector, view

INDEX = IndexId("uid-docs")


@pytest.fixture
def revisions() -> FakeRevisions:
    return FakeRevisions()


async def test_what_is_reached_already_is_asked_for_once(revisions: FakeRevisions) -> None:
    freshness = Freshness(revisions)
    await revisions.bump(INDEX)
    for _ in range(3):
        await freshness.reached(INDEX, 1)
    assert revisions.asked == 1
    await freshness.reached(IndexId("new"), 0)
    assert revisions.asked == 1


async def test_any_number_that_wait_ask_together_and_all_go_on(revisions: FakeRevisions) -> None:
    freshness = Freshness(revisions, pause_s=0.01)
    waiting = [asyncio.create_task(freshness.reached(INDEX, 1)) for _ in range(500)]
    while revisions.asked < 3:
        await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    await revisions.bump(INDEX)
    asked = revisions.asked
    await asyncio.gather(*waiting)
    assert revisions.asked <= asked + 2


async def test_a_revision_that_never_comes_holds_nobody_longer_than_the_callers_time(revisions: FakeRevisions) -> None:
    freshness = Freshness(revisions, pause_s=0.01, patience_s=0.3)
    await revisions.bump(INDEX)
    for timeout_s in (0.1, None, 1e9):
        with pytest.raises(DeadlineExceeded, match=r"at revision 1, and not yet at 1000000000, .*without the token"):
            await freshness.reached(INDEX, 10**9, timeout_s)


async def test_who_waits_in_vain_leaves_nothing_behind(revisions: FakeRevisions) -> None:
    freshness = Freshness(revisions, pause_s=0.01)
    waiting = asyncio.create_task(freshness.reached(INDEX, 1))
    while not revisions.asked:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    while freshness._looking:
        await asyncio.sleep(0.001)


async def test_who_comes_as_a_look_ends_begins_another_and_holds_nobody_up(revisions: FakeRevisions) -> None:
    freshness = Freshness(revisions, pause_s=0.01, patience_s=0.5)
    ended = asyncio.Event()
    current = revisions.current

    async def ending(index: IndexId) -> int:
        found = await current(index)
        ended.set()  # who waits for it runs in the turn of the loop in which the look ends
        return found

    revisions.current = ending  # type: ignore[method-assign]

    async def coming() -> None:
        await ended.wait()
        await revisions.bump(INDEX)
        await freshness.reached(INDEX, 1)

    await asyncio.gather(coming(), freshness.reached(INDEX, 1))


async def test_a_counter_that_does_not_answer_is_told_at_once(revisions: FakeRevisions) -> None:
    freshness = Freshness(revisions)
    revisions.down = True
    with pytest.raises(DependencyUnavailable):
        await freshness.reached(INDEX, 1)
    revisions.down = False
    await revisions.bump(INDEX)
    await freshness.reached(INDEX, 1)


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[tuple[RedisRevisions, RedisRevisions]]:
    """The counter as two replicas see it."""
    with store_in(tmp_path) as server:
        async with (
            RedisRevisions.open(server.url, timeout_s=5) as one,
            RedisRevisions.open(server.url, timeout_s=5) as other,
        ):
            yield one, other


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
async def test_a_replica_shows_what_another_wrote_once_it_has_reached_the_revision(
    shared: tuple[RedisRevisions, RedisRevisions],
) -> None:
    client = AsyncQdrantClient(":memory:")
    writing, reading = QdrantVectorStore(client), QdrantVectorStore(client)
    collections = CollectionsMirror(FakeRegistry())
    collections.apply(view())
    indexer = Indexer(writing, collections, shared[0], SparseScales(writing, collections.language_of))
    waiting = asyncio.create_task(Freshness(shared[1], pause_s=0.01).reached(INDEX, 1, 30))
    await asyncio.sleep(0)
    assert await indexer.upsert(INDEX, [(chunk("seals eat fish"), vector(direction(1)))]) == 1
    await waiting
    found = await reading.search(INDEX, VectorQuery(vector(direction(1)), None))
    assert [hit.chunk.text for hit in found.hits] == ["seals eat fish"]
    await client.close()
