"""Rows of a table as documents: found page by page, read one by one, however many there are."""

import asyncio
import csv
import hashlib
import io
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragweave.names import document_id_from
from services.jobs.job import DocumentSpec, RowFormat, TableImport
from services.mesh.errors import InvalidArgument, InvalidRow

MAX_ROW_BYTES = 1 << 20
MAX_METADATA_BYTES = 16 * 1024
_FIRST_LOOK_BYTES = 1 << 17
_MARK = b"\xef\xbb\xbf"
_ID_DIGITS = 32
_MAX_TITLE = 1024
_MAX_URI = 4096
# Messages nest at most 100 deep, and a level of JSON takes three of theirs.
_MAX_DEPTH = 24

# Some bytes of the table: `start, length -> bytes`; fewer at its end.
Part = Callable[[int, int], Awaitable[bytes]]

csv.field_size_limit(MAX_ROW_BYTES)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is: its first byte, its bytes, and its first line, from 1."""

    start: int
    length: int
    line: int

    def __str__(self) -> str:
        return f"{self.start}+{self.length}@{self.line}"

    @classmethod
    def of(cls, text: str) -> "Place":
        start, _, rest = text.partition("+")
        length, _, line = rest.partition("@")
        return cls(int(start), int(length), int(line))


async def columns_of(part: Part, delimiter: str) -> tuple[str, ...]:
    """Names of the fields of CSV, from its first row.

    Raises:
        InvalidRow: there is no such row, or it names a field twice or not at all.
    """
    window = await part(0, MAX_ROW_BYTES)
    rows, _ = _split(window, len(window) < MAX_ROW_BYTES, RowFormat.CSV, 1)
    if not rows:
        raise InvalidRow("there is no row that names the fields")
    start, length, _ = rows[0]
    names = _fields(window[start : start + length].removeprefix(_MARK), delimiter)
    if not names or not all(names) or len(set(names)) < len(names):
        raise InvalidRow("names a field twice, or has one without a name")
    return tuple(names)


def check_fields(table: TableImport) -> None:
    """Raises InvalidArgument where a field that CSV must have is not among its columns."""
    if table.format is not RowFormat.CSV:
        return
    named: dict[str, tuple[str, ...]] = {
        "id_field": (table.id_field,),
        "text_fields": table.text_fields,
        "title_field": (table.title_field,),
        "source_uri_field": (table.source_uri_field,),
        "metadata_fields": table.metadata_fields,
    }
    for field, names in named.items():
        for name in names:
            if name and name not in table.columns:
                raise InvalidArgument.of(f"rows.fields.{field}", f"the table has no field {name[:80]!r}")


async def page(part: Part, table: TableImport, after: str, limit: int) -> tuple[list[DocumentSpec], str | None]:
    """Documents of the rows after that place, and the place to go on after; None at the end.

    Holds a megabyte at a time. A row that cannot be told from others has no id, and says why.
    """
    start, line = (int(each) for each in after.split(":")) if after else (0, 1)
    for look in (_FIRST_LOOK_BYTES, MAX_ROW_BYTES):
        window = await part(start, look)
        ended = len(window) < look
        rows, used = await asyncio.to_thread(_split, window, ended, table.format, limit)
        if rows or (ended and not window):
            break
    if not window:
        return [], None
    specs: list[DocumentSpec] = []
    if not rows:  # too long, or a quote is not closed: its first line is left out
        used = window.find(b"\n") + 1
        problem = "a quote is not closed" if used or ended else f"longer than {MAX_ROW_BYTES} bytes"
        used = used or await _line_end(part, start, len(window))
        specs.append(DocumentSpec("", path=str(Place(start, used, line)), refused=f"{problem}"))
        rows, lines = [], 1
    else:
        specs, lines = await asyncio.to_thread(_specs, window, rows, table, start, line)
    over = ended and used >= len(window)
    return specs, None if over else f"{start + used}:{line + lines}"


async def document(part: Part, table: TableImport, spec: DocumentSpec) -> tuple[DocumentSpec, bytes]:
    """The document of a row: what its fields say of it, and its text in UTF-8.

    Raises:
        InvalidRow: it makes none.
    """
    place = Place.of(spec.path)
    row = await part(place.start, place.length)
    return await asyncio.to_thread(lambda: _document(_values(row, table, place), table))


def _split(window: bytes, ended: bool, format: RowFormat, limit: int) -> tuple[list[tuple[int, int, int]], int]:
    """Start, length and lines of the rows that are whole in the window, and where the next one begins."""
    rows: list[tuple[int, int, int]] = []
    start = at = lines = 0
    open_quote = False
    while len(rows) < limit and at < len(window):
        end = window.find(b"\n", at)
        if end < 0 and not ended:
            break
        following = end + 1 if end >= 0 else len(window)
        lines += 1
        if format is RowFormat.CSV and window.count(b'"', at, following) % 2:
            open_quote = not open_quote
        at = following
        if not open_quote:
            rows.append((start, following - start, lines))
            start, lines = following, 0
    return rows, start


async def _line_end(part: Part, start: int, past: int) -> int:
    """Bytes from `start` to the end of its line, which is not within the first `past` of them."""
    while window := await part(start + past, MAX_ROW_BYTES):
        if found := window.find(b"\n") + 1:
            return past + found
        past += len(window)
    return past


def _specs(
    window: bytes, rows: Sequence[tuple[int, int, int]], table: TableImport, offset: int, line: int
) -> tuple[list[DocumentSpec], int]:
    specs, begun = [], line
    for start, length, lines in rows:
        row, place = window[start : start + length], Place(offset + start, length, line)
        line += lines
        is_header = table.format is RowFormat.CSV and place.start == 0
        if is_header or not row.removeprefix(_MARK).strip():
            continue
        try:
            made, _ = _document(_values(row, table, place), table)
            specs.append(DocumentSpec(made.document_id, path=str(place)))
        except InvalidRow as error:
            specs.append(DocumentSpec("", path=str(place), refused=error.message))
    return specs, line - begun


def _values(row: bytes, table: TableImport, place: Place) -> Mapping[str, Any]:
    """A row's fields by name. Raises InvalidRow."""
    if place.start == 0:
        row = row.removeprefix(_MARK)
    if table.format is RowFormat.JSONL:
        return _object(row)
    fields = _fields(row, table.delimiter)
    if len(fields) != len(table.columns):
        raise InvalidRow(f"{len(fields)} fields where the first row names {len(table.columns)}")
    return dict(zip(table.columns, fields, strict=True))


def _object(row: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(row.decode(), parse_constant=_refused_constant)
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except UnicodeError:
        raise InvalidRow("not UTF-8") from None
    except (ValueError, RecursionError):
        raise InvalidRow("not JSON") from None
    if not isinstance(values, dict):
        raise InvalidRow("not a JSON object")
    return values


def _refused_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _fields(row: bytes, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(row.decode(), newline=""), delimiter=delimiter, strict=True), [])
    except UnicodeError:
        raise InvalidRow("not UTF-8") from None
    except csv.Error:
        raise InvalidRow("not CSV") from None


def _document(values: Mapping[str, Any], table: TableImport) -> tuple[DocumentSpec, bytes]:
    named = {table.id_field, table.title_field, table.source_uri_field, *table.text_fields}
    kept = table.metadata_fields or [name for name in values if name not in named]
    metadata = {name: values[name] for name in kept if values.get(name) not in (None, "")}
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_METADATA_BYTES:
        raise InvalidRow(f"{size} bytes of metadata are over the limit of {MAX_METADATA_BYTES}")
    if _depth(metadata) > _MAX_DEPTH:
        raise InvalidRow(f"metadata is nested deeper than {_MAX_DEPTH}")
    if table.text_fields:
        text = "\n\n".join(filter(None, (_text(values.get(name)) for name in table.text_fields)))
    else:
        text = "\n".join(f"{name}: {_text(value)}" for name, value in values.items() if _text(value))
    spec = DocumentSpec(
        document_id=_id(values, table),
        title=_text(values.get(table.title_field))[:_MAX_TITLE],
        source_uri=_text(values.get(table.source_uri_field))[:_MAX_URI],
        mime_type="text/plain",
        charset="utf-8",
        metadata=metadata,
    )
    return spec, text.encode()


def _id(values: Mapping[str, Any], table: TableImport) -> str:
    if not table.id_field:
        whole = json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(whole.encode()).hexdigest()[:_ID_DIGITS]
    value = values.get(table.id_field)
    if value is None or value == "":
        raise InvalidRow(f"has no field {table.id_field[:80]!r}, which makes its id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidRow(f"its field {table.id_field[:80]!r} is neither text nor a whole number")
    return document_id_from(str(value))


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(each) for each in inner), default=0)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
