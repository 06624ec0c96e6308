"""What every Extractor does."""

from collections.abc import AsyncIterator

import pytest

from services.jobs.adapters.xberg import ExtractionLimits, XbergExtractor
from services.jobs.ports_content import Extractor
from services.mesh.errors import EmptyDocument, NoTextFound, UnreadableDocument, UnsupportedMediaType
from tests.fake_content import PlainExtractor


@pytest.fixture(params=["xberg", "plain"])
async def extractor(request: pytest.FixtureRequest) -> AsyncIterator[Extractor]:
    if request.param == "plain":
        yield PlainExtractor()
    else:
        async with XbergExtractor.open(ExtractionLimits()) as xberg:
            yield xberg


async def test_text_comes_out_as_it_went_in_with_unix_line_ends(extractor: Extractor) -> None:
    extracted = await extractor.extract("Größe\r\n\tzwei 🙂\r\n".encode(), name="notes.txt")
    assert extracted.text == "Größe\n\tzwei 🙂\n"
    assert extracted.mime_type == "text/plain"


async def test_the_type_follows_the_declaration_then_the_name(extractor: Extractor) -> None:
    assert (await extractor.extract(b"# Hi", name="a.md")).mime_type == "text/markdown"
    assert (await extractor.extract(b"# Hi", name="a", media_type="text/markdown")).mime_type == "text/markdown"


async def test_an_empty_document_is_refused_by_name(extractor: Extractor) -> None:
    with pytest.raises(EmptyDocument, match=r"empty\.txt: the file is empty \(0 bytes\)"):
        await extractor.extract(b"", name="empty.txt")


async def test_blanks_alone_are_no_text(extractor: Extractor) -> None:
    with pytest.raises(NoTextFound, match=r"blank\.txt"):
        await extractor.extract(b" \n\t\n", name="blank.txt")


@pytest.mark.parametrize(
    ("name", "content"),
    [("logo.png", b"\x89PNG\r\n\x1a\n123"), ("data.bin", bytes(range(256)) * 9), ("a.zip", b"PK\x03\x04" + b"x" * 99)],
)
async def test_an_unknown_kind_is_refused_and_the_known_ones_named(
    extractor: Extractor, name: str, content: bytes
) -> None:
    with pytest.raises(UnsupportedMediaType, match=rf"{name}: .*supported are text, Markdown, HTML, PDF"):
        await extractor.extract(content, name=name)


async def test_a_binary_kind_without_its_magic_is_unreadable(extractor: Extractor) -> None:
    with pytest.raises(UnreadableDocument, match=r"report\.pdf: it is said to be a PDF"):
        await extractor.extract(b"just text", name="report.pdf")


async def test_the_version_is_a_short_stable_name(extractor: Extractor) -> None:
    assert 0 < len(extractor.version) <= 64
    assert extractor.version == extractor.version
