"""Facets: which values are counted, over what, and in which order."""

from collections.abc import Sequence
from typing import Any

import pytest

from services.mesh.errors import DependencyUnavailable, DomainError, InvalidArgument
from services.mesh.filters import Filter, Path
from services.retrieval.chunks import IndexId
from services.retrieval.faceting import FacetAsked, counted, resolved
from services.retrieval.query import Query
from services.retrieval.retriever import Answer
from services.retrieval.steps import Step, answered_in_steps
from services.retrieval.values import MAX_VALUE_LENGTH, Counts, ValueCounter
from tests.retrieval_fakes import chunk, encoded, view
from tests.retrieval_replica import BOB
from tests.retrieval_rig import ANN, Searching

COLORS = {"reds": "red", "blues": "blue", "hidden": "red"}


class Counting(Searching):
    """Tells what was counted, and may fail at it."""

    def __init__(self, *views: Any) -> None:
        super().__init__(*views)
        self.asked: list[IndexId] = []
        self.failing: dict[IndexId, DomainError] = {}
        count_values = self.store.count_values

        async def told(index: IndexId, paths: Sequence[Path], chosen: Filter) -> Counts:
            self.asked.append(index)
            if index in self.failing:
                raise self.failing[index]
            return await count_values(index, paths, chosen)

        self.store.count_values = told  # type: ignore[method-assign]


async def colored(*collection_ids: str) -> Counting:
    """In each collection three chunks that are red, two that are blue, and a red one that is Bob's."""
    searching = Counting(*(view(each) for each in collection_ids or ["docs"]))
    for each in collection_ids or ["docs"]:
        index = IndexId(f"uid-{each}")
        await searching.store.ensure_index(index, 4)
        for name, count in {"reds": 3, "blues": 2, "hidden": 1}.items():
            fields = {"metadata": {"color": COLORS[name]}, "principals": ("user:bob",) if name == "hidden" else ()}
            chunks = [chunk(f"foxes {at}", document=name, ordinal=at, document_fields=fields) for at in range(count)]
            await searching.store.upsert(index, [encoded(one, scale=70) for one in chunks])
    return searching


BY_COLOR = [FacetAsked("metadata.color")]


def found(answer: Answer) -> dict[str, list[tuple[Any, int]]]:
    return {facet.field: [tuple(each) for each in facet.counts] for facet in answer.facets}


def of(*metadatas: dict[str, Any], path: tuple[str, ...] = ("metadata", "of")) -> list[tuple[Any, int]]:
    """What is counted of chunks with such metadata, in order."""
    counter = ValueCounter([path])
    for metadata in metadatas:
        counter.note({"metadata": metadata})
    facets = resolved([FacetAsked(".".join(path), 100)])
    return [tuple(each) for each in counted(facets, [counter.counts])[0].counts]


def test_values_come_by_their_count_and_then_in_their_own_order() -> None:
    metadatas = [{"of": value} for value in ("b", "a", "b", "c", "c", 2.0, 10.0, True, False)]
    assert of(*metadatas) == [("b", 2), ("c", 2), (False, 1), (True, 1), (2.0, 1), (10.0, 1), ("a", 1)]


def test_numbers_are_doubles_and_truth_is_no_number() -> None:
    counts = of({"of": 1}, {"of": 1.0}, {"of": True}, {"of": "1"}, {"of": 0.0}, {"of": -0.0})
    assert counts == [(0.0, 2), (1.0, 2), (True, 1), ("1", 1)]
    assert [type(value) for value, _ in counts] == [float, float, bool, str]


def test_a_list_counts_once_for_each_value_and_nothing_else_counts() -> None:
    assert of({"of": ["a", "b", "a"]}, {"of": ["a"]}, {"of": []}) == [("a", 2), ("b", 1)]
    assert of({"of": None}, {"of": {"x": "a"}}, {"of": [["a"], {"b": "c"}, None]}, {}) == []
    assert of({"of": {"x": ["a"]}}, {"of": {"x": "a"}}, {"of": "x"}, path=("metadata", "of", "x")) == [("a", 2)]


def test_texts_longer_than_a_value_are_not_counted() -> None:
    longest = "x" * MAX_VALUE_LENGTH
    assert of({"of": longest}, {"of": longest + "x"}) == [(longest, 1)]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("author", "did you mean metadata.author?"),
        ("metadta.author", "did you mean metadata.author?"),
        ("title", "takes a path such as metadata.year"),
        ("metadata", "takes a path such as metadata.year"),
        ("metadata.a..b", "facets[1].field"),
        ('metadata."a', "facets[1].field"),
    ],
)
def test_a_field_that_is_not_counted_is_refused_by_its_place(field: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        resolved([FacetAsked("metadata.fine"), FacetAsked(field)])
    assert [each.field for each in raised.value.violations] == ["facets[1].field"]
    assert said in raised.value.message


@pytest.mark.parametrize(
    "asked",
    [{}, {"top_k": 1}, {"min_score": 0.99}, {"page": 2, "page_size": 1}, {"text": "nothing of it"}],
    ids=lambda asked: "+".join(asked) or "plain",
)
async def test_all_that_the_filter_lets_through_is_counted_whatever_is_found(asked: dict[str, Any]) -> None:
    searching = await colored()
    assert found(await searching.search(facets=BY_COLOR, **asked)) == {"metadata.color": [("red", 3), ("blue", 2)]}
    answer = await searching.search(facets=BY_COLOR, filter='metadata.color = "blue"', **asked)
    assert found(answer) == {"metadata.color": [("blue", 2)]}


async def test_what_the_caller_may_not_see_is_not_counted() -> None:
    searching = await colored()
    bob = await searching.search(who=BOB, facets=BY_COLOR)
    assert found(bob) == {"metadata.color": [("red", 4), ("blue", 2)]}
    assert found(await searching.search(facets=BY_COLOR)) == {"metadata.color": [("red", 3), ("blue", 2)]}


async def test_facets_come_in_the_order_asked_for_each_with_its_own_limit() -> None:
    searching = await colored()
    asked = [FacetAsked("metadata.none"), FacetAsked("metadata.color", 1), FacetAsked("metadata.color")]
    answer = await searching.search(facets=asked)
    assert [(each.field, len(each.counts)) for each in answer.facets] == [
        ("metadata.none", 0),
        ("metadata.color", 1),
        ("metadata.color", 2),
    ]
    assert len(searching.asked) == 1


async def test_counts_of_several_collections_add_up_before_they_are_cut() -> None:
    searching = await colored("docs", "more")
    await searching.store.set_fields(IndexId("uid-more"), ["reds"], {"metadata": {"color": "blue"}})
    answer = await searching.search(collections=["docs", "more"], facets=[FacetAsked("metadata.color", 1)])
    assert found(answer) == {"metadata.color": [("blue", 7)]}


async def test_pages_count_anew_and_only_where_asked_to() -> None:
    searching = await colored()
    first = await searching.search(page_size=2, facets=BY_COLOR)
    second = await searching.search(page_size=2, facets=BY_COLOR, page_token=first.next_page_token)
    assert found(second) == found(first)
    third = await searching.search(page_size=2, page_token=second.next_page_token)
    assert (len(third.hits), third.facets) == (1, ())
    assert len(searching.asked) == 2


async def test_what_cannot_be_counted_is_left_out_and_said() -> None:
    searching = await colored("docs", "more")
    searching.failing = {IndexId("uid-docs"): DependencyUnavailable("the index is away")}
    one = await searching.search(facets=BY_COLOR, page_size=1)
    assert [(each.stage, each.reason, each.collection) for each in one.degraded] == [
        ("facets", "the index is away", "")
    ]
    assert (one.facets, len(one.hits)) == ([], 1)
    both = await searching.search(collections=["docs", "more"], facets=BY_COLOR)
    assert [(each.stage, each.collection) for each in both.degraded] == [("facets", "docs")]
    assert found(both) == {"metadata.color": [("red", 3), ("blue", 2)]}
    with pytest.raises(DependencyUnavailable):
        await searching.search(facets=BY_COLOR, require_all=True)
    searching.failing = {}
    following = await searching.search(facets=BY_COLOR, page_size=1, page_token=one.next_page_token)
    assert not following.degraded, "the ranking went without nothing"
    assert found(following) == {"metadata.color": [("red", 3), ("blue", 2)]}


async def test_nothing_is_counted_where_nothing_is_asked_for() -> None:
    searching = await colored()
    answer = await searching.search()
    assert (answer.facets, searching.asked) == ((), [])
    assert "facets" not in answer.timings_s
    assert "facets" in (await searching.search(facets=BY_COLOR)).timings_s


async def test_an_answer_in_steps_counts_for_the_whole_alone() -> None:
    searching = await colored()
    query = Query(text="foxes", collection="docs", facets=BY_COLOR)
    steps = [each async for each in answered_in_steps(searching.retriever, query, ANN) if isinstance(each, Step)]
    assert found(steps[-1].answer) == {"metadata.color": [("red", 3), ("blue", 2)]}
    assert not any(each.answer.facets for each in steps[:-1])
    assert len(searching.asked) == 1
