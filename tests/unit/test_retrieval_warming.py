"""Frequent searches made before they are asked again: which, with whose rights, and what keeps none."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from ragweave.v1 import search_pb2 as pb
from services.mesh.errors import CollectionNotFound, DependencyUnavailable
from services.retrieval.query_log import QueryLog
from services.retrieval.warming import Warming
from tests.retrieval_fakes import FakeRevisions, view
from tests.retrieval_replica import ANN, ANONYMOUS, BOB, CountingStore, Replica

HIT, MISS = pb.SearchResponse.Cache.HIT, pb.SearchResponse.Cache.MISS


@pytest.fixture
async def made() -> AsyncIterator[Replica]:
    """Three questions, asked 3, 2 and 1 times, the last of another collection; then a write to docs."""
    views = (view(public=True), view("others"), view(tenant="globex", uid="uid-theirs"))
    async with Replica(CountingStore(), FakeRevisions(), *views).running() as replica:
        await replica.write("d1")
        for number, (query, collection) in enumerate((("seals", "others"), ("dogs", "docs"), ("foxes", "docs")), 1):
            for _ in range(number):
                await replica.answered(query=query, collection=collection)
        await replica.write("d1", "foxes sleep")
        yield replica


def outcomes(warmed: Any) -> tuple[int, int, int]:
    return warmed[Warming.WARMED], warmed[Warming.KEPT], warmed[Warming.LEFT_OUT]


async def test_what_was_outdated_is_answered_from_the_cache_after_warming_and_counts_as_nobodys_search(
    made: Replica,
) -> None:
    before = dict(made.cache.tally("acme"))
    assert outcomes(await made.warmer.warm("acme")) == (2, 1, 0)
    assert dict(made.cache.tally("acme")) == before
    searches = made.store.searches
    found = await made.answered()
    assert found.cache.status == HIT and [hit.text for hit in found.hits] == ["foxes sleep"]
    assert made.store.searches == searches
    assert outcomes(await made.warmer.warm("acme")) == (0, 3, 0)
    assert made.questions.counts["acme"].total() == 7, "warming is not asking"


async def test_the_most_frequent_are_made_first_and_those_of_the_collection_alone(made: Replica) -> None:
    await made.warmer.warm("acme", limit=1)
    assert [(await made.answered(query=each)).cache.status for each in ("foxes", "dogs")] == [HIT, MISS]
    assert outcomes(await made.warmer.warm("acme", "collections/others")) == (0, 1, 0)
    assert outcomes(await made.warmer.warm("globex")) == (0, 0, 0)
    with pytest.raises(CollectionNotFound):
        await made.warmer.warm("acme", "none")


async def test_each_question_is_made_with_the_rights_of_who_asked_it(made: Replica) -> None:
    for who in (ANN, BOB, ANONYMOUS):
        await made.answered(who, query="birds")
    await made.write("secret", "birds of ann", "user:ann")
    await made.warmer.warm("acme")
    for who, hits in ((ANN, 2), (BOB, 1), (ANONYMOUS, 1)):
        found = await made.answered(who, query="birds")
        assert (found.cache.status, len(found.hits)) == (HIT, hits)
    made.collections.apply(view(public=False, sequence=2))
    await made.write("d1")
    assert outcomes(await made.warmer.warm("acme"))[2] == 1, "nobody without a token may search it any more"


async def test_what_cannot_be_kept_or_does_not_fit_into_the_time_is_left_out(made: Replica) -> None:
    assert outcomes(await made.warmer.warm("acme", timeout_s=0.1)) == (0, 0, 3)
    made.embedder.down = True
    assert outcomes(await made.warmer.warm("acme")) == (0, 1, 2)
    made.embedder.down = False
    assert (await made.answered()).cache.status == MISS


async def test_without_the_revision_counter_nothing_is_warmed() -> None:
    counter = FakeRevisions()
    made = Replica(CountingStore(), counter)
    await made.write("d1")
    await made.answered()
    counter.down = True
    made.revisions._begin_anew()
    assert outcomes(await made.warmer.warm("acme")) == (0, 0, 1)


async def test_what_was_sent_is_logged_without_how_to_come_by_it_and_bypassing_not_at_all(made: Replica) -> None:
    await made.keeper.purge("acme")
    await made.answered(cache_control=pb.SearchRequest.BYPASS)
    for fields in ({"require_all": True}, {"cache_control": pb.SearchRequest.REFRESH}, {"top_k": 10}):
        await made.answered(**fields)
    await made.answered(query="x" * 1100)
    first = await made.answered(page_size=1)
    assert not first.next_page_token
    await made.log.write()
    requests = [pb.SearchRequest.FromString(each.request) for each in made.questions.counts["acme"]]
    assert requests == [
        pb.SearchRequest(query="foxes", collection="docs"),
        pb.SearchRequest(query="foxes", collection="docs", page_size=1),
    ]
    assert list(made.questions.counts["acme"].values()) == [3, 1]


async def test_where_no_log_is_kept_nothing_is_noted() -> None:
    async with AsyncExitStack() as opened:
        made = await opened.enter_async_context(Replica(CountingStore(), FakeRevisions()).running())
        made.answering._log = made.warmer._log = log = QueryLog(None)
        await made.answered()
        assert not log._noted and outcomes(await made.warmer.warm("acme")) == (0, 0, 0)
        assert await log.drop("acme") == 0


async def test_a_log_that_does_not_answer_is_told_of(made: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise DependencyUnavailable("the query log does not answer")

    monkeypatch.setattr(made.questions, "most_asked", refuse)
    with pytest.raises(DependencyUnavailable):
        await made.warmer.warm("acme")
