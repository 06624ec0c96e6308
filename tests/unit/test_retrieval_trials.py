"""Searches made to be measured: nothing from a cache, nobody's use, and what is not there is told."""

import pytest

from services.mesh.errors import CollectionNotFound, DependencyUnavailable
from services.retrieval.query import Query
from services.retrieval.trials import Trials
from tests.retrieval_fakes import FakeEmbedder, view
from tests.retrieval_rig import ANN, Searching, documents


async def test_a_trial_finds_what_a_search_finds_by_a_vector_of_its_own_and_is_not_counted() -> None:
    searching, uncached = await Searching().holding(), FakeEmbedder()
    trials = Trials(searching.retriever, uncached, searching.store, searching.counted)
    answer = await trials.search(Query(text="foxes", collection="docs"), ANN)
    async with searching.counted.running():
        pass
    assert (uncached.asked, searching.embedder.asked) == ([("models/fake", "foxes")], [])
    assert searching.usage.tallies == []
    assert documents(answer) == documents(await searching.search())


async def test_a_trial_without_one_of_its_stages_is_none() -> None:
    searching, uncached = await Searching().holding(), FakeEmbedder()
    uncached.down = True
    with pytest.raises(DependencyUnavailable):
        await Trials(searching.retriever, uncached, searching.store, searching.counted).search(
            Query(text="foxes", collection="docs", require_all=True), ANN
        )


async def test_what_the_caller_could_not_find_however_it_is_asked_for_is_lacking() -> None:
    searching = await Searching(view("docs"), view("manuals")).holding(dogs={"principals": ("user:bob",)})
    trials = Trials(searching.retriever, searching.embedder, searching.store, searching.counted)
    there = [
        "foxes",
        "collections/docs/documents/foxes",
        "collections/docs/documents/foxes/chunks/{}".format(
            next(each.chunk_id for each in await searching.store.list_chunks(view("docs").uid, "foxes", 0, 1))
        ),
    ]
    lacking = [
        "dogs",  # Bob's
        "badgers",
        "collections/manuals/documents/foxes",
        "collections/elsewhere/documents/foxes",
        "collections/docs/documents/foxes/chunks/none",
    ]
    assert await trials.lacking([*there, *lacking], ["docs", "manuals"], ANN) == lacking
    with pytest.raises(CollectionNotFound):
        await trials.lacking(["foxes"], ["elsewhere"], ANN)
