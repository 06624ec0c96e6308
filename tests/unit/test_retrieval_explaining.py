"""What an answer tells of how it came about, over fakes."""

from collections.abc import Sequence
from typing import Any

import pytest

from ragweave.v1 import search_pb2 as pb
from services.mesh.consistency import consistency_token
from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import Caller
from services.mesh.interceptors.validation import check
from services.retrieval.batch import BatchSearcher
from services.retrieval.boosts import BoostAsked
from services.retrieval.chunks import Found, IndexId, Mode, Rerank, VectorQuery
from services.retrieval.collection import SearchDefaults
from services.retrieval.convert import answer_to, similar_from
from services.retrieval.diversity import Mmr
from services.retrieval.explaining import Explanation
from services.retrieval.fusion import Dbsf, Rrf
from services.retrieval.grouping import GroupBy
from services.retrieval.query import CacheControl, Query
from services.retrieval.retriever import Answer
from services.retrieval.similar import SimilarFinder
from services.retrieval.stages import SHARES
from services.retrieval.steps import Step, answered_in_steps
from tests.retrieval_fakes import FakeRevisions, view
from tests.retrieval_replica import BOB, CountingStore, Replica
from tests.retrieval_rig import ANN, Searching, documents

OTHER = view("more", embedding_model="models/other", uid=IndexId("uid-more"))
HOUR_S = 3600.0


def told(answer: Answer) -> Explanation:
    assert answer.explanation is not None
    return answer.explanation


def ran(answer: Answer) -> list[tuple[str, str, int]]:
    """Stage, what it was of, and candidates."""
    return [(each.stage, each.of, each.candidates) for each in told(answer).stages]


def details(answer: Answer) -> dict[str, str]:
    return {each.stage: each.detail for each in told(answer).stages if each.detail}


async def test_an_answer_tells_of_its_stages_in_order_with_what_came_out_of_them() -> None:
    searching = await Searching().holding()
    for _ in range(3):
        await searching.revisions.bump(IndexId("uid-docs"))
    answer = await searching.search("the Foxes jumped", explain=True, top_k=3, filter="page_number>=0")
    assert ran(answer) == [
        ("authorize", "", 0),
        ("embed", "models/fake", 0),
        ("store", "docs", 3),
        ("dense", "docs", 4),
        ("sparse", "docs", 2),
        ("fusion", "", 4),
    ]
    assert details(answer) == {"sparse": "fox jump", "fusion": "RRF, k 60, dense weight 1, sparse weight 1"}
    timed = {each.stage: each.duration_s for each in told(answer).stages}
    assert all((timed[stage] or 0) > 0 for stage in ("authorize", "embed", "store"))
    assert timed["dense"] is timed["sparse"] is timed["fusion"] is None
    (searched,) = told(answer).searched
    assert (searched.collection.collection_id, searched.revision) == ("docs", 3)
    message = answer_to(answer, "")
    check(message)
    assert message.explanation.filter == "page_number >= 0"
    assert message.explanation.mode == pb.SearchRequest.HYBRID
    assert [
        (each.collection, each.index_revision, each.embedding_model) for each in message.explanation.collections
    ] == [("collections/docs", 3, "models/fake")]
    embed, store = message.explanation.stages[1:3]
    assert (embed.model, embed.collection, store.model, store.collection) == ("models/fake", "", "", "collections/docs")
    assert not message.explanation.stages[3].HasField("duration")


async def test_every_hit_tells_its_place_in_each_stage_the_fusion_included() -> None:
    searching = await Searching().holding()
    answer = await searching.search(explain=True, rerank=Rerank(), boosts=[BoostAsked('title=""', 2.0)], mmr=Mmr(0.5))
    plain = await searching.search()
    fused = {documents(plain)[rank - 1]: (plain.hits[rank - 1].found.score, rank) for rank in range(1, 5)}
    for hit in answer.hits:
        by_stage = {each.stage: (each.score, each.rank) for each in hit.found.stages}
        assert by_stage["fusion"] == fused[hit.found.chunk.document.document_id]
        assert list(by_stage)[-4:] == ["fusion", "rerank", "boosts", "mmr"]
    check(answer_to(answer, ""))


async def test_what_refines_a_ranking_tells_what_it_left_and_the_reranker_its_name() -> None:
    searching = await Searching().holding()
    boosts = [BoostAsked('metadata.x = "y"', 2.0)]
    answer = await searching.search(
        explain=True, top_k=2, rerank=Rerank(top_n=3), boosts=boosts, mmr=Mmr(0.25), group_by=GroupBy("document")
    )
    assert ran(answer)[-4:] == [
        ("rerank", "models/default", 4),
        ("boosts", "", 4),
        ("mmr", "", 4),
        ("group_by", "", 2),
    ]
    assert details(answer)["rerank"] == "the first 3"
    assert details(answer)["mmr"] == "diversity 0.25"
    assert details(answer)["group_by"] == "2 groups by document"
    assert all((each.duration_s or 0) > 0 for each in told(answer).stages if each.stage in ("rerank", "boosts", "mmr"))


async def test_the_least_score_and_the_mode_are_those_that_were_used() -> None:
    defaults = SearchDefaults(mode=Mode.DENSE, min_score=0.99)
    searching = await Searching(view(defaults=defaults)).holding()
    answer = await searching.search("Foxes jump over lazy dogs", explain=True)
    assert told(answer).mode is Mode.DENSE
    assert ran(answer)[2:] == [("store", "docs", 1), ("dense", "docs", 4)], "one stage is no fusion"
    assert details(answer) == {"store": "similarity at least 0.99"}


@pytest.mark.parametrize(
    ("fields", "fusion"),
    [
        ({"fusion": Rrf(7, 0.5, 2.0)}, "RRF, k 7, dense weight 0.5, sparse weight 2"),
        ({"fusion": Dbsf()}, "DBSF"),
        ({"mode": Mode.DENSE}, "RRF, k 60, dense weight 1, sparse weight 1"),
        ({"mode": Mode.SPARSE}, None),
    ],
)
async def test_of_several_collections_each_is_told_of_and_how_they_were_fused(
    fields: dict[str, Any], fusion: str | None
) -> None:
    searching = await Searching(view(), OTHER).holding("docs", "more")
    await searching.revisions.bump(OTHER.uid)
    answer = await searching.search(collections=["docs", "more"], explain=True, **fields)
    stages = [stage for stage in ("dense", "sparse") if fields.get("mode") in (None, Mode[stage.upper()])]
    assert {each for each in ran(answer) if each[0] in ("dense", "sparse")} == {
        (stage, of, 4 if stage == "dense" else 2) for stage in stages for of in ("docs", "more")
    }
    assert {of for stage, of, _ in ran(answer) if stage == "store"} == {"docs", "more"}
    embedded = {of for stage, of, _ in ran(answer) if stage == "embed"}
    assert embedded == (set() if fields.get("mode") is Mode.SPARSE else {"models/fake", "models/other"})
    assert details(answer).get("fusion") == fusion
    assert ("fusion", "", answer.total) in ran(answer) or fusion is None
    assert [(each.collection.collection_id, each.revision) for each in told(answer).searched] == [
        ("docs", 0),
        ("more", 1),
    ]


async def test_every_stage_with_a_share_of_the_time_tells_what_it_might_have_taken() -> None:
    searching = await Searching().holding()
    query = Query(text="foxes", collection="docs", explain=True, rerank=Rerank())
    answer = await searching.retriever.search(query, ANN, timeout_s=HOUR_S)
    budgets = {each.stage: each.budget_s for each in told(answer).stages if each.budget_s is not None}
    assert budgets == {
        stage: pytest.approx(SHARES[stage].of_time * HOUR_S, rel=0.01)
        for stage in ("authorize", "embed", "store", "rerank")
    }


async def test_what_the_caller_may_not_see_is_neither_counted_nor_named() -> None:
    hidden: dict[str, dict[str, object]] = {name: {"principals": ("user:bob",)} for name in ("foxes", "weather")}
    searching = await Searching().holding("docs", **hidden)
    answer = await searching.search(explain=True, filter="page_number = 0")
    assert sorted(documents(answer)) == ["apples", "dogs"]
    counts = {stage: candidates for stage, _, candidates in ran(answer)}
    assert (counts["dense"], counts["sparse"], counts["store"], counts["fusion"]) == (2, 1, 2, 2)
    assert "user:" not in str(answer_to(answer, ""))
    everyone = Caller(tenant="acme", subject="eve", principals=frozenset({"user:eve"}))
    assert ran(await searching.search(who=everyone, explain=True)) == ran(await searching.search(explain=True))


async def test_who_does_not_ask_is_told_nothing_and_nothing_is_asked_for_it() -> None:
    searching = await Searching().holding()
    answer = await searching.search(rerank=Rerank())
    assert answer.explanation is None
    assert not answer_to(answer, "").HasField("explanation")
    assert searching.revisions.asked == 0
    assert "fusion" not in {each.stage for hit in answer.hits for each in hit.found.stages}


async def test_without_the_revision_counter_the_revision_is_not_known_and_nothing_else_is_missing() -> None:
    searching = await Searching().holding()
    searching.revisions.down = True
    answer = await searching.search(explain=True, require_all=True)
    assert [each.revision for each in told(answer).searched] == [0]
    assert answer.degraded == []
    assert "revisions" not in {stage for stage, *_ in ran(answer)}


async def test_stages_that_were_left_out_say_why() -> None:
    searching = await Searching().holding()
    searching.embedder.down = True
    searching.reranker.error = DependencyUnavailable("the model is away")
    answer = await searching.search(explain=True, rerank=Rerank(), min_score=0.1)
    left = {each.stage: each.detail for each in told(answer).stages if each.detail.startswith("left out: ")}
    assert left == {
        "embed": "left out: embedding is unavailable",
        "min_score": "left out: embedding is unavailable",
        "rerank": "left out: the model is away",
    }
    assert told(answer).mode is Mode.SPARSE
    assert [stage for stage, *_ in ran(answer)] == ["authorize", "embed", "store", "sparse", "rerank", "min_score"]


async def test_a_collection_that_was_left_out_says_why_and_the_others_what_they_found() -> None:
    class Away(CountingStore):
        async def search(self, index: IndexId, query: VectorQuery) -> Found:
            if index == OTHER.uid:
                raise DependencyUnavailable("the index does not answer")
            return await super().search(index, query)

    searching = Searching(view(), OTHER)
    searching.retriever._store = away = Away()
    searching.store = away  # type: ignore[assignment]
    await searching.holding("docs", "more")
    answer = await searching.search(collections=["docs", "more"], explain=True)
    stores = {each.of: each for each in told(answer).stages if each.stage == "store"}
    assert stores["more"].detail == "left out: collection 'more': the index does not answer"
    assert (stores["more"].candidates, stores["docs"].candidates, stores["docs"].detail) == (0, 4, "")
    assert ("dense", "more") not in {(stage, of) for stage, of, _ in ran(answer)}


async def test_a_page_that_a_token_continues_tells_that_its_ranking_was_made_before() -> None:
    searching = await Searching().holding()
    first = await searching.search(explain=True, page_size=3)
    following = await searching.search(explain=True, page_size=3, page_token=first.next_page_token)
    assert ran(following) == [("authorize", "", 0), ("store", "docs", 1)]
    assert details(following) == {"store": "as the page token ranks them"}
    assert "fusion" in {each.stage for each in following.hits[0].found.stages}


def named(response: pb.SearchResponse) -> list[str]:
    return [each.stage for each in response.explanation.stages]


def cache_of(response: pb.SearchResponse) -> str:
    (cache,) = (each.detail for each in response.explanation.stages if each.stage == "cache")
    return cache


async def test_an_answer_from_the_cache_says_so_and_of_when_its_stages_are() -> None:
    async with Replica(CountingStore(), FakeRevisions()).running() as made:
        revision = await made.write("d1")
        assert not (await made.found()).HasField("explanation")
        first = await made.found(explain=True)
        assert named(first) == ["authorize", "cache", "embed", "store", "dense", "sparse", "fusion"]
        assert cache_of(first) == "MISS"
        again = await made.found(explain=True)
        assert again.cache.status == pb.SearchResponse.Cache.HIT
        assert cache_of(again).startswith("HIT PROCESS, 0.")
        assert again.explanation.stages[2:] == first.explanation.stages[2:]
        assert [each.index_revision for each in again.explanation.collections] == [revision]
        waited = await made.found(explain=True, consistency_token=consistency_token(IndexId("uid-docs"), revision))
        assert named(waited) == ["authorize", "wait", *named(first)[1:]], "each call tells of itself once"
        assert cache_of(waited).startswith("HIT PROCESS")
        assert not (await made.found()).HasField("explanation")
        check(again)
        later = await made.write("d2", "foxes run")
        anew = await made.found(explain=True)
        assert [each.index_revision for each in anew.explanation.collections] == [later]
        assert cache_of(anew) == "MISS"


async def test_an_answer_that_was_made_for_later_is_explained_as_one_from_the_cache() -> None:
    async with Replica(CountingStore(), FakeRevisions()).running() as made:
        await made.write("d1")
        query = Query(text="foxes", collection="docs", explain=True)
        assert await made.answering.warm(query, ANN, timeout_s=None)
        answer = await made.found(query)
        assert cache_of(answer).startswith("HIT PROCESS")
        assert named(answer) == ["authorize", "cache", "embed", "store", "dense", "sparse", "fusion"]


async def test_a_search_past_the_cache_says_so_and_one_of_another_caller_has_an_explanation_of_its_own() -> None:
    async with Replica(CountingStore(), FakeRevisions()).running() as made:
        await made.write("d1", "foxes jump", "user:ann")
        await made.write("d2", "foxes run")
        passed = await made.found(explain=True, cache_control=CacheControl.BYPASS)
        refreshed = await made.found(explain=True, cache_control=CacheControl.REFRESH)
        assert (cache_of(passed), cache_of(refreshed)) == ("BYPASSED", "REFRESHED")
        others = await made.found(explain=True, who=BOB)
        assert cache_of(others) == "MISS"
        counts: Sequence[tuple[str, int]] = [(each.stage, each.candidates) for each in others.explanation.stages]
        assert ("dense", 1) in counts and ("sparse", 1) in counts


async def test_without_the_cache_the_reason_is_told() -> None:
    counter = FakeRevisions()
    async with Replica(CountingStore(), counter).running() as made:
        await made.write("d1")
        counter.down = True
        counter.break_feed()
        made.revisions._begin_anew()
        answer = await made.found(explain=True)
        assert cache_of(answer).startswith("left out: it is not known what was written meanwhile")


async def test_each_of_a_batch_each_step_and_each_search_by_example_is_explained() -> None:
    searching = await Searching().holding()
    asked = Query(text="foxes", collection="docs", explain=True)
    silent = Query(text="foxes", collection="docs")
    explained, other = await BatchSearcher(searching.retriever, searching.embedder).search([asked, silent], ANN)
    assert isinstance(explained, Answer) and isinstance(other, Answer)
    assert "fusion" in {stage for stage, *_ in ran(explained)}
    assert other.explanation is None
    steps = [step async for step in answered_in_steps(searching.retriever, asked, ANN) if isinstance(step, Step)]
    assert told(steps[-1].answer).mode is Mode.HYBRID
    assert all(told(step.answer).mode is Mode.SPARSE for step in steps[:-1])
    request = pb.FindSimilarRequest(explain=True, filter="page_number = 0")
    name = "collections/docs/documents/foxes"
    finder = SimilarFinder(searching.retriever, searching.store, searching.counted)
    alike = await finder.find(name, similar_from(request), ANN)
    assert [stage for stage, *_ in ran(alike)] == ["example", "authorize", "store", "dense"]
    assert ran(alike)[2:] == [("store", "docs", 3), ("dense", "docs", 3)]
    assert answer_to(alike, "").explanation.filter == "page_number = 0"
