"""Chunks that callers cut and embed: what is kept of them, and what is refused."""

import math
import struct

import msgpack  # type: ignore[import-untyped]
import pytest

from services.jobs.ready import ReadyChunk, ReadyChunks, unit_vector
from services.mesh.errors import FailedPrecondition, InvalidArgument, UnreadableDocument
from tests.fake_content import WordTokenizer
from tests.jobs_fakes import collection


def values(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


@pytest.mark.parametrize(
    ("given", "kept"),
    [([3, 0, 4], (0.6, 0, 0.8)), ([1e-30, 0], (1, 0)), ([3e38, 3e38], (math.sqrt(0.5),) * 2), ([-2], (-1,)), ([], ())],
)
def test_a_vector_is_kept_at_length_one(given: list[float], kept: tuple[float, ...]) -> None:
    assert values(unit_vector(given, "v")) == pytest.approx(kept, abs=1e-7)


@pytest.mark.parametrize("given", [[0, 0], [math.nan, 1], [1, math.inf], [-math.inf]])
def test_a_vector_without_a_direction_is_refused_by_its_field(given: list[float]) -> None:
    with pytest.raises(InvalidArgument, match=r"^chunks\[3\].vector: "):
        unit_vector(given, "chunks[3].vector")


def test_packed_chunks_come_back_as_they_were() -> None:
    chunks = [ReadyChunk("One.", "Title", unit_vector([1, 0], "v")), ReadyChunk("Two.")]
    made = ReadyChunks(chunks, "tiny")
    assert ReadyChunks.unpacked(made.packed(), "a") == made
    assert made.packed() == ReadyChunks(list(chunks), "tiny").packed()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"\xc1",
        *(
            msgpack.packb(each)
            for each in (
                [],
                ["m", []],
                [1, [["a", "", b""]]],
                ["m", [["", "", b""]]],
                ["m", [["a", ""]]],
                ["m", [["a", "", "v"]]],
                ["m", [["a", 1, b""]]],
                ["m", [["a", "x" * 5000, b""]]],
                ["m", [["a" * 70_000, "", b""]]],
                ["m", [["a", "", b"123"]]],
                ["m", [["a", "", b"\0\0\0\0"]]],
                ["m", [["a", "", struct.pack("<f", math.nan)]]],
                ["m", [["a", "", b""]] * 2001],
            )
        ),
    ],
)
def test_what_only_claims_to_be_chunks_is_unreadable(content: bytes) -> None:
    with pytest.raises(UnreadableDocument, match=r"^up: "):
        ReadyChunks.unpacked(content, "up")


def test_vectors_hold_in_a_collection_of_their_model_only() -> None:
    books = collection(dimension=2)
    vector = unit_vector([1, 0], "v")
    made = ReadyChunks([ReadyChunk("One.", vector=vector), ReadyChunk("Two.")]).of(books, "ready")
    assert made.vectors(books, 2, "a") == {0: vector}
    assert made.vectors(collection(embedding_model="other"), 2, "a") == {}
    with pytest.raises(FailedPrecondition, match="a: its vectors have 2 dimensions, the collection's 3"):
        made.vectors(books, 3, "a")
    with pytest.raises(InvalidArgument, match=r"ready.chunks\[0\].vector: has 2 dimensions"):
        made.of(collection(dimension=3), "ready")


def test_chunks_stand_in_the_text_where_they_say() -> None:
    made = ReadyChunks([ReadyChunk("One.", "Title"), ReadyChunk("Two, \U0001f43b.")])
    text, chunks = made.text().text, made.cut(WordTokenizer())
    assert [text[each.start_offset : each.end_offset] for each in chunks] == ["One.", "Two, \U0001f43b."]
    assert (chunks[0].ordinal, chunks[0].context, chunks[0].embed_text) == (0, "Title", "Title\nOne.")
    assert all(each.token_count > 2 for each in chunks)
