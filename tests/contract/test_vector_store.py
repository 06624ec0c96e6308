"""What every vector store does alike: the embedded one, Qdrant's, and the fake that the domain is tested with."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import numpy as np
import pytest

from services.mesh.errors import FailedPrecondition
from services.mesh.filters import EVERYTHING, AllOf, AnyOf, Comparison, Filter, Has, Not, Operator, evaluate, parse
from services.retrieval.adapters import edge, qdrant
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.adapters.qdrant_payload import payload_of
from services.retrieval.chunks import Chunk, Distance, Found, IndexId, IndexStats, Part, SparseVector, VectorQuery
from services.retrieval.filterable import SCHEMA
from services.retrieval.fusion import Dbsf, Rrf
from services.retrieval.ports import VectorStore
from services.retrieval.sparse import document_vector, encoder_for, scale_of
from services.retrieval.values import ValueCounter
from tests.qdrant_stores import qdrant_store
from tests.retrieval_fakes import MemoryVectorStore, chunk, direction, encoded, vector

# What qdrant-client's local mode says of itself, once a process.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
]

QUERY = direction("a question")
TEXTS = {
    "a": "a fox jumps over the lazy dog",
    "b": "dogs and foxes are friends, and foxes sleep",
    "c": "the weather in spring",
    "d": "fox fox fox",
    "e": "nothing in common here",
}
# Microseconds since 1970, as fences are.
FENCE = 1_763_700_000_123_456


@pytest.fixture(params=["memory", "edge", "qdrant"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    match request.param:
        case "memory":
            yield MemoryVectorStore()
        case "edge":
            async with EdgeVectorStore.open(tmp_path / "index") as edge:
                yield edge
        case "qdrant":
            async with qdrant_store(INDEX, OTHER) as server:
                yield server


INDEX = IndexId("uid-1")
OTHER = IndexId("uid-2")


async def filled(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    chunks = [
        chunk(text, document=name, document_fields={"metadata": {"length": float(len(text))}})
        for name, text in TEXTS.items()
    ]
    await store.upsert(INDEX, [encoded(each, scale=80) for each in chunks])


def found_ids(found: Found) -> list[str]:
    return [hit.chunk.document.document_id for hit in found.hits]


def words(text: str) -> SparseVector:
    return encoder_for("en").query(text)


def asking(dense: bool = True, text: str | None = "foxes", **fields: object) -> VectorQuery:
    return VectorQuery(vector(QUERY) if dense else None, None if text is None else words(text), **fields)  # type: ignore[arg-type]


async def test_vectors_of_hits_are_handed_over_where_asked_for(store: VectorStore) -> None:
    await filled(store)
    found = await store.search(INDEX, asking(with_vectors=True, limit=3))
    assert len(found.hits) == 3
    for hit in found.hits:
        assert hit.vector is not None
        kept = np.frombuffer(hit.vector, "<f4")
        written = np.array(direction(TEXTS[hit.chunk.document.document_id]))
        assert kept @ written == pytest.approx(np.linalg.norm(kept) * np.linalg.norm(written), rel=1e-5)
    assert [hit.vector for hit in (await store.search(INDEX, asking())).hits] == [None] * len(TEXTS)


async def test_chunks_beside_others_are_of_the_same_revision_and_let_through(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    kept = [chunk(f"{name} {at}", document=name, ordinal=at) for name in "ab" for at in range(6)]
    older = [chunk(f"old {at}", document="a", ordinal=at, revision_key="r0", chunk_id=f"o{at}") for at in range(6)]
    hidden = [chunk("hidden", document="b", ordinal=9, document_fields={"principals": ("user:bob",)})]
    await store.upsert(INDEX, [encoded(each, scale=70) for each in (*kept, *older, *hidden)])

    async def beside(*of: Chunk, reach: int = 1, chosen: Filter = EVERYTHING) -> list[str]:
        found = await store.adjacent(INDEX, of, reach, chosen)
        return sorted(each.text for each in found if each not in of)

    assert await beside(kept[2]) == ["a 1", "a 3"]
    assert await beside(kept[0], reach=2) == ["a 1", "a 2"]
    assert await beside(older[5], reach=9) == [f"old {at}" for at in range(5)]
    # Windows that overlap give each chunk once.
    assert await beside(kept[2], kept[3], kept[7]) == ["a 1", "a 4", "b 0", "b 2"]
    assert await beside(kept[11], reach=4) == ["b 1", "b 2", "b 3", "b 4", "hidden"]
    assert await beside(kept[11], reach=4, chosen=Not(Has(("acl",)))) == ["b 1", "b 2", "b 3", "b 4"]
    assert await beside() == []
    assert await store.adjacent(OTHER, kept[:1], 1, EVERYTHING) == []


async def test_large_parts_of_chunks_can_be_left_out(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    fields = {"metadata": {"year": 2024.0, "at": "24-05-01"}, "title": "Foxes", "principals": ("user:ann",)}
    kept = chunk("a fox", context="Foxes", section="One", page_number=3, document_fields=fields)
    after = chunk("the end", ordinal=1, document_fields=fields)
    await store.upsert(INDEX, [encoded(each, scale=70) for each in (kept, after)])
    bare = replace(kept, document=replace(kept.document, metadata={}))
    wanted = {(): kept, (Part.METADATA,): bare, (Part.TEXT,): replace(kept, text="", context="")}
    wanted[Part.TEXT, Part.METADATA] = replace(bare, text="", context="")
    for left_out, chunk_left in wanted.items():
        found = await store.search(INDEX, asking(filter=parse("page_number = 3", SCHEMA), left_out=left_out))
        assert [hit.chunk for hit in found.hits] == [chunk_left]
        assert await store.fetch(INDEX, [kept.key], EVERYTHING, left_out) == {kept.key: chunk_left}
    assert bare in await store.adjacent(INDEX, [after], 1, EVERYTHING), "neighbors come without metadata"


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are counted in many parts."""
    monkeypatch.setattr(edge, "_COUNTED_AT_A_TIME", 3)
    monkeypatch.setattr(qdrant, "_COUNTED_AT_A_TIME", 3)


@pytest.mark.usefixtures("few_at_a_time")
async def test_values_are_counted_over_what_is_let_through(store: VectorStore) -> None:
    random = Random(11)
    values = ["red", "blue", 1.0, 2, 2.5, True, False, None, [], ["red", "red", 1], {"deep": "x"}, "ö\U0001d523", "1"]
    metadatas = [
        {"of": random.choice(values), "two words": random.choice(values), "n": {"m": random.randrange(3)}}
        for _ in range(40)
    ]
    kept = [
        chunk(f"text {at}", document=f"d{at}", document_fields={"metadata": of, "principals": ("user:bob",)[: at % 2]})
        for at, of in enumerate(metadatas)
    ]
    await store.ensure_index(INDEX, 4)
    await store.upsert(INDEX, [encoded(each, scale=70) for each in kept])
    paths = [("metadata", "of"), ("metadata", "two words"), ("metadata", "n", "m"), ("metadata", "none")]
    for chosen in (EVERYTHING, Not(Has(("acl",))), parse("metadata.n.m = 1", SCHEMA), parse("document = nope", SCHEMA)):
        reference = ValueCounter(paths)
        for each in kept:
            if evaluate(chosen, payload_of(encoded(each, scale=70))):
                reference.note({"metadata": each.document.metadata})
        found = await store.count_values(INDEX, paths, chosen)
        # 1.0 and True are equal, and two values.
        assert [sorted(map(repr, each)) for each in found] == [sorted(map(repr, each)) for each in reference.counts]
    assert await store.count_values(OTHER, paths, EVERYTHING) == [[], [], [], []]


async def expected(query: VectorQuery) -> Found:
    """What looking at every chunk finds."""
    reference = MemoryVectorStore()
    await filled(reference)
    return await reference.search(INDEX, query)


@pytest.mark.parametrize(
    "query",
    [
        asking(text=None),
        asking(dense=False),
        asking(),
        asking(fusion=Rrf(k=1, dense_weight=0.3, sparse_weight=2.0)),
        asking(fusion=Dbsf()),
        asking(limit=2),
        asking(text=None, reference=vector(QUERY), min_similarity=0.1),
        asking(dense=False, reference=vector(QUERY), min_similarity=0.1),
        asking(depth=1, reference=vector(QUERY), min_similarity=0.1),
        asking(depth=1, reference=vector(QUERY), min_similarity=0.999),
        asking(depth=2),
        asking(exact=True),
        asking(text="fox fox dog weather"),
        asking(filter=Comparison(("document",), Operator.EQ, "b")),
        asking(filter=Not(Comparison(("document",), Operator.EQ, "d"))),
        asking(filter=Comparison(("metadata", "length"), Operator.GT, 21.0)),
    ],
    ids=[
        "dense",
        "sparse",
        "hybrid",
        "weighted",
        "dbsf",
        "limit",
        "like-the-query",
        "like-the-query-by-words",
        "like-the-query-hybrid",
        "unlike-the-query",
        "depth",
        "exact",
        "words",
        "one-document",
        "all-but-one",
        "metadata",
    ],
)
async def test_a_search_finds_what_looking_at_every_chunk_finds(store: VectorStore, query: VectorQuery) -> None:
    await filled(store)
    found, wanted = await store.search(INDEX, query), await expected(query)
    assert found_ids(found) == found_ids(wanted)
    assert (found.candidates, found.by_stage) == (wanted.candidates, wanted.by_stage)
    for hit, other in zip(found.hits, wanted.hits, strict=True):
        assert hit.chunk == other.chunk
        assert hit.score == pytest.approx(other.score, rel=1e-4)
        assert (hit.similarity is None) == (other.similarity is None)
        assert (hit.similarity or 0) == pytest.approx(other.similarity or 0, rel=1e-4)
        assert [(stage.stage, stage.rank) for stage in hit.stages] == [(each.stage, each.rank) for each in other.stages]
        assert [stage.score for stage in hit.stages] == pytest.approx([each.score for each in other.stages], rel=1e-4)


async def test_a_query_without_known_words_finds_nothing_by_words(store: VectorStore) -> None:
    await filled(store)
    found = await store.search(INDEX, VectorQuery(None, SparseVector((), ())))
    assert list(found.hits) == []
    assert not (await store.search(INDEX, asking(dense=False, text="zebra"))).hits


async def test_chunks_are_fetched_by_key_where_the_filter_lets_them_through(store: VectorStore) -> None:
    assert await store.fetch(INDEX, [1], EVERYTHING) == {}
    await filled(store)
    chunks = [hit.chunk for hit in (await store.search(INDEX, asking(dense=False))).hits]
    keys = [each.key for each in chunks]
    assert await store.fetch(INDEX, [*keys, 2**64 - 1], EVERYTHING) == {each.key: each for each in chunks}
    others = Not(Comparison(("document",), Operator.EQ, chunks[0].document.document_id))
    kept = {each.key: each for each in chunks if each.document.document_id != chunks[0].document.document_id}
    assert await store.fetch(INDEX, keys, others) == kept
    assert await store.fetch(INDEX, [], EVERYTHING) == {}


async def test_vectors_are_handed_out_where_the_filter_lets_them_through(store: VectorStore) -> None:
    assert await store.vectors(INDEX, EVERYTHING, 10) == []
    await filled(store)
    assert len(await store.vectors(INDEX, EVERYTHING, 2)) == 2
    (found,) = await store.vectors(INDEX, Comparison(("document",), Operator.EQ, "b"), 10)
    alone = await store.search(INDEX, VectorQuery(found, None, limit=1))
    assert alone.hits[0].chunk.document.document_id == "b"
    assert alone.hits[0].score == pytest.approx(1.0, abs=1e-5)


async def test_every_field_of_a_chunk_comes_back(store: VectorStore) -> None:
    fields = {
        "title": "Täitel",
        "source_uri": "file:///a.md",
        "mime_type": "text/markdown",
        "metadata": {"a.b": {"c d": [1.0, None, True, "x"]}, "n": 2.0},
        "principals": ("user:ann", "group:staff"),
        "content_hash": "ab" * 32,
        "revision": 3,
        "create_time": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "fence": FENCE,
    }
    kept = chunk(
        "Größe 漢字",
        context="T > S",
        start_offset=5,
        end_offset=9,
        token_count=2,
        section="T > S",
        page_number=7,
        document_fields=fields,
    )
    await store.ensure_index(INDEX, 4)
    await store.upsert(INDEX, [encoded(kept)])
    assert [hit.chunk for hit in (await store.search(INDEX, asking(text=None))).hits] == [kept]
    assert list(await store.list_chunks(INDEX, "d1", 0, 10)) == [kept]


async def test_writing_a_chunk_again_replaces_it(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    await store.upsert(INDEX, [encoded(chunk("before"))])
    await store.upsert(INDEX, [encoded(chunk("after"))])
    assert await store.count(INDEX) == 1
    assert [each.text for each in await store.list_chunks(INDEX, "d1", 0, 10)] == ["after"]


async def test_chunks_of_two_documents_may_share_an_id(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    await store.upsert(INDEX, [encoded(chunk("same", document="d1")), encoded(chunk("same", document="d2"))])
    assert await store.count(INDEX) == 2


async def test_many_chunks_are_written_in_one_call(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    await store.upsert(INDEX, [encoded(chunk(f"text {n}", ordinal=n)) for n in range(700)])
    assert await store.count(INDEX) == 700


async def test_retiring_leaves_one_revision_and_other_documents(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    old = [encoded(chunk("old", ordinal=n, chunk_id=f"old{n}", revision_key="r1")) for n in range(3)]
    new = [encoded(chunk("new", ordinal=n, chunk_id=f"new{n}", revision_key="r2")) for n in range(2)]
    await store.upsert(INDEX, [*old, *new, encoded(chunk("other", document="d2", revision_key="r1"))])
    assert await store.count(INDEX, "d1") == 5
    assert await store.count(INDEX, "d1", "r2") == 2
    await store.retire(INDEX, "d1", "r2")
    assert [each.text for each in await store.list_chunks(INDEX, "d1", 0, 10)] == ["new", "new"]
    assert await store.count(INDEX, "d2") == 1


async def test_chunks_are_counted_above_a_fence_and_take_a_new_one(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    unfenced = chunk("text", ordinal=0, document="d2")
    kept = [chunk("text", ordinal=n, document_fields={"fence": FENCE + n}) for n in range(3)]
    await store.upsert(INDEX, [encoded(each) for each in [*kept, unfenced]])
    assert [await store.count(INDEX, "d1", above=FENCE + n) for n in (-1, 0, 1, 2)] == [3, 2, 1, 0]
    assert await store.count(INDEX, "d2", above=0) == 0
    await store.set_fields(INDEX, ["d1"], {"fence": FENCE + 9})
    assert [await store.count(INDEX, "d1", above=FENCE + n) for n in (8, 9)] == [3, 0]


async def test_deleting_documents_leaves_the_others(store: VectorStore) -> None:
    await filled(store)
    await store.delete_documents(INDEX, ["a", "b", "never there"])
    assert sorted(found_ids(await store.search(INDEX, asking(text=None)))) == ["c", "d", "e"]
    await store.delete_documents(INDEX, [])
    assert await store.count(INDEX) == 3


async def test_replaced_fields_hold_in_hits_and_filters(store: VectorStore) -> None:
    await filled(store)
    fields = {"title": "New", "source_uri": "x:y", "metadata": {"z": 1.0}, "principals": ["user:ann"]}
    await store.set_fields(INDEX, ["a"], fields)
    chosen = asking(text=None, filter=Comparison(("metadata", "z"), Operator.EQ, 1.0))
    (hit,) = (await store.search(INDEX, chosen)).hits
    document = hit.chunk.document
    assert (document.title, document.source_uri, document.metadata) == ("New", "x:y", {"z": 1.0})
    assert document.principals == ("user:ann",)
    assert hit.chunk.text == TEXTS["a"]


@pytest.mark.parametrize(
    "text",
    [
        "metadata.v = true",
        "metadata.v = false",
        "metadata.v != true",
        'metadata.v = "true"',
        "metadata.v = 2",
        "metadata.v >= 1.5",
        "metadata.v = null",
        "metadata.v:*",
        'metadata.v = "tr*"',
        'metadata.v = "2024-05-01T00:00:00Z"',
        'metadata.v > "2024-04-30T00:00:00Z"',
        "NOT metadata.v:2",
    ],
)
async def test_metadata_of_every_kind_is_filtered_as_the_reference_says(store: VectorStore, text: str) -> None:
    values = {"a": True, "b": False, "c": "true", "d": 2.0, "e": None, "f": [1.0, 2.0], "g": "2024-05-01T00:00:00Z"}
    await store.ensure_index(INDEX, 4)
    chunks = [chunk("fox", document=name, document_fields={"metadata": {"v": v}}) for name, v in values.items()]
    await store.upsert(INDEX, [encoded(each, scale=80) for each in chunks])
    tree = parse(text, SCHEMA)
    found = await store.search(INDEX, asking(text=None, filter=tree))
    assert sorted(found_ids(found)) == [name for name, v in values.items() if evaluate(tree, {"metadata": {"v": v}})]


async def test_the_acl_is_a_filter_like_any_other(store: VectorStore) -> None:
    await filled(store)
    await store.set_fields(INDEX, ["a"], {"principals": ["user:ann", "group:staff"]})
    await store.set_fields(INDEX, ["b"], {"principals": ["user:bob"]})
    visible = AnyOf((Not(Has(("acl",))), Comparison(("acl",), Operator.EQ, "group:staff")))
    found = await store.search(INDEX, asking(text=None, filter=AllOf((visible,))))
    assert sorted(found_ids(found)) == ["a", "c", "d", "e"]


async def test_of_two_writes_of_fields_the_later_generation_holds(store: VectorStore) -> None:
    await filled(store)
    await store.set_fields(INDEX, ["a", "b"], {"title": "second", "principals": ["nobody:"]}, generation=2)
    await store.set_fields(INDEX, ["a"], {"title": "late", "principals": []}, generation=1)
    await store.set_fields(INDEX, ["a", "c"], {"title": "first"})
    await store.set_fields(INDEX, ["b"], {"title": "again", "principals": ["user:ann"]}, generation=2)
    held = {each: (await store.list_chunks(INDEX, each, 0, 1))[0].document for each in "abc"}
    assert {name: (each.title, each.principals, each.generation) for name, each in held.items()} == {
        "a": ("second", ("nobody:",), 2),
        "b": ("again", ("user:ann",), 2),
        "c": ("first", (), 0),
    }
    await store.set_fields(INDEX, ["a"], {"principals": []}, generation=3)
    found = await store.search(INDEX, asking(text=None, filter=Not(Has(("acl",)))))
    assert sorted(found_ids(found)) == ["a", "c", "d", "e"]


async def test_chunks_are_listed_by_ordinal_in_pages(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    await store.upsert(INDEX, [encoded(chunk(f"t{n}", ordinal=n)) for n in reversed(range(25))])
    await store.upsert(INDEX, [encoded(chunk("other", document="d2"))])
    pages = [await store.list_chunks(INDEX, "d1", start, 10) for start in (0, 10, 20, 30)]
    assert [[each.ordinal for each in page] for page in pages] == [
        list(range(10)),
        list(range(10, 20)),
        list(range(20, 25)),
        [],
    ]


async def test_lengths_and_scales_are_counted(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    texts = ["one", "one two", "one two three", "of the"]
    await store.upsert(INDEX, [encoded(chunk(text, ordinal=n), scale=10 + n % 2) for n, text in enumerate(texts)])
    stats = await store.length_stats(INDEX)
    assert (stats.chunks, stats.total_length, dict(stats.scales)) == (4, 6, {10: 2, 11: 2})


async def test_weights_of_another_scale_are_replaced(store: VectorStore) -> None:
    await filled(store)
    scale = scale_of(3.0)
    known = (await store.length_stats(INDEX)).scales.keys()
    assert scale not in known
    assert len(await store.of_scales(INDEX, known, 2)) == 2
    assert list(await store.of_scales(INDEX, [scale], 2)) == list(await store.of_scales(INDEX, [], 2)) == []
    while others := await store.of_scales(INDEX, known, 2):
        vectors = {each.key: document_vector(encoder_for("en").counts(each.text), scale) for each in others}
        await store.rescale(INDEX, scale, vectors)
    assert dict((await store.length_stats(INDEX)).scales) == {scale: 5}
    reference = MemoryVectorStore()
    await reference.ensure_index(INDEX, 4)
    await reference.upsert(INDEX, [encoded(chunk(text, document=name), scale=scale) for name, text in TEXTS.items()])
    query = asking(dense=False)
    found, wanted = await store.search(INDEX, query), await reference.search(INDEX, query)
    assert found_ids(found) == found_ids(wanted)
    assert [hit.score for hit in found.hits] == pytest.approx([hit.score for hit in wanted.hits], rel=1e-4)


async def test_rescaling_passes_over_chunks_that_are_gone(store: VectorStore) -> None:
    await filled(store)
    others = await store.of_scales(INDEX, (await store.length_stats(INDEX)).scales, 5)
    await store.delete_documents(INDEX, ["a"])
    await store.rescale(INDEX, 3, {each.key: words("fox") for each in others})
    assert dict((await store.length_stats(INDEX)).scales) == {3: 4}
    await store.delete_documents(INDEX, list(TEXTS))
    await store.rescale(INDEX, 3, {each.key: words("fox") for each in others})
    assert await store.count(INDEX) == 0


async def test_an_index_that_is_not_there_has_nothing(store: VectorStore) -> None:
    assert not (await store.search(OTHER, asking())).hits
    assert list(await store.list_chunks(OTHER, "d1", 0, 10)) == []
    assert await store.count(OTHER) == 0
    assert await store.stats(OTHER) == IndexStats(0, 0)
    assert (await store.length_stats(OTHER)).chunks == 0
    assert list(await store.of_scales(OTHER, [1], 10)) == []
    await store.delete_documents(OTHER, ["d1"])
    await store.retire(OTHER, "d1", "r1")
    await store.set_fields(OTHER, ["d1"], {"title": "t"})
    await store.rescale(OTHER, 1, {})
    await store.drop(OTHER)
    with pytest.raises(LookupError):
        await store.upsert(OTHER, [encoded(chunk())])


async def test_dropping_an_index_leaves_the_others(store: VectorStore) -> None:
    await filled(store)
    await store.ensure_index(OTHER, 4)
    await store.upsert(OTHER, [encoded(chunk("kept"))])
    await store.drop(INDEX)
    assert await store.count(INDEX) == 0
    assert await store.count(OTHER) == 1
    await store.ensure_index(INDEX, 2)
    assert await store.count(INDEX) == 0


async def test_an_index_keeps_its_dimension_and_distance(store: VectorStore) -> None:
    await store.ensure_index(INDEX, 4)
    await store.ensure_index(INDEX, 4)
    with pytest.raises(FailedPrecondition):
        await store.ensure_index(INDEX, 5)
    with pytest.raises(FailedPrecondition):
        await store.ensure_index(INDEX, 4, Distance.DOT)


async def test_sizes_are_told(store: VectorStore) -> None:
    await filled(store)
    stats = await store.stats(INDEX)
    assert stats.chunks == 5
    assert 0 <= stats.indexed_chunks <= 5


async def test_the_store_answers(store: VectorStore) -> None:
    await store.check()
