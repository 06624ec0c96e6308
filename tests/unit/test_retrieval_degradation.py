"""A search whose dependencies fail or hang: answered from what is left, which it says, or refused where all is needed.

"Left" is compared with what the remaining stages find when they are asked alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import pytest

from services.mesh.consistency import consistency_token
from services.mesh.errors import (
    CollectionDisabled,
    CollectionNotFound,
    DeadlineExceeded,
    DependencyUnavailable,
    DomainError,
    IndexFailed,
    ModelNotFound,
    TextTooLong,
    TooManyRequests,
)
from services.retrieval.batch import BatchSearcher
from services.retrieval.chunks import Found, IndexId, Mode, VectorQuery
from services.retrieval.collection import CollectionView
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.faceting import FacetAsked
from services.retrieval.freshness import Freshness
from services.retrieval.ports import QueryEmbedding
from services.retrieval.query import Query
from services.retrieval.retriever import Answer, Retriever
from services.retrieval.scaling import SparseScales
from services.retrieval.similar import SimilarFinder
from services.retrieval.usage import Usage
from tests.retrieval_fakes import (
    FakeEmbedder,
    FakeRegistry,
    FakeReranker,
    FakeRevisions,
    FakeUsageSink,
    MemoryVectorStore,
    chunk,
    encoded,
    view,
)
from tests.retrieval_rig import ANN, TEXTS, documents

Trouble = Callable[[], Awaitable[None]]
OTHER = view("more", embedding_model="models/other")
# A deadline that a hanging stage must not use up. What the fakes do takes no time of it.
SHORT_S = 0.2


async def hanging() -> None:
    await asyncio.Event().wait()


def raising(error: DomainError) -> Trouble:
    async def trouble() -> None:
        raise error

    return trouble


AWAY = raising(DependencyUnavailable("it is away", retry_after_s=3.0))
TROUBLES = {"away": AWAY, "hanging": hanging}
either = pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)


class TroubledStore(MemoryVectorStore):
    """Has trouble with some indexes, with one kind of vector, or with what is asked for beside hits."""

    def __init__(self) -> None:
        super().__init__()
        self.troubles: dict[str, Trouble] = {}
        self.stages: dict[str, Trouble] = {}
        self.failing: Collection[str] = ()
        self.asked = 0

    async def search(self, index: IndexId, query: VectorQuery) -> Found:
        self.asked += 1
        await self._trouble(index)
        if ("dense" in self.failing and query.dense) or ("sparse" in self.failing and query.sparse):
            raise IndexFailed("the index failed at this")
        return await super().search(index, query)

    async def fetch(self, index: IndexId, *arguments: Any) -> Any:
        await self._trouble(index)
        return await super().fetch(index, *arguments)

    async def adjacent(self, *arguments: Any) -> Any:
        if "neighbors" in self.stages:
            await self.stages["neighbors"]()
        return await super().adjacent(*arguments)

    async def vectors(self, *arguments: Any) -> Any:
        if "vectors" in self.stages:
            await self.stages["vectors"]()
        return await super().vectors(*arguments)

    async def count_values(self, *arguments: Any) -> Any:
        if "facets" in self.stages:
            await self.stages["facets"]()
        return await super().count_values(*arguments)

    async def _trouble(self, index: IndexId) -> None:
        if index in self.troubles:
            await self.troubles[index]()


class TroubledEmbedder(FakeEmbedder):
    """Has trouble with some models."""

    def __init__(self) -> None:
        super().__init__()
        self.troubles: dict[str, Trouble] = {}

    async def embed(self, model: str, text: str) -> QueryEmbedding:
        if model in self.troubles:
            await self.troubles[model]()
        return await super().embed(model, text)


class TroubledRegistry(FakeRegistry):
    trouble: Trouble | None = None

    async def get(self, collection_id: str) -> CollectionView | None:
        if self.trouble is not None:
            await self.trouble()
        return await super().get(collection_id)


class TroubledRevisions(FakeRevisions):
    trouble: Trouble | None = None

    async def current(self, index: IndexId) -> int:
        if self.trouble is not None:
            await self.trouble()
        return await super().current(index)


class Searching:
    """A retriever over collections `docs` and `more`, of a model each, that hold the same documents."""

    def __init__(self, *views: CollectionView) -> None:
        self.store = TroubledStore()
        self.embedder = TroubledEmbedder()
        self.registry = TroubledRegistry()
        self.revisions = TroubledRevisions()
        collections = CollectionsMirror(self.registry)
        for each in views or (view(), OTHER):
            collections.apply(each)
        scales = SparseScales(self.store, collections.language_of)
        freshness, usage = Freshness(self.revisions), Usage(FakeUsageSink())
        self.retriever = Retriever(self.store, self.embedder, collections, scales, freshness, FakeReranker(), usage)

    @classmethod
    async def made(cls) -> "Searching":
        made = cls()
        for index in (IndexId("uid-docs"), IndexId("uid-more")):
            await made.store.ensure_index(index, 4)
            held = [encoded(chunk(text, document=name), scale=70) for name, text in TEXTS.items()]
            await made.store.upsert(index, held)
        return made

    async def search(self, *collections: str, timeout_s: float | None = SHORT_S, **fields: Any) -> Answer:
        query = Query(text="foxes", collections=collections or ["docs"], **fields)
        return await self.retriever.search(query, ANN, timeout_s=timeout_s)

    async def refused(self, *collections: str, **fields: Any) -> DomainError:
        with pytest.raises(DomainError) as raised:
            await self.search(*collections, **fields)
        return raised.value


def left_out(answer: Answer) -> list[tuple[str, str]]:
    assert all(each.reason for each in answer.degraded)
    return [(each.stage, each.collection) for each in answer.degraded]


def hits(answer: Answer) -> Sequence[tuple[str, str, float]]:
    return [
        (hit.collection.collection_id, hit.found.chunk.document.document_id, hit.found.score) for hit in answer.hits
    ]


def is_error_of(trouble: Trouble, error: DomainError) -> bool:
    """Late is DEADLINE_EXCEEDED, away is UNAVAILABLE; who is told to come again is told when."""
    if trouble is hanging:
        return isinstance(error, DeadlineExceeded)
    return isinstance(error, DependencyUnavailable) and error.retry_after_s is not None


@either
async def test_without_embedding_the_words_answer(trouble: Trouble) -> None:
    searching = await Searching.made()
    alone = await searching.search(mode=Mode.SPARSE)
    searching.embedder.troubles["models/fake"] = trouble
    answer = await searching.search()
    assert left_out(answer) == [("embed", "")]
    assert hits(answer) == hits(alone) != []
    for fields in ({"require_all": True}, {"mode": Mode.DENSE}):
        error = await searching.refused(**fields)
        assert is_error_of(trouble, error)
        assert trouble is AWAY or "embed" in error.message
    assert left_out(await searching.search(mode=Mode.SPARSE, require_all=True)) == []


@pytest.mark.parametrize(
    "error", [TooManyRequests("busy", retry_after_s=1.0), ModelNotFound("no such model"), DeadlineExceeded("late")]
)
async def test_whatever_keeps_a_query_from_being_embedded_the_words_answer(error: DomainError) -> None:
    searching = await Searching.made()
    searching.embedder.troubles["models/fake"] = raising(error)
    answer = await searching.search()
    assert [(each.stage, each.reason) for each in answer.degraded] == [("embed", error.message)]
    assert await searching.refused(require_all=True) is error


async def test_a_query_at_fault_is_refused_and_not_answered_by_words() -> None:
    searching = await Searching.made()
    searching.embedder.troubles["models/fake"] = raising(TextTooLong("query: has 300 tokens, the limit is 256"))
    assert isinstance(await searching.refused(), TextTooLong)
    assert isinstance(await searching.refused("docs", "more"), TextTooLong)


@either
async def test_one_of_two_models_down_leaves_its_collection_to_the_words(trouble: Trouble) -> None:
    searching = await Searching.made()
    searching.embedder.troubles["models/other"] = trouble
    answer = await searching.search("docs", "more")
    assert left_out(answer) == [("embed", "more")]
    stages = {(hit.collection.collection_id, score.stage) for hit in answer.hits for score in hit.found.stages}
    assert stages == {("docs", "dense"), ("docs", "sparse"), ("more", "sparse")}
    assert is_error_of(trouble, await searching.refused("docs", "more", require_all=True))


@either
async def test_one_of_two_models_down_leaves_its_collection_out_of_a_search_by_meaning(trouble: Trouble) -> None:
    searching = await Searching.made()
    alone = await searching.search("docs", mode=Mode.DENSE)
    searching.embedder.troubles["models/other"] = trouble
    answer = await searching.search("docs", "more", mode=Mode.DENSE)
    assert left_out(answer) == [("embed", "more")]
    assert hits(answer) == hits(alone) != []


@either
async def test_a_least_score_that_cannot_be_measured_is_left_out(trouble: Trouble) -> None:
    searching = await Searching.made()
    searching.embedder.troubles["models/other"] = trouble
    assert left_out(await searching.search("more", min_score=0.9)) == [("embed", ""), ("min_score", "")]
    assert left_out(await searching.search("more", min_score=0.9, mode=Mode.SPARSE)) == [("min_score", "")]
    answer = await searching.search("docs", "more", min_score=0.999, mode=Mode.SPARSE)
    assert left_out(answer) == [("min_score", "more")]
    assert {collection for collection, *_ in hits(answer)} == {"more"}
    error = await searching.refused("docs", "more", min_score=0.9, mode=Mode.SPARSE, require_all=True)
    assert is_error_of(trouble, error)


@either
@pytest.mark.parametrize("mode", Mode)
async def test_one_of_two_collections_down_leaves_the_others_hits(trouble: Trouble, mode: Mode) -> None:
    searching = await Searching.made()
    alone = await searching.search("docs", mode=mode)
    searching.store.troubles["uid-more"] = trouble
    answer = await searching.search("docs", "more", mode=mode)
    assert left_out(answer) == [("store", "more")]
    assert "collection 'more'" in answer.degraded[0].reason
    assert [each[:2] for each in hits(answer)] == [each[:2] for each in hits(alone)] != []
    error = await searching.refused("docs", "more", mode=mode, require_all=True)
    assert is_error_of(trouble, error)
    assert error.metadata == {"stage": "store", "collection": "more"}


@either
@pytest.mark.parametrize("collections", [["docs"], ["docs", "more"]])
async def test_without_any_index_there_is_no_answer_and_the_error_names_them(
    trouble: Trouble, collections: list[str]
) -> None:
    searching = await Searching.made()
    searching.store.troubles |= {"uid-docs": trouble, "uid-more": trouble}
    for require_all in (False, True):
        error = await searching.refused(*collections, require_all=require_all)
        assert is_error_of(trouble, error)
        assert error.metadata["stage"] == "store"
        assert "'docs'" in error.message


@either
async def test_a_page_that_is_resumed_goes_without_the_collection_that_is_down(trouble: Trouble) -> None:
    searching = await Searching.made()
    first = await searching.search("docs", "more", page_size=1)
    searching.store.troubles["uid-more"] = trouble
    rest = await searching.search("docs", "more", page_token=first.next_page_token, page_size=1)
    left = [rest]
    while left[-1].next_page_token:
        left.append(await searching.search("docs", "more", page_token=left[-1].next_page_token, page_size=1))
    assert {collection for page in left for collection, *_ in hits(page)} == {"docs"}
    assert {each for page in left for each in left_out(page)} == {("store", "more")}


@pytest.mark.parametrize(("failing", "rest"), [("sparse", Mode.DENSE), ("dense", Mode.SPARSE)])
async def test_an_index_that_fails_at_one_kind_of_vector_answers_by_the_other(failing: str, rest: Mode) -> None:
    searching = await Searching.made()
    alone = await searching.search(mode=rest)
    searching.store.failing = [failing]
    answer = await searching.search()
    assert left_out(answer) == [(failing, "")]
    assert hits(answer) == hits(alone) != []
    assert left_out(await searching.search("docs", "more")) == [(failing, "docs"), (failing, "more")]
    assert "failed at this" in (await searching.refused(require_all=True)).message


async def test_an_index_that_fails_at_everything_fails_the_search() -> None:
    searching = await Searching.made()
    searching.store.failing = ["dense", "sparse"]
    assert isinstance(await searching.refused(), DependencyUnavailable)
    assert searching.store.asked == 3


async def test_an_index_that_is_away_is_not_asked_again_by_halves() -> None:
    searching = await Searching.made()
    searching.store.troubles["uid-docs"] = AWAY
    await searching.refused()
    assert searching.store.asked == 1


@either
@pytest.mark.parametrize("stages", [["neighbors"], ["facets"], ["neighbors", "facets"]], ids="+".join)
async def test_what_cannot_be_added_to_the_hits_is_left_out_and_they_are_not(
    trouble: Trouble, stages: list[str]
) -> None:
    made = await Searching.made()
    asked: dict[str, Any] = {"neighbors": 1, "facets": [FacetAsked("metadata.year")]}
    whole = await made.search(**asked)
    assert len(whole.facets) == 1
    assert whole.hits[0].stitched_text
    made.store.stages = dict.fromkeys(stages, trouble)
    answer = await made.search(**asked)
    assert hits(answer) == hits(whole)
    assert left_out(answer) == [(stage, "") for stage in stages]
    assert bool(answer.facets) is ("facets" not in stages)
    assert bool(answer.hits[0].stitched_text) is ("neighbors" not in stages)
    assert is_error_of(trouble, await made.refused(**asked, require_all=True))


@either
async def test_without_the_registry_known_collections_are_searched_and_others_are_not_said_to_be_missing(
    trouble: Trouble,
) -> None:
    searching = await Searching.made()
    searching.registry.trouble = trouble
    assert left_out(await searching.search("docs", "more", require_all=True)) == []
    assert is_error_of(trouble, await searching.refused("docs", "unheard-of"))
    searching.registry.trouble = None
    assert isinstance(await searching.refused("docs", "unheard-of"), CollectionNotFound)


@either
async def test_without_the_revision_counter_only_searches_that_must_see_a_write_fail(trouble: Trouble) -> None:
    searching = await Searching.made()
    searching.revisions.trouble = trouble
    assert left_out(await searching.search(require_all=True)) == []
    error = await searching.refused(consistency_token=consistency_token("uid-docs", 1))
    assert is_error_of(trouble, error)
    assert trouble is AWAY or "revision counter" in error.message


async def test_a_collection_that_may_not_be_searched_is_named_and_not_passed_over() -> None:
    searching = Searching(view(), view("more", disabled=True))
    error = await searching.refused("docs", "more")
    assert isinstance(error, CollectionDisabled)
    assert "'more'" in error.message


async def test_several_stages_that_hang_one_after_the_other_still_leave_time_to_answer() -> None:
    searching = await Searching.made()
    searching.embedder.troubles = {"models/fake": hanging, "models/other": hanging}
    searching.store.troubles["uid-more"] = hanging
    answer = await searching.search("docs", "more")
    assert left_out(answer) == [("embed", ""), ("store", "more")]
    assert documents(answer)


async def test_a_batch_answers_what_it_can_while_nobody_tells_of_the_other_collections() -> None:
    searching = await Searching.made()
    searching.registry.trouble = hanging
    unheard, known = Query(text="foxes", collection="unheard-of"), Query(text="foxes", collection="docs")
    batches = BatchSearcher(searching.retriever, searching.embedder)
    *late, found = await batches.search([unheard, unheard, known], ANN, timeout_s=SHORT_S)
    assert [type(each) for each in late] == [DeadlineExceeded, DeadlineExceeded]
    assert isinstance(found, Answer)
    assert documents(found)


@either
async def test_an_example_that_cannot_be_read_in_time_fails_the_search_for_what_is_like_it(trouble: Trouble) -> None:
    searching = await Searching.made()
    searching.store.stages["vectors"] = trouble
    finder = SimilarFinder(searching.retriever, searching.store, Usage(FakeUsageSink()))
    with pytest.raises(DomainError) as raised:
        await finder.find("collections/docs/documents/foxes", Query(), ANN, timeout_s=SHORT_S)
    assert is_error_of(trouble, raised.value)
