"""Sample query sets: what may be in one, and how one changes."""

from dataclasses import replace

import pytest

from services.mesh.errors import EtagMismatch, InvalidArgument
from services.retrieval import query_sets
from services.retrieval.query_sets import Given, QuerySets
from services.retrieval.samples import SampleQuery
from tests.evaluations_memory import MemoryQuerySets

QUERY = SampleQuery("q1", "who eats fish", (("a", 2), ("b", 0)))
CHUNK = "collections/c/documents/d/chunks/k"


@pytest.fixture
def sets() -> QuerySets:
    return QuerySets(MemoryQuerySets(), most=2)


@pytest.mark.parametrize(
    ("queries", "field", "told"),
    [
        ((), "sample_query_set.queries", "at least one"),
        ((QUERY, QUERY), "sample_query_set.queries[1].id", "comes twice"),
        ((replace(QUERY, judgements=(("a", 1), ("a", 2))),), "sample_query_set.queries[0].relevant", "'a' comes twice"),
        (
            (replace(QUERY, judgements=(("a", 0),)),),
            "sample_query_set.queries[0].relevant",
            "nothing in it is relevant",
        ),
        ((replace(QUERY, judgements=(("a", 1), (CHUNK, 1))),), "sample_query_set.queries[0].relevant", "by chunk"),
    ],
)
async def test_a_set_that_could_not_be_measured_by_is_refused_by_its_field(
    sets: QuerySets, queries: tuple[SampleQuery, ...], field: str, told: str
) -> None:
    with pytest.raises(InvalidArgument, match=told) as refused:
        await sets.create("acme", "s", Given({"queries": queries}))
    assert [each.field for each in refused.value.violations] == [field]


async def test_a_set_has_a_size(sets: QuerySets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_sets, "MAX_BYTES", 40)
    await sets.create("acme", "", Given({"queries": (QUERY,)}))
    with pytest.raises(InvalidArgument, match="40 bytes in all"):
        await sets.create("acme", "", Given({"queries": (replace(QUERY, text="x" * 40),)}))


async def test_changes_are_answered_without_the_queries_that_were_sent(sets: QuerySets) -> None:
    made = await sets.create("acme", "s", Given({"queries": (QUERY,), "description": "first"}))
    assert (made.queries, made.query_count) == ((), 1)
    changed = await sets.update("acme", "s", Given({"description": "second"}, etag=made.etag))
    assert (changed.description, changed.queries, changed.query_count) == ("second", (), 1)
    assert changed.etag != made.etag
    assert (await sets.get("acme", "s")).queries == (QUERY,)
    with pytest.raises(EtagMismatch):
        await sets.update("acme", "s", Given({"description": "third"}, etag=made.etag))
    with pytest.raises(InvalidArgument, match="at least one"):
        await sets.update("acme", "s", Given({}, paths=("queries",)))
    assert (await sets.delete("acme", "s", etag=changed.etag)).queries == ()


async def test_the_same_again_changes_nothing(sets: QuerySets) -> None:
    made = await sets.create("acme", "s", Given({"queries": (QUERY,)}))
    assert (await sets.update("acme", "s", Given({"queries": (QUERY,)}))).etag == made.etag


async def test_what_is_only_checked_is_kept_nowhere(sets: QuerySets) -> None:
    given = Given({"queries": (QUERY,)})
    assert (await sets.create("acme", "s", given, validate_only=True)).query_count == 1
    assert (await _names(sets)) == []
    await sets.create("acme", "s", given)
    changed = await sets.update("acme", "s", Given({"description": "x"}), validate_only=True)
    assert changed.description == "x"
    await sets.delete("acme", "s", validate_only=True)
    assert (await sets.get("acme", "s")).description == ""
    assert (await _names(sets)) == ["sampleQuerySets/s"]


async def _names(sets: QuerySets) -> list[str]:
    page = await sets.list_sets("acme", filter="", order_by="name", page_size=0, page_token="", page=0)
    return [each.name for each in page.items]
