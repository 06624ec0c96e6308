"""Extraction of every kind of file, and what becomes of those that are broken or hostile."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.jobs.adapters import xberg as adapter
from services.jobs.adapters.xberg import ExtractionLimits, XbergExtractor
from services.jobs.extraction import ExtractedText, Page, Syntax
from services.mesh.errors import (
    DocumentTooLarge,
    DomainError,
    NoTextFound,
    UnreadableDocument,
    UnsupportedMediaType,
)
from services.mesh.media_types import CODE, HTML, JSON, PDF, TEXT, media_type_of
from tests import sample_files as samples

BARE_EPUB = samples.zipped({"mimetype": "application/epub+zip"}, stored=["mimetype"])
GOOD = ("fine.txt", b"still fine")


@pytest.fixture
async def extractor() -> AsyncIterator[XbergExtractor]:
    async with XbergExtractor.open() as extractor:
        yield extractor


def pids(extractor: XbergExtractor) -> set[int]:
    return {child._process.pid for child in extractor._children}


async def refusal(extractor: XbergExtractor, name: str, content: bytes, media_type: str = "") -> DomainError:
    with pytest.raises(DomainError) as caught:
        await extractor.extract(content, name=name, media_type=media_type)
    assert caught.value.message.startswith(f"{name}: ")
    return caught.value


async def test_pdf_gives_text_title_and_pages(extractor: XbergExtractor) -> None:
    content = samples.pdf(["First page (of <two>)", "Second page"], title="The report")
    extracted = await extractor.extract(content, name="a.pdf")
    assert (extracted.mime_type, extracted.title, extracted.metadata["page_count"]) == (PDF, "The report", 2)
    assert [extracted.text[page.start : page.end] for page in extracted.pages] == [
        "First page (of <two>)",
        "Second page",
    ]
    assert [page.number for page in extracted.pages] == [1, 2]


async def test_docx_gives_headings_paragraphs_and_tables(extractor: XbergExtractor) -> None:
    content = samples.docx([(1, "Report"), (0, "List<T> costs 5 €."), (2, "Details")], [["a", "b"], ["1", "2"]])
    extracted = await extractor.extract(content, name="a.docx")
    assert extracted.text == "# Report\n\nList<T> costs 5 €.\n\n## Details\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert (extracted.title, extracted.syntax) == ("Report", Syntax.MARKDOWN)


async def test_pptx_gives_slides(extractor: XbergExtractor) -> None:
    extracted = await extractor.extract(samples.pptx([("One", "first"), ("Two", "second")]), name="a.pptx")
    assert [extracted.text[page.start : page.end] for page in extracted.pages] == [
        "## One\n\nfirst",
        "## Two\n\nsecond",
    ]


async def test_xlsx_gives_each_row_under_its_columns(extractor: XbergExtractor) -> None:
    content = samples.xlsx({"Sales": [["Name", "N"], ["x", 3], ["y|z", 4.5]], "Empty": [], "Notes": [["only a cell"]]})
    extracted = await extractor.extract(content, name="a.xlsx")
    assert extracted.text == "## Sales\n\nName: x; N: 3\nName: y|z; N: 4.5\n\n## Notes\n\nonly a cell\n\n"
    assert [page.label for page in extracted.pages] == ["Sales", "Empty", "Notes"]
    assert extracted.metadata["sheet_count"] == 3


async def test_html_gives_markdown_without_scripts(extractor: XbergExtractor) -> None:
    page = (
        "<!doctype html><html><head><title>A &amp; B</title><style>p{}</style><script>alert(1)</script></head>"
        "<body><h1>Head</h1><p>Some <b>bold</b> snake_case.</p><pre><code>def f():\n    pass</code></pre></body></html>"
    )
    extracted = await extractor.extract(page.encode(), name="a.html")
    assert extracted.title == "A & B"
    assert extracted.text == "# Head\n\nSome **bold** snake_case.\n\n```\ndef f():\n    pass\n```\n"


@pytest.mark.parametrize(
    ("page", "media_type"),
    [
        ("<meta charset=iso-8859-1><p>café".encode("latin-1"), ""),
        ("<p>café".encode("latin-1"), "text/html; charset=ISO-8859-1"),
        ("\ufeff<p>café".encode("utf-16-le"), "text/html"),
    ],
)
async def test_html_is_read_in_its_own_encoding(extractor: XbergExtractor, page: bytes, media_type: str) -> None:
    assert (await extractor.extract(page, name="a.html", media_type=media_type)).text.strip() == "café"


async def test_epub_gives_its_chapters(extractor: XbergExtractor) -> None:
    extracted = await extractor.extract(samples.epub("The Book", [("One", "first_"), ("Two", "second")]), name="b.epub")
    assert extracted.text == "# One\n\nfirst_\n\n# Two\n\nsecond\n"
    assert (extracted.title, extracted.metadata["language"]) == ("The Book", "en")


async def test_csv_and_json_become_records(extractor: XbergExtractor) -> None:
    csv = await extractor.extract(b"a;b\n1;2\n", name="a.csv")
    assert (csv.text, csv.syntax) == ("a: 1; b: 2", Syntax.RECORDS)
    tsv = await extractor.extract(b'a\tb\n1\t"x\n', name="a.tsv")
    assert (tsv.text, tsv.syntax) == ('a: 1; b: "x', Syntax.RECORDS)
    nested = await extractor.extract(b'{"a": {"b": [1]}}', name="a.json")
    assert (nested.text, nested.syntax) == ("a.b[0]: 1", Syntax.RECORDS)


async def test_the_declared_charset_reaches_the_decoder(extractor: XbergExtractor) -> None:
    content = "日本語".encode("shift_jis")
    assert (await extractor.extract(content, name="a.txt", media_type="text/plain; charset=Shift_JIS")).text == "日本語"
    refused = await refusal(extractor, "a.txt", content + content)
    assert isinstance(refused, UnreadableDocument)
    assert "encoding cannot be told" in refused.message


async def test_source_code_is_kept_as_it_is(extractor: XbergExtractor) -> None:
    code = "def f():\n    return '\\d'  # été\n"
    extracted = await extractor.extract(code.encode(), name="src/f.py")
    assert (extracted.text, extracted.mime_type, extracted.syntax) == (code, CODE, Syntax.CODE)


@pytest.mark.parametrize(
    "content", [b"# Title #\n\nText", b"Title\n=====\n\nText", b"\n*****\nTitle\n*****\n", b"Title\n*****\n\nText"]
)
async def test_a_text_that_opens_with_a_heading_is_titled_by_it(extractor: XbergExtractor, content: bytes) -> None:
    name = "a.txt" if b"***" in content else "a.md"
    assert (await extractor.extract(content, name=name)).title == "Title"


@pytest.mark.parametrize(
    ("content", "name", "declared", "expected"),
    [
        (samples.pdf(["x"]), "a.txt", "text/plain", PDF),
        (b"<!DOCTYPE html><p>x", "a", "", HTML),
        (b"<!-- <p> -->\n<html>", "page", "application/octet-stream", HTML),
        (b"x", "a.html", "application/octet-stream", HTML),
        (b"{}", "a.txt", "application/json; charset=utf-8", JSON),
        (b"{}", "a.json", "text/plain", JSON),
        (b"x", "a.PY", "text/plain", CODE),
        (b"x", "a.py", "text/x-python", CODE),
        (b"x", "Dockerfile", "", CODE),
        (b"x", "a.txt", "application/x-www-form-urlencoded", TEXT),
        (b"x", "a", "application/vnd.api+json", JSON),
        (b"x", "notes.unknown", "", TEXT),
        (b"The %PDF- magic explained", "a.txt", "", TEXT),
        (b"mail header\r\n%PDF-1.4", "a.pdf", "", PDF),
        (b"\xef\xbb\xbf\n%PDF-1.4", "a", "", PDF),
    ],
)
def test_the_kind_is_decided_by_magic_then_declaration_then_name(
    content: bytes, name: str, declared: str, expected: str
) -> None:
    assert media_type_of(content, name, declared).name == expected


@pytest.mark.parametrize("declared", ["image/png", "application/zip", "audio/mpeg", "application/msword"])
def test_a_declared_kind_nothing_reads_is_refused(declared: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=rf"x: {declared} cannot be imported; supported are"):
        media_type_of(b"text", "x", declared)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("scan.pdf", samples.pdf(["", ""]), NoTextFound, "has no text layer, as scans do; OCR is not configured"),
        ("locked.pdf", samples.encrypted_pdf(), UnreadableDocument, "the PDF is protected by a password"),
        ("noise.pdf", b"%PDF-1.7\n" + bytes(range(256)) * 9, UnreadableDocument, "corrupt, or not a valid PDF"),
        ("cut.pdf", samples.pdf(["x"] * 3)[:300], UnreadableDocument, "corrupt, or not a valid PDF"),
        ("cut.docx", samples.docx([(0, "x")])[:-99], UnreadableDocument, "corrupt, or not a valid Word document"),
        ("zip.docx", samples.zipped({"a": "b"}), UnreadableDocument, "not a valid Word document"),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 99, UnsupportedMediaType, "protected by a password"),
        ("bare.epub", BARE_EPUB, UnreadableDocument, "not a valid EPUB"),
        ("bad.json", b'{"a":\n x}', UnreadableDocument, "not valid JSON at line 2 column 2"),
        ("bad.jsonl", b'{"a": 1}\n{"a": \n', UnreadableDocument, "not valid JSON at line 2"),
        ("deep.json", b"[" * 500_000, UnreadableDocument, "nested too deep"),
        ("script.html", b"<html><script>x()</script></html>", NoTextFound, "holds no text"),
        ("empty.json", b"{}", NoTextFound, "holds no text"),
    ],
)  # fmt: skip
async def test_broken_documents_are_clear_errors_and_cost_no_other(
    extractor: XbergExtractor, name: str, content: bytes, error: type[DomainError], message: str
) -> None:
    refused = await refusal(extractor, name, content)
    assert isinstance(refused, error)
    assert message in refused.message
    assert (await extractor.extract(GOOD[1], name=GOOD[0])).text == "still fine"


async def test_deeply_nested_html_neither_crashes_nor_hangs(extractor: XbergExtractor) -> None:
    page = (
        b"<html><body><p>first</p>" + b"<div>" * 100_000 + b"deep" + b"</div>" * 100_000 + b"<p>last</p></body></html>"
    )
    text = (await extractor.extract(page, name="deep.html")).text
    assert "first" in text
    assert "last" in text


async def test_a_document_over_the_size_limit_is_refused_unread() -> None:
    async with XbergExtractor.open(ExtractionLimits(max_document_bytes=10)) as extractor:
        refused = await refusal(extractor, "big.txt", b"x" * 11)
        assert isinstance(refused, DocumentTooLarge)
        assert not pids(extractor)


async def test_text_over_the_limit_is_refused() -> None:
    async with XbergExtractor.open(ExtractionLimits(max_text_chars=10)) as extractor:
        assert (await extractor.extract("é".encode() * 10, name="a.txt")).text == "é" * 10
        assert isinstance(await refusal(extractor, "long.txt", b"x" * 11), DocumentTooLarge)


async def test_a_document_over_the_memory_limit_costs_only_itself() -> None:
    async with XbergExtractor.open(ExtractionLimits(memory_bytes=256 << 20)) as extractor:
        rows = b"[" + b",".join([b'{"a":[1,2]}'] * 1_500_000) + b"]"
        refused = await refusal(extractor, "wide.json", rows)
        assert isinstance(refused, UnreadableDocument)
        assert "256 MiB of memory" in refused.message
        assert (await extractor.extract(GOOD[1], name=GOOD[0])).text == "still fine"


async def test_a_document_over_the_time_limit_costs_only_itself() -> None:
    async with XbergExtractor.open(ExtractionLimits(timeout_s=0.05)) as hasty:
        refused = await refusal(hasty, "slow.json", b"[" + b"1," * 2_000_000 + b"1]")
        assert isinstance(refused, UnreadableDocument)
        assert "longer than 0.05 seconds" in refused.message


async def test_a_crash_is_a_clear_error_and_the_next_document_gets_a_fresh_process(extractor: XbergExtractor) -> None:
    await extractor.extract(GOOD[1], name=GOOD[0])
    [first] = pids(extractor)
    os.kill(first, signal.SIGSTOP)  # so that the request is surely under way when it dies
    reading = asyncio.create_task(extractor.extract(b"x", name="unlucky.txt"))
    await asyncio.sleep(0)
    os.kill(first, signal.SIGSEGV)
    os.kill(first, signal.SIGCONT)
    with pytest.raises(UnreadableDocument, match=r"unlucky\.txt: the extractor crashed on it \(SIGSEGV\)"):
        await reading
    [second] = pids(extractor)  # started before anybody asked
    await extractor.extract(GOOD[1], name=GOOD[0])
    assert pids(extractor) == {second} != {first}


async def test_a_document_that_takes_for_ever_keeps_no_other_tenant_waiting(extractor: XbergExtractor) -> None:
    await extractor.extract(GOOD[1], name=GOOD[0], tenant="big")
    [first] = pids(extractor)
    os.kill(first, signal.SIGSTOP)
    reading = [asyncio.create_task(extractor.extract(GOOD[1], name=GOOD[0], tenant="big")) for _ in range(3)]
    await asyncio.sleep(0)
    assert (await extractor.extract(GOOD[1], name=GOOD[0], tenant="small")).text == "still fine"
    assert not any(task.done() for task in reading)
    assert len(pids(extractor)) == 2
    os.kill(first, signal.SIGCONT)
    assert {text.text for text in await asyncio.gather(*reading)} == {"still fine"}


async def test_a_process_that_died_while_idle_is_replaced_unnoticed(extractor: XbergExtractor) -> None:
    await extractor.extract(GOOD[1], name=GOOD[0])
    [child] = extractor._children
    child._process.kill()
    await asyncio.to_thread(child._process.wait)
    assert (await extractor.extract(GOOD[1], name=GOOD[0])).text == "still fine"


async def test_a_cancelled_extraction_leaves_no_answer_to_the_next(extractor: XbergExtractor) -> None:
    reading = asyncio.create_task(extractor.extract(b"[" + b"1," * 500_000 + b"1]", name="cancelled.json"))
    while not extractor._children:
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (await extractor.extract(GOOD[1], name=GOOD[0])).text == "still fine"


async def test_a_process_is_reused_until_it_is_old() -> None:
    async with XbergExtractor.open(ExtractionLimits(documents_per_process=3)) as extractor:
        used = []
        for _ in range(5):
            await extractor.extract(GOOD[1], name=GOOD[0])
            used.append(pids(extractor))
        assert used[0] == used[1]
        assert used[2] == used[3] == used[4] != used[0]  # replaced with its third answer


async def test_an_idle_process_is_retired() -> None:
    async with XbergExtractor.open(ExtractionLimits(idle_s=0)) as extractor:
        await extractor.extract(GOOD[1], name=GOOD[0])
        while extractor._children:
            await asyncio.sleep(0.01)
        assert (await extractor.extract(GOOD[1], name=GOOD[0])).text == "still fine"


async def test_no_more_processes_than_allowed_work_at_once() -> None:
    async with XbergExtractor.open(processes=2) as extractor:
        texts = await asyncio.gather(*(extractor.extract(f"n{n}".encode(), name="a.txt") for n in range(20)))
        assert [extracted.text for extracted in texts] == [f"n{n}" for n in range(20)]
        assert 1 <= len(pids(extractor)) <= 2


async def test_closing_ends_every_process() -> None:
    async with XbergExtractor.open() as extractor:
        await extractor.extract(GOOD[1], name=GOOD[0])
        [child] = extractor._children
    assert child._process.poll() is not None
    assert not os.path.exists(child._folder.name)


async def test_the_child_has_nothing_of_ours_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_MESH_KEY", "secret")
    assert not any("secret" in value for value in adapter._environment("/tmp/x").values())


def test_an_extracted_text_without_pages_or_metadata_is_whole() -> None:
    assert ExtractedText("x", TEXT).pages == ()
    assert Page(1, 0, 1).label == ""


@pytest.mark.parametrize(
    ("name", "kind"), [("c", "text/plain"), ("Makefile", "text/x-source"), ("a.c", "text/x-source")]
)
def test_an_extension_is_what_follows_a_dot(name: str, kind: str) -> None:
    assert media_type_of(b"Owls hunt at night.", name).name == kind


async def test_folders_of_processes_that_were_killed_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    left = tmp_path / f"ragweave-extract-{gone.pid}-abc"
    alive = tmp_path / f"ragweave-extract-{os.getpid()}-abc"
    for folder in (left, alive):
        folder.mkdir()
    async with XbergExtractor.open():
        assert list(tmp_path.iterdir()) == [alive]
