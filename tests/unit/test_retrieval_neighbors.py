"""Neighbors of a hit, and the text that they make up with it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from services.jobs.chunker import Chunker, Strategy
from services.jobs.extraction import ExtractedText
from services.mesh.errors import DependencyUnavailable, InvalidArgument
from services.mesh.filters import Filter
from services.retrieval.chunks import Chunk, IndexId
from services.retrieval.grouping import GroupBy
from services.retrieval.masking import mask_of
from services.retrieval.neighbors import beside, stitched
from tests.fake_content import WordTokenizer
from tests.retrieval_fakes import chunk, encoded, hit, view
from tests.retrieval_rig import ANN, Searching

TEXT = "Für den Fuchs: \U0001d523oxes jump.\n\nDogs sleep, and 日本語 too. The end is near."


def cut(*spans: tuple[int, int], document: str = "d1", **fields: Any) -> list[Chunk]:
    """Chunks of TEXT."""
    return [
        chunk(TEXT[start:end], document=document, ordinal=at, start_offset=start, end_offset=end, **fields)
        for at, (start, end) in enumerate(spans)
    ]


@pytest.mark.parametrize(
    ("spans", "text"),
    [
        ([(0, 12)], TEXT[:12]),
        ([(0, 12), (12, 30)], TEXT[:30]),
        ([(0, 12), (8, 30), (26, 40)], TEXT[:40]),
        ([(0, 26), (28, 40)], f"{TEXT[:26]}\n{TEXT[28:40]}"),
        ([(0, 40), (10, 20), (38, 50)], TEXT[:50]),
        ([(5, 9), (5, 9)], TEXT[5:9]),
        ([(5, 9), (9, 9), (9, 12)], TEXT[5:12]),
    ],
    ids=["one", "touching", "overlapping", "gap", "within", "same", "empty"],
)
def test_what_chunks_share_is_in_their_text_once(spans: list[tuple[int, int]], text: str) -> None:
    assert stitched(cut(*spans)) == text


def test_any_cutting_of_a_text_with_overlaps_makes_up_the_text() -> None:
    random = Random(7)
    for _ in range(200):
        starts = sorted({0, *random.sample(range(1, len(TEXT)), 6)})
        spans = [
            (start, min(len(TEXT), following + random.randrange(8)))
            for start, following in zip(starts, [*starts[1:], len(TEXT)], strict=True)
        ]
        assert stitched(cut(*spans)) == TEXT


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("overlap_tokens", [0, 12])
def test_what_a_document_is_cut_into_makes_up_its_text_again(strategy: Strategy, overlap_tokens: int) -> None:
    random = Random(3)
    words = [
        "the",
        "🦊",
        "fox",
        "日本語",
        "jumps",
        "café",
        "u\u0308ber",
        "\U0001d523oxes",
        "собак",
        "👩\u200d👧",
        "end.",
    ]
    text = "".join(random.choice(words) + random.choice([" ", " ", "\n", "\n\n", ". "]) for _ in range(800))
    cut_up = Chunker(WordTokenizer(), 32, overlap_tokens, strategy).chunk(ExtractedText(text, "text/plain"))
    pieces = [
        chunk(each.text, ordinal=each.ordinal, start_offset=each.start_offset, end_offset=each.end_offset)
        for each in cut_up
    ]
    assert len(pieces) > 20
    assert any(before.end_offset > after.start_offset for before, after in pairwise(pieces)) is bool(overlap_tokens)
    for at in range(len(pieces)):
        window = pieces[max(0, at - 2) : at + 3]
        original = text[window[0].start_offset : window[-1].end_offset]
        # What lies between two chunks is white space, and in the stitched text a line's end.
        assert stitched(window).split() == original.split()


def test_neighbors_are_in_order_and_of_the_hits_own_revision() -> None:
    chunks = cut((0, 10), (8, 20), (20, 30), (30, 40), (40, 50))
    other = cut((0, 10), (10, 20), (20, 30), document="d2")
    older = cut((0, 15), (15, 30), (30, 60), revision_key="r0")
    uid = hit(chunks[0]).collection.uid
    (found,) = beside([hit(chunks[1])], {uid: [*reversed(chunks), *other, *older]}, 2)
    assert [each.ordinal for each in found.neighbors] == [0, 2, 3]
    assert all(each in chunks for each in found.neighbors)
    assert found.stitched_text == TEXT[:40]
    (alone,) = beside([hit(chunks[1])], {uid: []}, 2)
    assert (alone.neighbors, alone.stitched_text) == ((), chunks[1].text)
    (unknown,) = beside([hit(chunks[1])], {}, 2)
    assert unknown.stitched_text == ""


class Beside(Searching):
    """Tells which neighbors were asked for, and may fail at it."""

    def __init__(self, *views: Any) -> None:
        super().__init__(*views)
        self.asked: list[tuple[IndexId, int, int]] = []
        self.failing: set[IndexId] = set()
        adjacent = self.store.adjacent

        async def told(index: IndexId, chunks: Sequence[Chunk], reach: int, chosen: Filter) -> Sequence[Chunk]:
            self.asked.append((index, len(chunks), reach))
            if index in self.failing:
                raise DependencyUnavailable("the index is away")
            return await adjacent(index, chunks, reach, chosen)

        self.store.adjacent = told  # type: ignore[method-assign]


async def cut_up(*collection_ids: str) -> Beside:
    searching = Beside(*(view(each) for each in collection_ids))
    for each in collection_ids:
        index = IndexId(f"uid-{each}")
        await searching.store.ensure_index(index, 4)
        chunks = cut((0, 14), (10, 26), (28, 40), (40, 56), (50, 69))
        await searching.store.upsert(index, [encoded(one, scale=70) for one in chunks])
    return searching


async def test_a_page_of_hits_has_its_neighbors_in_one_round_trip_a_collection() -> None:
    searching = await cut_up("docs", "more")
    answer = await searching.search("sleep", collections=["docs", "more"], top_k=8, page_size=4, neighbors=1)
    assert sorted(index for index, _, _ in searching.asked) == ["uid-docs", "uid-more"]
    assert sum(count for _, count, _ in searching.asked) == len(answer.hits) == 4
    for found in answer.hits:
        of = found.found.chunk
        assert {abs(each.ordinal - of.ordinal) for each in found.neighbors} == {1}
        assert of.text in found.stitched_text
    assert "neighbors" in answer.timings_s
    page = {"collections": ["docs", "more"], "top_k": 8, "page_size": 4}
    later = await searching.search("sleep", **page, neighbors=2, page_token=answer.next_page_token)
    assert all(found.neighbors for found in later.hits)


async def test_nothing_is_looked_up_where_neighbors_are_not_asked_for_or_masked_away() -> None:
    searching = await cut_up("docs")
    assert "neighbors" not in (await searching.search("sleep")).timings_s
    await searching.search("sleep", neighbors=1, mask=mask_of(["text", "score"]))
    assert searching.asked == []
    await searching.search("sleep", neighbors=1, mask=mask_of(["stitched_text"]))
    assert len(searching.asked) == 1


async def test_hits_come_without_neighbors_where_these_cannot_be_had_and_say_so() -> None:
    searching = await cut_up("docs", "more")
    searching.failing = {IndexId("uid-docs")}
    one = await searching.search("sleep", neighbors=1)
    assert [(each.stage, each.reason, each.collection) for each in one.degraded] == [
        ("neighbors", "the index is away", "")
    ]
    assert len(one.hits) == 5
    assert not any(found.neighbors for found in one.hits)
    both = await searching.search("sleep", collections=["docs", "more"], neighbors=1)
    assert [(each.stage, each.collection) for each in both.degraded] == [("neighbors", "docs")]
    assert {found.collection.collection_id for found in both.hits if found.neighbors} == {"more"}
    with pytest.raises(DependencyUnavailable):
        await searching.search("sleep", neighbors=1, require_all=True)


async def test_neighbors_that_the_caller_may_not_see_are_not_there() -> None:
    searching = await cut_up("docs")
    hidden = cut((0, 14), (10, 26), document_fields={"principals": ("user:bob",)})[:1]
    await searching.store.upsert(IndexId("uid-docs"), [encoded(each, scale=70) for each in hidden])
    answer = await searching.search("sleep", neighbors=5)
    assert all(each.ordinal != 0 for found in answer.hits for each in found.neighbors)
    everyone = await searching.search("sleep", who=replace(ANN, principals=frozenset({"user:bob"})), neighbors=5)
    assert any(each.ordinal == 0 for found in everyone.hits for each in found.neighbors)


async def test_what_the_filter_keeps_from_being_a_hit_may_stand_beside_one() -> None:
    searching = await cut_up("docs")
    (third,) = cut((0, 14), (10, 26), (28, 40), section="Dogs")[2:]
    await searching.store.upsert(IndexId("uid-docs"), [encoded(third, scale=70)])
    (only,) = (await searching.search("sleep", neighbors=1, filter='section = "Dogs"')).hits
    assert only.found.chunk.ordinal == 2
    assert [each.ordinal for each in only.neighbors] == [1, 3]


@pytest.mark.parametrize("asked", [{"top_k": 200, "neighbors": 3}, {"top_k": 50, "neighbors": 5, "group_size": 4}])
async def test_more_passages_than_an_answer_holds_are_refused(asked: dict[str, Any]) -> None:
    size = asked.pop("group_size", 0)
    searching = await cut_up("docs")
    group_by = GroupBy("document", size) if size else None
    with pytest.raises(InvalidArgument) as raised:
        await searching.search("sleep", group_by=group_by, **asked)
    assert [each.field for each in raised.value.violations] == ["neighbors", "page_size"]
    await searching.search("sleep", group_by=group_by, page_size=5, **asked)
