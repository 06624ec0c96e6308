"""Masks: the fields of a hit that are returned."""

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict

from ragweave.v1 import search_pb2 as pb
from services.mesh.errors import InvalidArgument
from services.retrieval.boosts import BoostAsked
from services.retrieval.chunks import Part, Rerank, ScoredChunk, StageScore
from services.retrieval.convert import query_from
from services.retrieval.convert_hits import hit_to
from services.retrieval.diversity import Mmr
from services.retrieval.grouping import GroupBy
from services.retrieval.masking import ALL, HIT_FIELDS, mask_of
from services.retrieval.ranking import Hit
from tests.retrieval_fakes import chunk, view
from tests.retrieval_rig import Searching

METADATA = {"author": {"name": "Ann", "born": 1900.0}, "bookTitle": "Foxes", "tags": ["a"]}
HIT = Hit(
    ScoredChunk(
        chunk(
            "a fox",
            section="One",
            page_number=3,
            start_offset=5,
            end_offset=10,
            document_fields={
                "title": "Foxes",
                "source_uri": "file:///foxes.md",
                "mime_type": "text/markdown",
                "metadata": METADATA,
                "content_hash": "ab",
                "revision": 2,
                "create_time": datetime(2025, 1, 1, tzinfo=UTC),
            },
        ),
        0.5,
        (StageScore("dense", 0.75, 1),),
    ),
    view(),
    highlights=((2, 5),),
    neighbors=(chunk("before", ordinal=1),),
    stitched_text="before\na fox",
)


def test_every_field_of_a_hit_can_be_asked_for_alone() -> None:
    assert set(HIT_FIELDS) == set(pb.Hit.DESCRIPTOR.fields_by_name)
    for field in HIT_FIELDS:
        assert [each.name for each, _ in hit_to(HIT, mask_of([field])).ListFields()] == [field]
    whole = hit_to(HIT, ALL)
    assert {each.name for each, _ in whole.ListFields()} == set(HIT_FIELDS)
    assert whole == hit_to(HIT, mask_of(HIT_FIELDS)) == hit_to(HIT, mask_of(["*"])) == hit_to(HIT, mask_of([]))


def test_the_mask_of_a_request_leaves_what_a_field_mask_of_protobuf_leaves() -> None:
    mask = FieldMask(paths=["text", "score", "scores", "metadata"])
    wanted = pb.Hit()
    mask.MergeMessage(hit_to(HIT, ALL), wanted)
    query = query_from(pb.SearchRequest(query="a", read_mask=mask))
    assert hit_to(HIT, query.mask) == wanted


@pytest.mark.parametrize(
    ("paths", "left"),
    [
        (["metadata.author"], {"author": METADATA["author"]}),
        (["metadata.author.name", "metadata.tags"], {"author": {"name": "Ann"}, "tags": ["a"]}),
        (["metadata.author.name", "metadata"], METADATA),
        (["metadata.book_title"], {"bookTitle": "Foxes"}),
        (["metadata.bookTitle"], {"bookTitle": "Foxes"}),
        (["metadata.tags.a", "metadata.other"], {}),
    ],
)
def test_keys_of_the_metadata_can_be_asked_for(paths: list[str], left: object) -> None:
    assert MessageToDict(hit_to(HIT, mask_of(paths))).get("metadata", {}) == left


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("txt", "did you mean text?"),
        ("hits.text", "did you mean text?"),
        ("hits", "names no field of a hit"),
        ("content_hsh", "did you mean content_hash?"),
        ("scores.stage", "write scores"),
        ("metadata.", "metadata"),
        ("", "names no field of a hit"),
        ("x" * 9000, "names no field of a hit"),
    ],
)
def test_a_path_that_names_nothing_is_refused_with_what_may_be_meant(path: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        mask_of(["score", path])
    assert raised.value.violations[0].field == "read_mask"
    assert said in raised.value.message
    assert len(raised.value.message) < 600


BOTH = (Part.TEXT, Part.METADATA)
ASKED: dict[str, tuple[dict[str, Any], dict[str, tuple[Part, ...]]]] = {
    "plain": ({}, {"score": BOTH, "text": (Part.METADATA,), "metadata.kind": (Part.TEXT,), "*": ()}),
    "highlight": ({"highlight": True}, {"score": BOTH, "highlights": (Part.METADATA,)}),
    "neighbors": ({"neighbors": 1}, {"score": BOTH, "neighbors": BOTH, "stitched_text": (Part.METADATA,)}),
    "rerank": ({"rerank": Rerank()}, {"score": (Part.METADATA,), "metadata": ()}),
    "boosts": ({"boosts": [BoostAsked('metadata.kind = "b"', 9.0)]}, {"score": (Part.TEXT,), "text": ()}),
    "documents": ({"group_by": GroupBy("document", 2)}, {"score": BOTH}),
    "values": ({"group_by": GroupBy("metadata.kind", 2)}, {"score": (Part.TEXT,), "text": ()}),
    "mmr": ({"mmr": Mmr(0.5)}, {"score": BOTH}),
}


@pytest.mark.parametrize("name", ASKED)
async def test_what_nothing_asked_for_is_made_of_is_not_read(name: str) -> None:
    searching = await Searching().holding(foxes={"metadata": {"kind": "a"}}, dogs={"metadata": {"kind": "b"}})
    fields, by_path = ASKED[name]
    whole = await searching.search(**fields)
    for path, left_out in by_path.items():
        mask = mask_of([path, "chunk"])
        masked = await searching.search(**fields, mask=mask)
        assert searching.store.queries[-1].left_out == left_out, path
        assert [hit_to(each, mask) for each in masked.hits] == [hit_to(each, mask) for each in whole.hits]
        assert masked.groups == whole.groups
        page = await searching.search(**fields, mask=mask, page_size=1)
        following = await searching.search(**fields, mask=mask, page_size=1, page_token=page.next_page_token)
        second = await searching.search(**fields, page=2, page_size=1)
        assert [hit_to(each, mask) for each in following.hits] == [hit_to(each, mask) for each in second.hits]
