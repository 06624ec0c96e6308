"""Search, over fakes."""

import asyncio
import base64
import zlib
from collections.abc import Sequence
from dataclasses import replace
from random import random
from secrets import randbelow
from typing import Any

import pytest

from services.mesh.consistency import consistency_token
from services.mesh.errors import (
    CollectionDisabled,
    CollectionNotFound,
    DependencyUnavailable,
    FailedPrecondition,
    InvalidArgument,
    InvalidFilter,
    InvalidPageToken,
)
from services.mesh.filters import Comparison, Operator
from services.retrieval import pages
from services.retrieval.chunks import IndexId, Mode, Rerank, StageScore
from services.retrieval.collection import SearchDefaults
from services.retrieval.faceting import FacetAsked
from services.retrieval.fusion import Dbsf, Rrf
from services.retrieval.pages import FrozenRanking, Place
from services.retrieval.query import MAX_TOP_K, Query
from services.retrieval.retriever import Answer
from services.retrieval.stages import Degraded
from tests.retrieval_fakes import (
    chunk,
    direction,
    encoded,
    view,
)
from tests.retrieval_rig import ANN, ANONYMOUS, TEXTS, Searching, documents


async def test_a_hybrid_search_finds_by_meaning_and_by_words() -> None:
    searching = await Searching().holding()
    answer = await searching.search()
    assert answer.total == 4
    stages = {hit.found.chunk.document.document_id: [stage.stage for stage in hit.found.stages] for hit in answer.hits}
    assert stages["foxes"] == stages["dogs"] == ["dense", "sparse"]
    assert stages["weather"] == ["dense"]
    assert set(answer.timings_s) == {"authorize", "embed", "store", "total"}
    assert answer.query_tokens == 1
    assert searching.embedder.asked == [("models/fake", "foxes")]
    (asked,) = searching.store.queries
    assert (asked.depth, asked.limit, asked.fusion) == (200, 10, Rrf())


async def test_a_search_by_words_embeds_nothing() -> None:
    searching = await Searching().holding()
    assert sorted(documents(await searching.search(mode=Mode.SPARSE))) == ["dogs", "foxes"]
    assert searching.embedder.asked == []


async def test_a_vector_takes_the_place_of_the_query() -> None:
    searching = await Searching().holding()
    answer = await searching.search("", vector=direction(TEXTS["apples"]))
    assert documents(answer)[0] == "apples"
    assert searching.store.queries[0].sparse is None
    await searching.search("foxes", vector=direction(TEXTS["apples"]))
    assert searching.store.queries[1].sparse is not None
    assert searching.embedder.asked == []


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("query", {"text": ""}),
        ("query", {"text": " \n"}),
        ("query", {"text": "", "vector": [1.0] * 4, "mode": Mode.HYBRID}),
        ("query", {"text": "", "vector": [1.0] * 4, "mode": Mode.SPARSE}),
        ("query", {"text": "", "mode": Mode.DENSE}),
        ("vector", {"vector": [1.0] * 3}),
        ("vector", {"vector": [float("nan")] * 4}),
        ("top_k", {"top_k": -1}),
        ("top_k", {"top_k": 10_000}),
        ("page_size", {"page_size": -1}),
        ("collection", {"collection": ""}),
        ("collection", {"collection": "collections/"}),
        ("collection", {"collection": "a/b"}),
        ("collections", {"collections": ["docs", "collections/a/b"]}),
        ("facets[0].field", {"facets": [FacetAsked("title")]}),
        ("rerank", {"text": "", "vector": [1.0] * 4, "rerank": Rerank()}),
        ("rerank.top_n", {"rerank": Rerank(top_n=-1)}),
        ("rerank.top_n", {"rerank": Rerank(top_n=201)}),
    ],
)
async def test_a_field_at_fault_is_named(field: str, fields: dict[str, object]) -> None:
    searching = await Searching().holding()
    with pytest.raises(InvalidArgument) as raised:
        await searching.search(**{"text": "foxes", **fields})  # type: ignore[arg-type]
    assert raised.value.violations[0].field == field
    assert raised.value.message.startswith(field)


async def test_collection_and_collections_exclude_each_other() -> None:
    with pytest.raises(InvalidArgument, match="not both"):
        await Searching().retriever.search(Query(text="a", collection="docs", collections=["docs"]), ANN)


async def test_a_filter_that_does_not_parse_is_refused() -> None:
    searching = await Searching().holding()
    with pytest.raises(InvalidFilter):
        await searching.search(filter="nonsense = 1")


async def test_a_filter_may_name_a_document_by_its_full_name() -> None:
    searching = await Searching().holding()
    for name in ("dogs", "collections/docs/documents/dogs"):
        assert documents(await searching.search(filter=f'document = "{name}"')) == ["dogs"]
        assert "dogs" not in documents(await searching.search(filter=f'NOT document = "{name}"'))


async def test_both_filters_must_hold() -> None:
    searching = await Searching().holding(dogs={"metadata": {"year": 2020.0}}, foxes={"metadata": {"year": 2021.0}})
    typed = Comparison(("metadata", "year"), Operator.GE, 2020.0)
    found = await searching.search(filter="metadata.year > 2020", typed_filter=typed)
    assert documents(found) == ["foxes"]


async def test_only_documents_the_caller_may_find_are_found() -> None:
    searching = await Searching(view(public=True)).holding(
        foxes={"principals": ("user:bob",)}, dogs={"principals": ("group:staff",)}
    )
    assert sorted(documents(await searching.search())) == ["apples", "dogs", "weather"]
    assert sorted(documents(await searching.search(who=ANONYMOUS))) == ["apples", "weather"]
    assert (await searching.search(who=ANONYMOUS)).total == 2


async def test_a_private_collection_is_not_there_for_callers_without_a_token() -> None:
    searching = await Searching(view(), view("open", public=True)).holding("docs", "open")
    with pytest.raises(CollectionNotFound):
        await searching.search(who=ANONYMOUS)
    assert (await searching.search(who=ANONYMOUS, collection="open")).total == 4
    assert (await searching.search(collection="collections/docs")).total == 4


async def test_a_disabled_collection_refuses() -> None:
    with pytest.raises(CollectionDisabled, match="docs"):
        await Searching(view(disabled=True)).search()
    with pytest.raises(CollectionNotFound):  # a private one does not even tell that it is disabled
        await Searching(view(disabled=True)).search(who=ANONYMOUS)


async def test_pages_make_up_the_whole_answer() -> None:
    searching = await Searching().holding()
    whole = documents(await searching.search(top_k=3))
    seen: list[str] = []
    token = ""
    sizes = []
    while True:
        page = await searching.search(top_k=3, page_size=2, page_token=token)
        assert page.total == 3
        sizes.append(len(page.hits))
        seen += documents(page)
        token = page.next_page_token
        if not token:
            break
    assert (seen, sizes) == (whole, [2, 1])


async def test_pages_stay_as_they_were_while_documents_come_and_go() -> None:
    searching = await Searching(view(), view("more")).holding("docs", "more")
    asked: dict[str, Any] = {"collections": ["docs", "more"], "top_k": 8, "page_size": 3}
    whole = [hit.key for hit in (await searching.search(**{**asked, "page_size": 0})).hits]
    first = await searching.search(**asked)
    await searching.store.upsert(
        IndexId("uid-docs"), [encoded(chunk("foxes foxes foxes", document=f"new{each}"), scale=70) for each in range(9)]
    )
    second = await searching.search(**asked, page_token=first.next_page_token)
    await searching.store.delete_documents(IndexId("uid-docs"), [whole[6][1]])
    third = await searching.search(**asked, page_token=second.next_page_token)
    seen = [[hit.key for hit in page.hits] for page in (first, second, third)]
    assert seen[:2] == [whole[:3], whole[3:6]]
    assert seen[2] == [key for key in whole[6:] if (key[0], key[1]) != ("uid-docs", whole[6][1])]
    assert (first.total, second.total, third.total, third.next_page_token) == (8, 8, 8, "")
    assert len(searching.store.queries) == 4, "later pages rank nothing anew"


async def test_what_a_caller_may_no_longer_see_is_on_no_later_page() -> None:
    searching = await Searching().holding()
    first = await searching.search(top_k=4, page_size=1)
    await searching.store.set_fields(IndexId("uid-docs"), list(TEXTS), {"principals": ["user:bob"]})
    assert (await searching.search(top_k=4, page_size=3, page_token=first.next_page_token)).hits == []


async def test_pages_have_numbers_too() -> None:
    searching = await Searching().holding()
    whole = documents(await searching.search())
    assert documents(await searching.search(page_size=3, page=2)) == whole[3:]
    assert (await searching.search(page_size=3, page=3)).hits == []
    token = (await searching.search(page_size=1)).next_page_token
    await searching.store.delete_documents(IndexId("uid-docs"), whole[:1])
    for number in (4, 2):
        numbered = await searching.search(page_size=1, page=number, page_token=token)
        assert documents(numbered) == whole[number - 1 : number], "of the ranking that the token is of"


def test_the_longest_ranking_fits_into_a_token() -> None:
    stages = tuple(StageScore(name, random(), 200) for name in ("dense", "sparse", "fusion", "rerank", "boosts", "mmr"))
    places = [Place(19, randbelow(2**64), random(), stages, random()) for _ in range(MAX_TOP_K)]
    frozen = FrozenRanking(places, [Degraded("rerank", "the reranker is unavailable")], [1] * MAX_TOP_K)
    token = pages.token(frozen, 3, "0123456789abcdef")
    assert len(token) <= pages.MAX_TOKEN
    assert pages.read(token, "0123456789abcdef") == (frozen, 3)


def test_a_token_that_unpacks_to_more_than_any_is_refused() -> None:
    bomb = base64.urlsafe_b64encode(zlib.compress(b" " * 10**7)).decode().rstrip("=")
    with pytest.raises(InvalidPageToken, match="not a token that this method returned"):
        pages.read(bomb, "")


@pytest.mark.parametrize("token", ["x", "!!!!", "WzEsInh4IiwyXQ", "bnVsbA", "WzEsInh4IiwtMV0", "eJyLBgAAXQBd"])
async def test_a_page_token_made_up_is_refused(token: str) -> None:
    searching = await Searching().holding()
    with pytest.raises(InvalidPageToken, match="page_token"):
        await searching.search(page_token=token)


@pytest.mark.parametrize(
    "other", [{"text": "dogs"}, {"top_k": 4}, {"filter": "page_number = 0"}, {"mode": Mode.DENSE}, {"fusion": Dbsf()}]
)
async def test_a_page_token_of_another_search_is_refused(other: dict[str, object]) -> None:
    searching = await Searching().holding()
    token = (await searching.search(top_k=3, page_size=1)).next_page_token
    with pytest.raises(InvalidPageToken, match="another search"):
        await searching.search(**{"text": "foxes", "top_k": 3, **other, "page_token": token})  # type: ignore[arg-type]


async def test_a_collections_defaults_fill_what_is_unset() -> None:
    defaults = SearchDefaults(top_k=60, mode=Mode.SPARSE, fusion=Dbsf(), min_score=0.1)
    searching = await Searching(view(defaults=defaults)).holding()
    await searching.search()
    await searching.search(top_k=2, mode=Mode.HYBRID, fusion=Rrf(k=1), min_score=0.2)
    first, second = searching.store.queries
    assert (first.limit, first.depth, first.dense, first.fusion, first.min_similarity) == (60, 240, None, Dbsf(), 0.1)
    assert (second.limit, second.dense is None, second.fusion, second.min_similarity) == (2, False, Rrf(k=1), 0.2)


@pytest.mark.parametrize("mode", Mode)
async def test_a_least_score_means_the_same_in_every_mode(mode: Mode) -> None:
    searching = await Searching().holding()
    like = {hit.key: hit.found.similarity for hit in (await searching.search("foxes", mode=mode, min_score=-1.0)).hits}
    assert all(each is not None for each in like.values())
    bound = sorted(each for each in like.values() if each is not None)[1]
    kept = (await searching.search("foxes", mode=mode, min_score=bound)).hits
    assert {hit.key for hit in kept} == {key for key, each in like.items() if each is not None and each >= bound}
    assert len(kept) == len(like) - 1


async def test_a_least_score_that_no_cosine_reaches_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="min_score: is a cosine similarity"):
        await (await Searching().holding()).search(min_score=1.5)


async def test_without_embedding_a_least_score_is_left_out_and_said_so() -> None:
    searching = await Searching().holding()
    searching.embedder.down = True
    answer = await searching.search(mode=Mode.SPARSE, min_score=0.9)
    assert [each.stage for each in answer.degraded] == ["min_score"]
    assert sorted(documents(answer)) == ["dogs", "foxes"]


async def test_words_of_the_query_are_highlighted_where_asked_for() -> None:
    searching = await Searching().holding()
    answer = await searching.search("a fox and the dog", mode=Mode.SPARSE, highlight=True)
    marked = {
        hit.found.chunk.text: [hit.found.chunk.text[start:end] for start, end in hit.highlights] for hit in answer.hits
    }
    assert marked == {TEXTS["foxes"]: ["Foxes", "dogs"], TEXTS["dogs"]: ["dogs", "foxes"]}
    assert not (await searching.search(mode=Mode.SPARSE)).hits[0].highlights


async def test_several_collections_are_fused_by_rank() -> None:
    searching = await Searching(view(), view("more", embedding_model="models/other")).holding("docs", "more")
    answer = await searching.search(collections=["docs", "collections/more", "docs"], top_k=6)
    assert answer.total == 6
    assert [hit.found.score for hit in answer.hits] == sorted((hit.found.score for hit in answer.hits), reverse=True)
    assert {hit.collection.collection_id for hit in answer.hits[:2]} == {"docs", "more"}
    assert sorted(model for model, _ in searching.embedder.asked) == ["models/fake", "models/other"]
    paged: list[str] = []
    token = ""
    while len(paged) < 6:
        page = await searching.search(collections=["docs", "more"], top_k=6, page_size=4, page_token=token)
        paged += [hit.collection.collection_id + documents(page)[place] for place, hit in enumerate(page.hits)]
        token = page.next_page_token
    assert paged == [hit.collection.collection_id + hit.found.chunk.document.document_id for hit in answer.hits]


@pytest.mark.parametrize("mode", Mode)
async def test_scores_of_several_collections_are_those_of_one_that_holds_all(mode: Mode) -> None:
    searching = await Searching(view(), view("more")).holding("docs")
    more = IndexId("uid-more")
    await searching.store.ensure_index(more, 4)
    others = [encoded(chunk(f"foxes and foxes {each}", document=str(each)), scale=70) for each in range(9)]
    await searching.store.upsert(more, others)
    answer = await searching.search("foxes", collections=["docs", "more"], mode=mode, top_k=20)
    for stage in {score.stage for hit in answer.hits for score in hit.found.stages}:
        places = [(each.rank, -each.score) for hit in answer.hits for each in hit.found.stages if each.stage == stage]
        assert [rank for rank, _ in sorted(places)] == list(range(1, len(places) + 1))
        assert [score for _, score in sorted(places)] == sorted(score for _, score in places)
    if mode is not Mode.HYBRID:
        assert all(hit.found.score == hit.found.stages[0].score for hit in answer.hits)


async def test_a_collection_without_an_index_has_no_hits() -> None:
    answer = await Searching().search()
    assert (list(answer.hits), answer.total, answer.next_page_token) == ([], 0, "")


async def test_without_embedding_a_hybrid_search_goes_on_by_words_and_says_so() -> None:
    searching = await Searching().holding()
    searching.embedder.down = True
    answer = await searching.search()
    assert sorted(documents(answer)) == ["dogs", "foxes"]
    assert [(each.stage, each.reason) for each in answer.degraded] == [("embed", "embedding is unavailable")]
    for fields in ({"require_all": True}, {"mode": Mode.DENSE}):
        with pytest.raises(DependencyUnavailable):
            await searching.search(**fields)


async def test_hits_are_reordered_by_the_reranker_before_they_are_cut() -> None:
    searching = await Searching().holding()
    searching.reranker.scores = {"apples": 0.9, "weather": 0.8}
    plain = await searching.search("foxes", top_k=2)
    assert {*documents(plain)} == {"foxes", "dogs"}
    answer = await searching.search("foxes", top_k=2, rerank=Rerank("models/some", 4))
    assert documents(answer) == ["apples", "weather"]
    assert [hit.found.score for hit in answer.hits] == [0.9, 0.8]
    ((model, query, passages),) = searching.reranker.asked
    assert (model, query, sorted(passages)) == ("models/some", "foxes", sorted(TEXTS.values()))
    assert (answer.total, "rerank" in answer.timings_s, "rerank" in plain.timings_s) == (2, True, False)


async def test_pages_are_cut_of_the_reranked_ranking() -> None:
    searching = await Searching().holding()
    searching.reranker.scores = {"apples": 0.9, "weather": 0.8, "lazy": 0.7, "friends": 0.6}
    first = await searching.search("foxes", page_size=3, rerank=Rerank())
    second = await searching.search("foxes", page_size=3, rerank=Rerank(), page_token=first.next_page_token)
    assert documents(first) + documents(second) == ["apples", "weather", "foxes", "dogs"]
    assert [stage.stage for stage in second.hits[0].found.stages][-1] == "rerank"
    assert len(searching.reranker.asked) == 1
    with pytest.raises(InvalidPageToken, match="another search"):
        await searching.search("foxes", page_size=3, page_token=first.next_page_token)


async def test_several_collections_are_reranked_together() -> None:
    searching = await Searching(view(), view("more")).holding("docs", "more")
    searching.reranker.scores = {"weather": 1.0}
    answer = await searching.search("foxes", collections=["docs", "more"], top_k=3, rerank=Rerank())
    assert documents(answer)[:2] == ["weather", "weather"]
    assert {hit.collection.collection_id for hit in answer.hits[:2]} == {"docs", "more"}


async def test_as_many_candidates_are_reranked_as_asked_for_whatever_top_k() -> None:
    searching = await Searching().holding()
    await searching.search(rerank=Rerank())
    await searching.search(rerank=Rerank(top_n=3), top_k=1)
    await searching.search(rerank=Rerank(top_n=3), top_k=100, candidates=2)
    assert [query.limit for query in searching.store.queries] == [50, 3, 100]
    assert [len(passages) for _, _, passages in searching.reranker.asked] == [4, 3, 3]


async def test_a_collections_default_reranks_what_asks_for_no_reranking_itself() -> None:
    searching = await Searching(view(defaults=SearchDefaults(rerank=Rerank("house", 2)))).holding()
    await searching.search()
    await searching.search(rerank=Rerank("own"))
    await searching.search("", vector=direction("foxes"))
    assert [(model, len(passages)) for model, _, passages in searching.reranker.asked] == [("house", 2), ("own", 4)]


async def test_without_a_reranker_the_order_of_the_fusion_stays_and_it_is_said_so() -> None:
    searching = await Searching().holding()
    plain = await searching.search()
    searching.reranker.error = FailedPrecondition("no reranking model is configured")
    answer = await searching.search(rerank=Rerank())
    assert (documents(answer), answer.degraded) == (
        documents(plain),
        [Degraded("rerank", "no reranking model is configured")],
    )
    with pytest.raises(FailedPrecondition, match="rerank"):
        await searching.search(rerank=Rerank(), require_all=True)


async def test_a_search_with_a_token_waits_for_the_revision_and_others_ask_nobody() -> None:
    searching = await Searching().holding()
    index = IndexId("uid-docs")
    waiting = asyncio.create_task(searching.search(consistency_token=consistency_token(index, 2)))
    await searching.revisions.bump(index)
    await searching.search()
    assert not waiting.done()
    await searching.revisions.bump(index)
    assert documents(await waiting)
    asked = searching.revisions.asked
    await searching.search()
    await searching.search(consistency_token=consistency_token(index, 2))
    assert searching.revisions.asked == asked


async def test_a_token_of_another_collection_is_refused_whatever_it_waits_for() -> None:
    searching = await Searching().holding()
    with pytest.raises(InvalidArgument, match="not searched here"):
        await searching.search(consistency_token=consistency_token("uid-other", 10**9))


async def test_the_same_search_gives_the_same_answer() -> None:
    searching = await Searching().holding()
    answers: Sequence[Answer] = [await searching.search() for _ in range(2)]
    assert replace(answers[0], timings_s={}) == replace(answers[1], timings_s={})


async def test_every_search_is_counted_for_its_collections_however_it_ends() -> None:
    searching = await Searching(view(), view("more"), view("off", disabled=True)).holding("docs", "more")
    await searching.search()
    first = await searching.search(collections=["docs", "more"], page_size=2)
    await searching.search(collections=["docs", "more"], page_size=2, page_token=first.next_page_token)
    assert not (await searching.search(mode=Mode.SPARSE, text="unheard")).hits
    searching.embedder.down = True
    assert (await searching.search()).degraded
    for collection, error in (("docs", InvalidArgument), ("off", CollectionDisabled), ("nowhere", CollectionNotFound)):
        with pytest.raises(error):
            await searching.search(collection=collection, top_k=MAX_TOP_K + 1)
    await searching.counted.flush()
    figures = {
        each.collection_id: (each.queries, each.errors, each.degraded, each.zero_results, sum(each.latencies.values()))
        for each in searching.usage.tallies
    }
    assert figures == {"": (8, 3, 1, 1, 5), "docs": (6, 1, 1, 1, 5), "more": (2, 0, 0, 0, 2)}
