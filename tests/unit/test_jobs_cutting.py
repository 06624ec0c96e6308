"""What tells revisions of a document, and its fields, apart."""

from dataclasses import replace

from services.jobs.cutting import Cutting, chunk_id, fields_hash
from services.jobs.extraction import ExtractedText
from services.jobs.job import DocumentSpec
from services.jobs.reading import media_type, text_version
from tests.fake_content import PlainExtractor
from tests.jobs_fakes import OneModel, collection

SPEC = DocumentSpec("a", "s", "t", "text/plain", metadata={"n": 1, "x": [1, {"y": None}]}, principals=("b", "a"))


async def test_a_revision_is_told_by_content_reading_cutting_and_model() -> None:
    of = Cutting.of
    plain = await of(collection(), OneModel())
    keys = {
        plain.revision_key("h", "v"),
        plain.revision_key("other", "v"),
        plain.revision_key("h", "other"),
        (await of(collection(max_tokens=50), OneModel())).revision_key("h", "v"),
        (await of(collection(overlap_tokens=4), OneModel())).revision_key("h", "v"),
        (await of(collection(), OneModel("r2"))).revision_key("h", "v"),
    }
    assert len(keys) == 6
    assert (await of(collection(), OneModel())).revision_key("h", "v") == plain.revision_key("h", "v")


async def test_no_chunk_is_larger_than_the_model_takes() -> None:
    cutting = await Cutting.of(collection(max_tokens=5000), OneModel())
    assert cutting.max_tokens == 64
    chunks = await cutting.chunks(ExtractedText("word " * 500, "text/plain"), "")
    assert max(chunk.token_count for chunk in chunks) <= 64
    assert (await Cutting.of(collection(max_tokens=0), OneModel())).max_tokens == 64


def test_fields_are_told_by_what_was_said_not_by_how() -> None:
    known = fields_hash(SPEC, "")
    assert fields_hash(replace(SPEC, principals=("a", "b")), "") == known
    assert fields_hash(replace(SPEC, metadata={"x": [1.0, {"y": None}], "n": 1.0}), "") == known
    assert fields_hash(replace(SPEC, content_hash="ff"), "") == known
    for other in (
        replace(SPEC, title="u"),
        replace(SPEC, source_uri="u"),
        replace(SPEC, mime_type="text/html"),
        replace(SPEC, metadata={"n": True}),
        replace(SPEC, principals=()),
    ):
        assert fields_hash(other, "") != known
    assert fields_hash(SPEC, "directory:docs") != known


def test_two_revisions_share_no_chunk_id() -> None:
    assert chunk_id("a" * 32, 7) == "aaaaaaaaaaaa-00007"
    assert chunk_id("a" * 32, 7) != chunk_id("b" * 32, 7)


def test_text_without_a_type_is_plain_text_and_bytes_are_looked_at() -> None:
    assert media_type(DocumentSpec("a", charset="utf-8")) == "text/plain; charset=utf-8"
    assert media_type(DocumentSpec("a", mime_type="text/html", charset="utf-8")) == "text/html; charset=utf-8"
    assert media_type(DocumentSpec("a")) == ""
    extractor = PlainExtractor()
    assert text_version(extractor, DocumentSpec("a.md")) != text_version(extractor, DocumentSpec("a.txt"))
