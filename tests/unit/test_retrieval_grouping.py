"""Groups: which hits go together, how many groups there are, and their pages."""

from typing import Any

import pytest

from services.mesh.errors import DependencyUnavailable, InvalidArgument, InvalidPageToken
from services.retrieval.boosts import BoostAsked
from services.retrieval.chunks import Found, IndexId, Mode, Rerank, VectorQuery
from services.retrieval.diversity import Mmr
from services.retrieval.grouping import Group, GroupBy, grouped, resolved
from services.retrieval.ranking import Hit
from services.retrieval.retriever import Answer
from tests.retrieval_fakes import chunk, direction, encoded, hit, view
from tests.retrieval_rig import Searching, documents


def with_values(*values: Any) -> list[Hit]:
    hits = []
    for at, value in enumerate(values):
        metadata = {} if value is None else {"of": value}
        hits.append(hit(chunk(document=str(at), document_fields={"metadata": metadata}), 1.0 / (at + 1)))
    return hits


def names(hits: list[Hit]) -> list[str]:
    return [each.found.chunk.document.document_id for each in hits]


def places(answer: Answer) -> list[tuple[str, str, int]]:
    """Collection, document and ordinal of each hit."""
    return [
        (h.collection.collection_id, h.found.chunk.document.document_id, h.found.chunk.ordinal) for h in answer.hits
    ]


def test_hits_of_a_value_follow_its_best() -> None:
    hits = with_values("a", "b", None, "a", "c", "a", "b")
    by_field = resolved(GroupBy("metadata.of", 2), 10)
    found, sizes = grouped(hits, by_field, 10)
    assert (names(found), sizes) == (["0", "3", "1", "6", "4"], [2, 2, 1])
    found, sizes = grouped(hits, by_field, 2)
    assert (names(found), sizes) == (["0", "3", "1", "6"], [2, 2])


def test_values_of_two_types_are_two_groups_and_one_number_is_one() -> None:
    hits = with_values(1.0, True, "1", 1, [2.0, 1.0], {"a": 1.0}, [], [[1.0]], 2)
    found, sizes = grouped(hits, resolved(GroupBy("metadata.of", 9), 10), 10)
    assert (names(found), sizes) == (["0", "3", "1", "2", "4", "8"], [2, 1, 1, 2])


@pytest.mark.parametrize(
    ("asked", "top_k", "fields"),
    [
        (GroupBy("title"), 10, ["group_by.field"]),
        (GroupBy("metadata"), 10, ["group_by.field"]),
        (GroupBy("documents"), 10, ["group_by.field"]),
        (GroupBy("metadata.a..b"), 10, ["group_by.field"]),
        (GroupBy("document", 3), 100, ["top_k", "group_by.group_size"]),
    ],
)
def test_what_cannot_be_grouped_is_said_by_its_fields(asked: GroupBy, top_k: int, fields: list[str]) -> None:
    with pytest.raises(InvalidArgument) as raised:
        resolved(asked, top_k)
    assert [each.field for each in raised.value.violations] == fields


async def near_copies(count: int, others: int, *more: str) -> Searching:
    """One document of many chunks that are nearest to the query, and others of one chunk each; in every collection."""
    searching = Searching(*map(view, ("docs", *more)))
    near = direction("foxes")
    chunks = [encoded(chunk("foxes", document="big", ordinal=at), near, scale=70) for at in range(count)]
    far = [near[0] - 1.0, *near[1:]]
    chunks += [encoded(chunk("foxes and more", document=f"small{at}"), far, scale=70) for at in range(others)]
    for each in ("docs", *more):
        await searching.store.ensure_index(IndexId(f"uid-{each}"), 4)
        await searching.store.upsert(IndexId(f"uid-{each}"), chunks)
    return searching


@pytest.mark.parametrize("mode", Mode)
async def test_one_document_of_many_near_chunks_leaves_room_for_the_others(mode: Mode) -> None:
    searching = await near_copies(300, 9)
    answer = await searching.search(mode=mode, group_by=GroupBy("document"))
    assert sorted(documents(answer)) == ["big", *(f"small{at}" for at in range(9))]
    assert [query.depth for query in searching.store.queries] == [200, 800]
    assert answer.groups[0] == Group("collections/docs/documents/big", 1)
    assert answer.total == len(answer.groups) == 10


async def test_no_more_is_asked_for_than_there_may_be() -> None:
    searching = await near_copies(1200, 9)
    assert documents(await searching.search(mode=Mode.DENSE, group_by=GroupBy("document"))) == ["big"]
    assert [query.depth for query in searching.store.queries] == [200, 800, 1000]
    few = await near_copies(50, 3)
    assert (await few.search(group_by=GroupBy("document"))).total == 4
    assert [query.depth for query in few.store.queries] == [200]


async def test_documents_of_two_collections_are_two_groups() -> None:
    searching = await Searching(view(), view("more")).holding("docs", "more")
    answer = await searching.search(collections=["docs", "more"], group_by=GroupBy("document"))
    assert answer.total == 8
    assert len({group.value for group in answer.groups}) == 8


async def paged(searching: Searching, size: int, **asked: Any) -> tuple[list[Answer], Answer]:
    """All pages of a search, and the same in one."""
    whole = await searching.search(**asked)
    answers = [await searching.search(page_size=size, **asked)]
    while token := answers[-1].next_page_token:
        answers.append(await searching.search(page_size=size, page_token=token, **asked))
    return answers, whole


REFINEMENTS: list[dict[str, Any]] = [
    {"mmr": Mmr(0.4)},
    {"boosts": [BoostAsked('document = "small3"', 5.0)]},
    {"group_by": GroupBy("document", 3)},
    {"group_by": GroupBy("metadata.kind", 4)},
    {"group_by": GroupBy("document", 2), "rerank": Rerank(top_n=20)},
    {"group_by": GroupBy("document", 2), "min_score": 0.2},
    {"group_by": GroupBy("document", 2), "collections": ["docs", "more"]},
    {"mmr": Mmr(0.4, 20), "boosts": [BoostAsked('document = "small3"', 5.0)], "group_by": GroupBy("document", 3)},
]


@pytest.mark.parametrize("refinement", REFINEMENTS, ids=lambda each: "+".join(each))
@pytest.mark.parametrize("mode", Mode)
async def test_pages_make_up_the_whole_and_repeat_nothing_whatever_is_asked_for(
    refinement: dict[str, Any], mode: Mode
) -> None:
    searching = await near_copies(30, 9, "more")
    for at in range(9):
        kind = {"metadata": {"kind": "even" if at % 2 else "odd"}}
        await searching.store.set_fields(IndexId("uid-docs"), [f"small{at}"], kind)
    answers, whole = await paged(searching, 3, mode=mode, top_k=8, **refinement)
    assert [place for answer in answers for place in places(answer)] == places(whole)
    assert len(set(places(whole))) == len(places(whole))
    assert [group for answer in answers for group in answer.groups] == list(whole.groups)
    assert {answer.total for answer in answers} == {whole.total}
    of_page = [len(answer.groups or answer.hits) for answer in answers]
    assert sum(of_page) == whole.total
    assert set(of_page[:-1]) <= {3}


async def test_pages_of_groups_stay_as_they_were_and_have_numbers() -> None:
    searching = await near_copies(30, 9)
    asked: dict[str, Any] = {"group_by": GroupBy("document", 2), "top_k": 6, "page_size": 2}
    first = await searching.search(**asked)
    second = await searching.search(**asked, page=2)
    await searching.store.upsert(
        IndexId("uid-docs"), [encoded(chunk("foxes", document="new"), direction("foxes"), scale=70)]
    )
    assert places(await searching.search(**asked, page_token=first.next_page_token)) == places(second)
    third = await searching.search(**asked, page=3, page_token=first.next_page_token)
    assert len(third.groups) == 2
    assert third.next_page_token == ""
    with pytest.raises(InvalidPageToken):
        await searching.search(**{**asked, "group_by": GroupBy("document", 3)}, page_token=first.next_page_token)


async def test_a_group_whose_hits_are_gone_is_on_no_later_page() -> None:
    searching = await near_copies(5, 3)
    first = await searching.search(group_by=GroupBy("document", 2), page_size=1)
    rest = await searching.search(group_by=GroupBy("document", 2), page_size=9, page_token=first.next_page_token)
    await searching.store.delete_documents(IndexId("uid-docs"), [documents(rest)[0]])
    left = await searching.search(group_by=GroupBy("document", 2), page_size=9, page_token=first.next_page_token)
    assert left.groups == rest.groups[1:]


async def test_a_hit_that_has_lost_its_value_is_in_no_group_of_a_later_page() -> None:
    searching = await near_copies(0, 3)
    index = IndexId("uid-docs")
    for at in range(3):
        await searching.store.set_fields(index, [f"small{at}"], {"metadata": {"kind": f"k{at}"}})
    asked: dict[str, Any] = {"group_by": GroupBy("metadata.kind")}
    first = await searching.search(**asked, page_size=1)
    rest = await searching.search(**asked, page_size=2, page_token=first.next_page_token)
    await searching.store.set_fields(index, [documents(rest)[0]], {"metadata": {}})
    left = await searching.search(**asked, page_size=2, page_token=first.next_page_token)
    assert documents(left) == documents(rest)[1:]
    assert left.groups == rest.groups[1:]


async def test_groups_of_what_was_found_are_returned_where_no_more_can_be_looked_for() -> None:
    searching = await near_copies(300, 9)
    search = searching.store.search

    async def failing(index: IndexId, query: VectorQuery) -> Found:
        if searching.store.queries:
            raise DependencyUnavailable("the index is away")
        return await search(index, query)

    searching.store.search = failing  # type: ignore[method-assign]
    answer = await searching.search(mode=Mode.DENSE, group_by=GroupBy("document"))
    assert documents(answer) == ["big"]
    assert [(each.stage, each.reason) for each in answer.degraded] == [
        ("group_by", "collection 'docs': the index is away")
    ]
    searching.store.queries.clear()
    with pytest.raises(DependencyUnavailable):
        await searching.search(mode=Mode.DENSE, group_by=GroupBy("document"), require_all=True)
