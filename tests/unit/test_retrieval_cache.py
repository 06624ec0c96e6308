"""Answers given again, over fakes: when, to whom, and never after what was written since."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from ragweave.v1 import search_pb2 as pb
from services.mesh.consistency import consistency_token
from services.mesh.errors import CollectionDisabled, CollectionNotFound, DependencyUnavailable
from services.retrieval.cache import ResultCache, Tally
from services.retrieval.chunks import DocumentFields, IndexId, Mode
from services.retrieval.query import CacheControl, Query
from services.retrieval.results import Asked, Entry, NearResults
from tests.retrieval_fakes import FakeRevisions, view
from tests.retrieval_replica import ANN, ANONYMOUS, BOB, CountingStore, Replica

Cache = pb.SearchResponse.Cache
INDEX = IndexId("uid-docs")
QUERY = Query(collection="docs", text="foxes")


@asynccontextmanager
async def replica(*views: Any, **cache: Any) -> AsyncIterator[Replica]:
    """One process with one document, "foxes jump", in docs."""
    async with Replica(CountingStore(), FakeRevisions(), *views, **cache).running() as made:
        await made.write("d1")
        yield made


def how(response: pb.SearchResponse) -> tuple[str, str]:
    return Cache.Status.Name(response.cache.status), Cache.Layer.Name(response.cache.layer)


async def test_the_same_question_is_answered_again_without_embedding_or_searching() -> None:
    async with replica() as made:
        first = await made.found()
        assert how(first) == ("MISS", "LAYER_UNSPECIFIED")
        again = await made.found()
        assert how(again) == ("HIT", "PROCESS")
        assert again.hits == first.hits and len(again.hits) == 1 and again.usage == first.usage
        assert {each.stage for each in again.timings} == {"authorize", "cache", "total"}
        assert (made.store.searches, len(made.embedder.asked)) == (1, 1)


async def test_a_hundred_at_once_are_embedded_once_and_searched_once() -> None:
    async with replica() as made:
        made.store.after.clear()
        asking = [asyncio.create_task(made.found()) for _ in range(100)]
        while not made.store.searches:
            await asyncio.sleep(0)
        made.store.after.set()
        answers = await asyncio.gather(*asking)
        assert (made.store.searches, len(made.embedder.asked)) == (1, 1)
        assert sorted(map(how, answers)) == [("HIT", "IN_FLIGHT")] * 99 + [("MISS", "LAYER_UNSPECIFIED")]
        assert all(answer.hits == answers[0].hits for answer in answers)
        assert made.cache.tally("acme")[Tally.IN_FLIGHT] == 99


WRITES = {
    "upsert": lambda made: made.write("d2", "foxes run"),
    "delete": lambda made: made.indexer.delete(INDEX, ["d1"]),
    "retire": lambda made: made.indexer.retire(INDEX, "d1", "r2", 0),
    "acl": lambda made: made.indexer.update_fields(INDEX, DocumentFields("d1", principals=("user:bob",))),
    "hide": lambda made: made.indexer.hide(INDEX, {"d1": 1}),
    "drop": lambda made: made.indexer.drop(INDEX),
}


@pytest.mark.parametrize("write", WRITES)
async def test_after_each_kind_of_write_the_answer_is_made_anew(write: str) -> None:
    async with replica() as made:
        before = [hit.document for hit in (await made.found()).hits]
        await WRITES[write](made)
        after = await made.found()
        assert how(after) == ("MISS", "LAYER_UNSPECIFIED")
        assert [hit.document for hit in after.hits] != before


async def test_what_is_taken_from_a_caller_is_taken_from_the_cache() -> None:
    async with replica(view(public=True)) as made:
        made.indexer._ensured.clear()
        for who in (ANN, ANONYMOUS):
            assert how(await made.found(who=who))[0] == "MISS" and how(await made.found(who=who))[0] == "HIT"
        made.collections.apply(view(public=False, sequence=2))
        assert how(await made.found(who=ANN))[0] == "HIT"
        with pytest.raises(CollectionNotFound):
            await made.found(who=ANONYMOUS)
        made.collections.apply(view(disabled=True, sequence=3))
        with pytest.raises(CollectionDisabled):
            await made.found(who=ANN)
        made.collections.apply(view(deleted=True, sequence=4))
        with pytest.raises(CollectionNotFound):
            await made.found(who=ANN)


async def test_nobody_is_given_what_was_found_for_somebody_else() -> None:
    async with replica() as made:
        await made.write("secret", "foxes of ann", "user:ann")
        assert len((await made.found(who=ANN)).hits) == 2
        for who in (BOB, replace(ANN, principals=frozenset({"user:ann2"}))):
            answer = await made.found(who=who)
            assert how(answer)[0] == "MISS" and [hit.text for hit in answer.hits] == ["foxes jump"]
        assert how(await made.found(who=replace(ANN, scopes=frozenset({"search"}), tier="pro")))[0] == "HIT"


async def test_a_collection_of_the_same_name_made_anew_has_answers_of_its_own() -> None:
    async with replica() as made:
        await made.found()
        made.collections.apply(view(deleted=True, sequence=2))
        made.collections.apply(view(uid="uid-other", sequence=3))
        assert (await made.found()).hits == []  # type: ignore[comparison-overlap]


async def test_a_search_that_reads_while_something_is_written_is_not_given_again() -> None:
    async with replica() as made:
        made.store.after.clear()
        asking = asyncio.create_task(made.found())
        while not made.store.searches:
            await asyncio.sleep(0)
        await made.indexer.delete(INDEX, ["d1"])
        made.store.after.set()
        assert len((await asking).hits) == 1  # it was asked before
        assert made.cache.entries("acme") == []
        assert (await made.texts(), how(await made.found())[0]) == ([], "HIT")


async def test_who_asks_after_a_write_does_not_share_a_search_begun_before_it() -> None:
    async with replica() as made:
        made.store.after.clear()
        before = asyncio.create_task(made.found())
        while made.store.searches < 1:
            await asyncio.sleep(0)
        await made.indexer.delete(INDEX, ["d1"])
        after = asyncio.create_task(made.found())
        while made.store.searches < 2:
            await asyncio.sleep(0)
        made.store.after.set()
        assert (len((await before).hits), len((await after).hits)) == (1, 0)


async def test_controls_do_what_they_say() -> None:
    async with replica() as made:
        assert how(await made.found(cache_control=CacheControl.BYPASS))[0] == "BYPASSED"
        assert how(await made.found())[0] == "MISS"  # bypassing filled nothing
        assert how(await made.found(cache_control=CacheControl.REFRESH))[0] == "REFRESHED"
        assert made.store.searches == 3
        (kept,) = made.cache.entries("acme")
        assert how(await made.found()) == ("HIT", "PROCESS") and kept.hits == 1
        assert how(await made.found(cache_control=CacheControl.BYPASS))[0] == "BYPASSED"
        tally = made.cache.tally("acme")
        assert (tally[Tally.PROCESS], tally[Tally.MISS], tally[Tally.REFRESHED], tally[Tally.BYPASSED]) == (1, 1, 1, 2)
        assert made.cache.tally("acme", INDEX) == tally and not made.cache.tally("globex")


async def test_an_answer_that_went_without_a_stage_is_not_given_again() -> None:
    async with replica() as made:
        made.embedder.down = True
        degraded = await made.found()
        assert [each.stage for each in degraded.degraded_stages] == ["embed"]
        made.embedder.down = False
        whole = await made.found()
        assert how(whole)[0] == "MISS" and not whole.degraded_stages
        made.embedder.down = True
        assert how(await made.found(require_all=True))[0] == "HIT"


async def test_without_redis_searches_go_on_and_say_that_the_cache_does_not() -> None:
    counter = FakeRevisions()
    made = Replica(CountingStore(), counter)
    await made.write("d1")
    counter.down = True
    for _ in range(3):
        answer = await made.found()
        assert how(answer) == ("STATUS_UNSPECIFIED", "LAYER_UNSPECIFIED") and len(answer.hits) == 1
        assert [each.stage for each in answer.degraded_stages] == ["cache"]
        with pytest.raises(DependencyUnavailable, match=r"^cache: .*\(Redis\) does not answer") as refused:
            await made.found(require_all=True)
        assert refused.value.metadata == {"stage": "cache"}
        assert not (await made.found(require_all=True, cache_control=CacheControl.BYPASS)).degraded_stages
    assert counter.asked == 1


async def test_with_a_token_no_other_replica_answers_from_before_it() -> None:
    counter, store = FakeRevisions(), CountingStore()
    async with AsyncExitStack() as opened:
        writing = await opened.enter_async_context(Replica(store, counter).running())
        reading = await opened.enter_async_context(Replica(store, counter).running())
        await writing.write("d1")
        assert len((await reading.found()).hits) == 1
        counter.muted = True  # the push is late
        revision = await writing.indexer.delete(INDEX, ["d1"])
        assert how(await reading.found())[0] == "HIT"  # within the second, without a token
        assert await reading.texts(consistency_token=consistency_token(INDEX, revision)) == []
        assert await reading.texts() == []


async def test_pages_that_a_token_continues_are_looked_up_each_time() -> None:
    async with replica() as made:
        await made.write("d2", "foxes run")
        first = await made.found(page_size=1)
        for _ in range(2):
            following = await made.found(page_size=1, page_token=first.next_page_token)
            assert how(following)[0] == "STATUS_UNSPECIFIED" and len(following.hits) == 1


def entry(number: int, *, size: int = 100, tenant: str = "acme", created_s: float = 0.0) -> Entry:
    asked = Asked(str(number).encode(), tenant, (INDEX,), ("docs",), "", Mode.HYBRID)
    return Entry(asked, (1,), bytes(size), created_s)


def test_near_answers_are_bounded_in_bytes_and_those_not_used_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.retrieval.results.time.time", lambda: 1.0)
    evicted: list[Asked] = []
    size = entry(0).size
    near = NearResults(20 * size, 60, evicted.append)
    for number in range(20):
        near.put(entry(number))
    assert near.get(b"0", (1,)) is not None
    for number in range(20, 25):
        near.put(entry(number))
    assert [each.key for each in evicted] == [b"1", b"2", b"3", b"4", b"5"]
    near.put(entry(3, size=20 * size))  # too large to drive all others out
    assert len(list(near.entries())) == 20 and near._bytes == 20 * size
    near.put(entry(24, size=50))
    assert near._bytes == sum(each.size for each in near.entries())
    assert near.get(b"24", (2,)) is None and near.get(b"24", (1,)) is None


def test_an_answer_too_old_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("services.retrieval.results.time.time", lambda: now)
    near = NearResults(2**20, 60)
    near.put(entry(1, created_s=100.0))
    now = 160.0
    assert near.get(b"1", (1,)) is not None
    now = 160.1
    assert near.get(b"1", (1,)) is None


async def test_purging_is_heard_by_every_replica() -> None:
    counter, store = FakeRevisions(), CountingStore()
    async with AsyncExitStack() as opened:
        one = await opened.enter_async_context(Replica(store, counter).running())
        other = await opened.enter_async_context(Replica(store, counter).running())
        await one.write("d1")
        for each in (one, other):
            await each.found()
            assert how(await each.found())[0] == "HIT"
        assert await one.keeper.purge("acme") == (1, 0, 1)
        await asyncio.sleep(0)
        assert [how(await each.found())[0] for each in (one, other)] == ["MISS", "MISS"]
        counter.down = True
        with pytest.raises(DependencyUnavailable):
            await one.cache.purge("acme", outdated=[INDEX])


async def test_what_is_written_frees_what_it_outdates_in_every_replica_and_no_more() -> None:
    counter, store = FakeRevisions(), CountingStore()
    views = (view(), view("others"))
    async with AsyncExitStack() as opened:
        one = await opened.enter_async_context(Replica(store, counter, *views).running())
        other = await opened.enter_async_context(Replica(store, counter, *views).running())
        await one.write("d1")
        for each in (one, other):
            await each.found()
            await each.found(text="seals", collection="others")
        await one.write("d1", "foxes sleep")
        current = await one.found()  # perhaps before its own process hears of the write by the feed
        await asyncio.sleep(0)
        near = one.cache._near, other.cache._near
        assert [[entry.asked.text for entry in each.entries()] for each in near] == [["seals", "foxes"], ["seals"]]
        assert current.hits == (await one.found()).hits and store.searches == 5
        assert all(each._bytes == sum(entry.size for entry in each.entries()) for each in near)


async def test_scores_are_told_anew_once_the_weights_of_words_were_brought_in_step() -> None:
    async with replica() as made:
        await made.write("d2", f"foxes {'run ' * 40}")
        before = await made.found(mode=Mode.SPARSE)
        rescaling = asyncio.create_task(made.scales.run())
        await made.scales.settled()
        rescaling.cancel()
        await asyncio.gather(rescaling, return_exceptions=True)
        after = await made.found(mode=Mode.SPARSE)
        assert how(after)[0] == "MISS"
        assert [hit.score for hit in after.hits] != [hit.score for hit in before.hits]


async def test_answers_from_before_the_counter_was_lost_are_not_given_again() -> None:
    counter = FakeRevisions()
    async with Replica(CountingStore(), counter).running() as made:
        await made.write("d1")
        await made.found()
        counter.lose_all()
        await made.write("d1", "foxes sleep")  # revision 1 again
        assert await made.texts() == ["foxes sleep"]


async def test_nothing_is_kept_where_the_cache_has_no_room() -> None:
    async with replica(max_bytes=0) as made:
        assert [how(await made.found())[0] for _ in range(2)] == ["MISS", "MISS"]
        assert isinstance(made.cache, ResultCache) and made.cache.entries("acme") == []


class EmptyShared:
    """Answers of other replicas, of whom there are none."""

    def __init__(self) -> None:
        self.down = ""
        self.asked = 0

    async def get(self, asked: Asked) -> Entry | None:
        self.asked += 1
        return None

    def put(self, entry: Entry) -> None:
        pass

    async def drop(self, tenant: str, index: IndexId | None) -> int:
        return 0


async def test_answers_that_no_replica_shares_are_seldom_looked_for_unless_the_store_is_away() -> None:
    shared = EmptyShared()
    async with replica(shared=shared) as made:
        for number in range(64 + 160):
            await made.found(text=f"question {number}")
        assert shared.asked == 64 + 10
        shared.down = "it does not answer"
        for number in range(10):
            await made.found(text=f"other question {number}")
        assert shared.asked == 64 + 10 + 10
