"""Writes of the index, and sparse weights that follow its average length."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from services.mesh.errors import (
    CollectionNotFound,
    DependencyUnavailable,
    FailedPrecondition,
    InvalidArgument,
    LeaseLost,
)
from services.retrieval import indexer as indexer_module
from services.retrieval.chunks import Chunk, Distance, DocumentFields, IndexId, LengthStats
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.indexer import Indexer
from services.retrieval.scaling import SparseScales
from services.retrieval.sparse import scale_of
from tests.retrieval_fakes import (
    FakeRegistry,
    FakeRevisions,
    MemoryVectorStore,
    chunk,
    direction,
    encoded,
    vector,
    view,
)

INDEX = IndexId("uid-docs")


@dataclass
class Parts:
    store: MemoryVectorStore
    collections: CollectionsMirror
    revisions: FakeRevisions
    scales: SparseScales
    indexer: Indexer


@asynccontextmanager
async def parts(store: MemoryVectorStore | None = None) -> AsyncIterator[Parts]:
    used = store or MemoryVectorStore()
    collections = CollectionsMirror(FakeRegistry(), patience_s=0)
    collections.apply(view())
    revisions = FakeRevisions()
    scales = SparseScales(used, collections.language_of)
    running = [asyncio.create_task(scales.run()), asyncio.create_task(collections.run())]
    yield Parts(used, collections, revisions, scales, Indexer(used, collections, revisions, scales))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_every_write_counts_the_revision_up() -> None:
    async with parts() as made:
        indexer = made.indexer
        first = await indexer.upsert(INDEX, [(chunk(), vector(direction(1)))])
        assert first == 1
        assert await indexer.retire(INDEX, "d1", "r1", 1) == 2
        assert await indexer.update_fields(INDEX, DocumentFields("d1", title="T")) == 3
        assert (await indexer.stats(INDEX))[1] == 3
        (listed,), total = await indexer.list_chunks(INDEX, "d1", 0, 10)
        assert (listed.document.title, total) == ("T", 1)
        assert await indexer.delete(INDEX, ["d1"]) == 4
        assert (await indexer.stats(INDEX))[0].chunks == 0


async def test_a_revision_that_is_not_whole_retires_nothing() -> None:
    async with parts() as made:
        await made.indexer.upsert(INDEX, [(chunk(revision_key="r1"), vector(direction(1)))])
        await made.indexer.upsert(INDEX, [(chunk(ordinal=1, revision_key="r2"), vector(direction(2)))])
        with pytest.raises(FailedPrecondition, match="1 chunks of revision 'r2', not 2"):
            await made.indexer.retire(INDEX, "d1", "r2", 2)
        assert await made.store.count(INDEX) == 2


def fenced(fence: int, text: str = "text", **fields: Any) -> list[tuple[Chunk, bytes]]:
    return [(chunk(text, document_fields={"fence": fence}, **fields), vector(direction(1)))]


async def test_a_write_that_comes_after_one_whose_turn_was_later_is_refused_and_changes_nothing() -> None:
    async with parts() as made:
        indexer = made.indexer
        await indexer.upsert(INDEX, fenced(5, "old", revision_key="r1"))
        await indexer.upsert(INDEX, fenced(7, "new", ordinal=1, revision_key="r2"))
        await indexer.retire(INDEX, "d1", "r2", 1, 7)
        for late in (
            indexer.upsert(INDEX, fenced(5, "old", revision_key="r1")),
            indexer.retire(INDEX, "d1", "r1", 0, 5),
            indexer.update_fields(INDEX, DocumentFields("d1", title="old", fence=5)),
            indexer.delete(INDEX, ["d1"], 5),
        ):
            with pytest.raises(LeaseLost):
                await late
        assert [each.text for each in await made.store.list_chunks(INDEX, "d1", 0, 10)] == ["new"]
        await indexer.upsert(INDEX, fenced(7, "new", ordinal=1, revision_key="r2"))
        await indexer.upsert(INDEX, fenced(5, document="d2"))  # another document's turns are its own


async def test_new_fields_alone_keep_out_whoever_comes_late_too() -> None:
    async with parts() as made:
        await made.indexer.upsert(INDEX, fenced(5))
        await made.indexer.update_fields(INDEX, DocumentFields("d1", principals=("user:ann",), fence=7))
        await made.indexer.update_fields(INDEX, DocumentFields("d1", principals=("user:bob",)))  # takes no part
        with pytest.raises(LeaseLost):
            await made.indexer.upsert(INDEX, fenced(5))
        ((kept,), _) = await made.indexer.list_chunks(INDEX, "d1", 0, 10)
        assert kept.document.principals == ("user:bob",)


async def test_a_late_write_and_the_one_it_is_late_for_do_not_pass_each_other() -> None:
    async with parts() as made:
        counted, go_on = asyncio.Event(), asyncio.Event()
        count = made.store.count

        async def slow_count(*args: Any, **kwargs: Any) -> int:
            found = await count(*args, **kwargs)
            counted.set()
            await go_on.wait()
            return found

        made.store.count = slow_count  # type: ignore[method-assign]
        late = asyncio.create_task(made.indexer.upsert(INDEX, fenced(5, "old")))
        await counted.wait()
        new = asyncio.create_task(made.indexer.upsert(INDEX, fenced(7, "new")))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(late, new)
        assert [each.text for each in await made.store.list_chunks(INDEX, "d1", 0, 10)] == ["new"]


@pytest.mark.parametrize("values", [[1.0] * 3, [1.0, 2.0, float("nan"), 1.0], [1.0, float("inf"), 1.0, 1.0]])
async def test_a_vector_of_another_model_is_refused_by_name(values: list[float]) -> None:
    async with parts() as made:
        good = (chunk(), vector(direction(1)))
        with pytest.raises(InvalidArgument, match=r"chunks\[1\]\.vector"):
            await made.indexer.upsert(INDEX, [good, (chunk(ordinal=1), vector(values))])
        assert await made.store.count(INDEX) == 0


async def test_chunks_of_a_deleted_collection_are_refused() -> None:
    async with parts() as made:
        made.collections.apply(view(deleted=True, sequence=2))
        with pytest.raises((CollectionNotFound, DependencyUnavailable)):
            await made.indexer.upsert(INDEX, [(chunk(), vector(direction(1)))])


async def test_a_dropped_index_is_not_written_again() -> None:
    async with parts() as made:
        await made.indexer.upsert(INDEX, [(chunk(), vector(direction(1)))])
        await made.store.drop(INDEX)  # by another replica
        with pytest.raises(CollectionNotFound):
            await made.indexer.upsert(INDEX, [(chunk(), vector(direction(1)))])
        await made.indexer.drop(INDEX)


async def test_weights_follow_the_average_length_both_ways() -> None:
    async with parts() as made:
        await made.indexer.upsert(INDEX, [(chunk("fox dog"), vector(direction(1)))])
        await made.scales.settled()
        assert set((await made.store.length_stats(INDEX)).scales) == {scale_of(2)}
        long = [(chunk("fox " * 100, document="d2", ordinal=n), vector(direction(n))) for n in range(200)]
        await made.indexer.upsert(INDEX, long)
        await made.scales.settled()
        stats = await made.store.length_stats(INDEX)
        assert dict(stats.scales) == {scale_of(stats.total_length / stats.chunks): 201}
        await made.indexer.delete(INDEX, ["d2"])
        await made.scales.settled()
        assert dict((await made.store.length_stats(INDEX)).scales) == {scale_of(2): 1}


async def test_work_that_a_process_left_is_found_on_first_use() -> None:
    left = MemoryVectorStore()
    await left.ensure_index(INDEX, 4)
    await left.upsert(INDEX, [encoded(chunk("fox dog"), scale=3)])
    async with parts(left) as made:
        await made.scales.noticed(INDEX)
        await made.scales.settled()
        assert set((await left.length_stats(INDEX)).scales) == {scale_of(2)}


async def test_a_large_index_is_not_counted_at_each_write_and_keeps_no_small_one_waiting() -> None:
    counted: list[IndexId] = []

    class Large(MemoryVectorStore):
        async def length_stats(self, index: IndexId) -> LengthStats:
            counted.append(index)
            stats = await super().length_stats(index)
            return LengthStats(10**9, 2 * 10**9, {scale_of(2): 10**9}) if index == INDEX else stats

    async with parts(Large()) as made:
        await made.scales.wrote(INDEX)
        await made.scales.settled()
        await made.scales.wrote(INDEX)
        others = [IndexId("uid-2"), IndexId("uid-3")]
        for other in others:
            await made.scales.wrote(other)
        while counted[-1] != others[-1]:
            await asyncio.sleep(0)
        assert counted == [INDEX, *others]


async def test_rescaling_waits_for_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flaky(MemoryVectorStore):
        failures = 1

        async def length_stats(self, index: IndexId) -> LengthStats:
            if self.failures and made_ready.is_set():
                self.failures -= 1
                raise DependencyUnavailable("down")
            return await super().length_stats(index)

    monkeypatch.setattr("services.retrieval.scaling._RETRY_S", 0.0)
    made_ready = asyncio.Event()
    async with parts(Flaky()) as made:
        await made.indexer.upsert(INDEX, [(chunk("fox dog"), vector(direction(1)))])
        await made.scales.settled()
        made_ready.set()
        await made.indexer.upsert(INDEX, [(chunk("fox " * 50, document="d2"), vector(direction(2)))])
        await made.scales.settled()
        assert set((await made.store.length_stats(INDEX)).scales) == {scale_of(26)}


async def test_the_indexes_of_a_tenant_are_erased_in_parts_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer_module, "_ERASED_AT_ONCE", 2)
    async with parts() as made:
        for number in range(3):
            made.collections.apply(view(f"c{number}", uid=f"uid-{number}"))
            await made.indexer.upsert(IndexId(f"uid-{number}"), [(chunk(), vector(direction(1)))])
        made.collections.apply(view("theirs", uid="uid-theirs", tenant="globex"))
        await made.indexer.upsert(IndexId("uid-theirs"), [(chunk(), vector(direction(1)))])
        assert [await made.indexer.erase("acme") for _ in range(3)] == [2, 2, 0]  # "docs" was never written to
        assert made.revisions.owned == {("globex", "uid-theirs")}
        assert await made.store.count(IndexId("uid-theirs")) == 1
        for uid in ("uid-0", "uid-1", "uid-2", INDEX):
            assert await made.revisions.current(IndexId(uid)) == 0
            with pytest.raises(CollectionNotFound):
                await made.indexer.upsert(IndexId(uid), [(chunk(), vector(direction(1)))])
            assert await made.store.count(IndexId(uid)) == 0


async def test_an_index_whose_collection_goes_while_it_is_made_does_not_stay() -> None:
    class Slow(MemoryVectorStore):
        async def ensure_index(self, index: IndexId, dimension: int, distance: Distance = Distance.COSINE) -> None:
            made.collections.apply(view(sequence=9, deleted=True))
            await made.indexer.drop(index)
            await super().ensure_index(index, dimension, distance)

    async with parts(Slow()) as made:
        with pytest.raises(CollectionNotFound):
            await made.indexer.upsert(INDEX, [(chunk(), vector(direction(1)))])
        with pytest.raises(LookupError):
            await made.store.upsert(INDEX, [encoded(chunk())])
