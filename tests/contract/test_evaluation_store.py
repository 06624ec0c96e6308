"""Whatever keeps sample query sets and evaluations keeps the same promises."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from services.mesh.errors import (
    AlreadyExists,
    EtagMismatch,
    EvaluationNotFound,
    FailedPrecondition,
    RequestIdReused,
    SampleQuerySetNotFound,
)
from services.mesh.receipts import Receipt
from services.retrieval.adapters.redis_evaluations import RedisEvaluations
from services.retrieval.measures import Measures
from services.retrieval.ports_evaluation import EvaluationStore, QuerySetStore
from services.retrieval.samples import (
    Conclusion,
    Configuration,
    Difference,
    Evaluation,
    Failed,
    Found,
    QuerySet,
    Result,
    SampleQuery,
)
from tests.evaluations_memory import MemoryEvaluations, MemoryQuerySets
from tests.jobs_store import Store, store_in

NOW = datetime.now(UTC).replace(microsecond=0)
QUERIES = (
    SampleQuery("q1", "who eats fish", (("a", 1), ("b", 0))),
    SampleQuery("q2", "Größe", (("collections/c/documents/d/chunks/1", 3),)),
)
_ETAGS = count()


@dataclass
class Kept:
    """What is tested.

    Attributes:
        tenant: Nobody else's.
        other: Another one.
    """

    sets: QuerySetStore
    evaluations: EvaluationStore
    erased: list[object]
    tenant: str
    other: str

    async def erase(self, tenant: str) -> int:
        return sum([await each.erase(tenant) for each in self.erased])  # type: ignore[attr-defined]

    def receipt(self, method: str = "CreateSampleQuerySet", digest: str = "digest") -> Receipt:
        return Receipt(self.tenant, method, "r1", digest)

    def query_set(self, id_: str = "s", **fields: object) -> QuerySet:
        made = QuerySet(self.tenant, id_, "for people", 2, NOW, NOW, etag(), QUERIES)
        return replace(made, **fields)  # type: ignore[arg-type]

    def evaluation(self, id_: str = "e", *, kept_for: timedelta = timedelta(days=30)) -> Evaluation:
        return Evaluation(
            tenant=self.tenant,
            id=id_,
            description="d",
            set_id="s",
            collections=("c",),
            configurations=(Configuration("one", b"\x08\x01"), Configuration("two")),
            query_count=2,
            create_time=NOW,
            purge_time=datetime.now(UTC).replace(microsecond=0) + kept_for,
            shown_with="c",
            request=b"\x00\xff",
        )


def etag() -> str:
    return f'"{next(_ETAGS):016x}"'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(params=["memory", "redis"])
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    names = (f"acme/{secrets.token_hex(4)}*", f"globex-{secrets.token_hex(4)}")
    if request.param == "memory":
        sets, evaluations = MemoryQuerySets(), MemoryEvaluations()
        yield Kept(sets, evaluations, [sets, evaluations], *names)
    else:
        async with RedisEvaluations.open(request.getfixturevalue("server").url, timeout_s=5) as store:
            yield Kept(store.sets, store.evaluations, [store], *names)


async def test_a_set_is_kept_whole_and_listed_without_its_queries(kept: Kept) -> None:
    made = kept.query_set()
    assert await kept.sets.add(made, 5) == made
    assert await kept.sets.get(kept.tenant, "s") == made
    assert await kept.sets.all(kept.tenant) == [replace(made, queries=())]
    with pytest.raises(AlreadyExists):
        await kept.sets.add(kept.query_set(), 5)


async def test_a_tenant_has_so_many_sets_and_sees_no_others(kept: Kept) -> None:
    await kept.sets.add(kept.query_set("a"), 1)
    with pytest.raises(FailedPrecondition):
        await kept.sets.add(kept.query_set("b"), 1)
    with pytest.raises(SampleQuerySetNotFound):
        await kept.sets.get(kept.other, "a")
    assert await kept.sets.all(kept.other) == []


async def test_a_change_replaces_what_it_changes(kept: Kept) -> None:
    await kept.sets.add(kept.query_set(), 5)
    described = await kept.sets.change(kept.tenant, "s", lambda each: replace(each, description="new", etag=etag()))
    assert await kept.sets.get(kept.tenant, "s") == described
    assert described.queries == QUERIES
    cut = await kept.sets.change(
        kept.tenant, "s", lambda each: replace(each, queries=QUERIES[:1], query_count=1, etag=etag())
    )
    assert await kept.sets.get(kept.tenant, "s") == cut
    with pytest.raises(SampleQuerySetNotFound):
        await kept.sets.change(kept.tenant, "none", lambda each: each)


async def test_what_a_check_refuses_stays(kept: Kept) -> None:
    await kept.sets.add(kept.query_set(), 5)

    def refuse(_: QuerySet) -> None:
        raise EtagMismatch("stale")

    with pytest.raises(EtagMismatch):
        await kept.sets.remove(kept.tenant, "s", refuse)
    removed = await kept.sets.remove(kept.tenant, "s", lambda _: None)
    assert removed.queries == QUERIES
    with pytest.raises(SampleQuerySetNotFound):
        await kept.sets.get(kept.tenant, "s")


@pytest.mark.parametrize("method", ["CreateSampleQuerySet", "UpdateSampleQuerySet", "DeleteSampleQuerySet"])
async def test_a_repeated_request_is_answered_as_it_was_and_does_nothing(kept: Kept, method: str) -> None:
    receipt = kept.receipt(method)
    assert await kept.sets.recall(receipt) is None
    if method != "CreateSampleQuerySet":
        await kept.sets.add(kept.query_set(), 5)

    async def ask(receipt: Receipt) -> QuerySet:
        match method:
            case "CreateSampleQuerySet":
                return await kept.sets.add(kept.query_set(), 5, receipt)
            case "UpdateSampleQuerySet":
                return await kept.sets.change(
                    kept.tenant, "s", lambda each: replace(each, description="new", etag=etag()), receipt
                )
        return await kept.sets.remove(kept.tenant, "s", lambda _: None, receipt)

    first = await ask(receipt)
    assert await kept.sets.recall(receipt) == replace(first, queries=())
    if method != "DeleteSampleQuerySet":  # whose twin finds nothing to delete, and then asks for the receipt
        assert (await ask(receipt)).etag == first.etag
    with pytest.raises(RequestIdReused):
        await kept.sets.recall(kept.receipt(method, "another"))


async def test_of_two_changes_at_once_none_is_lost(kept: Kept) -> None:
    await kept.sets.add(kept.query_set(description="0"), 5)

    def count_up(each: QuerySet) -> QuerySet:
        return replace(each, description=str(int(each.description) + 1), etag=etag())

    await asyncio.gather(*(kept.sets.change(kept.tenant, "s", count_up) for _ in range(10)))
    assert (await kept.sets.get(kept.tenant, "s")).description == "10"


async def test_an_evaluation_is_kept_with_its_queries(kept: Kept) -> None:
    made = kept.evaluation()
    assert await kept.evaluations.add(made, QUERIES, 5) == "e"
    assert await kept.evaluations.get(kept.tenant, "e") == made
    assert await kept.evaluations.queries(kept.tenant, "e") == list(QUERIES)
    assert await kept.evaluations.all(kept.tenant) == [made]
    assert await kept.evaluations.all(kept.other) == []
    for ask in (kept.evaluations.get, kept.evaluations.queries):
        with pytest.raises(EvaluationNotFound):
            await ask(kept.other, "e")


async def test_the_same_request_makes_one_evaluation(kept: Kept) -> None:
    receipt = kept.receipt("CreateEvaluation")
    assert await kept.evaluations.add(kept.evaluation("e1"), QUERIES, 5, receipt) == "e1"
    assert await kept.evaluations.recall(receipt) == "e1"
    assert await kept.evaluations.add(kept.evaluation("e2"), QUERIES, 5, receipt) == "e1"
    assert [each.id for each in await kept.evaluations.all(kept.tenant)] == ["e1"]
    with pytest.raises(RequestIdReused):
        await kept.evaluations.recall(kept.receipt("CreateEvaluation", "another"))


async def test_its_job_and_what_it_came_to_are_kept_in_whichever_order_they_come(kept: Kept) -> None:
    await kept.evaluations.add(kept.evaluation(), QUERIES, 5)
    result = Result("one", [Measures(1, 0.5, 0.25, 1 / 3, 0.1)], [0.1, 0.2, 0.3, 0.4], 2, 0, 1, 1)
    conclusion = Conclusion([result], [Difference("ndcg", 10, -0.1, 0.03, 1, 2)], NOW)
    await kept.evaluations.conclude(kept.tenant, "e", conclusion)
    await kept.evaluations.queued(kept.tenant, "e", "jobs/j")
    found = await kept.evaluations.get(kept.tenant, "e")
    assert (found.job, found.conclusion) == ("jobs/j", conclusion)
    await kept.evaluations.queued(kept.tenant, "none", "jobs/j")
    with pytest.raises(EvaluationNotFound):
        await kept.evaluations.conclude(kept.tenant, "none", conclusion)


async def test_what_a_query_found_takes_the_place_of_what_it_found_before(kept: Kept) -> None:
    await kept.evaluations.add(kept.evaluation(), QUERIES, 5)
    found, failed = Found([(1, 2), (7, 1)], 0.25, 10, ("a", "b")), Failed("embedding is away")
    await kept.evaluations.keep(kept.tenant, "e", "q1", (failed, failed))
    await kept.evaluations.keep(kept.tenant, "e", "q1", (found, failed))
    assert dict(await kept.evaluations.found(kept.tenant, "e")) == {"q1": (found, failed)}
    with pytest.raises(EvaluationNotFound):
        await kept.evaluations.keep(kept.tenant, "none", "q1", (found,))
    assert not await kept.evaluations.found(kept.tenant, "none")


async def test_the_oldest_make_room_and_each_has_its_time(kept: Kept) -> None:
    for at in range(4):
        await kept.evaluations.add(kept.evaluation(f"e{at}", kept_for=timedelta(days=1 + at)), QUERIES, 3)
    assert sorted(each.id for each in await kept.evaluations.all(kept.tenant)) == ["e1", "e2", "e3"]
    with pytest.raises(EvaluationNotFound):
        await kept.evaluations.get(kept.tenant, "e0")
    await kept.evaluations.add(kept.evaluation("past", kept_for=timedelta(seconds=-1)), QUERIES, 9)
    assert "past" not in [each.id for each in await kept.evaluations.all(kept.tenant)]
    with pytest.raises(EvaluationNotFound):
        await kept.evaluations.keep(kept.tenant, "past", "q1", (Failed("late"),))


async def test_a_tenant_is_erased_and_no_other(kept: Kept) -> None:
    for tenant in (kept.tenant, kept.other):
        await kept.sets.add(kept.query_set(tenant=tenant), 5, Receipt(tenant, "CreateSampleQuerySet", "r1", "digest"))
        await kept.evaluations.add(replace(kept.evaluation(), tenant=tenant), QUERIES, 5)
    assert await kept.erase(kept.tenant) > 0
    assert await kept.erase(kept.tenant) == 0
    assert await kept.sets.all(kept.tenant) == []
    assert await kept.evaluations.all(kept.tenant) == []
    assert await kept.sets.recall(kept.receipt()) is None
    assert len(await kept.sets.all(kept.other)) == len(await kept.evaluations.all(kept.other)) == 1
