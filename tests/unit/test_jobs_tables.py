"""Rows of tables as documents: how they are found, told apart, read, and what is wrong with some."""

import json
import tracemalloc
from collections.abc import Iterator

import pytest

from services.jobs.job import DocumentSpec, RowFormat, TableImport
from services.jobs.tables import MAX_ROW_BYTES, Part, check_fields, columns_of, document, page
from services.mesh.errors import InvalidArgument, InvalidRow


def part_of(content: bytes) -> Part:
    async def part(start: int, length: int) -> bytes:
        return content[start : start + length]

    return part


def jsonl(**fields: object) -> TableImport:
    return TableImport("", "rows", RowFormat.JSONL, **fields)  # type: ignore[arg-type]


async def csv_of(content: bytes, delimiter: str = ",", **fields: object) -> TableImport:
    columns = await columns_of(part_of(content), delimiter)
    return TableImport("", "rows", RowFormat.CSV, columns, delimiter, **fields)  # type: ignore[arg-type]


async def listed(content: bytes, table: TableImport, limit: int = 3) -> list[DocumentSpec]:
    """All documents of the rows, found in pages of `limit`."""
    found: list[DocumentSpec] = []
    after: str | None = ""
    while after is not None:
        specs, after = await page(part_of(content), table, after, limit)
        found += specs
    return found


async def documents(content: bytes, table: TableImport) -> list[tuple[DocumentSpec, str]]:
    made = [await document(part_of(content), table, spec) for spec in await listed(content, table) if not spec.refused]
    return [(spec, text.decode()) for spec, text in made]


def line_of(spec: DocumentSpec) -> int:
    return int(spec.path.rpartition("@")[2])


async def test_fields_of_a_row_make_what_the_mapping_says() -> None:
    row = {
        "sku": 17,
        "name": "Lamp",
        "text": "It shines.",
        "note": "Warm.",
        "url": "http://x/17",
        "price": 3.5,
        "no": None,
    }
    table = jsonl(id_field="sku", text_fields=("text", "note"), title_field="name", source_uri_field="url")
    ((spec, text),) = await documents(json.dumps(row).encode(), table)
    assert (spec.document_id, spec.title, spec.source_uri, spec.metadata) == (
        "17",
        "Lamp",
        "http://x/17",
        {"price": 3.5},
    )
    assert (text, spec.mime_type, spec.charset) == ("It shines.\n\nWarm.", "text/plain", "utf-8")


async def test_without_a_mapping_every_field_is_text_and_metadata() -> None:
    ((spec, text),) = await documents(b'{"a": "x", "b": [1, 2]}', jsonl())
    assert (text, spec.metadata) == ("a: x\nb: [1, 2]", {"a": "x", "b": [1, 2]})
    assert len(spec.document_id) == 32


async def test_rows_of_csv_may_hold_delimiters_quotes_and_lines() -> None:
    content = b'\xef\xbb\xbfid,text\r\n1,"a, ""b""\nc"\r\n\r\n2,d\r\n3,"e\n\nf"'
    table = await csv_of(content, id_field="id", text_fields=("text",))
    assert [(spec.document_id, text) for spec, text in await documents(content, table)] == [
        ("1", 'a, "b"\nc'),
        ("2", "d"),
        ("3", "e\n\nf"),
    ]
    assert [line_of(spec) for spec in await listed(content, table)] == [2, 5, 6]


async def test_another_delimiter_separates_fields() -> None:
    content = b"id;t\n1;a,b\n"
    assert [text for _, text in await documents(content, await csv_of(content, ";", text_fields=("t",)))] == ["a,b"]


BAD = [
    (b"{", "not JSON"),
    (b"[1]", "not a JSON object"),
    (b"\xff", "not UTF-8"),
    (b'{"id": NaN}', "not JSON"),
    (b'{"id": "\\ud800"}', "not UTF-8"),
    (b"[" * 5000, "not JSON"),
    (b'{"x": 1}', "has no field 'id', which makes its id"),
    (b'{"id": ""}', "has no field 'id', which makes its id"),
    (b'{"id": true}', "neither text nor a whole number"),
    (b'{"id": 1.5}', "neither text nor a whole number"),
    (b'{"id": 1, "x": "' + b"y" * 17_000 + b'"}', "of metadata are over the limit"),
    (b'{"id": 1, "x": ' + b"[" * 40 + b"]" * 40 + b"}", "nested deeper"),
]


@pytest.mark.parametrize(("row", "told"), BAD)
async def test_a_row_that_makes_no_document_says_why_and_spoils_no_other(row: bytes, told: str) -> None:
    content = b'{"id": "a"}\n\n' + row + b'\n{"id": "b"}\n'
    found = await listed(content, jsonl(id_field="id"))
    assert [(spec.document_id, line_of(spec)) for spec in found] == [("a", 1), ("", 3), ("b", 4)]
    assert told in found[1].refused


async def test_a_row_of_csv_with_other_fields_than_the_first_is_refused() -> None:
    content = b'id,t\n1\n2,b\n3,b,c\n4,"x"y\n'
    found = await listed(content, await csv_of(content, id_field="id"))
    assert [spec.refused for spec in found] == [
        "1 fields where the first row names 2",
        "",
        "3 fields where the first row names 2",
        "not CSV",
    ]


@pytest.mark.parametrize(
    "rest",
    [b"", b"\n" + (b"9," + b"x" * 997 + b"\n") * (MAX_ROW_BYTES // 1000 + 10)],
    ids=["to the end", "for over a megabyte"],
)
async def test_a_quote_that_is_never_closed_costs_one_line(rest: bytes) -> None:
    content = b'id,t\n1,"open\n2,b\n3,c' + rest
    found = await listed(content, await csv_of(content, id_field="id"), limit=100_000)
    assert [(spec.document_id, spec.refused) for spec in found][:3] == [
        ("", "a quote is not closed"),
        ("2", ""),
        ("3", ""),
    ]


async def test_a_row_longer_than_a_megabyte_is_left_out() -> None:
    content = b'{"id": "a"}\n{"id": "' + b"x" * (2 * MAX_ROW_BYTES) + b'"}\n{"id": "b"}'
    found = await listed(content, jsonl(id_field="id"))
    assert [(spec.document_id, line_of(spec)) for spec in found] == [("a", 1), ("", 2), ("b", 3)]
    assert "longer than" in found[1].refused


@pytest.mark.parametrize("content", [b"", b"\n", b"a,a\n1,2\n", b"a,\n1,2\n", b'"a\n1\n', b"\xff\n"])
async def test_csv_without_a_row_that_names_fields_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRow):
        await columns_of(part_of(content), ",")


async def test_a_mapping_names_fields_that_the_table_has() -> None:
    table = await csv_of(b"id,t\n", id_field="id", text_fields=("t", "u"))
    with pytest.raises(InvalidArgument, match=r"rows.fields.text_fields: the table has no field 'u'"):
        check_fields(table)


async def test_an_empty_table_has_no_documents() -> None:
    assert await listed(b"", jsonl()) == []
    assert await listed(b"id\n", await csv_of(b"id\n")) == []


async def test_a_million_rows_are_listed_in_flat_memory() -> None:
    """Rows made as they are asked for, 50 bytes each; some pages from all over the table are listed."""
    rows, length = 1_000_000, 50

    def made(first: int, last: int) -> Iterator[bytes]:
        for at in range(first, min(last, rows)):
            yield (b'{"id": "%07d"' % at).ljust(length - 2) + b"}\n"

    async def part(start: int, size: int) -> bytes:
        first = start // length
        return b"".join(made(first, first + size // length + 2))[start - first * length :][:size]

    assert len(await part(0, length)) == length
    table, listed_ids = jsonl(id_field="id"), 0
    tracemalloc.start()
    try:
        for at in range(0, rows, rows // 20):
            specs, after = await page(part, table, f"{at * length}:{at + 1}", 200)
            assert [spec.document_id for spec in specs] == [f"{each:07d}" for each in range(at, at + 200)]
            assert after == f"{(at + 200) * length}:{at + 201}"
            listed_ids += len(specs)
        assert await page(part, table, f"{rows * length}:{rows + 1}", 200) == ([], None)
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_ROW_BYTES
    finally:
        tracemalloc.stop()
    assert listed_ids == 4000
