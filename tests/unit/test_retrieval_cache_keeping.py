"""What a tenant learns of its cached answers, and drops."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from ragweave.v1 import search_pb2 as pb
from services.mesh.errors import CollectionNotFound, InvalidArgument
from services.retrieval.cache import Tally
from services.retrieval.cache_keeping import ENTRIES
from services.retrieval.chunks import IndexId
from tests.retrieval_fakes import FakeRevisions, view
from tests.retrieval_replica import ANN, CountingStore, Replica

EVE = replace(ANN, tenant="globex")


@pytest.fixture
async def made() -> AsyncIterator[Replica]:
    """Three answers of acme, asked for 1, 2 and 3 times, and one of globex."""
    views = (view(), view("others"), view(tenant="globex", uid="uid-theirs"))
    async with Replica(CountingStore(), FakeRevisions(), *views).running() as replica:
        await replica.write("d1")
        await replica.answered(query="foxes")
        for _ in range(2):
            await replica.answered(query="dogs", mode=pb.SearchRequest.DENSE)
        for _ in range(3):
            await replica.answered(query="seals", collection="", collections=("docs", "others"))
        await replica.answered(query="secret", who=EVE)
        yield replica


async def test_statistics_are_of_the_tenant_and_of_the_collection_asked_for(made: Replica) -> None:
    stats = await made.keeper.stats("acme")
    assert (stats.hits, stats.tally[Tally.MISS], stats.hit_rate, stats.entries) == (3, 3, 0.5, 3)
    assert stats.size == sum(each.size for each in made.cache.entries("acme"))
    others = await made.keeper.stats("acme", "collections/others")
    assert (others.hits, others.tally[Tally.MISS], others.entries) == (2, 1, 1)
    assert (await made.keeper.stats("globex")).entries == 1
    nobody = await made.keeper.stats("nobody")
    assert (nobody.hits, nobody.hit_rate, nobody.entries) == (0, 0.0, 0)


async def test_entries_are_listed_in_pages_and_by_filter_to_their_tenant_alone(made: Replica) -> None:
    first = made.keeper.entries("acme", ENTRIES.query(page_size=2))
    rest = made.keeper.entries("acme", ENTRIES.query(page_size=2, page_token=first.next_page_token))
    assert [each.asked.text for each in (*first.items, *rest.items)] == ["seals", "dogs", "foxes"]
    assert first.total_size == 3 and not rest.next_page_token

    def texts(filter: str) -> set[str]:
        return {each.asked.text for each in made.keeper.entries("acme", ENTRIES.query(filter=filter)).items}

    assert texts('collection = "others"') == {"seals"}
    assert texts("hits > 0") == {"dogs", "seals"}
    assert texts('mode = "DENSE"') == {"dogs"}
    assert [each.asked.text for each in made.keeper.entries("globex", ENTRIES.query()).items] == ["secret"]


async def test_a_purge_drops_what_it_says_and_nothing_of_others(made: Replica) -> None:
    assert await made.keeper.purge("acme", "others") == (1, 0, 1)
    assert {each.asked.text for each in made.cache.entries("acme")} == {"foxes", "dogs"}
    assert await made.keeper.purge("acme") == (2, 0, 2)
    assert made.cache.entries("acme") == [] and len(made.cache.entries("globex")) == 1
    assert [len(made.questions.counts[tenant]) for tenant in ("acme", "globex")] == [0, 1]
    assert (await made.answered(query="foxes")).cache.status == 2


async def test_answers_of_a_collection_that_is_gone_go_with_all_of_the_tenant(made: Replica) -> None:
    made.collections.forget(IndexId("uid-others"))
    assert await made.keeper.purge("acme") == (3, 0, 3)
    await made.answered(query="foxes")
    assert await made.keeper.erase("acme") == 2
    assert (await made.keeper.erase("acme"), (await made.keeper.stats("acme")).tally) == (0, Counter())
    assert (await made.keeper.stats("globex")).tally[Tally.MISS] == 1


@pytest.mark.parametrize(("collection", "refusal"), [("none", CollectionNotFound), ("a/b", InvalidArgument)])
async def test_a_collection_that_is_not_there_is_refused(
    made: Replica, collection: str, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        await made.keeper.stats("acme", collection)
    with pytest.raises(refusal):
        await made.keeper.purge("acme", collection)
