"""What a tenant learns of its cached answers, and drops."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.mesh.errors import CollectionNotFound, InvalidArgument
from services.retrieval.cache import Tally
from services.retrieval.cache_keeping import ENTRIES, CacheKeeper
from services.retrieval.chunks import IndexId, Mode
from tests.retrieval_fakes import FakeRevisions, view
from tests.retrieval_replica import ANN, CountingStore, Replica

EVE = replace(ANN, tenant="globex")


@pytest.fixture
async def made() -> AsyncIterator[Replica]:
    """Three answers of acme, asked for 1, 2 and 3 times, and one of globex."""
    views = (view(), view("others"), view(tenant="globex", uid="uid-theirs"))
    async with Replica(CountingStore(), FakeRevisions(), *views).running() as replica:
        await replica.write("d1")
        await replica.found(text="foxes")
        for _ in range(2):
            await replica.found(text="dogs", mode=Mode.DENSE)
        for _ in range(3):
            await replica.found(text="seals", collection="", collections=("docs", "others"))
        await replica.found(text="secret", who=EVE)
        yield replica


async def test_statistics_are_of_the_tenant_and_of_the_collection_asked_for(made: Replica) -> None:
    keeper = CacheKeeper(made.cache, made.collections)
    stats = await keeper.stats("acme")
    assert (stats.hits, stats.tally[Tally.MISS], stats.hit_rate, stats.entries) == (3, 3, 0.5, 3)
    assert stats.size == sum(each.size for each in made.cache.entries("acme"))
    others = await keeper.stats("acme", "collections/others")
    assert (others.hits, others.tally[Tally.MISS], others.entries) == (2, 1, 1)
    assert (await keeper.stats("globex")).entries == 1
    nobody = await keeper.stats("nobody")
    assert (nobody.hits, nobody.hit_rate, nobody.entries) == (0, 0.0, 0)


async def test_entries_are_listed_in_pages_and_by_filter_to_their_tenant_alone(made: Replica) -> None:
    keeper = CacheKeeper(made.cache, made.collections)
    first = keeper.entries("acme", ENTRIES.query(page_size=2))
    rest = keeper.entries("acme", ENTRIES.query(page_size=2, page_token=first.next_page_token))
    assert [each.asked.text for each in (*first.items, *rest.items)] == ["seals", "dogs", "foxes"]
    assert first.total_size == 3 and not rest.next_page_token

    def texts(filter: str) -> set[str]:
        return {each.asked.text for each in keeper.entries("acme", ENTRIES.query(filter=filter)).items}

    assert texts('collection = "others"') == {"seals"}
    assert texts("hits > 0") == {"dogs", "seals"}
    assert texts('mode = "DENSE"') == {"dogs"}
    assert [each.asked.text for each in keeper.entries("globex", ENTRIES.query()).items] == ["secret"]


async def test_a_purge_drops_what_it_says_and_nothing_of_others(made: Replica) -> None:
    keeper = CacheKeeper(made.cache, made.collections)
    assert await keeper.purge("acme", "others") == (1, 0)
    assert {each.asked.text for each in made.cache.entries("acme")} == {"foxes", "dogs"}
    assert await keeper.purge("acme") == (2, 0)
    assert made.cache.entries("acme") == [] and len(made.cache.entries("globex")) == 1
    assert (await made.found(text="foxes")).cache.status == 2


async def test_answers_of_a_collection_that_is_gone_go_with_all_of_the_tenant(made: Replica) -> None:
    made.collections.forget(IndexId("uid-others"))
    keeper = CacheKeeper(made.cache, made.collections)
    assert await keeper.purge("acme") == (3, 0)
    await made.found(text="foxes")
    assert await keeper.erase("acme") == 1
    assert (await keeper.erase("acme"), (await keeper.stats("acme")).tally) == (0, Counter())
    assert (await keeper.stats("globex")).tally[Tally.MISS] == 1


@pytest.mark.parametrize(("collection", "refusal"), [("none", CollectionNotFound), ("a/b", InvalidArgument)])
async def test_a_collection_that_is_not_there_is_refused(
    made: Replica, collection: str, refusal: type[Exception]
) -> None:
    keeper = CacheKeeper(made.cache, made.collections)
    with pytest.raises(refusal):
        await keeper.stats("acme", collection)
    with pytest.raises(refusal):
        await keeper.purge("acme", collection)
