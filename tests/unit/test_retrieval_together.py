"""Batches, answers in steps, and passages like one there is, over fakes."""

import asyncio
from typing import Any

import pytest

from services.mesh.errors import (
    ChunkNotFound,
    CollectionNotFound,
    DependencyUnavailable,
    DocumentNotFound,
    DomainError,
    InvalidArgument,
    InvalidFilter,
    TextTooLong,
)
from services.retrieval.batch import BatchSearcher
from services.retrieval.chunks import IndexId, Mode, Rerank
from services.retrieval.collection import SearchDefaults
from services.retrieval.query import Query
from services.retrieval.retriever import Answer
from services.retrieval.similar import SimilarFinder
from services.retrieval.steps import Ended, Step, answered_in_steps
from tests.retrieval_fakes import FakeEmbedder, chunk, encoded, view
from tests.retrieval_rig import ANN, ANONYMOUS, Searching, documents


async def batch(searching: Searching, *queries: Query | DomainError) -> list[Answer | DomainError]:
    return await BatchSearcher(searching.retriever, searching.embedder).search(queries, ANN)


async def test_a_batch_answers_as_searches_alone_do_with_one_pass_of_embedding_for_each_model() -> None:
    searching = await Searching(view(), view("more", embedding_model="models/other")).holding("docs", "more")
    asked = [
        Query(text="foxes", collection="docs"),
        Query(text="apples", collections=["docs", "more"]),
        Query(text="foxes", collection="docs", mode=Mode.DENSE),
        Query(text="dogs", collection="docs", mode=Mode.SPARSE),
        Query(vector=[1.0, 0, 0, 0], collection="docs"),
    ]
    alone = [await searching.retriever.search(each, ANN) for each in asked]
    together = await batch(searching, *asked)
    for one, other in zip(alone, together, strict=True):
        assert isinstance(other, Answer)
        assert [(hit.key, hit.found.score) for hit in one.hits] == [(hit.key, hit.found.score) for hit in other.hits]
    assert sorted(searching.embedder.passes) == [("models/fake", ["foxes", "apples"]), ("models/other", ["apples"])]


async def test_a_query_that_fails_fails_alone() -> None:
    searching = await Searching().holding()
    refused = InvalidArgument.of("top_k", "too many")
    found = await batch(
        searching,
        Query(text="foxes", collection="docs"),
        refused,
        Query(text="foxes", collection="nowhere"),
        Query(text="x" * 9000, collection="docs"),
        Query(text="foxes", collection="docs", filter="nonsense ="),
    )
    assert isinstance(found[0], Answer)
    assert found[1] is refused
    assert isinstance(found[2], CollectionNotFound)
    assert isinstance(found[3], TextTooLong)
    assert isinstance(found[4], InvalidFilter)


async def test_a_batch_that_needs_no_vectors_makes_none_and_goes_on_by_words_without_embedding() -> None:
    searching = await Searching().holding()
    await batch(searching, Query(text="foxes", collection="docs", mode=Mode.SPARSE))
    assert searching.embedder.passes == []
    searching.embedder.down = True
    by_words, dense = await batch(
        searching, Query(text="foxes", collection="docs"), Query(text="foxes", collection="docs", mode=Mode.DENSE)
    )
    assert isinstance(by_words, Answer)
    assert [each.stage for each in by_words.degraded] == ["embed"]
    assert isinstance(dense, DependencyUnavailable)


class HeldEmbedder(FakeEmbedder):
    """Embeds once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.let = asyncio.Event(), asyncio.Event()

    async def embed(self, model: str, text: str) -> Any:
        self.begun.set()
        await self.let.wait()
        return await super().embed(model, text)


async def test_what_is_found_by_words_comes_before_the_model_is_done() -> None:
    searching = await Searching().holding()
    held = HeldEmbedder()
    query = Query(text="foxes", collection="docs", top_k=3, page_size=1)
    steps = answered_in_steps(searching.retriever.with_embedder(held), query, ANN)
    first = await anext(steps)
    assert isinstance(first, Step)
    assert not first.complete
    by_words = await searching.search("foxes", mode=Mode.SPARSE, top_k=3, page_size=1)
    assert (documents(first.answer), first.answer.next_page_token) == (documents(by_words), "")
    held.let.set()
    whole, end = [step async for step in steps]
    assert isinstance(whole, Step)
    assert whole.complete
    expected = await searching.search("foxes", top_k=3, page_size=1)
    assert (documents(whole.answer), whole.answer.next_page_token) == (documents(expected), expected.next_page_token)
    assert end == Ended()


@pytest.mark.parametrize("mode", Mode)
async def test_the_order_before_reranking_comes_first(mode: Mode) -> None:
    searching = await Searching(view(defaults=SearchDefaults(rerank=Rerank("house")))).holding()
    searching.reranker.scores = {"friends": 1.0}
    searching.reranker.gate.clear()
    query = Query(text="foxes", collection="docs", mode=mode, rerank=Rerank("own"))
    steps = answered_in_steps(searching.retriever, query, ANN)
    first = await anext(steps)
    assert isinstance(first, Step)
    assert not first.complete
    assert "rerank" not in first.answer.timings_s
    searching.reranker.gate.set()
    whole, end = [step async for step in steps]
    assert isinstance(whole, Step)
    assert documents(whole.answer)[0] == "dogs"
    assert {*documents(first.answer)} <= {*documents(whole.answer)}
    assert [model for model, _, _ in searching.reranker.asked] == ["own"]
    assert end == Ended()


async def counted(searching: Searching) -> dict[str, tuple[int, int]]:
    """Searches and errors by collection, since last asked."""
    searching.usage.batches.clear()
    await searching.counted.flush()
    return {each.collection_id: (each.queries, each.errors) for each in searching.usage.tallies}


async def test_each_search_of_a_batch_counts_and_an_answer_in_steps_once() -> None:
    searching = await Searching().holding()
    query = Query(text="foxes", collection="docs")
    await batch(searching, query, query, Query(text="foxes", collection="nowhere"))
    assert await counted(searching) == {"": (3, 1), "docs": (2, 0)}
    held = HeldEmbedder()
    steps = answered_in_steps(searching.retriever.with_embedder(held), query, ANN)
    first = await anext(steps)
    assert isinstance(first, Step)
    assert not first.complete
    held.let.set()
    assert len([step async for step in steps]) == 2
    assert await counted(searching) == {"": (1, 0), "docs": (1, 0)}


async def test_a_search_that_its_caller_gives_up_is_counted_as_not_answered() -> None:
    searching = await Searching().holding()
    held = HeldEmbedder()
    asking = asyncio.create_task(
        searching.retriever.with_embedder(held).search(Query(text="foxes", collection="docs"), ANN)
    )
    await held.begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await counted(searching) == {"": (1, 1), "docs": (1, 1)}


@pytest.mark.parametrize("fields", [{"mode": Mode.SPARSE}, {"mode": Mode.DENSE}, {"min_score": 0.1}])
async def test_where_no_stage_is_sooner_there_is_the_whole_answer_alone(fields: dict[str, Any]) -> None:
    searching = await Searching().holding()
    steps = answered_in_steps(searching.retriever, Query(text="foxes", collection="docs", **fields), ANN)
    assert [type(step) for step in [step async for step in steps]] == [Step, Ended]


async def test_what_fails_at_once_has_no_steps() -> None:
    searching = await Searching().holding()
    with pytest.raises(CollectionNotFound):
        await anext(answered_in_steps(searching.retriever, Query(text="foxes", collection="none"), ANN))


async def test_a_failure_after_the_first_step_is_told_before_the_end() -> None:
    searching = await Searching().holding()
    held = HeldEmbedder()
    query = Query(text="foxes", collection="docs", require_all=True)
    steps = answered_in_steps(searching.retriever.with_embedder(held), query, ANN)
    assert isinstance(await anext(steps), Step)
    held.down = True
    held.let.set()
    end = await anext(steps)
    assert isinstance(end, Ended)
    assert isinstance(end.error, DependencyUnavailable)
    with pytest.raises(DependencyUnavailable):
        await anext(steps)


class Finding:
    """Documents with vectors that say which is like which."""

    def __init__(self, searching: Searching) -> None:
        self.searching = searching
        self.finder = SimilarFinder(searching.retriever, searching.store, searching.counted)

    @classmethod
    async def over(cls, *collection_ids: str, **fields: Any) -> "Finding":
        searching = Searching(*(view(each, **fields.get(each, {})) for each in collection_ids or ("docs",)))
        for collection_id in collection_ids or ("docs",):
            index = IndexId(f"uid-{collection_id}")
            await searching.store.ensure_index(index, 4)
            vectors: dict[str, list[list[float]]] = {
                "north": [[1, 0, 0, 0], [1, 0.2, 0, 0]],
                "northeast": [[1, 0.5, 0, 0]],
                "east": [[0, 1, 0, 0]],
                "up": [[0, 0, 1, 0]],
            }
            for name, each in vectors.items():
                of = {"principals": ("user:bob",)} if name == "up" else {}
                chunks = [
                    encoded(chunk(f"{name} {n}", document=name, ordinal=n, document_fields=of), dense)
                    for n, dense in enumerate(each)
                ]
                await searching.store.upsert(index, chunks)
        return cls(searching)

    async def similar(self, name: str, who: Any = ANN, same_document: bool = False, **fields: Any) -> list[str]:
        answer = await self.finder.find(name, Query(**fields), who, same_document=same_document)
        return [f"{hit.collection.collection_id}/{'/'.join(map(str, hit.key[1:]))}" for hit in answer.hits]


async def test_passages_like_a_chunk_are_found_without_the_example() -> None:
    finding = await Finding.over()
    name = "collections/docs/documents/north/chunks/k0"
    assert await finding.similar(name) == ["docs/northeast/k0", "docs/east/k0"]
    assert (await finding.similar(name, same_document=True))[0] == "docs/north/k1"
    assert await finding.similar(name, min_score=0.5) == ["docs/northeast/k0"]
    assert await finding.similar(name, filter='document != "northeast"') == ["docs/east/k0"]
    assert finding.searching.embedder.asked == []


async def test_a_document_stands_for_the_mean_of_its_chunks() -> None:
    finding = await Finding.over()
    answer = await finding.finder.find("collections/docs/documents/north", Query(), ANN)
    assert answer.hits[0].found.score == pytest.approx(1.05 / (1.005 * 1.118), rel=5e-3)


async def test_other_collections_keep_their_document_of_the_same_name() -> None:
    finding = await Finding.over("docs", "more")
    found = await finding.similar("collections/docs/documents/north", collections=["docs", "collections/more"])
    assert {each for each in found if "/north/" in each} == {"more/north/k0", "more/north/k1"}


async def test_collections_of_another_model_are_refused() -> None:
    finding = await Finding.over("docs", "more", more={"embedding_model": "models/other"})
    with pytest.raises(InvalidArgument, match=r"collections: .*do not compare"):
        await finding.similar("collections/docs/documents/north", collections=["more"])


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("north", InvalidArgument),
        ("collections/docs", InvalidArgument),
        ("collections/docs/documents/south", DocumentNotFound),
        ("collections/docs/documents/north/chunks/k9", ChunkNotFound),
        ("collections/nowhere/documents/north", CollectionNotFound),
        ("collections/docs/documents/up", DocumentNotFound),
    ],
)
async def test_an_example_that_is_not_there_or_not_to_be_seen_is_refused(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await (await Finding.over()).similar(name)


async def test_a_private_example_is_not_there_for_callers_without_a_token() -> None:
    finding = await Finding.over("docs", "open", open={"public": True})
    with pytest.raises(CollectionNotFound):
        await finding.similar("collections/docs/documents/north", ANONYMOUS, collections=["open"])


async def test_a_search_by_example_is_counted_once_for_what_it_searches() -> None:
    finding = await Finding.over("docs", "more")
    await finding.similar("collections/docs/documents/north")
    await finding.similar("collections/docs/documents/north", collections=["more"])
    assert await counted(finding.searching) == {"": (2, 0), "docs": (1, 0), "more": (1, 0)}
    for name, collections in (
        ("docs/documents/south", ["more"]),
        ("docs/documents/up", []),
        ("nowhere/documents/x", []),
    ):
        with pytest.raises((DocumentNotFound, CollectionNotFound)):
            await finding.similar(f"collections/{name}", collections=collections)
    assert await counted(finding.searching) == {"": (3, 3), "docs": (1, 1), "more": (1, 1)}
