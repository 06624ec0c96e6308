"""Evaluations, over stores in memory and a searcher that answers by rote."""

import random
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from ragweave.v1 import evaluation_service_pb2 as pb
from ragweave.v1.search_pb2 import SearchRequest
from services.mesh.errors import (
    CollectionNotFound,
    DependencyUnavailable,
    EvaluationNotFound,
    InvalidArgument,
    PermissionDenied,
    SampleQuerySetNotFound,
)
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt
from services.retrieval.chunks import Mode, ScoredChunk
from services.retrieval.convert_evaluations import query_of, wanted_from
from services.retrieval.evaluations import Evaluations, Wanted
from services.retrieval.query import CacheControl
from services.retrieval.query_sets import Given, QuerySets
from services.retrieval.ranking import Hit
from services.retrieval.samples import (
    Configuration,
    EvaluatedQuery,
    Evaluation,
    EvaluationState,
    Failed,
    SampleQuery,
)
from tests.evaluations_memory import MemoryEvaluations, MemoryQuerySets, NotedJobs, RoteSearcher
from tests.retrieval_fakes import chunk, view

ANN = Caller("acme", "ann", scopes=frozenset({"search", "jobs.write"}), principals=frozenset({"user:ann"}))
QUERIES = (
    SampleQuery("fish", "who eats fish", (("cat", 1),)),
    SampleQuery("meat", "who eats meat", (("dog", 2), ("cat", 1), ("cow", 0))),
)
SPARSE = Configuration("sparse", SearchRequest(mode=SearchRequest.SPARSE).SerializeToString())
DENSE = Configuration("dense", SearchRequest(mode=SearchRequest.DENSE, collection="other").SerializeToString())


def hits(*documents: str, collection: str = "docs") -> list[Hit]:
    found = [chunk(document=name, ordinal=at) for at, name in enumerate(documents)]
    return [Hit(ScoredChunk(each, 1.0, ()), view(collection)) for each in found]


@dataclass
class Rig:
    searcher: RoteSearcher
    jobs: NotedJobs
    evaluations: Evaluations

    async def made(self, *configurations: Configuration, collections: tuple[str, ...] = ("docs",)) -> Evaluation:
        wanted = Wanted("s", collections=collections, configurations=configurations)
        job = await self.evaluations.create(wanted, ANN)
        self.searcher.asked.clear()
        return await self.evaluations.get("acme", job.name.removeprefix("jobs/"))

    async def queries(self, evaluation: Evaluation, *, filter: str = "", order_by: str = "") -> list[EvaluatedQuery]:
        page = await self.evaluations.list_queries(
            evaluation.tenant, evaluation.id, filter=filter, order_by=order_by, page_size=0, page_token="", page=0
        )
        return list(page.items)

    async def finished(self, *configurations: Configuration) -> Evaluation:
        made = await self.made(*configurations)
        for query in QUERIES:
            await self.evaluations.run(made.id, query.id, ANN)
        await self.evaluations.conclude("acme", made.id)
        return await self.evaluations.get("acme", made.id)


@pytest.fixture
async def rig() -> Rig:
    sets = QuerySets(MemoryQuerySets(), most=5)
    await sets.create("acme", "s", Given({"queries": QUERIES}))
    searcher, jobs = RoteSearcher(), NotedJobs()
    evaluations = Evaluations(
        MemoryEvaluations(), sets, searcher, jobs, query_of, retention=timedelta(days=30), most=10
    )
    return Rig(searcher, jobs, evaluations)


async def test_every_configuration_searches_as_the_caller(rig: Rig) -> None:
    made = await rig.made(SPARSE, DENSE)
    assert (made.job, made.state, made.query_count) == (f"jobs/{made.id}", EvaluationState.UNFINISHED, 2)
    assert rig.jobs.submitted == [(made.id, "docs")]
    await rig.evaluations.run(made.id, "meat", ANN, timeout_s=30)
    (first, who), (second, _) = rig.searcher.asked
    assert who is ANN
    assert rig.searcher.timeouts_s[-2:] == [15, 15]
    assert (first.text, first.mode, first.top_k, first.collection_ids) == ("who eats meat", Mode.SPARSE, 100, ["docs"])
    assert (second.mode, second.collection_ids) == (Mode.DENSE, ["other"])
    for query in (first, second):  # an answer from a cache, or from fewer stages, would measure something else
        assert (query.cache_control, query.require_all) == (CacheControl.BYPASS, True)


async def test_a_result_is_the_mean_over_what_was_answered(rig: Rig) -> None:
    rig.searcher.answers = {
        (Mode.SPARSE, "who eats fish"): hits("dog", "dog", "cat"),
        (Mode.SPARSE, "who eats meat"): hits("cat", "dog"),
    }
    finished = await rig.finished(SPARSE)
    assert finished.state is EvaluationState.FINISHED and finished.conclusion
    (result,) = finished.conclusion.results
    by_k = {each.k: each for each in result.measures}
    # The second dog takes no rank: a document stands where its best chunk does.
    assert by_k[1].recall == pytest.approx((0 + 1 / 2) / 2)
    assert by_k[3].recall == 1.0
    assert by_k[3].mrr == pytest.approx((1 / 2 + 1) / 2)
    assert by_k[3].precision == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert (result.answered, result.failed, result.empty) == (2, 0, 0)
    assert not finished.conclusion.differences


async def test_two_results_are_compared_query_by_query(rig: Rig) -> None:
    rig.searcher.answers = {
        (Mode.SPARSE, "who eats fish"): hits("cat"),
        (Mode.DENSE, "who eats fish"): hits("cat"),
        (Mode.DENSE, "who eats meat"): hits("dog"),
    }
    finished = await rig.finished(SPARSE, DENSE)
    assert finished.conclusion
    found = {(each.measure, each.k): each for each in finished.conclusion.differences}
    assert len(found) == 20
    assert found["mrr", 1].mean == pytest.approx(0.5)
    assert (found["mrr", 1].better, found["mrr", 1].worse) == (1, 0)
    assert 0.4 < found["mrr", 1].p_value <= 1.0
    assert [each.empty for each in finished.conclusion.results] == [1, 0]


async def test_what_failed_counts_for_the_configuration_that_failed_and_can_be_made_up_for(rig: Rig) -> None:
    rig.searcher.answers = {(mode, "who eats meat"): hits("dog", "cat") for mode in (Mode.SPARSE, Mode.DENSE)}
    made = await rig.made(SPARSE, DENSE)
    await rig.evaluations.run(made.id, "fish", ANN)
    rig.searcher.failures = {(Mode.DENSE, "who eats meat"): CollectionNotFound("no collection 'other'")}
    with pytest.raises(CollectionNotFound):
        await rig.evaluations.run(made.id, "meat", ANN)
    await rig.evaluations.conclude("acme", made.id)
    concluded = (await rig.evaluations.get("acme", made.id)).conclusion
    assert concluded
    assert [(each.answered, each.failed) for each in concluded.results] == [(2, 0), (1, 1)]
    assert concluded.results[0].measures[0].mrr == 0.5
    assert {each.better + each.worse for each in concluded.differences} == {0}
    rig.searcher.failures.clear()
    await rig.evaluations.run(made.id, "meat", ANN)
    await rig.evaluations.conclude("acme", made.id)
    again = (await rig.evaluations.get("acme", made.id)).conclusion
    assert again
    assert [(each.answered, each.failed) for each in again.results] == [(2, 0), (2, 0)]


async def test_what_is_relevant_and_not_there_is_told_and_counts_as_not_found(rig: Rig) -> None:
    rig.searcher.answers = {(Mode.SPARSE, each.text): hits("cat") for each in QUERIES}
    rig.searcher.gone = ["dog", "cow"]
    finished = await rig.finished(SPARSE)
    assert finished.conclusion
    (result,) = finished.conclusion.results
    assert (result.lacking, result.answered, result.measures[0].recall) == (1, 2, pytest.approx((1 + 1 / 2) / 2))
    (told,) = await rig.queries(finished, filter="lacking = true")
    assert (told.query.id, [each.found.lacking for each in told.outcomes]) == ("meat", [("dog",)])  # type: ignore[union-attr]


async def test_each_query_is_told_of_what_changed_most_first(rig: Rig) -> None:
    rig.searcher.answers = {
        (Mode.SPARSE, "who eats fish"): hits("cat"),
        (Mode.DENSE, "who eats fish"): hits("dog", "cat"),
        (Mode.DENSE, "who eats meat"): hits("dog"),
    }
    finished = await rig.finished(SPARSE, DENSE)
    worse, better = await rig.queries(finished, order_by="difference")
    assert (worse.query.id, better.query.id) == ("fish", "meat")
    assert [each.configuration for each in worse.outcomes] == ["sparse", "dense"]
    assert [each.measures[0].mrr for each in worse.outcomes] == [1.0, 0.0]
    assert (worse.differences[0].mrr, worse.differences[1].mrr) == (-1.0, -0.5)
    assert better.differences[0].precision == 1.0
    assert [each.query.id for each in await rig.queries(finished, filter="difference > 0")] == ["meat"]
    assert [each.query.id for each in await rig.queries(finished, order_by="ndcg desc")] == ["meat", "fish"]


async def test_a_query_is_told_of_before_it_ran_and_after_it_failed(rig: Rig) -> None:
    made = await rig.made(SPARSE, DENSE)
    rig.searcher.failures = {(Mode.DENSE, "who eats fish"): DependencyUnavailable("embedding is unavailable")}
    with pytest.raises(DependencyUnavailable):
        await rig.evaluations.run(made.id, "fish", ANN)
    failed, waiting = await rig.queries(made)
    assert [each.found for each in waiting.outcomes] == [None, None]
    assert failed.outcomes[1].found == Failed("embedding is unavailable")
    assert not failed.outcomes[1].measures and not failed.differences
    assert await rig.queries(made, filter="failed = true") == [failed]
    with pytest.raises(EvaluationNotFound):
        await rig.queries(replace(made, tenant="globex"))


async def test_a_query_that_never_ran_has_failed(rig: Rig) -> None:
    made = await rig.made(SPARSE)
    await rig.evaluations.conclude("acme", made.id)
    conclusion = (await rig.evaluations.get("acme", made.id)).conclusion
    assert conclusion
    (result,) = conclusion.results
    assert (result.answered, result.failed, list(result.measures), list(result.latencies_s)) == (0, 2, [], [0] * 4)


@pytest.mark.parametrize(
    ("judged", "found", "ranks"),
    [
        ((("cat", 3),), ("dog", "cat"), [(2, 3)]),
        ((("collections/docs/documents/cat", 1),), ("cat", "cat"), [(1, 1)]),
        ((("collections/other/documents/cat", 1),), ("cat",), []),
        ((("collections/docs/documents/cat/chunks/k1", 2),), ("cat", "cat"), [(2, 2)]),
        ((("cat", 0), ("dog", 1)), ("cat", "dog"), [(2, 1)]),
    ],
)
def test_hits_are_held_to_the_judgements(
    judged: tuple[tuple[str, int], ...], found: tuple[str, ...], ranks: list[tuple[int, int]]
) -> None:
    assert SampleQuery("q", "x", judged).ranks(hits(*found))[0] == ranks


def test_what_is_relevant_and_was_not_found_is_named() -> None:
    query = SampleQuery("q", "x", (("cat", 1), ("dog", 2), ("cow", 0), ("collections/docs/documents/hen", 1)))
    assert query.ranks(hits("dog"))[1] == ["cat", "collections/docs/documents/hen"]


def test_a_document_judged_by_its_bare_id_counts_once_whatever_collections_have_it() -> None:
    query = SampleQuery("q", "x", (("cat", 1),))
    assert query.ranks([*hits("cat"), *hits("cat", collection="other")])[0] == [(1, 1)]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Wanted("s"), "name the collection"),
        (Wanted("s", collections=("docs",), configurations=(SPARSE, SPARSE)), "two are called 'sparse'"),
        (
            Wanted(
                "s",
                collections=("docs",),
                configurations=(Configuration("a", SearchRequest(query="x", page=2).SerializeToString()),),
            ),
            r"configurations\[a\].search.query",
        ),
    ],
)
async def test_what_no_search_could_answer_is_refused_at_once(rig: Rig, wanted: Wanted, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        await rig.evaluations.create(wanted, ANN)
    assert not rig.jobs.submitted


async def test_what_the_first_query_meets_is_told_at_once(rig: Rig) -> None:
    rig.searcher.failures = {(Mode.SPARSE, "who eats fish"): CollectionNotFound("no collection 'docs'")}
    with pytest.raises(CollectionNotFound):
        await rig.made(SPARSE)
    with pytest.raises(PermissionDenied):
        await rig.evaluations.create(Wanted("s", collections=("docs",)), Caller("acme", "ann"))
    with pytest.raises(SampleQuerySetNotFound):
        await rig.evaluations.create(Wanted("none", collections=("docs",)), ANN)


async def test_an_evaluation_whose_job_could_not_be_queued_is_queued_by_the_same_request(rig: Rig) -> None:
    receipt = Receipt("acme", "CreateEvaluation", "r1", "digest")
    wanted = Wanted("s", collections=("docs",))
    rig.jobs.away = True
    with pytest.raises(DependencyUnavailable):
        await rig.evaluations.create(wanted, ANN, receipt=receipt)
    rig.jobs.away = False
    job = await rig.evaluations.create(wanted, ANN, receipt=receipt)
    assert await rig.evaluations.create(wanted, ANN, receipt=receipt) == job
    page = await rig.evaluations.list_evaluations(
        "acme", filter=f'job = "{job.name}"', order_by="", page_size=0, page_token="", page=0
    )
    assert [f"jobs/{each.id}" for each in page.items] == [job.name]
    assert page.total_size == 1


async def test_what_is_only_checked_is_kept_nowhere(rig: Rig) -> None:
    await rig.evaluations.create(Wanted("s", collections=("docs",)), ANN, validate_only=True)
    page = await rig.evaluations.list_evaluations("acme", filter="", order_by="", page_size=0, page_token="", page=0)
    assert not page.items and not rig.jobs.submitted


async def test_queries_are_told_in_pages_and_those_there_are_none_of_are_refused(rig: Rig) -> None:
    made = await rig.made()
    assert await rig.evaluations.query_ids("acme", made.id, 0, 1) == (["fish"], 2)
    assert await rig.evaluations.query_ids("acme", made.id, 1, 5) == (["meat"], 2)
    with pytest.raises(InvalidArgument):
        await rig.evaluations.run(made.id, "none", ANN)
    with pytest.raises(EvaluationNotFound):
        await rig.evaluations.run(made.id, "fish", Caller("globex", "bob"))


def test_a_request_says_what_is_wanted() -> None:
    request = pb.CreateEvaluationRequest(
        evaluation={
            "sample_query_set": "sampleQuerySets/s",
            "collections": ["docs"],
            "configurations": [{"name": "a", "search": {"mode": "SPARSE"}}],
        }
    )
    wanted = wanted_from(request)
    assert (wanted.set_id, wanted.collections) == ("s", ("docs",))
    query = query_of(wanted.configurations[0], wanted.collections, f"words {random.random()}")
    assert (query.mode, query.top_k) == (Mode.SPARSE, 100)
